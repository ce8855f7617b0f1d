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


# Calls that make, replace or remove a file, or open one by its name. `disk` makes these calls for all modules: it
# follows a link only if it may, does not wait for a FIFO, and has a limit. The table lists the other modules with their
# reasons.
TOUCHING = {"os.open", "os.rename", "os.replace", "os.unlink", "os.mkdir", "os.link", "os.symlink", "os.path.realpath"}
TOUCHING |= {"open", "os.remove", "os.rmdir", "os.makedirs", "os.mkfifo", "os.chmod", "os.chown", "os.truncate"}
METHODS = {"read_bytes", "read_text", "write_bytes", "write_text", "unlink", "mkdir", "rmdir", "touch", "symlink_to"}
METHODS |= {"hardlink_to", "resolve", "open"}
MODULES = {"shutil", "tempfile"}
OPENS = {
    "kanexport/shared/disk.py": {"os.open", "os.replace", "os.unlink", "os.mkdir", "os.symlink", "mkdir", "open"},
    # The user names the output of a command: it may be a link.
    "kanexport/shared/atomic.py": {"os.open", "os.replace", "os.unlink", "os.path.realpath", "open"},
    # Hidden folders of exports, by their pattern; rmtree follows no link.
    "kanexport/shared/leftovers.py": {"os.open", "os.rename", "unlink", "shutil.rmtree"},
    # The repository that the user names; the program renames whole folders in it.
    "kanexport/packing/repository.py": {"os.mkdir", "os.rename", "mkdir"},
    "service/kanserve/console/folder.py": {"os.mkdir", "os.rename", "mkdir"},
    "kanexport/shared/output.py": {"open"},  # a descriptor
    "kanexport/shared/program.py": {"os.open"},  # /dev/null
    "kanexport/hybrid/faults.py": {"resolve"},  # where this package is, for a traceback
    "kanexport/hybrid/inputs.py": {"read_bytes"},  # rows that the user names
    "kanexport/recognise/steplist.py": {"read_text"},  # a list that the user names
    "kanexport/sweep/find.py": {"resolve"},  # whether a folder is the repository itself
    "service/kanserve/access/edit.py": {"open"},  # a descriptor
    "service/kanserve/bench/machine.py": {"read_text"},  # /proc
    "service/kanserve/commands/view.py": {"tempfile.TemporaryDirectory"},  # mkdtemp: only for this user
    "service/kanserve/console/nearby.py": {
        "tempfile.TemporaryDirectory",
        "open",
        "read_text",
    },  # in a folder of its own
    "service/kanserve/console/observatory.py": {"open"},  # a browser
    "service/kanserve/console/read_rows.py": {"read_bytes"},  # rows that the user names
    "service/kanserve/console/result_stream.py": {"shutil.copyfileobj", "tempfile.TemporaryFile"},  # without a name
    "service/kanserve/console/row_stream.py": {"open"},  # rows that the user names
    "service/kanserve/memory.py": {"os.open"},  # /proc
    "service/kanserve/models/headroom.py": {"read_text"},  # cgroup and /proc
    "service/kanserve/observe/logs.py": {"os.open"},  # /dev/null
    "service/kanserve/observe/machine.py": {"read_text"},  # /proc
    "service/kanserve/observe/unblocked.py": {"os.open"},  # /proc
    "service/kanserve/pem.py": {"os.unlink", "tempfile.mkstemp"},  # its own file, if there is no memory file
    "service/kanserve/reference.py": {"write_text"},  # the documentation, in a clone
    "service/kanserve/repository/layout.py": {"resolve"},  # the repository that the user names, and a ConfigMap's link
    "service/kanserve/threads.py": {"read_text"},  # cgroup
    "service/kanserve/trials/child.py": {"write_text"},  # /proc
    "service/kanserve/trials/forks.py": {"read_text"},  # /proc
    "service/kanserve/web/ui.py": {"read_bytes"},  # of the package
    "service/kanserve/workers.py": {"tempfile.TemporaryDirectory"},  # mkdtemp: only for this user
}


def opens(tree: ast.AST) -> Iterator[str]:
    """The calls of a module that use files, as in the source; for methods, the last name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if called in TOUCHING or called.partition(".")[0] in MODULES:
            yield called
        elif called.endswith((".zip.open", "archive.open")):
            continue
        elif method in METHODS and not (method == "resolve" and node.args):
            yield method


def test_files_are_opened_in_one_place() -> None:
    """In `kanexport.shared.disk`. The table above lists the other modules that open, make or remove files by name."""
    paths = [path for path in PRODUCT if "/pb/" not in str(path)]
    found = {name(path): set(opens(ast.parse(path.read_text()))) for path in paths}
    assert {path: calls for path, calls in found.items() if calls} == OPENS
