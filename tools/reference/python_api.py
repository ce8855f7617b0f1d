"""Page docs/reference/python-api.md, from the signatures and docstrings of the public Python API."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "service" / "kanserve" / "client"
TYPES = ROOT / "service" / "kanserve" / "types.py"
API = ROOT / "kanexport" / "torch_export" / "api.py"
SCORER = ROOT / "service" / "kanserve" / "scoring" / "scorer.py"
MLFLOW = ROOT / "kanexport" / "contrib" / "mlflow.py"
HEAD = """# Python API

This page lists the public names of the packages `kanserve` and `kanexport`, for engineers who write Python.

`make reference` writes this file from the signatures and docstrings. [Python client](../guides/clients/python.md) has
examples. Names that are not on this page can change in any release.
"""
CLIENTS = """## kanserve.Client

`AsyncClient` has the same methods to be awaited. Each method raises a [ClientError](#errors).
"""
METHODS = (
    "health",
    "ready",
    "index",
    "model",
    "describe",
    "infer",
    "edges",
    "estimate",
    "curves",
    "explain",
    "scores",
    "drift",
    "coverage",
    "statistics",
    "reset_statistics",
)
# Classes of results, by module.
RESULTS = {
    CLIENT / "results.py": ("InferenceResult", "IndexEntry", "LayerValues", "ServedModel"),
    CLIENT / "explanation.py": ("Explanation", "Coverage"),
    CLIENT / "statistics.py": ("Statistics", "Update"),
    TYPES: ("Description", "Estimate", "LayerCurves", "Scores", "TensorInfo"),
}


def page() -> str:
    """The page."""
    parts = [
        HEAD,
        CLIENTS,
        *_clients(),
        "## Results\n",
        *_results(),
        "## Errors\n",
        *_errors(),
        *_scorer(),
        "## kanexport\n",
    ]
    module = _module(API)
    parts += [_function(_find(module, name), f"kanexport.{name}") for name in ("export", "record_outputs")]
    logged = _module(MLFLOW)
    parts += [
        _function(_find(logged, name), f"kanexport.contrib.mlflow.{name}") for name in ("log_model", "save_model")
    ]
    return "\n".join(parts).rstrip() + "\n"


def _module(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _find(module: ast.Module | ast.ClassDef, name: str) -> ast.FunctionDef | ast.ClassDef:
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"no public name {name!r} in the module; update tools/reference/python_api.py")


def _clients() -> Iterator[str]:
    base, sync, calls = (_module(CLIENT / f"{name}.py") for name in ("base", "sync", "calls"))
    peer, client = _find(base, "Peer"), _find(sync, "Client")
    assert isinstance(peer, ast.ClassDef)
    assert isinstance(client, ast.ClassDef)
    yield _function(_find(peer, "__init__"), "Client")
    for name in METHODS:
        yield _function(_find(calls, name), name)
    yield _function(_find(client, "watch_statistics"), "watch_statistics")
    yield _function(_find(peer, "within"), "within")
    yield _function(_find(client, "close"), "close")


def _results() -> Iterator[str]:
    for path, names in RESULTS.items():
        module = _module(path)
        for name in names:
            kind = _find(module, name)
            assert isinstance(kind, ast.ClassDef)
            yield f"### `{name}`\n\n{_doc(kind)}\n"
            fields = [node for node in kind.body if isinstance(node, ast.AnnAssign)]
            lines = [f"{ast.unparse(field.target)}: {ast.unparse(field.annotation)}" for field in fields]
            yield "```py\n" + "\n".join(lines) + "\n```\n"
            for node in kind.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node):
                    yield _function(node, f"{name}.{node.name}", level=4)


def _scorer() -> Iterator[str]:
    scorer = _find(_module(SCORER), "Scorer")
    assert isinstance(scorer, ast.ClassDef)
    yield f"## kanserve.scoring.Scorer\n\n{_doc(scorer)}\n"
    yield _function(_find(scorer, "__init__"), "Scorer")
    for name in ("__call__", "predict", "schema", "columns", "reliability"):
        yield _function(_find(scorer, name), f"Scorer.{name}")


def _errors() -> Iterator[str]:
    yield "A retry of a `RequestRejected` or its subclasses fails again. A retry of a `TransientError` can succeed.\n"
    yield "| class | base | meaning |\n| --- | --- | --- |"
    for node in _module(CLIENT / "errors.py").body:
        if isinstance(node, ast.ClassDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            yield f"| `{node.name}` | `{ast.unparse(node.bases[0])}` | {text} |"
    yield ""


def _function(node: ast.FunctionDef | ast.ClassDef, name: str, level: int = 3) -> str:
    assert isinstance(node, ast.FunctionDef)
    arguments = node.args
    if (arguments.posonlyargs or arguments.args) and (arguments.posonlyargs or arguments.args)[0].arg == "self":
        (arguments.posonlyargs or arguments.args).pop(0)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and not name[0].isupper() else ""
    signature = f"{name}({ast.unparse(arguments)}){returns}".replace("Request[", "[").replace("Call[", "[")
    signature = signature.replace("-> [", "-> ")
    if "-> " in signature and signature.endswith("]") and signature.count("[") < signature.count("]"):
        signature = signature[:-1]
    if len(signature) > 100:
        head, _, tail = signature.partition("(")
        inner, _, after = tail.rpartition(")")
        signature = f"{head}(\n    " + ",\n    ".join(_split(inner)) + f",\n){after}"
    return f"{'#' * level} `{name}`\n\n```py\n{signature}\n```\n\n{_doc(node)}\n"


def _split(arguments: str) -> list[str]:
    """The arguments of a signature, split at the commas outside of brackets."""
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _doc(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The docstring as Markdown: an indented table of names becomes a list."""
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    lines: list[str] = []
    for line in text.splitlines():
        if match := _named(line):
            lines.append(f"* `{match[0]}`: {match[1]}")
        elif line.startswith("    ") and lines and lines[-1].startswith("* "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.strip())
    return textwrap.dedent("\n".join(lines)).strip()


def _named(line: str) -> tuple[str, str] | None:
    """Name and meaning of a line such as "rows     array of the inputs"."""
    match = re.fullmatch(r"([\w\"*][\w, \"*]*?) {2,}(\S.*)", line)
    return (match[1], match[2]) if match else None
