"""Rules of the source code: layers, sizes, docstrings, caught exceptions, opened files. One test per rule."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
from radon.complexity import cc_visit

ROOT = Path(__file__).parent.parent
PACKAGES = {"kanexport": ROOT / "kanexport", "kanserve": ROOT / "service" / "kanserve"}
GENERATED = PACKAGES["kanserve"] / "pb"

# A folder of plug-ins has one file per plug-in, of any size.
PLUG_INS = ("kanexport/bases/", "kanexport/functions/", "kanexport/readers/", "service/kanserve/cli/")
SMALL = {
    "kanexport/__main__.py": "an entry point",
    "service/kanserve/__main__.py": "an entry point",
    "service/kanserve/version.py": "a constant with many importers",
    "kanexport/shared/ort.py": "the one import of onnxruntime, after the variable that forbids its telemetry",
}
FILE_LINES, FUNCTION_LINES, FEW_LINES = 600, 80, 60
FUNCTION_P95 = 40  # lines
PARTICIPLES = {"found", "told", "asked", "given", "made", "one"}
COMPLEXITY = 15  # conditions in one function, comprehensions counted
BROAD = 6  # places that catch every exception
WITHOUT_TESTS = 0.15  # share of the modules that have no test file of their name
REASON = "# radon: "

# The files that may import a library. No other file imports it.
HOMES = {
    "onnx": {
        "kanexport/graph/",
        *(f"kanexport/torch_export/{name}.py" for name in ("conv_graphs", "splice", "trace")),
        "service/kanserve/contrib/bench/mlp_graph.py",
    },
    "onnxscript": {"kanexport/torch_export/trace.py"},
    "onnxruntime": {"kanexport/shared/ort.py"},
    "torch": {"kanexport/torch_export/", "service/kanserve/contrib/bench/torch_eager.py"},
    "pickle": set(),
    "pyarrow": {"kanexport/shared/csv_columns.py", "service/kanserve/tables/", "service/kanserve/scoring/"},
    "obstore": {"service/kanserve/scoring/files.py"},
    "prometheus_client": {"service/kanserve/observability/metrics.py"},
    "kanserve.pb": {
        *(f"service/kanserve/{folder}/" for folder in ("grpc_api", "rest", "client")),
        "service/kanserve/repository/pbtxt.py",
        "service/kanserve/sandbox/graph_screen.py",
    },
    "grpc": {
        "service/kanserve/client/",
        "service/kanserve/contrib/ray/application.py",
        "service/kanserve/transport/grpc_aio.py",
    },
    "opentelemetry": {"service/kanserve/observability/tracing.py"},
    "h2corn": {"service/kanserve/transport/h2corn_server.py"},
    "starlette": {"service/kanserve/rest/"},
    "orjson": {"service/kanserve/rest/"},
    "grpc_health": {"service/kanserve/grpc_api/services.py"},
    "grpc_reflection": {"service/kanserve/grpc_api/services.py"},
    "yaml": {"kanexport/formats/yaml_config.py"},
    "rich": {"kanexport/shared/cli/tables.py"},
    "ray": {"service/kanserve/contrib/ray/"},
    "mlflow": {"kanexport/contrib/mlflow.py"},
    "safetensors": set(),  # kanexport/formats/safetensors.py reads the format; tests compare it with the library
}

# Calls that make, replace or remove a file, or open one by its name. `safe_files` makes these calls for all modules: it
# follows a link only if it may, does not wait for a FIFO, and has a limit. The table lists the other modules.
TOUCHING = {"os.open", "os.rename", "os.replace", "os.unlink", "os.mkdir", "os.link", "os.symlink", "os.path.realpath"}
TOUCHING |= {"open", "os.remove", "os.rmdir", "os.makedirs", "os.mkfifo", "os.chmod", "os.chown", "os.truncate"}
METHODS = {"read_bytes", "read_text", "write_bytes", "write_text", "unlink", "mkdir", "rmdir", "touch", "symlink_to"}
METHODS |= {"hardlink_to", "resolve", "open"}
MODULES = {"shutil", "tempfile"}
OPENS = {
    "kanexport/shared/safe_files.py": "os.open os.replace os.unlink os.mkdir os.symlink mkdir open",
    # The user names the output of a command: it may be a link.
    "kanexport/shared/atomic.py": "os.open os.replace os.unlink os.path.realpath open",
    # Hidden folders of exports, by their pattern; rmtree follows no link.
    "kanexport/shared/temp_dirs.py": "os.open os.rename unlink shutil.rmtree",
    # The repository that the user names; the program renames whole folders in it.
    "kanexport/bundle/repository.py": "os.mkdir os.rename mkdir",
    "service/kanserve/cli/inventory.py": "os.mkdir os.rename mkdir",
    # A private folder for one compilation; the folder for C code that the user names.
    "kanexport/ccode/compiled.py": "tempfile.TemporaryDirectory shutil.which write_text",
    "kanexport/ccode/generate.py": "mkdir",
    "kanexport/contrib/mlflow.py": "mkdir",  # a new folder that the user or MLflow names
    "kanexport/ccode/wasm.py": "tempfile.TemporaryDirectory read_bytes",
    "kanexport/shared/cli/console.py": "open",  # a descriptor
    "kanexport/shared/cli/program.py": "os.open",  # /dev/null
    "kanexport/torch_export/borrowed_module.py": "resolve",  # where this package is, for a traceback
    "kanexport/torch_export/inputs.py": "read_bytes",  # rows that the user names
    "kanexport/detection/architecture_file.py": "read_text",  # a file that the user names
    "kanexport/batch/discover.py": "resolve",  # whether a folder is the repository itself
    "service/kanserve/auth/token_file.py": "open",  # a descriptor
    # Tables that the user names, and results by the descriptor of their folder.
    "service/kanserve/scoring/files.py": "mkdir open os.mkdir os.open os.replace os.unlink resolve",
    "service/kanserve/contrib/bench/runner.py": "read_text",  # /proc
    "service/kanserve/contrib/capacity/usage.py": "read_text",  # /proc
    "service/kanserve/cli/default_file.py": "unlink",  # in the repository that the user names
    "service/kanserve/contrib/capacity/command.py": "tempfile.TemporaryDirectory",  # mkdtemp: only for this user
    "service/kanserve/cli/view.py": "tempfile.TemporaryDirectory",  # mkdtemp: only for this user
    "service/kanserve/cli/session.py": "tempfile.TemporaryDirectory open read_text",  # in its own folder; a browser
    "service/kanserve/tables/input_rows.py": "read_bytes",  # rows that the user names
    "service/kanserve/tables/output_results.py": "shutil.copyfileobj tempfile.TemporaryFile",  # without a name
    "service/kanserve/tables/row_stream.py": "open",  # rows that the user names
    "service/kanserve/system/resources.py": "os.open read_text",  # /proc, cgroup
    "service/kanserve/observability/logs.py": "os.open",  # /dev/null, /proc
    "service/kanserve/observability/metrics.py": "read_text",  # /proc
    "service/kanserve/system/pem.py": "os.unlink tempfile.mkstemp",  # its own file, if there is no memory file
    "service/kanserve/repository/layout.py": "resolve",  # the user's repository, and a ConfigMap's link
    "service/kanserve/sandbox/process.py": "write_text read_text",  # /proc
    "service/kanserve/contrib/ray/haproxy.py": "tempfile.TemporaryDirectory shutil.which",  # only for this user
    "service/kanserve/rest/ui.py": "read_bytes",  # files of the package
    "service/kanserve/report/interactive.py": "read_text",  # a file of the package
    "service/kanserve/services/edits.py": "tempfile.TemporaryDirectory",  # mkdtemp: only for this user
    "service/kanserve/server/supervisor.py": "tempfile.TemporaryDirectory",  # mkdtemp: only for this user
}


def sources(*folders: Path) -> list[Path]:
    """The Python files below some folders, without generated ones."""
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [path for path in paths if GENERATED not in path.parents]


PRODUCT = sources(*PACKAGES.values())
EVERYTHING = sources(
    *PACKAGES.values(), *(ROOT / name for name in ("service/deploy", "tests", "benchmarks", "tools", "examples"))
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a module imports at run time, also inside functions."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def public(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions and classes without an underscore, in a module or in such a class."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not inner.name.startswith("_"):
            yield inner
            if isinstance(inner, ast.ClassDef):
                yield from public(inner)


def catches_everything(node: ast.AST) -> bool:
    """Whether a node is a bare except, or takes Exception or BaseException, also in contextlib.suppress."""
    if isinstance(node, ast.ExceptHandler):
        kinds = [node.type] if node.type is not None else None
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        kinds = node.args
    else:
        return False
    names = {inner.id for kind in kinds or () for inner in ast.walk(kind) if isinstance(inner, ast.Name)}
    return kinds is None or bool(names & {"Exception", "BaseException"})


def opens(path: Path) -> Iterator[str]:
    """The calls of a module that use files, as in the source; for methods, the last name."""
    for node in ast.walk(tree(path)):
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


def test_imports_keep_the_contracts() -> None:
    """The contracts in pyproject.toml: layers of both packages, and the one folder that both share."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (
        f"{done.stdout[-3000:]}{done.stderr[-1000:]}\n"
        "A folder that holds only __pycache__ counts as a package: remove it (git clean -fd)."
    )


def test_libraries_stay_at_home() -> None:
    strays = []
    for path in PRODUCT:
        for imported in imports(path):
            homes = HOMES.get("kanserve.pb" if imported.startswith("kanserve.pb") else imported.partition(".")[0])
            if homes is not None and not any(name(path).startswith(home) for home in homes):
                strays.append(f"{name(path)} imports {imported}")
    assert not strays


def test_modules_are_deep() -> None:
    """At most 600 lines. A module of less than 60 lines has more than one importer, or is a plug-in."""
    graph = grimp.build_graph("kanexport", "kanserve", exclude_type_checking_imports=True, cache_dir=None)
    wrong = []
    for path in EVERYTHING:
        lines = len(path.read_text().splitlines())
        if lines > FILE_LINES:
            wrong.append(f"{name(path)} has {lines} lines")
        if path not in PRODUCT or path.name == "__init__.py" or lines >= FEW_LINES or name(path) in SMALL:
            continue
        module = name(path).removeprefix("service/").removesuffix(".py").replace("/", ".")
        if not name(path).startswith(PLUG_INS) and len(graph.find_modules_that_directly_import(module)) < 2:
            wrong.append(f"{name(path)} has {lines} lines and a single importer")
    assert not wrong


def test_tests_mirror_the_source() -> None:
    """Tests of a module are in a file of its name, in the same folder of `tests/`. Plug-ins share those of a folder."""
    modules = [
        (package, path.relative_to(folder))
        for package, folder in (("kanserve", ROOT / "service" / "kanserve"), ("kanexport", ROOT / "kanexport"))
        for path in folder.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py") and "pb" not in path.relative_to(folder).parts
    ]
    plug_ins = {("kanexport", "readers"), ("kanexport", "bases")}
    own = [(package, path) for package, path in modules if (package, str(path.parent)) not in plug_ins]
    tests = ROOT / "tests"
    missing = [path for package, path in own if not (tests / package / path.parent / f"test_{path.name}").is_file()]
    assert len(missing) < WITHOUT_TESTS * len(own), f"{len(missing)} of {len(own)} without a test file: {missing}"


def test_functions_are_short_and_simple() -> None:
    """At most 80 lines, 40 for 95 % of them, and 15 conditions; above that, a comment gives the reason."""
    long = [f"{name(p)}: {node.name}" for p in EVERYTHING for node in functions(p) if lines_of(node) > FUNCTION_LINES]
    assert not long
    spans = sorted(lines_of(node) for path in PRODUCT for node in functions(path))
    assert spans[int(len(spans) * 0.95)] < FUNCTION_P95
    complex_ones = []
    for path in PRODUCT:
        lines = path.read_text().splitlines()
        blocks = [block for item in cc_visit(path.read_text()) for block in (item, *getattr(item, "methods", ()))]
        for block in blocks:
            above = [line.strip() for line in lines[max(0, block.lineno - 5) : block.lineno]]
            too_complex = block.complexity > COMPLEXITY and not hasattr(block, "methods")
            if too_complex and not any(line.startswith(REASON) for line in above):
                complex_ones.append(f"{name(path)}: {block.name} has {block.complexity} conditions")
    assert not complex_ones


def test_everything_public_has_a_docstring() -> None:
    """Each module, and 95 % of the public functions and classes."""
    assert not [name(path) for path in PRODUCT if not ast.get_docstring(tree(path))]
    nodes = [(path, node) for path in PRODUCT for node in public(tree(path))]
    silent = [f"{name(path)}:{node.lineno} {node.name}" for path, node in nodes if not ast.get_docstring(node)]
    assert len(silent) <= 0.05 * len(nodes), silent


def test_no_variable_of_the_product_is_a_participle() -> None:
    """`found` says that a program found a thing; a name says which thing it is."""
    stores = [
        f"{name(path)}:{node.lineno} {node.arg if isinstance(node, ast.arg) else node.id}"
        for path in PRODUCT
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in PARTICIPLES)
        or (isinstance(node, ast.arg) and node.arg in PARTICIPLES)
    ]
    assert not stores


def test_nothing_is_unfinished_and_each_silenced_check_has_a_reason() -> None:
    unfinished = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
    wrong = []
    for path in EVERYTHING:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            silenced = re.search(r"# (noqa|type: ignore|pragma: no cover)(.*)$", line)
            unexplained = silenced and not re.search(r"[A-Z0-9\]] - \w|\] # \w|  # \w", silenced[2])
            if unfinished.search(line) or unexplained:
                wrong.append(f"{name(path)}:{number}: {line.strip()}")
    assert not wrong


def test_few_places_catch_every_exception() -> None:
    broad = [
        f"{name(path)}:{getattr(node, 'lineno', 0)}"
        for path in PRODUCT
        for node in ast.walk(tree(path))
        if catches_everything(node)
    ]
    assert 0 < len(broad) <= BROAD, broad


def test_files_are_opened_in_one_module() -> None:
    """`kanexport.shared.safe_files`. The table above lists the other modules that use files by name."""
    calls = {name(path): set(opens(path)) for path in PRODUCT}
    expected = {path: {*used.split()} for path, used in OPENS.items()}
    assert {path: used for path, used in calls.items() if used} == expected


# A test waits for an event, never for a time. `tests/support/wait.py` has the waits. At most ten exceptions.
LEAST_LIMIT = 30.0  # seconds for an event that must come
TIMED = {
    "tests/support/wait.py": "the waits themselves",
    "tests/support/attacks.py": "the duration of a flood is a part of the attack",
    "tests/support/loop_stalls.py": "a thread samples the stack of the event loop",
    "tests/support/telemetry_probe.py": "no event follows a message that onnxruntime does not send",
}
CLOCKS = {"monotonic", "perf_counter", "time", "monotonic_ns", "perf_counter_ns"}
WAITING = {"wait", "join", "result", "communicate", "get", "wait_for", "until", "until_async", "acquire"}
OPENERS = {"open", "urlopen", "Popen", "TemporaryDirectory", "NamedTemporaryFile", "insecure_channel", "secure_channel"}


def timed(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a test file that depend on the speed of the machine, and why. A loop whose condition waits, such as
    `while not ended.wait(0.01)`, sets a pace and waits for no event."""
    paced = {id(inner) for node in ast.walk(tree(path)) if isinstance(node, ast.While) for inner in ast.walk(node.test)}
    for node in ast.walk(tree(path)):
        if id(node) in paced:
            continue
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            first = node.args[0] if node.args else None
            if called.endswith(("sleep", "wait_for_timeout")) and not (
                isinstance(first, ast.Constant) and not first.value
            ):
                yield node.lineno, "sleeps: wait for a state with tests.support.wait"
            limits = [key.value for key in node.keywords if key.arg in ("timeout", "seconds")]
            if called.rpartition(".")[2] in WAITING and "." in called:
                limits += node.args[:1]
            for limit in limits:
                if (
                    isinstance(limit, ast.Constant)
                    and type(limit.value) in (int, float)
                    and 0 < limit.value < LEAST_LIMIT
                ):
                    yield node.lineno, f"gives an event {limit.value} s, expected {LEAST_LIMIT:g} or more"
            for key in node.keywords:
                number = key.value.value if isinstance(key.value, ast.Constant) else 0
                if key.arg and key.arg.endswith("port") and isinstance(number, int) and number > 0:
                    yield node.lineno, f"fixes the port {number}: take tests.support.free_ports or 0"
        if isinstance(node, ast.Assert) and any(
            isinstance(inner, ast.Call) and ast.unparse(inner.func).removeprefix("time.") in CLOCKS
            for inner in ast.walk(node.test)
        ):
            yield node.lineno, "asserts the time that passed: assert the state, or give the product a clock"


def test_no_test_depends_on_speed() -> None:
    assert len(TIMED) <= 10
    paths = [*sources(ROOT / "tests", ROOT / "tools" / "reliability")]
    wrong = [f"{name(path)}:{line} {why}" for path in paths if name(path) not in TIMED for line, why in timed(path)]
    assert not wrong, "\n".join(wrong)
