"""Measured figures in prose: their values come from docs/figures.toml.

    python -m tools.figures            write the values into the pages
    python -m tools.figures --check    exit with 1 and print one line per fault

A page marks a figure with a comment after it: `42,877<!-- production-rate -->`. The generated part "runs" of a page has
the runs of its figures. On the pages of `checked`, a mark or a reason is needed for every number with a unit of
measurement, every "N of M", every number alone in a table cell, and every date. Code blocks and generated parts are no
prose.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"((?:\d+ of )?\d[\d,.]*(?:x|%)?)<!-- ([a-z0-9-]+) -->")
UNIT = r"(?:x|times|µs|us|ms|s|MiB|GiB|MB|GB|rows/s|(?:requests|inferences|rows|calls)(?:/s| per second)|%)"
MEASURED = re.compile(rf"(?<![\w.,#-])\d[\d,]*(?:\.\d+)?(?: ?{UNIT}(?!\w)| of \d+\b(?! (?:rows|features|bytes)))")
CELL = re.compile(r"(?<=\| )\**(\d[\d,]*(?:\.\d+)?x?)\**(?= \|)")
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")
NOT_PROSE = re.compile(r"```.*?```|<!-- ([^>]*): written by .*?<!-- end of \1 -->|\]\([^)]*\)|`[^`]*`", re.DOTALL)
RUNS = re.compile(r"(?<=<!-- runs: written by tools/figures.py -->\n).*?(?=<!-- end of runs -->)", re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def load(root: Path) -> dict[str, Any]:
    """The document docs/figures.toml."""
    return tomllib.loads((root / "docs" / "figures.toml").read_text())


def prose(text: str) -> str:
    """A page without code, generated parts and targets of links. Lines keep their numbers."""
    return NOT_PROSE.sub(lambda match: "\n" * match[0].count("\n"), text)


def runs_table(text: str, document: dict[str, Any]) -> str:
    """The runs of the figures of a page, as a Markdown table."""
    used = {document["figures"][name]["run"] for _, name in MARK.findall(text) if name in document["figures"]}
    rows = [
        (run["what"], run["machine"], str(run["date"]), run["commit"])
        for name, run in document["runs"].items()
        if name in used
    ]
    return (
        "\n".join(f"| {' | '.join(row)} |" for row in [("figures", "machine", "date", "commit"), ("---",) * 4, *rows])
        + "\n"
    )


def source_faults(root: Path, figures: dict[str, Any], runs: dict[str, Any]) -> Iterator[str]:
    """Figures whose source page does not have their quote, or whose quote does not have their value."""
    for name, figure in figures.items():
        run = runs[figure["run"]]
        if "source" not in run and "source" not in figure:
            continue
        path = root / "docs" / figure.get("source", run.get("source"))
        text = path.read_text()
        if "part" in figure:  # "16 of 30": lines of a generated part
            part = text.partition(f"<!-- {figure['part']}: ")[2].partition(f"<!-- end of {figure['part']} -->")[0]
            counts = [len(re.findall(pattern, part, re.MULTILINE)) for pattern in (figure["count"], figure["total"])]
            if "{} of {}".format(*counts) != figure["value"]:
                yield f"docs/figures.toml: {name} is {figure['value']}, but {path.relative_to(root)} has {counts}"
            continue
        quote = figure["quote"]
        if quote not in text:
            yield f"docs/figures.toml: {name}: {path.relative_to(root)} does not have {quote!r}"
            continue
        if " of " in figure["value"] and figure["value"] in quote:
            continue
        value = figure["value"].rstrip("x%").replace(",", "")
        digits = len(value.partition(".")[2])
        numbers = [float(number) for number in NUMBER.findall(quote.replace(",", ""))]
        if not any(f"{number:.{digits}f}" == value for number in numbers):
            yield f"docs/figures.toml: {name}: no number of {quote!r} rounds to {figure['value']}"


def page_faults(place: str, text: str, document: dict[str, Any]) -> Iterator[str]:
    """Marked values that differ from the file; on a page of `checked`, figures and dates without a source, and systems
    that are "not measured" although the file has their figure. On all pages, claims that were found untrue."""
    figures, runs = document["figures"], document["runs"]
    for at, line in enumerate(text.splitlines(), 1):
        for value, name in MARK.findall(line):
            if name not in figures:
                yield f"{place}:{at}: unknown figure {name!r}"
            elif value != figures[name]["value"]:
                yield f"{place}:{at}: {value} is not {name}, which is {figures[name]['value']}"
    for part in RUNS.findall(text):
        if part != runs_table(text, document):
            yield f"{place}: the table of runs differs from docs/figures.toml"
    for claim in document["untrue"]:
        if place not in claim.get("except", ()) and re.search(claim["text"], text):
            yield f"{place}: untrue: {claim['text']!r}: {claim['fact']}"
    if place not in document["checked"]:
        return
    used = {figures[name]["run"] for _, name in MARK.findall(text) if name in figures}
    dates = {str(runs[name]["date"]) for name in used}
    for reason in document["constants"]:
        if reason["page"] == place:
            for constant in reason["texts"]:
                text = text.replace(constant, "")
            dates |= set(reason["texts"])
    heads: list[str] = []
    for at, line in enumerate(prose(text).splitlines(), 1):
        rest = MARK.sub("", line)
        for found in [*MEASURED.finditer(rest), *CELL.finditer(rest)]:
            yield f"{place}:{at}: {found[0]!r} has no source in docs/figures.toml"
        for date in set(DATE.findall(rest)) - dates:
            yield f"{place}:{at}: {date} is the date of no figure of this page"
        cells = [cell.strip() for cell in line.split("|")] if line.startswith("|") else []
        heads = (heads or cells) if cells else []
        for head, cell in zip(heads, cells, strict=False):
            if cell == "not measured" and MARK.search(line):
                systems = {figures[name].get("system") for _, name in MARK.findall(line)}
                measures = {figures[name].get("measure") for _, name in MARK.findall(line)} - {None}
                for figure in figures.values():
                    known = figure.get("system", "")
                    if known and known in head and known not in systems and figure.get("measure") in measures:
                        yield f"{place}:{at}: {known} is 'not measured', but docs/figures.toml has {figure['value']}"


def pages(root: Path) -> list[Path]:
    """The README, the changelog and all documentation pages."""
    return [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]


def faults(root: Path) -> list[str]:
    """Every fault, as a line."""
    document = load(root)
    lines = list(source_faults(root, document["figures"], document["runs"]))
    for page in pages(root):
        lines += page_faults(page.relative_to(root).as_posix(), page.read_text(), document)
    return lines


def write(root: Path) -> None:
    """Write the values of the file into the pages."""
    document = load(root)
    figures = document["figures"]
    for page in pages(root):
        text = page.read_text()
        renewed = MARK.sub(
            lambda match: f"{figures[match[2]]['value']}<!-- {match[2]} -->" if match[2] in figures else match[0], text
        )
        table = runs_table(renewed, document)
        renewed = RUNS.sub(table.replace("\\", "\\\\"), renewed)
        if renewed != text:
            page.write_text(renewed)


def main(arguments: Sequence[str]) -> int:
    """Write the values, or check the pages."""
    if "--check" not in arguments:
        write(ROOT)
    lines = faults(ROOT)
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
