"""Write site/llms.txt and site/llms-full.txt: the documentation for language models (llmstxt.org).

    python tools/llms_txt.py [SITE]

`llms.txt` lists every page of the navigation with its first sentence. `llms-full.txt` has the Markdown of all pages.
The program needs only the standard library and runs after the site is built. `make docs` runs it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INCLUDE = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)  # a file of the checkout, as pymdownx.snippets has it
ENTRY = re.compile(r'^( +)- (?:"([^"]+)"|([^:]+)):(?: (\S+\.md))?$')


def navigation(settings: str) -> Iterator[tuple[int, str, str]]:
    """Depth, title and page ("" for a section) of each entry of `nav` in mkdocs.yml."""
    for line in settings.partition("\nnav:\n")[2].splitlines():
        if match := ENTRY.match(line):
            yield len(match[1]) // 4, match[2] or match[3], match[4] or ""


def summary(text: str) -> str:
    """The first sentence after the title."""
    body = re.sub(r"^# .*$", "", text, count=1, flags=re.MULTILINE).strip()
    paragraph = " ".join(body.partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) ", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph))[0]


def write(site: Path) -> None:
    """Write both files into the folder of the site. Raises FileNotFoundError if a page of the navigation is missing."""
    lines = [
        "# kanserve",
        "",
        "> Export trained Kolmogorov-Arnold networks to verified ONNX, serve and explain them.",
        "",
    ]
    whole = []
    for depth, title, page in navigation((ROOT / "mkdocs.yml").read_text()):
        if not page:
            lines += ["", f"{'#' * (depth + 2)} {title}", ""]
            continue
        text = INCLUDE.sub(lambda match: (ROOT / match[1]).read_text().strip(), (DOCS / page).read_text())
        text = re.sub(r"(?<=[\dx%])<!-- [a-z0-9-]+ -->", "", text)  # without marks of figures
        place = re.sub(r"(index)?\.md$", "", page)
        lines.append(f"- [{title}]({place or './'}): {summary(text)}")
        whole.append(f"<!-- {page} -->\n\n{text.strip()}\n")
    (site / "llms.txt").write_text("\n".join(lines) + "\n")
    (site / "llms-full.txt").write_text("\n".join(whole))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
