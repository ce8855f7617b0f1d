"""The house in figures: sizes, simplicity, caught exceptions, docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from radon.complexity import cc_visit
from test_architecture import PRODUCT, name

COMPLEXITY = 10  # conditions in one function, comprehensions counted
BROAD = 6  # places that catch whatever is raised
REASON = "# radon: "


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """What others may use: without an underscore, in a module or in a class like that."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def test_functions_are_short() -> None:
    spans = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in PRODUCT
        for node in functions(ast.parse(path.read_text()))
    ]
    assert percentile(spans, 0.95) < 24


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_functions_are_simple_or_say_why_not(path: Path) -> None:
    lines = path.read_text().splitlines()
    blocks = [block for item in cc_visit(path.read_text()) for block in (item, *getattr(item, "methods", ()))]
    for block in blocks:
        if block.complexity > COMPLEXITY and not hasattr(block, "methods"):
            # The reason stands above the function and its decorators.
            above = [line.strip() for line in lines[max(0, block.lineno - 5) : block.lineno]]
            assert any(line.startswith(REASON) for line in above), f"{block.name} has {block.complexity} conditions"


def catches_everything(node: ast.AST) -> bool:
    """A bare except, Exception or BaseException, alone, in a tuple or in contextlib.suppress."""
    if isinstance(node, ast.ExceptHandler):
        kinds = [node.type] if node.type is not None else None
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        kinds = node.args
    else:
        return False
    names = {inner.id for kind in kinds or () for inner in ast.walk(kind) if isinstance(inner, ast.Name)}
    return kinds is None or bool(names & {"Exception", "BaseException"})


def test_few_places_catch_everything() -> None:
    broad = [
        f"{name(path)}:{getattr(node, 'lineno', 0)}"
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        if catches_everything(node)
    ]
    assert 0 < len(broad) <= BROAD, broad


def test_what_is_public_says_what_it_is() -> None:
    nodes = [(path, node) for path in PRODUCT for node in public(ast.parse(path.read_text()))]
    silent = [f"{name(path)}:{node.lineno} {node.name}" for path, node in nodes if not ast.get_docstring(node)]
    assert len(silent) <= 0.05 * len(nodes), silent
