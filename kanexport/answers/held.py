"""An exported graph, run on the rows of the trained model's answers and held against them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kanexport import manifest
from kanexport.answers import judge
from kanexport.answers.judge import Evaluate
from kanexport.answers.rows import Answers
from kanexport.form.ir import Kan
from kanexport.lowering.lower import Lowered
from kanexport.manifest import ANSWERS
from kanexport.packing.publish import Claim, Target
from kanexport.proof import evaluate, runtime
from kanexport.proof.evaluate import Jitter, Trace
from kanexport.proof.ports import Ports, split
from kanexport.proof.verify import network_ports

Array = npt.NDArray[np.float64]

ROWS_AT_ONCE = 1024


def network(answers: Answers, kan: Kan, lowered: Lowered, target: Target) -> Claim:
    """The graph of a network. Raises AnswersDiffer and OptionError."""

    def meaning(x: Array, jitter: Jitter | None) -> Trace:
        return evaluate.evaluate(kan, x.reshape(len(x), -1), jitter=jitter)

    return graph(answers, network_ports(kan), meaning, lowered, target)


def graph(answers: Answers, ports: Ports, meaning: Evaluate, lowered: Lowered, target: Target) -> Claim:
    """Compare a graph with the recorded outputs, each output by itself. `meaning`: the graph in float64. Raises
    AnswersDiffer if the graph gives something else than the trained model, and OptionError if names or shapes
    differ."""
    answers = answers.of_model(ports.inputs, ports.outputs)
    given = _run(lowered, ports, answers.x, target.dtype)
    tolerance = judge.allowed(answers, target.dtype, target.tolerance)
    parts = split(ports.outputs, answers.y)
    found = []
    for at, (port, y) in enumerate(zip(ports.outputs, parts, strict=True)):
        one = dataclasses.replace(answers, y=y)
        found.append(judge.match(one, given[port.name], _part(meaning, ports, at), target.dtype, tolerance))
        several = f"'s output {port.name}" if len(parts) > 1 else ""
        judge.require(found[-1], one, f"the exported graph{several}")
    document = manifest.Answers(
        name=answers.name,
        sha256=answers.sha256,
        rows=min(one.rows for one in found),
        max_abs=max(one.max_abs for one in found),
        max_rel=max(one.max_rel for one in found),
        tolerance=tolerance,
    )
    notes = (note for one in found for note in judge.told(one, answers, "the exported graph"))
    return Claim(ANSWERS, (document,), tuple(dict.fromkeys(notes)))


def _run(lowered: Lowered, ports: Ports, x: Array, dtype: str) -> dict[str, Array]:
    """The graph's outputs by name, computed in chunks of ROWS_AT_ONCE rows."""
    session = runtime.session(lowered.model, lowered.weights, optimization=lowered.optimization)
    pieces = [
        runtime.run(session, ports.feeds(x[at : at + ROWS_AT_ONCE], dtype)) for at in range(0, len(x), ROWS_AT_ONCE)
    ]
    return {port.name: np.concatenate([piece[port.name] for piece in pieces]) for port in ports.outputs}


def _part(meaning: Evaluate, ports: Ports, at: int) -> Evaluate:
    """The float64 meaning of one output alone: the one at position `at`."""
    if len(ports.outputs) == 1:
        return meaning

    def part(x: Array, jitter: Jitter | None) -> Trace:
        trace = meaning(x, jitter)
        return dataclasses.replace(trace, y=split(ports.outputs, trace.y)[at])

    return part
