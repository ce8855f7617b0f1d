"""Page docs/reference/errors.md, from the places in the code that make an error.

`sites()` reads the syntax trees of `kanexport` and `service/kanserve`. A site is a call of an error class, such as
`OptionError(f"unknown option {name!r}", code="option-unknown", hint="...")`, or of a `functools.partial` of one. Fields
of an f-string become `<name>`.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanexport.shared.cli import console
from tools.reference.tables import table

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kanexport", "service/kanserve")
GENERATED = re.compile(r"/pb/")
CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+")
SPECIAL = re.compile(r"([*_\[\]])")  # in Markdown
# Classes from which all error classes with a code and a hint derive.
BASES = ("Failure", "KanserveError", "CodedError", "UnsafeFile")
METHODS = ("strip", "lower", "tolist", "item", "removesuffix", "removeprefix", "partition", "keys")  # of a value
TEXTS = ("message", "text", "reason")  # names of the parameter with the message
HINTS = {  # functions that make a hint
    "advice": "did you mean '<name>'? Otherwise: the list of known names",
    "how_to_install": "in a checkout of kanserve, run `<python> -m pip install -e '.[<extra>]'`",
}
AREAS = {  # folder -> heading, in the order of the page
    "kanexport/cli": "Arguments and options of the exporter",
    "kanexport": "Arguments and options of the exporter",
    "kanexport/formats": "Checkpoint files",
    "kanexport/detection": "Library detection and architecture files",
    "kanexport/readers": "Networks in a checkpoint",
    "kanexport/ir": "Networks in a checkpoint",
    "kanexport/bases": "Networks in a checkpoint",
    "kanexport/functions": "Networks in a checkpoint",
    "kanexport/graph": "Graphs and verification",
    "kanexport/lowering": "Graphs and verification",
    "kanexport/verify": "Graphs and verification",
    "kanexport/quantization": "Graphs and verification",
    "kanexport/parity": "Expected outputs",
    "kanexport/torch_export": "PyTorch modules",
    "kanexport/bundle": "Model repository and baseline rows",
    "kanexport/batch": "Folders of checkpoints",
    "kanexport/shared": "Manifests, names and data files",
    "service/kanserve": "Server",
    "service/kanserve/cli": "Commands of the server and the client",
    "service/kanserve/tables": "Commands of the server and the client",
    "service/kanserve/contrib/capacity": "Capacity planning",
    "service/kanserve/client": "Python client",
}

HEAD = """# Errors

This page lists the errors of the exporter, the server and the commands, for users who have to solve one.

`make reference` writes this file from the code. An error has a code that does not change when its message changes.
Search this page for the code. In a message, `<name>` stands for a value. The gRPC status of a server error is under its
code.

## How to read an error

A command prints an error to stderr:

```text
kanserve export: error[option-unknown]: unknown option 'colour': library pykan does not use it
  help: available: base_fun, input_id, n_inputs
```

The code is in brackets. The line `help` says what to do; an error without a known remedy has no such line. With
`--json`, the command also prints one JSON document to stdout:

```text
{"error": {"kind": "OptionError", "code": "option-unknown", "message": "unknown option 'colour': library pykan does
not use it", "hint": "available: base_fun, input_id, n_inputs", "exit_code": 2}}
```

`kind` is the name of the class and `exit_code` the exit code of the process:
"""
SERVER = """## Errors of the server

The server returns the message as the gRPC status message, the code in the trailer `kan-error-code`, and the hint in the
percent-encoded trailer `kan-error-help`. Over HTTP, the body is a JSON object with the message (`error`), the
`request_id`, the `code` and, for an error with a hint, `help`. The class of an error decides its status:
"""
AFTER_SERVER = """A limit on all requests (`LimitReached`) has the HTTP status 429. The errors `cross-site-request` and
`host-not-allowed` have 403. The [REST API](rest-api.md) has statuses without a gRPC status, such as 408. For an error
of another class, the server returns the gRPC status INTERNAL and HTTP 500, and logs the details under the request id.
"""
INTERNAL = """## Internal errors

kanserve should make none of these. Report a bug with the file, or with the code that made it.
"""
BUG = "report this bug"


@dataclass(frozen=True, slots=True)
class Site:
    """Place in the code that makes an error.

    path, line  of the call
    kind        name of the class
    code        the code, or "" if the call and the class have none
    message     template of the message, or "" if the call converts another error
    hints       templates of the hint; empty without a hint
    converted   whether the code is that of another error, as in `code=error.code`
    """

    path: str
    line: int
    kind: str
    code: str = ""
    message: str = ""
    hints: tuple[str, ...] = ()
    converted: bool = False

    @property
    def area(self) -> str:
        """The heading of the page under which the site belongs."""
        folder = self.path.rpartition("/")[0]
        while folder not in AREAS:
            folder = folder.rpartition("/")[0]
        return AREAS[folder]


@dataclass(frozen=True, slots=True)
class Source:
    """Parsed file: its path below the root, its nodes, its constants, and the results of its functions, by name."""

    path: str
    tree: ast.Module
    nodes: list[ast.AST]
    constants: dict[str, ast.expr] = dataclasses.field(default_factory=dict)
    functions: dict[str, ast.expr] = dataclasses.field(default_factory=dict)


@functools.cache
def sources(root: Path) -> list[Source]:
    """The files of all packages. Text constants of classes are included by their names."""
    found = []
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            if not GENERATED.search(path):
                tree = ast.parse(file.read_text())
                nodes = list(ast.walk(tree))  # once: it takes longer than all the rest
                bodies = [tree.body, *(node.body for node in nodes if isinstance(node, ast.ClassDef))]
                constants = {name: value for body in bodies for name, value in _assigned(body)}
                for call in _makers(constants).values():
                    for keyword in call.keywords:  # another file may have a constant of that name
                        keyword.value = constants.get(_last(keyword.value), keyword.value)
                found.append(Source(path, tree, nodes, constants, dict(_returned(nodes))))
    return found


def _returned(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """The expression of the last return of each function."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            for part in ast.walk(node):
                if isinstance(part, ast.Return) and part.value is not None:
                    yield node.name, part.value


def _assigned(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            if isinstance(statement.targets[0], ast.Name):
                yield statement.targets[0].id, statement.value
            elif isinstance(statement.targets[0], ast.Tuple) and isinstance(statement.value, ast.Tuple):
                for target, value in zip(statement.targets[0].elts, statement.value.elts, strict=False):
                    if isinstance(target, ast.Name):
                        yield target.id, value


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """Error class: its bases by name, and its class-level code and hint."""

    bases: tuple[str, ...]
    code: str = ""
    hint: str = ""


def classes(files: Iterable[Source]) -> dict[str, ErrorClass]:
    """The error classes by name, those with a code and a hint. A class inherits the code and the hint of its base."""
    named: dict[str, ErrorClass] = {}
    for file in files:
        for node in file.nodes:
            if isinstance(node, ast.ClassDef):
                own = dict(_assigned(node.body))
                kind = named.get(node.name, ErrorClass(()))  # the client has classes with the server's names
                bases = (*kind.bases, *(_last(base) for base in node.bases))
                code, hint = (_class_text(own.get(name), file) or _passed_on(node, name) for name in ("code", "hint"))
                named[node.name] = ErrorClass(bases, kind.code or code, kind.hint or hint)
    errors = {name: named.get(name, ErrorClass(())) for name in BASES}
    while more := {
        name: dataclasses.replace(
            kind,
            code=kind.code or next((errors[base].code for base in kind.bases if base in errors), ""),
            hint=kind.hint or next((errors[base].hint for base in kind.bases if base in errors), ""),
        )
        for name, kind in named.items()
        if name not in errors and any(base in errors for base in kind.bases)
    }:
        errors |= more
    return errors


def _class_text(node: ast.expr | None, file: Source) -> str:
    """The text of a class attribute, which may be a constant of the file."""
    return _literal(file.constants.get(node.id, node) if isinstance(node, ast.Name) else node)


def _passed_on(node: ast.ClassDef, name: str) -> str:
    """The text that the constructor of a class passes to its base as the argument `name`; "" without one."""
    constructors = (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
    parts = (part for constructor in constructors for part in ast.walk(constructor))
    calls = (part for part in parts if isinstance(part, ast.Call) and _last(part.func) == "__init__")
    found = (_literal(keyword.value) for call in calls for keyword in call.keywords if keyword.arg == name)
    return next(filter(None, found), "")


def _literal(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _last(node: ast.expr) -> str:
    """The last part of a name: "CsvError" for `csv_text.CsvError`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _imported(file: Source, files: Sequence[Source]) -> Iterator[tuple[str, ast.expr]]:
    """The constants that a file imports by name. Files may have constants of one name."""
    modules = {other.path.removeprefix("service/").removesuffix(".py").replace("/", "."): other for other in files}
    for node in file.nodes:
        if isinstance(node, ast.ImportFrom) and (other := modules.get(node.module or "")):
            names = (alias for alias in node.names if alias.name in other.constants)
            yield from ((alias.asname or alias.name, other.constants[alias.name]) for alias in names)


def sites(packages: Sequence[str] = PACKAGES) -> list[Site]:
    """All calls of error classes in the packages, with the codes and texts of the call or of the class."""
    files = sources(ROOT)
    errors = classes(files)
    texts = {name: value for file in files for name, value in file.constants.items() if name.isupper()}
    makers = {name: call for file in files for name, call in _makers(file.constants).items()}
    found = []
    for file in files:
        if file.path.startswith(tuple(f"{package}/" for package in packages)):
            own = {name: value for name, value in file.constants.items() if name.isupper()}
            visitor = _Visitor(file, errors, {**texts, **dict(_imported(file, files)), **own}, makers)
            visitor.visit(file.tree)
            found += visitor.found
    return found


def _makers(constants: Mapping[str, ast.expr]) -> dict[str, ast.Call]:
    """The functions that make an error with a code and a hint, such as `functools.partial(OptionError, code=...)`."""
    calls = {name: value for name, value in constants.items() if isinstance(value, ast.Call)}
    return {name: call for name, call in calls.items() if _last(call.func) == "partial"}


def _is_reason(node: ast.expr) -> bool:
    """Whether an argument is a value of LoadReason, and no text."""
    return isinstance(node, ast.Attribute) and _last(node.value) == "LoadReason"


class _Visitor(ast.NodeVisitor):
    """Collects the sites of one file. `makers`: as `_makers` returns them."""

    def __init__(
        self,
        file: Source,
        errors: Mapping[str, ErrorClass],
        texts: Mapping[str, ast.expr],
        makers: Mapping[str, ast.Call],
    ) -> None:
        self.file, self.errors, self.texts, self.makers = file, errors, texts, makers
        self.found: list[Site] = []
        self.inside: list[str] = []  # names of the classes around
        self.local: dict[str, ast.expr] = {}  # texts that the function assigns to names

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Visit the methods of a class, in which `super().__init__` is a site too."""
        self.inside.append(node.name)
        self.generic_visit(node)
        self.inside.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Visit a function, with the texts that it assigns to names."""
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Visit a coroutine like a function."""
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before = self.local
        assigned = (part for part in ast.walk(node) if isinstance(part, ast.Assign))
        self.local = {**before, **dict(_assigned(assigned))}
        self.generic_visit(node)
        self.local = before

    def visit_Call(self, node: ast.Call) -> None:
        """Add a call of an error class."""
        kind, given = _last(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        if maker := self.makers.get(kind):
            kind, given = _last(maker.args[0]), {keyword.arg: keyword.value for keyword in maker.keywords} | given
        own = self.inside[-1] if self.inside else ""
        if kind in self.errors and kind not in ("Failure", "KanserveError", "CodedError"):
            self._add(node, kind, given)
        elif kind == "__init__" and own in self.errors and own not in BASES and _literal(given.get("code")):
            self._add(node, own, given)  # without a literal, it passes on an argument
        elif CODE.fullmatch(_literal(given.get("code"))) and kind != "partial":
            self._add(node, kind, given)  # a function that makes an error
        self.generic_visit(node)

    def _add(self, node: ast.Call, kind: str, given: Mapping[str | None, ast.expr]) -> None:
        error = self.errors.get(kind, ErrorClass(()))
        code = given.get("code")
        arguments = [argument for argument in node.args if not _is_reason(argument)]
        texts = [self._text(node) for node in (*arguments, *(given.get(name) for name in TEXTS))]
        hints = tuple(dict.fromkeys(self._options(given["hint"]))) if "hint" in given else (error.hint,)
        self.found.append(
            Site(
                self.file.path,
                node.lineno,
                kind,
                code=self._text(code) or ("" if code is not None else error.code),
                message=next(filter(None, texts), ""),
                hints=tuple(filter(None, hints)),
                converted=code is not None and not self._text(code),
            )
        )

    def _options(self, node: ast.expr) -> list[str]:
        """The texts that an expression may have."""
        if isinstance(node, ast.BoolOp):
            return [text for value in node.values for text in self._options(value)]
        if isinstance(node, ast.IfExp):
            return [*self._options(node.body), *self._options(node.orelse)]
        if isinstance(node, ast.Call) and _last(node.func) in HINTS:
            return [HINTS[_last(node.func)]]
        if isinstance(node, ast.Name) and isinstance(self.local.get(node.id), ast.Call):
            return self._options(self.local[node.id])
        return [text] if (text := self._text(node)) else []

    def _text(self, node: ast.expr | None, depth: int = 4) -> str:
        """The template of a text; "" for an expression that is not one."""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else ""
        if isinstance(node, ast.JoinedStr):
            return "".join(
                self._field(part, depth) if isinstance(part, ast.FormattedValue) else self._text(part)
                for part in node.values
            )
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._part(node.left, depth), self._part(node.right, depth)
            return left + right
        if isinstance(node, ast.IfExp):
            return self._text(node.body, depth) or self._text(node.orelse, depth)
        if isinstance(node, ast.Name) and depth and node.id in self.local:
            return self._text(self.local[node.id], depth - 1)
        if isinstance(node, ast.Name | ast.Attribute) and depth and _last(node) in self.texts:
            return self._text(self.texts[_last(node)], depth - 1)
        if isinstance(node, ast.Call) and depth and _last(node.func) in self.file.functions:
            return self._text(self.file.functions[_last(node.func)], depth - 1)
        return ""

    def _part(self, node: ast.expr, depth: int) -> str:
        """One side of a sum: a text, or a field."""
        if isinstance(node, ast.IfExp) and not self._text(node.orelse):
            return ""  # only in some cases
        return self._text(node, depth) or f"<{_name(node)}>"

    def _field(self, field: ast.FormattedValue, depth: int) -> str:
        """A field of an f-string: the text of a constant, or the name of the value."""
        value = field.value
        if (
            isinstance(value, ast.Name | ast.Attribute)
            and _last(value).isupper()
            and (text := self._text(value, depth))
        ):
            return text
        if isinstance(value, ast.IfExp) and isinstance(value.orelse, ast.Constant):
            return self._text(value.body) if value.orelse.value else ""
        return f"<{_name(value)}>"


def _name(node: ast.expr) -> str:
    """A short name of a value: "path" for `path`, `str(path)[:80]` and `self.path`."""
    if isinstance(node, ast.Name | ast.Attribute):
        return _last(node).strip("_").lower()
    if isinstance(node, ast.Subscript | ast.Starred | ast.FormattedValue):
        return _name(node.value)
    if isinstance(node, ast.Call):
        called = _last(node.func)
        if isinstance(node.func, ast.Attribute) and called == "join" and node.args:
            return _name(node.args[0])
        if isinstance(node.func, ast.Attribute) and called in METHODS:
            return _name(node.func.value)
        if called == "len":
            return "number"
        if called in ("str", "repr", "float", "int", "list", "sorted", "tuple", "map", "getattr") and node.args:
            return _name(node.args[-1] if called in ("map", "getattr") else node.args[0])
        return called.strip("_").lower() or "value"
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return _name(node.generators[0].iter)
    if isinstance(node, ast.IfExp):
        return _name(node.body)
    return "value"


def page() -> str:
    """The page."""
    exits = table(
        ("exit code", "meaning"), ((int(code), _escaped(meaning)) for code, meaning in console.MEANINGS.items())
    )
    parts = [HEAD, exits, SERVER, _statuses(), AFTER_SERVER]
    areas: dict[str, dict[str, list[Site]]] = {}
    for code, found in sorted(by_code(sites()).items()):
        area = collections.Counter(site.area for site in found).most_common(1)[0][0]
        areas.setdefault(area, {})[code] = found
    internal: list[tuple[str, str]] = []
    for heading in dict.fromkeys(AREAS.values()):
        rows: list[tuple[str, str, str]] = []
        for code, found in areas.get(heading, {}).items():
            messages: dict[str, dict[str, None]] = {}  # those with the same help
            for site in found:
                messages.setdefault("<br>".join(map(_escaped, site.hints)), {})[_code(site.message)] = None
            pairs = [("<br>".join(filter(None, texts)), hint) for hint, texts in messages.items()]
            if all(BUG in hint for hint in messages):
                internal.append((f"`{code}`", "<br>".join(text for text, _ in pairs)))
            else:
                pairs = [(text or "the message of the cause", hint) for text, hint in pairs if text or hint]
                first = f"`{code}`" + (f"<br>{status}" if (status := _status(found)) else "")
                firsts = [first, *[""] * (len(pairs) - 1)]
                rows += [
                    (cell, *pair)
                    for cell, pair in zip(firsts, pairs or [("the message of the cause", "")], strict=False)
                ]
        if rows:
            parts += [f"## {heading}\n", table(("code", "message", "help"), rows)]
    parts += [INTERNAL, table(("code", "message"), sorted(internal))]
    return "\n".join(parts)


def _status(found: Iterable[Site]) -> str:
    """The gRPC status of the server's error classes that have the code; "" for none."""
    from kanserve import errors
    from kanserve.grpc_api.call_context import CODES

    kinds = {getattr(errors, site.kind, None) for site in found if site.path.startswith("service/kanserve/")}
    known = [CODES[base].name for kind in kinds if isinstance(kind, type) for base in kind.__mro__ if base in CODES]
    return known[0] if len(set(known)) == 1 else ""


def by_code(found: Iterable[Site]) -> dict[str, list[Site]]:
    """The sites of each code."""
    codes: dict[str, list[Site]] = {}
    for site in found:
        if site.code:
            codes.setdefault(site.code, []).append(site)
    return codes


def _code(text: str) -> str:
    """A message as code of Markdown; "" for none."""
    return f"`` {text} ``" if "`" in text else f"`{text}`" if text else ""


def _escaped(text: str) -> str:
    """A text in which Markdown and HTML are only text, except code in backquotes."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if part.startswith("`") else SPECIAL.sub(r"\\\1", html.escape(part, quote=False)) for part in parts
    )


def _statuses() -> str:
    """The table of the server's error classes with their statuses."""
    from kanserve.grpc_api.call_context import CODES
    from kanserve.rest.exchange import STATUS

    rows = ((f"`{kind.__name__}`", code.name, int(STATUS[code])) for kind, code in CODES.items())
    return table(("class", "gRPC status", "HTTP status"), rows)
