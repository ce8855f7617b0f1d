"""The two C files of a network: `NAME.c` with tables, helpers and functions, and `NAME.h`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kanexport.ccode.function import FunctionWriter
from kanexport.ccode.nodes import Node
from kanexport.ccode.splines import SplineRoutines
from kanexport.ccode.tables import Table, Tables, literal
from kanexport.errors import OptionError

PREDICT, EXPLAIN = "predict", "explain"
LONGEST_NAME = 40

HELPERS = {
    "isnan": ("int", "float x", "x != x"),
    "max": ("float", "float a, float b", "a > b || a != a ? a : b"),
    "min": ("float", "float a, float b", "a < b || a != a ? a : b"),
    "clip": ("float", "float x, float low, float high", "x < low ? low : x > high ? high : x"),
    "relu": ("float", "float x", "x < 0.0f ? 0.0f : x"),
    "prelu": ("float", "float x, float slope", "x < 0.0f ? slope * x : x"),
    "sign": ("float", "float x", "x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x"),
    "sigmoid": ("float", "float x", "1.0f / (1.0f + expf(-x))"),
    "silu": ("float", "float x", "x / (1.0f + expf(-x))"),
    **{f"power{n}": ("float", "float x", " * ".join(["x"] * n)) for n in range(2, 10)},
}

# C99, C11 and C23; C++ because the header is for it, too.
KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        "alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do "
        "double else enum extern false float for goto if inline int long namespace new not nullptr operator or private "
        "protected public register restrict return short signed sizeof static struct switch template this throw true "
        "try typedef typeof union unsigned using virtual void volatile while xor",
    )
)
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Generated C of a network.

    text, header   the two files
    tables         bytes of constants, of which `explain_tables` only the contributions need
    stack          bytes on the stack, by function
    """

    name: str
    text: str
    header: str
    tables: int
    explain_tables: int
    stack: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Content of the files: the nodes of the results, and comments for the reader.

    predict  [1, outputs]
    explain  [1, outputs, inputs], or None
    base     the outputs that the contributions add up from
    storage  of the coefficients of splines, a key of `integer_tables.STORAGE`
    about    lines of the comment at the top of both files
    usage    further lines of the header's comment
    """

    name: str
    inputs: int
    outputs: int
    predict: Node
    explain: Node | None
    base: Sequence[float]
    about: Sequence[str]
    usage: Sequence[str]
    storage: str = "float32"


def check_name(name: str) -> None:
    """Raises OptionError for a name that is not a C identifier, or too long for names that begin with it."""
    if IDENTIFIER.fullmatch(name) and name not in KEYWORDS and len(name) <= LONGEST_NAME:
        return
    proposal = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:LONGEST_NAME]
    if not IDENTIFIER.fullmatch(proposal) or proposal in KEYWORDS:
        proposal = "kan_model"
    raise OptionError(
        f"the model name {name[:80]!r} is not a C identifier of at most {LONGEST_NAME} letters, digits and underscores",
        code="c-name-invalid",
        hint=f"pass --name {proposal}",
    )


def write(model: Model) -> Code:
    """Generate the files."""
    file = _File(model)
    stack = {PREDICT: file.function(PREDICT, model.predict, "y")}
    if model.explain is not None:
        stack[EXPLAIN] = file.function(EXPLAIN, model.explain, "contributions")
    tables = list(file.tables)
    return Code(
        name=model.name,
        text="\n".join(file.lines()) + "\n",
        header="\n".join(_header(model, stack)) + "\n",
        tables=sum(table.size for table in tables),
        explain_tables=sum(table.size for table in tables if PREDICT not in table.users),
        stack=stack,
    )


@dataclass(slots=True)
class _File:
    """C file that is being written."""

    model: Model
    tables: Tables = field(init=False)
    routines: SplineRoutines = field(init=False)
    helpers: dict[str, set[str]] = field(default_factory=dict)
    bodies: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tables = Tables(self.model.name)
        self.routines = SplineRoutines(self.model.name, self.tables, self.model.storage)

    def function(self, user: str, result: Node, name: str) -> int:
        """Write a function. Returns its bytes on the stack."""
        self.tables.user = user
        own: set[str] = set()
        writer = FunctionWriter(self.tables, own, self.model.name, self.routines.name)
        self.bodies[user], stack = writer.body(result, name)
        for routine, users in self.routines.users.items():
            if user in users and f"{self.model.name}_silu(" in "".join(self.routines.texts[routine]):
                own.add("silu")
        for helper in own:
            self.helpers.setdefault(helper, set()).add(user)
        return stack

    def lines(self) -> Iterator[str]:
        """The file, line by line."""
        name = self.model.name
        yield from _comment(self.model.about)
        yield f'#include "{name}.h"'
        yield ""
        yield "#include <math.h>"
        yield ""
        yield from self._definitions(explain_only=False)
        further = list(self._definitions(explain_only=True))
        if further:
            yield from (f"#ifndef {name.upper()}_NO_EXPLAIN", *further, "#endif", "")
        yield f"void {name}_predict(const float *restrict x, float *restrict y)"
        yield from _block(self.bodies[PREDICT])
        if EXPLAIN in self.bodies:
            yield ""
            yield f"#ifndef {name.upper()}_NO_EXPLAIN"
            yield f"const float {name}_base[{self.model.outputs}] = {{{', '.join(map(literal, self.model.base))}}};"
            yield ""
            yield f"void {name}_explain(const float *restrict x, float *restrict contributions)"
            yield from _block(self.bodies[EXPLAIN])
            yield "#endif"

    def _definitions(self, *, explain_only: bool) -> Iterator[str]:
        """Tables, helpers and functions of splines: those that only the contributions need, or the others."""

        def chosen(users: set[str]) -> bool:
            return (PREDICT not in users) == explain_only

        tables: list[Table] = [table for table in self.tables if chosen(table.users)]
        for table in tables:
            yield from table.text()
            yield ""
        for helper in sorted(self.helpers):
            if chosen(self.helpers[helper]):
                result, arguments, text = HELPERS[helper]
                yield f"static {result} {self.model.name}_{helper}({arguments})"
                yield from _block([f"    return {text};"])
                yield ""
        for routine, lines in self.routines.texts.items():
            if chosen(self.routines.users[routine]):
                yield from lines
                yield ""


def _block(lines: Iterable[str]) -> Iterator[str]:
    yield "{"
    yield from lines
    yield "}"


def _comment(lines: Iterable[str]) -> Iterator[str]:
    yield "/*"
    yield from (f" * {line}".rstrip() for line in lines)
    yield " */"


def _header(model: Model, stack: Mapping[str, int]) -> Iterator[str]:
    name, upper = model.name, model.name.upper()
    yield from _comment([*model.about, "", *model.usage])
    yield f"#ifndef {upper}_H"
    yield f"#define {upper}_H"
    yield ""
    yield f"#define {upper}_INPUTS {model.inputs}"
    yield f"#define {upper}_OUTPUTS {model.outputs}"
    yield ""
    yield "#ifdef __cplusplus"
    yield 'extern "C" {'
    yield "#endif"
    yield ""
    yield f"/* Outputs y[{upper}_OUTPUTS] of one row x[{upper}_INPUTS]. Arrays on the stack: {stack[PREDICT]} bytes. */"
    yield f"void {name}_predict(const float *x, float *y);"
    if model.explain is not None:
        yield ""
        yield f"#ifndef {upper}_NO_EXPLAIN"
        yield "/* Outputs at the reference row. */"
        yield f"extern const float {name}_base[{upper}_OUTPUTS];"
        yield ""
        yield f"/* contributions[o * {upper}_INPUTS + i]: the share of input i in the difference of output o from"
        yield f" * {name}_base[o]. Arrays on the stack: {stack[EXPLAIN]} bytes. */"
        yield f"void {name}_explain(const float *x, float *contributions);"
        yield "#endif"
    yield ""
    yield "#ifdef __cplusplus"
    yield "}"
    yield "#endif"
    yield ""
    yield "#endif"
