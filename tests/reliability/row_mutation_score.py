"""Mutation score: would the tests notice a change of what decides?"""

from __future__ import annotations

import re
import subprocess
import sys

from tests.reliability.frame import NotRun, Outcome, Row, Scale
from tests.reliability.record import ROOT

TOOLS = ROOT / ".venv-mutate" / "bin"
MODULES = (
    *(f"service/kanserve/scheduling/{name}.py" for name in ("queue", "policy", "pace", "order")),
    "service/kanserve/repository/check.py",
    *(f"service/kanserve/access/{name}.py" for name in ("gate", "tokens")),
    "service/kanserve/handlers/checks.py",
)
LINE = re.compile(r"^(\S+): (\d+) killed, (\d+) survived \(.*\), (\d+) not reached", re.MULTILINE)


def run(scale: Scale, seed: int, door: str) -> Outcome:
    """tests/mutate.py, ten minutes a module at most; the short form is one module."""
    if not (TOOLS / "cosmic-ray").exists():
        raise NotRun("cosmic-ray is not there: `make mutate` makes an environment for it")
    chosen = MODULES[2:3] if not scale.full else MODULES
    killed = survived = left = 0
    told: list[str] = []
    for at, module in enumerate(chosen):
        command = [sys.executable, "tests/mutate.py", str(TOOLS), module]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
        if found := LINE.search(said):
            counts = [int(number) for number in found.groups()[1:]]
            killed, survived, left = killed + counts[0], survived + counts[1], left + counts[2]
            told.append(f"{module.rpartition('/')[2]} {counts[0]} of {counts[0] + counts[1]}")
        else:
            told.append(f"{module} was not tried")
        scale.tell(at + 1, len(chosen))
    share = 100 * killed / max(1, killed + survived)
    figures = {"changes": killed + survived, "noticed": killed, "in %": round(share, 1), "not reached": left}
    return Outcome(figures, share >= 85 and len(told) == len(chosen), killed + survived, ", ".join(told))


ROW = Row(
    number="mutation",
    title="Mutation score",
    method="batcher, loader, access and validator changed one spot at a time (make mutate, cosmic-ray)",
    goal="at least 85 % noticed",
    run=run,
    minutes=130,
)
