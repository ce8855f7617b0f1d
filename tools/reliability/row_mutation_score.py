"""Mutation score: share of mutants that the tests detect in decision modules, and test coverage of these modules."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

from tools.reliability.base import NotRun, Outcome, Row, Scale
from tools.reliability.record import ROOT

TOOLS = ROOT / ".venv-mutate" / "bin"
REPOSITORY, SCHEDULING = "service/kanserve/repository", "service/kanserve/scheduling"
MODULES = (
    *(f"{SCHEDULING}/{name}.py" for name in ("queue", "batching")),
    *(f"{REPOSITORY}/{name}.py" for name in ("validation", "plan", "pbtxt")),
    *(f"service/kanserve/auth/{name}.py" for name in ("authenticator", "token_file")),
    "service/kanserve/services/validation.py",
    "service/kanserve/sandbox/graph_screen.py",
)
# Policy, loader, access and validator, and the tests that go through them in this process.
COVERED = (
    *(f"{SCHEDULING}/*", "service/kanserve/auth/*", "service/kanserve/models/loader.py"),
    *(f"{REPOSITORY}/{name}.py" for name in ("validation", "plan", "layout", "pbtxt")),
    *("service/kanserve/services/validation.py", "service/kanserve/sandbox/graph_screen.py"),
)
TESTS = (
    *(f"tests/kanserve/{folder}" for folder in ("auth", "execution", "repository", "scheduling")),
    *(f"tests/kanserve/models/test_{name}.py" for name in ("loader", "tuning")),
    *(f"tests/kanserve/sandbox/test_graph_screen{more}.py" for more in ("", "_boundaries")),
    *("tests/kanserve/services/test_validation.py", "tests/kanserve/server/test_credentials.py"),
    *(
        f"tests/integration/wire/test_{name}.py"
        for name in ("access", "credentials", "out_of_range", "quantized_models")
    ),
)
LINE = re.compile(r"^(\S+): (\d+) killed, (\d+) survived \(.*\), (\d+) not reached", re.MULTILINE)


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """tools/mutate.py, ten minutes a module at most; the short form is one module, and no branches."""
    if not (TOOLS / "cosmic-ray").exists():
        raise NotRun("cosmic-ray is not there: `make reliability` makes an environment for it")
    chosen = MODULES[1:2] if not scale.full else MODULES
    killed = survived = left = 0
    reported: list[str] = []
    for at, module in enumerate(chosen):
        command = [sys.executable, "tools/mutate.py", str(TOOLS), module]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
        if result := LINE.search(said):
            counts = [int(number) for number in result.groups()[1:]]
            killed, survived, left = killed + counts[0], survived + counts[1], left + counts[2]
            reported.append(f"{module.rpartition('/')[2]} {counts[0]} of {counts[0] + counts[1]}")
        else:
            reported.append(f"{module} was not tried")
        scale.tell(at + 1, len(chosen))
    share = 100 * killed / max(1, killed + survived)
    figures = {"changes": killed + survived, "noticed": killed, "in %": round(share, 1), "not reached": left}
    if scale.full:
        figures["branches and lines gone through in %"] = branches = covered()
    good = share >= 85 and len(reported) == len(chosen) and (not scale.full or branches == 100)
    return Outcome(figures, good, killed + survived, ", ".join(reported))


def covered() -> float:
    """Coverage of COVERED by TESTS, in percent. Raises CalledProcessError if a test fails."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "COVERAGE_FILE": f"{folder}/coverage"}

        def coverage(*arguments: str) -> str:
            command = [sys.executable, "-m", "coverage", *arguments]
            return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

        coverage("run", "-m", "pytest", "-q", *TESTS, "tests/kernel")
        coverage("combine", "--quiet")
        return float(coverage("report", "--format=total", "--precision=1", f"--include={','.join(COVERED)}"))


ROW = Row(
    number="mutation",
    title="Mutation score",
    method=(
        "`make mutate` (cosmic-ray) changes scheduling, repository, access control and validation code, one "
        "place at a time. Branch coverage of this code is measured without server processes."
    ),
    goal="At least 85% of mutants detected, 100% of branches covered.",
    result=(
        "{noticed} of {changes} mutants detected ({in %}%), {not reached} not run, {branches and lines gone "
        "through in %}% covered."
    ),
    run=run,
    minutes=130,
)
