"""The house rules, read off the source: who may import whom, and how large things grow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"kanexport": ROOT / "kanexport", "kanserve": ROOT / "service" / "kanserve"}
GENERATED = PACKAGES["kanserve"] / "pb"

# Layers from the ground up. A module imports from lower layers and from its own
# layer's package; never upwards. Names are the first part after the package.
LAYERS = {
    "kanexport": [
        {"errors", "manifest"},
        {"options", "operators", "files"},
        {"functions"},
        {"bases"},
        {"form"},
        {"layers", "lowering"},
        {"recognise", "readers", "proof"},
        {"packing"},
        {"pipeline", "hybrid", "report"},
        {"sweep"},
        {"console"},
        {"__main__"},
    ],
    "kanserve": [
        {"errors", "tensors", "config", "metrics", "logs", "threads", "statistics", "pb"},
        {"backends", "repository", "interpret"},
        {"models"},
        {"handlers", "lifecycle"},
        {"rpc"},
        {"app"},
        {"commands"},
        {"cli"},
        {"__main__"},
    ],
}
# Folders that stand side by side and must not know each other.
STRANGERS = [{"backends", "repository", "interpret"}]

# A library with a home is imported nowhere else.
HOMES = {
    "onnx": {"kanexport/operators/graph.py", "kanexport/hybrid/splice.py", "kanexport/hybrid/trace.py"},
    "onnxscript": {"kanexport/hybrid/trace.py"},
    "onnxruntime": {"kanexport/proof/runtime.py", "service/kanserve/backends/ort.py"},
    "torch": {"kanexport/hybrid/"},
    "pickle": set(),
    "prometheus_client": {"service/kanserve/metrics.py"},
    "kanserve.pb": {"service/kanserve/rpc/"},
    "grpc": {"service/kanserve/rpc/"},
    "grpc_health": {"service/kanserve/rpc/"},
    "grpc_reflection": {"service/kanserve/rpc/"},
    "yaml": {"kanexport/files/yamlfile.py"},
    "safetensors": set(),  # read by kanexport/files/safetensorsfile.py; the tests hold it against the library
}
FILE_LIMIT, FUNCTION_LIMIT = 500, 50


def sources(*folders: Path) -> list[Path]:
    found = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [path for path in found if GENERATED not in path.parents]


PRODUCT = sources(*PACKAGES.values())
EVERYTHING = sources(*PACKAGES.values(), ROOT / "tests", ROOT / "benchmarks", ROOT / "examples")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Dotted names a module imports at run time, including inside functions."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name(path)} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path: Path, package: str) -> str:
    return path.relative_to(PACKAGES[package]).parts[0].removesuffix(".py")


def package_of(path: Path) -> str:
    return next(package for package, folder in PACKAGES.items() if folder in path.parents)


def level(package: str, item: str) -> int:
    for at, layer in enumerate(LAYERS[package]):
        if item in layer:
            return at
    raise AssertionError(f"{package}.{item} has no place in LAYERS: say where it stands")


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_imports_flow_one_way(path: Path) -> None:
    package = package_of(path)
    own = part(path, package)
    if own == "__init__":
        # `kanexport.export` is imported when it is first asked for, and not before.
        top_level = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not [node for node in top_level if "kan" in ast.unparse(node)]
        return
    for imported in imports(path):
        top, _, rest = imported.partition(".")
        if top != package or not rest:
            continue
        target = rest.partition(".")[0]
        assert level(package, target) <= level(package, own), f"{name(path)} imports {imported}, which stands above it"
        for group in STRANGERS:
            assert not ({own, target} <= group and own != target), f"{name(path)} and {imported} must not meet"


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_the_packages_share_one_file(path: Path) -> None:
    package = package_of(path)
    other = {"kanexport": "kanserve", "kanserve": "kanexport"}[package]
    for imported in imports(path):
        if imported.partition(".")[0] == other:
            shared = package == "kanserve" and imported.startswith("kanexport.manifest")
            handed_over = name(path) == "service/kanserve/cli.py" and imported.startswith("kanexport.console.cli")
            handed_over |= name(path) == "service/kanserve/cli.py" and imported == "kanexport.console.cli"
            assert shared or imported == "kanexport.manifest" or handed_over, f"{name(path)} imports {imported}"


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_libraries_stay_at_home(path: Path) -> None:
    for imported in imports(path):
        homes = HOMES.get("kanserve.pb" if imported.startswith("kanserve.pb") else imported.partition(".")[0])
        if homes is not None:
            assert any(name(path).startswith(home) for home in homes), f"{name(path)} imports {imported}"


def test_there_is_no_import_cycle() -> None:
    modules = {module_name(path): path for path in PRODUCT}
    graph = {
        module: {found for i in imports(path) if (found := nearest(i, modules)) and found != module}
        for module, path in modules.items()
    }
    done: set[str] = set()
    while ready := {module for module, needs in graph.items() if module not in done and needs <= done}:
        done |= ready
    assert not set(graph) - done, f"in or above a cycle: {sorted(set(graph) - done)}"


def module_name(path: Path) -> str:
    package = package_of(path)
    dotted = ".".join([package, *path.relative_to(PACKAGES[package]).with_suffix("").parts])
    return dotted.removesuffix(".__init__")


def nearest(imported: str, modules: dict[str, Path]) -> str | None:
    while imported:
        if imported in modules:
            return imported
        imported = imported.rpartition(".")[0]
    return None


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LIMIT
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LIMIT, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_nothing_is_left_undone_and_no_check_is_silenced_without_a_reason(path: Path) -> None:
    unfinished = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not unfinished.search(line), f"line {number}: {line.strip()}"
        silenced = re.search(r"# (noqa|type: ignore|pragma: no cover)(.*)$", line)
        if silenced:
            assert re.search(r"[A-Z0-9\]] - \w|\] # \w|  # \w", silenced[2]), (
                f"line {number} gives no reason: {line.strip()}"
            )


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name(path)} has no docstring"
