"""Generator of the starting files of a new KAN family: `make new-family NAME=mykan`.

The program writes a basis, a reader and a generator of the golden case from the templates in this
folder. It runs the generator, and writes docs/reference/supported-libraries.md again. The written files work without
changes; comments that begin with "Yours" mark the code to change. The program overwrites no file.
"""

from __future__ import annotations

import keyword
import re
import string
import subprocess
import sys
from pathlib import Path

from kanexport.detection import registry

ROOT = Path(__file__).parents[2]
# The generator has another name than the library, which it will import.
TEMPLATES = {
    "basis.py.txt": "kanexport/bases/{name}.py",
    "examples.py.txt": "tests/support/basis_examples/{name}.py",
    "reader.py.txt": "kanexport/readers/{name}.py",
    "golden.py.txt": "tests/golden/generators/make_{name}.py",
}
CHECKPOINT = "tests/golden/checkpoints/{family}-hello"
DOCUMENT = "docs/reference/supported-libraries.md"
WRITE = "from tools.reference import libraries; libraries.PAGE.write_text(libraries.page())"
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LENGTH = 30
# Classes that the written files import: another of that name would hide them.
TAKEN = {
    "Array",
    "Basis",
    "BasisTerm",
    "Graph",
    "InvalidKan",
    "Keys",
    "Layer",
    "LayerTrace",
    "Options",
    "Part",
    "Support",
}
NEXT = """
Change what the comments "Yours" mark, run the generator again, and hold it on its own:

    .venv/bin/python tests/golden/generators/make_{name}.py
    .venv/bin/python -m pytest -q tests -k "{choice}"
    make families      # measures all libraries, and adds yours to the table of errors
    make test check
"""


def class_of(name: str) -> str:
    """my_kan -> MyKan"""
    return name.title().replace("_", "")


def problem(name: str) -> str:
    """Why no family can have that name, or an empty text."""
    if not NAME.fullmatch(name) or len(name) > LENGTH or keyword.iskeyword(name) or class_of(name) in TAKEN:
        return (
            f"NAME is {name[:60]!r}, expected a new module's name of lower-case letters, digits and single "
            f"underscores, {LENGTH} characters at most: make new-family NAME=mykan"
        )
    family = name.replace("_", "-")
    for pattern in (*TEMPLATES.values(), CHECKPOINT):
        path = pattern.format(name=name, family=family)
        if (ROOT / path).exists():
            return f"{path} exists already, and nothing is overwritten: choose another NAME"
    if family in registry.readers():
        return f"the family {family} is read already: choose another NAME"
    return ""


def create(name: str) -> list[str]:
    """Write all files and return their paths below the root."""
    family, class_name = name.replace("_", "-"), class_of(name)
    written = []
    for template, pattern in TEMPLATES.items():
        text = string.Template((Path(__file__).parent / template).read_text())
        path = pattern.format(name=name)
        (ROOT / path).write_text(text.substitute(name=name, family=family, class_name=class_name))
        written.append(path)
    # Names are long and short, and so are the lines they stand in.
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *written], cwd=ROOT, check=True)
    subprocess.run([sys.executable, written[-1]], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-c", WRITE], cwd=ROOT, check=True)  # another process knows the new reader
    return [*written, CHECKPOINT.format(family=family) + "/", f"{DOCUMENT} (rows of its tables)"]


def main(arguments: list[str]) -> int:
    name = arguments[0] if len(arguments) == 1 else " ".join(arguments)
    if text := problem(name):
        print(f"error: {text}", file=sys.stderr)
        return 2
    for path in create(name):
        print(f"wrote {path}")
    print(NEXT.format(name=name, choice=" or ".join(dict.fromkeys([name, name.replace("_", "-")]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
