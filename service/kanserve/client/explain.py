"""Why predictions came out, as plain arrays: the answer of Explain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanserve.client.description import Description
from kanserve.client.rows import packed
from kanserve.pb import kan_pb2 as kan

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`base` [O] + the sum over n of `contributions` [B, n, O] = `predictions` [B, O], but for `completeness_error`
    [B, O].

    `base` is the answer for the `reference`, whose name tells what it is. The contributions are of the nodes that
    `layer` is given: the model's inputs (`of_inputs`), but for a module with KAN layers at its end. `outputs`: which of
    the model's the O are. `notes`: what a reader should know.
    """

    version: str
    method: str
    reference: str
    layer: int
    of_inputs: bool
    outputs: tuple[int, ...]
    contributions: Floats
    base: Floats
    predictions: Floats
    completeness_error: Floats
    notes: tuple[str, ...]


def request(described: Description, rows: Any, *, reference: Any, outputs: Sequence[int]) -> kan.ExplainRequest:
    """The message that asks for one. `reference`: its name, or rows."""
    message = kan.ExplainRequest(
        model_name=described.name, model_version=described.version, **packed(described, rows), outputs=outputs
    )
    if isinstance(reference, str):
        message.reference = reference
    else:
        given = packed(described, reference)
        message.reference_rows, message.reference_count = given["rows"], given["row_count"]
    return message


def of(answer: kan.ExplainResponse) -> Explanation:
    """The answer as plain values."""
    outputs = len(answer.outputs)

    def array(field: str, *shape: int) -> Floats:
        return np.frombuffer(getattr(answer, field), "<f8").reshape(shape)

    return Explanation(
        version=answer.model_version,
        method=answer.method,
        reference=answer.reference,
        layer=answer.layer,
        of_inputs=answer.of_inputs,
        outputs=tuple(answer.outputs),
        contributions=array("contributions", -1, answer.nodes, outputs),
        base=array("base", outputs),
        predictions=array("predictions", -1, outputs),
        completeness_error=array("completeness_error", -1, outputs),
        notes=tuple(answer.notes),
    )


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of consecutive rows as one."""
    return dataclasses.replace(
        parts[0],
        contributions=np.concatenate([part.contributions for part in parts]),
        predictions=np.concatenate([part.predictions for part in parts]),
        completeness_error=np.concatenate([part.completeness_error for part in parts]),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )
