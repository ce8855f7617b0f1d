"""An exported graph, run on the rows of the trained model's answers and held against them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport import manifest
from kanexport.answers import judge
from kanexport.answers.judge import Evaluate
from kanexport.answers.rows import Answers
from kanexport.errors import OptionError
from kanexport.form.ir import Kan
from kanexport.lowering.lower import Lowered
from kanexport.manifest import ANSWERS
from kanexport.packing.publish import Claim, Target
from kanexport.proof import evaluate, runtime
from kanexport.proof.evaluate import Jitter, Trace
from kanexport.proof.ports import Ports
from kanexport.proof.verify import network_ports

Array = npt.NDArray[np.float64]

ROWS_AT_ONCE = 1024


def network(answers: Answers, kan: Kan, lowered: Lowered, target: Target) -> Claim:
    """The graph of a network. Raises AnswersDiffer and OptionError."""

    def meaning(x: Array, jitter: Jitter | None) -> Trace:
        return evaluate.evaluate(kan, x.reshape(len(x), -1), jitter=jitter)

    return graph(answers, network_ports(kan), meaning, lowered, target)


def graph(answers: Answers, ports: Ports, meaning: Evaluate, lowered: Lowered, target: Target) -> Claim:
    """A graph with one input and one output; `meaning`: what it means in float64. Raises AnswersDiffer
    where it gives something else than the trained model did, and OptionError where the shapes differ."""
    if len(ports.inputs) != 1 or len(ports.outputs) != 1:
        names = ", ".join(port.name for port in (*ports.inputs, *ports.outputs))
        raise OptionError(f"answers are of one input and one output, x and y; the model has {names}")
    row, output = ports.inputs[0].shape, ports.outputs[0].name
    if answers.x[0].size != np.prod(row):
        raise judge.unfit(answers, f"rows of shape {answers.x.shape[1:]}", f"takes {row}")
    session, x = runtime.session(lowered.model, lowered.weights), answers.x.reshape(len(answers.x), *row)
    parts = [ports.feeds(x[at : at + ROWS_AT_ONCE], target.dtype) for at in range(0, len(x), ROWS_AT_ONCE)]
    given = np.concatenate([runtime.run(session, part)[output] for part in parts])
    tolerance = judge.allowed(answers, target.dtype, target.tolerance)
    found = judge.match(answers, given, meaning, target.dtype, tolerance)
    judge.require(found, answers, "the exported graph")
    document = manifest.Answers(
        name=answers.name,
        sha256=answers.sha256,
        rows=found.rows,
        max_abs=found.max_abs,
        max_rel=found.max_rel,
        tolerance=tolerance,
    )
    left = (
        f"{found.left_out} rows of {answers.name} were not compared: rounding alone, or an overflow of float32, decides"
    )
    return Claim(ANSWERS, (document,), (left,) if found.left_out else ())
