"""Page docs/reference/supported-libraries.md, from the readers and their docstrings.

A reader's docstring begins with the library and its functions. It also has lines that begin with "Source:", "Options:",
"Edge classes:" and "Recognized by:". `make families` writes the table of measured errors, which this module keeps.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from kanexport.detection import registry
from tools.reference.tables import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "supported-libraries.md"
BEGIN, END = "<!-- families: written by `make families` -->\n", "<!-- end of families -->\n"
HEAD = """# Supported libraries

This page lists the KAN libraries whose checkpoints kanserve exports, for engineers who trained a model with one of
them.

`make reference` writes this file from the readers in `kanexport/readers/`. The exporter recognizes a library by the
names and shapes of the tensors. `kanserve export --family NAME` overrides this. If your library is not here, export the
module: [Export a PyTorch module](../guides/export/modules.md).

## Libraries

"""
OPTIONS = """
The options are facts that a checkpoint does not store. [Export options](export-options.md) has their meanings and
defaults. Layers that are read one by one also take `prefix` and the options for the
[order of modules](architecture-file.md#without-an-architecture-file).

In class A an edge value depends on its source only. In class B it depends on the whole row, because a normalization is
in front. A model whose rows depend on each other (class C) is rejected. See
[Edge classes](../explanation/verification.md#edge-classes).

## Recognition

The file of most libraries is a state dict as `.pt`, `.pth` or `.safetensors`. pykan 0.1 and 0.2 write
`PREFIX_state` and `PREFIX_config.yml`, and keras-efficient-kan writes a `.keras` file. See
[Checkpoint formats](../guides/export/checkpoint.md#checkpoint-formats).

The table has the tensors of each layer, with their numbers of axes in parentheses. N is the number of the layer.

"""
AMBIGUOUS = """
Other layers have the tensor names of the libraries with a star too. The exporter rejects such a file until you pass
`--family`, `--option forward=...` or recorded outputs: see
[Resolve an ambiguous checkpoint](../guides/export/ambiguity.md). The name `by-shape` is for layers whose tensor names
identify no library.

## Measured errors

Each golden checkpoint in `tests/golden/checkpoints/` was trained with its library. `make families` exports the
checkpoints, serves them on a CPU in float32 and requests their rows over gRPC. Errors are relative to the library's own
weights in float64: outputs to the largest magnitude of the group of rows, edges to that of the layer. The residual is
the prediction minus the sum of base value and contributions, relative to the largest prediction. `hybrid` is the name
of PyTorch module exports in the manifest.

"""
LARGEST = """
The largest errors are those of a symbolic pykan model, far outside its data. pykan's own float32 run deviates there by
4e-6.
"""


class Library(NamedTuple):
    """One reader module: the fields of its docstring, and the tensors of a layer by family."""

    name: str
    functions: str
    project: str
    options: tuple[str, ...]
    classes: str
    tensors: dict[str, str]


def libraries() -> list[Library]:
    """All libraries, by name."""
    return sorted(map(_library, registry.modules()), key=lambda library: library.name.lower())


def page() -> str:
    """The page, with the table of measured errors that the file already has."""
    known = libraries()
    listed = table(
        ("library", "functions", "project", "edge class", "options"),
        (
            (each.name, each.functions, each.project, each.classes, ", ".join(map(_code, each.options)) or "-")
            for each in known
        ),
    )
    recognized = table(
        ("`--family`", "library", "recognized by"),
        ((_code(family), each.name, tensors) for each in known for family, tensors in each.tensors.items()),
    )
    return HEAD + listed + OPTIONS + recognized + AMBIGUOUS + between(measured()) + LARGEST


def measured() -> str:
    """The table of measured errors in the file."""
    text = PAGE.read_text() if PAGE.is_file() else ""
    return text.partition(BEGIN)[2].partition(END)[0].strip() + "\n"


def between(errors: str) -> str:
    """The table of measured errors between its markers."""
    return f"{BEGIN}\n{errors}\n{END}"


def with_errors(text: str, errors: str) -> str:
    """The text of the page with another table of measured errors. Without markers, it stays as it is."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return before + between(errors) + after if begin and end else text


def fields(docstring: str) -> dict[str, str]:
    """The lines of a docstring that begin with a name and a colon, such as "Options: h, base_activation"."""
    names = "Source|Options|Edge classes|Recognized by"
    found = re.findall(rf"^({names}): (.*?)(?=^(?:{names}): |\n\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


def _library(module: ModuleType) -> Library:
    docstring = ast.get_docstring(ast.parse(Path(str(module.__file__)).read_text())) or ""
    members = tuple(getattr(module, "FAMILIES", (module,)))
    name, _, functions = " ".join(docstring.partition("\n\n")[0].split()).partition(": ")
    found = fields(docstring)
    options = found.get("Options", "")
    return Library(
        name if functions else f"layers without a library ({members[0].FAMILY})",
        functions.partition(". ")[0].removesuffix(".") or "[many](export-options.md#layers-without-a-library)",
        _project(found["Source"]),
        tuple(options.split(", ")) if options else (),
        found.get("Edge classes", "A"),
        dict(_tensors(members, found.get("Recognized by", ""))),
    )


def _project(source: str) -> str:
    """The repository or the package that a docstring names first."""
    first = source.partition(", ")[0]
    if match := re.match(r"([\w.-]+/[\w.-]+)", first):
        return f"[{match[1]}](https://github.com/{match[1]})"
    package = re.search(r"([\w-]+) (\d+\.[\w.]*\d)", first)
    return f"`{package[1]}` {package[2]} (PyPI)" if package else "-"


def _tensors(members: tuple[Any, ...], words: str) -> Iterator[tuple[str, str]]:
    """Each family, and the tensors by which the exporter recognizes it. `words`: from the docstring."""
    for member in members:
        names = [_code(key.format("N")) for key in getattr(member, "keys", ())]
        if hasattr(member, "KEYS"):
            names = [f"{_code(name)} ({axes})" for name, axes in member.KEYS.required.items()]
        mark = " *" if getattr(member, "AMBIGUOUS", False) else ""
        yield member.FAMILY, (words or ", ".join(names) or "shapes of the tensors") + mark


def _code(text: str) -> str:
    return f"`{text}`"
