"""The classification extension: of an output the k largest values of a row, as text.

Source: Triton's "classification extension". A string is VALUE:INDEX, or VALUE:INDEX:LABEL where the model's
config.pbtxt names a file of labels, the value with six digits behind the point or whole; the shape is [rows, k], or
[k] where a model has no batch, k no more than there are values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kanserve.errors import BadRequest, Exhausted
from kanserve.handlers import tensors
from kanserve.nouns import BYTES, DTYPES, Array, InferRequest, ModelInfo, OutputTensor, TensorInfo

LARGE = 2**14  # values; more are sorted off the event loop
MOST = 10**6  # values of one row
UNORDERED = ("BOOL", "FP16")  # among numpy's types; Triton has no classes of these either


def check(request: InferRequest, outputs: Sequence[TensorInfo]) -> None:
    """Raises BadRequest for an output whose values have no order."""
    asked = dict(request.classes)
    for tensor in outputs:
        if tensor.name in asked and (tensor.datatype in UNORDERED or tensor.datatype not in DTYPES):
            raise BadRequest(f"class result not available for output due to unsupported type '{tensor.datatype}'")


def classified(
    info: ModelInfo, tensor: TensorInfo, values: Array, most: int, *, max_strings: int, labels: Sequence[str] = ()
) -> OutputTensor:
    """The `most` largest of each row, those that are equal in their order, NaN after all others. Raises Exhausted
    for more than `max_strings`, BadRequest for rows beyond `MOST`."""
    batch = values.shape[:1] if info.max_batch_size else ()
    width = math.prod(values.shape[len(batch) :])
    count = min(most, width)
    if width > MOST:
        raise BadRequest("classification output tensor too large")
    if math.prod(batch) * count > max_strings:
        raise Exhausted(
            f"output '{tensor.name}' has {math.prod(batch) * count} classes, one output may have {max_strings}; "
            "ask for fewer, or send fewer rows in one request"
        )
    rows = values.reshape(math.prod(batch), width)
    chosen = _largest(rows)[:, :count]
    form = "{:f}:{}" if values.dtype.kind == "f" else "{}:{}"
    pairs = zip(np.take_along_axis(rows, chosen, axis=1).ravel().tolist(), chosen.ravel().tolist(), strict=True)
    ends = {at: f":{label}" for at, label in enumerate(labels) if label}
    data = tensors.joined((form.format(value, at) + ends.get(at, "")).encode() for value, at in pairs)
    return OutputTensor(tensor.name, BYTES, (*batch, count), data)


def _largest(rows: Array) -> NDArray[np.intp]:
    """Columns of [rows, n] from the largest value to the smallest; first come first among equals."""
    order: NDArray[np.intp] = rows.shape[1] - 1 - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    if rows.dtype.kind != "f":
        return order
    missing = np.take_along_axis(np.isnan(rows), order, axis=1)  # numpy sorts NaN as the largest
    order = np.take_along_axis(order, np.argsort(missing, axis=1, kind="stable"), axis=1)
    return order
