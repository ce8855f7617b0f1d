"""Differential test: random networks in their torch library, in kanexport's float64 evaluation, and in onnxruntime."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.record import ROOT

LINE = re.compile(r"^(?:(?P<family>[\w-]+): )?(?P<counts>\{.*\}), largest difference (?P<worst>\S+)$")


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Run tools/oracle/against_libraries.py. Each export is also verified with onnxruntime."""
    count = scale.of(1, 350)
    command = [sys.executable, "-m", "tools.oracle.against_libraries", "--count", str(count), "--seed", str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            scale.tell(len(lines), 14)
    families = [result for line in lines if (result := LINE.match(line))]
    outcomes = [ast.literal_eval(result["counts"]) for result in families]
    models = sum(sum(item.values()) for item in outcomes)
    same = sum(item.get("same", 0) for item in outcomes)
    worst = max((float(result["worst"]) for result in families), default=float("inf"))
    wrong = models - same
    figures = {"networks": models, "families": len(families), "disagreements": wrong, "largest difference": worst}
    skipped = [line for line in lines if "skipped" in line]
    notes = "; ".join([*skipped, *(line for line in lines if "seed" in line)][:5])
    return Outcome(figures, models > 0 and same == models and process.returncode == 0, models, notes)


ROW = Row(
    number="28",
    title="Differential test",
    method=(
        "Random networks of each installed library are computed by the library in PyTorch, by the float64 "
        "reference, and by onnxruntime. Inputs include knots, values out of grid and NaN."
    ),
    goal="1,000 networks within the tolerance.",
    result=(
        "{networks} networks of {families} libraries: {disagreements} disagreements, largest difference {largest "
        "difference}."
    ),
    needs=("torch",),
    guarded_by=("tests/kanexport/test_pipeline.py", "tests/kanexport/functions/test_conformance.py"),
    run=run,
    minutes=60,
)
