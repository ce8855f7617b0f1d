"""Mutation testing of pure modules: `make mutate`, or `make mutate MODULE=service/kanserve/analysis/query_plan.py`.

cosmic-ray changes one spot at a time (an operator, a number, a condition) in a copy of the
tree, and runs the module's tests. A mutant survives if the tests pass: either it is equivalent,
or a test is missing. The program is not part of the suite. Each module has LIMIT seconds, and
the program prints the share of mutants that it reached. `make mutate TIER=quick` takes only the tests of `make test`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".mutate"
MODULES = {
    "service/kanserve/analysis/query_plan.py": (
        "tests/kanserve/analysis/test_query_plan.py tests/kanserve/analysis/test_query_paths.py"
    ),
    "kanexport/shared/formula_printer.py": (
        "tests/kanexport/shared/test_formula.py tests/kanexport/shared/test_formula_printer.py"
    ),
    "service/kanserve/auth/authenticator.py": "tests/kanserve/auth/test_authenticator.py",
    "service/kanserve/auth/token_file.py": "tests/kanserve/auth/test_token_file.py",
    **dict.fromkeys(
        (f"service/kanserve/scheduling/{name}.py" for name in ("queue", "batching")), "tests/kanserve/scheduling"
    ),
    "service/kanserve/repository/validation.py": (
        "tests/kanserve/repository/test_validation.py tests/kanserve/repository/test_validation_boundaries.py"
    ),
    "service/kanserve/repository/actions.py": "tests/kanserve/repository/test_actions.py",
    "service/kanserve/repository/pbtxt.py": (
        "tests/kanserve/repository/test_actions.py tests/kanserve/repository/test_pbtxt.py"
    ),
    "service/kanserve/services/validation.py": "tests/kanserve/services/test_validation.py",
    "service/kanserve/sandbox/graph_screen.py": (
        "tests/kanserve/sandbox/test_graph_screen.py tests/kanserve/sandbox/test_graph_screen_boundaries.py"
    ),
    "kanexport/verify/tolerances.py": "tests/kanexport/verify/test_tolerances.py",
    "kanexport/functions/elementwise.py": "tests/kanexport/functions/test_elementwise.py",
    "kanexport/shared/step_rules.py": "tests/kanexport/shared/test_step_rules.py",
    "kanexport/shared/manifest.py": "tests/kanexport/shared/test_manifest.py",
}
LIMIT = 600
ONE_TEST = 60.0  # seconds after which a mutant counts as killed: it made something endless
# `X | None` is text under `from __future__ import annotations`: changing it changes nothing.
CONFIG = """[cosmic-ray]
module-path = "{module}"
timeout = {seconds}
excluded-modules = []
test-command = "{python} -I -S tools/pytest_fork_server.py ask {socket} -q -x -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*"]
"""


def main(tools: Path, tier: str, modules: list[str]) -> int:
    """Mutate each module in turn. 1 if its tests fail before anything is changed."""
    unknown = [module for module in modules if module not in MODULES]
    if unknown:
        print(f"no tests are named for {', '.join(unknown)}; there are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    for module in modules or MODULES:
        if not mutate(tools.resolve(), module, f"--tier {tier} {MODULES[module]}"):
            return 1
    return 0


def mutate(tools: Path, module: str, tests: str) -> bool:
    """One module: prints what survived, and the count."""
    copy_tree()
    config, session = WORK / "config.toml", WORK / "session.sqlite"
    session.unlink(missing_ok=True)
    socket = WORK / "socket"
    config.write_text(CONFIG.format(module=module, tests=tests, seconds=ONE_TEST, python=sys.executable, socket=socket))
    paths = os.pathsep.join(str(WORK / "tree" / folder) for folder in ("", "service"))
    about: dict[str, Any] = {
        "cwd": WORK / "tree",
        "env": {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
    }
    with warm(socket, about):
        return changed(tools, module, tests, config, session, about)


@contextlib.contextmanager
def warm(socket: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Socket that accepts pytest runs."""
    socket.unlink(missing_ok=True)  # else the last one's passes for it
    command = [sys.executable, "tools/pytest_fork_server.py", "serve", str(socket)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **about) as server:
        while not socket.exists() and server.poll() is None:
            time.sleep(0.05)
        try:
            yield
        finally:
            server.communicate()


def changed(tools: Path, module: str, tests: str, config: Path, session: Path, about: Mapping[str, Any]) -> bool:
    """Every change of a module, in the copy."""

    def tool(program: str, *arguments: Path | str, limit: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run([tools / program, *arguments], capture_output=True, text=True, timeout=limit, **about)

    if tool("cosmic-ray", "baseline", config).returncode:
        print(f"{module}: {tests} fails without any change", file=sys.stderr)
        return False
    tool("cosmic-ray", "init", config, session).check_returncode()
    tool("cr-filter-operators", session, config).check_returncode()
    began = time.monotonic()
    try:
        tool("cosmic-ray", "exec", config, session, limit=LIMIT).check_returncode()
    except subprocess.TimeoutExpired:
        print(f"{module}: stopped after {LIMIT} s")
    state(module, list(results(tool("cosmic-ray", "dump", session).stdout)), time.monotonic() - began)
    return True


def copy_tree() -> None:
    """A copy that may be changed, without environments, history and caches."""
    shutil.rmtree(WORK / "tree", ignore_errors=True)
    ignored = shutil.ignore_patterns(".venv*", ".git", ".mutate", ".*_cache", "__pycache__", ".hypothesis")
    shutil.copytree(ROOT, WORK / "tree", ignore=ignored)


def results(dump: str) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """(change, its outcome or None) of each line that `cosmic-ray dump` prints."""
    for line in dump.splitlines():
        item, outcome = json.loads(line)
        yield item["mutations"][0], outcome


def state(module: str, entries: list[tuple[dict[str, Any], dict[str, Any] | None]], seconds: float) -> None:
    """Print each survivor with its line, then the figures."""
    lines = (ROOT / module).read_text().splitlines()
    tried = [(change, outcome) for change, outcome in entries if outcome and outcome["worker_outcome"] != "skipped"]
    counts = Counter(outcome["test_outcome"] for _, outcome in tried)
    for change, outcome in tried:
        if outcome["test_outcome"] == "survived":
            row = change["start_pos"][0]
            kind = change["operator_name"].partition("/")[2]
            print(f"survived  {module}:{row}  {kind} #{change['occurrence']}  {lines[row - 1].strip()}")
    killed, survived = len(tried) - counts["survived"], counts["survived"]
    left = sum(outcome is None for _, outcome in entries)
    share = f"{killed / len(tried):.0%}" if tried else "none tried"
    print(f"{module}: {killed} killed, {survived} survived ({share}), {left} not reached, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
