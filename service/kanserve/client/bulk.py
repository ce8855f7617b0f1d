"""Many rows: split into requests that the server's limits allow, joined again.

A request that is refused as too large is halved, so a server with tighter
limits than it announces is served too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kanserve.client import coverage as cover
from kanserve.client import explain as explanations
from kanserve.client.answers import Answer, ServedModel
from kanserve.client.connection import Client
from kanserve.client.description import Description
from kanserve.client.errors import TooLarge
from kanserve.client.explain import Explanation
from kanserve.client.rows import of_frame
from kanserve.nouns import DTYPES, TensorInfo

T = TypeVar("T")
Progress = Callable[[int, int], None]  # rows done, rows in all

REQUEST_BYTES = 3 * 2**20  # of tensor data; servers take 4 MiB messages by default


def infer(
    client: Client, model: ServedModel, rows: Any, *, version: str = "", progress: Progress | None = None
) -> Answer:
    """Outputs by name for all `rows` [rows, ...], of several inputs a mapping by their names, in
    order. Raises ClientError."""
    rows = of_frame(rows, model.names)
    tensors = model.inputs if isinstance(rows, Mapping) else model.inputs[0]
    most = model.max_batch_size or max(1, count(rows))
    most = min(most, REQUEST_BYTES // max(1, row_bytes(rows, model.inputs)))
    parts = split(rows, most, lambda part: client.infer(tensors, part, model=model.name, version=version), progress)
    names = parts[0].outputs
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in names}
    return Answer(parts[-1].version, outputs)


def explain(
    client: Client,
    described: Description,
    rows: Any,
    *,
    reference: Any = "",
    outputs: Sequence[int] = (),
    method: str = "",
    progress: Progress | None = None,
) -> Explanation:
    """As `Client.explain`, for any number of rows. Raises ClientError."""
    rows = of_frame(rows, described.names)
    width = max(1, *(math.prod(tensor.shape[1:]) for tensor in described.inputs))
    each = width * 8 * (len(outputs) or max(1, described.output.shape[-1]))
    most = max(1, min(described.max_rows, described.max_response_bytes // (2 * each)))
    most = min(most, REQUEST_BYTES // max(1, row_bytes(rows, described.inputs)))
    return explanations.joined(
        split(
            rows,
            most,
            lambda part: client.explain(described, part, reference=reference, outputs=outputs, method=method),
            progress,
        )
    )


def coverage(client: Client, described: Description, rows: Any, *, progress: Progress | None = None) -> cover.Coverage:
    """As `Client.coverage`, for any number of rows. Raises ClientError."""
    rows = of_frame(rows, described.names)
    fits = REQUEST_BYTES // max(1, row_bytes(rows, described.inputs))
    most = min(fits, described.max_rows, described.max_batch_size or fits)
    return cover.joined(split(rows, most, lambda part: client.coverage(described, part), progress))


def split(rows: Any, most: int, call: Callable[[Any], T], progress: Progress | None) -> list[T]:
    """Call with consecutive parts of at most `most` rows; zero rows are one call."""
    size, total = max(1, most), count(rows)
    parts: list[T] = []
    start = 0
    while start < total or not parts:
        try:
            parts.append(call(part(rows, slice(start, start + size))))
        except TooLarge:
            if size == 1 or total - start < 2:
                raise
            size = min(size, total - start) // 2
            continue
        start += size
        if progress:
            progress(min(start, total), total)
    return parts


def count(rows: Any) -> int:
    """How many rows an array holds, or each of several by name."""
    return max(map(len, rows.values()), default=0) if isinstance(rows, Mapping) else len(rows)


def part(rows: Any, which: slice) -> Any:
    return {name: array[which] for name, array in rows.items()} if isinstance(rows, Mapping) else rows[which]


def shifted(progress: Progress | None, done: int, count: int) -> Progress | None:
    """Progress of part `done` of `count` equal parts."""
    if progress is None:
        return None
    report = progress
    return lambda at, total: report(done * total + at, count * total)


def row_bytes(rows: Any, tensors: Sequence[TensorInfo]) -> int:
    arrays = rows if isinstance(rows, Mapping) else {tensors[0].name: rows}
    return sum(
        int(np.prod(arrays[tensor.name].shape[1:])) * DTYPES[tensor.datatype].itemsize
        for tensor in tensors
        if tensor.name in arrays
    )
