"""Many rows: split into requests that the server's limits allow, joined again.

If the server rejects a request as too large, the client halves it. This covers a server whose limits are tighter than
it announces. If the server rejects a request for its rate, the client repeats it after the time that the server states.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kanserve.client import coverage as cover
from kanserve.client import explain as explanations
from kanserve.client.answers import Answer, ServedModel
from kanserve.client.calls import Call, inference
from kanserve.client.connection import Client, Pending, begin
from kanserve.client.description import Description
from kanserve.client.errors import RateLimited, TooLarge
from kanserve.client.explain import Explanation
from kanserve.client.frames import index_of
from kanserve.client.rows import of_frame
from kanserve.nouns import DTYPES, TensorInfo

T = TypeVar("T")
Progress = Callable[[int, int], None]  # rows done, rows in all

REQUEST_BYTES = 3 * 2**20  # of tensor data; servers take 4 MiB messages by default
WINDOW = 4  # requests in flight at a time
PAUSE = 0.5  # seconds to wait if the server limits the rate and states no time


def infer(
    client: Client, model: ServedModel, rows: Any, *, version: str = "", progress: Progress | None = None
) -> Answer:
    """Outputs by name for all `rows` [rows, ...], of several inputs a mapping by their names, in
    order. Raises ClientError."""
    called, rows = index_of(rows), of_frame(rows, model.names)
    parts, done = [], 0
    for answer in stream(client, model, [rows], version=version):
        parts.append(answer)
        done += rows_of(answer)
        if progress:
            progress(done, count(rows))
    names = parts[0].outputs
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in names}
    return Answer(parts[-1].version, outputs, parts[-1].parameters, model.names, called)


def stream(client: Client, model: ServedModel, parts: Iterable[Any], *, version: str = "") -> Iterator[Answer]:
    """Outputs for consecutive parts of rows, in order. Each part has the form that `infer` takes, and each answer has
    the rows of one request. At most WINDOW requests are in flight. The client takes the next part when the server
    answers one of them. If there are no rows, the client sends one request. Raises ClientError."""
    return _Stream(client, model, version).answers(parts)


class _Stream:
    """Requests in flight, the oldest first."""

    def __init__(self, client: Client, model: ServedModel, version: str) -> None:
        self._client, self._model, self._version = client, model, version
        self._window, self._most = WINDOW, 0  # most rows of a request, 0: no limit is known yet
        self._waiting: deque[tuple[Any, Pending[Answer]]] = deque()

    def answers(self, parts: Iterable[Any]) -> Iterator[Answer]:
        rows, sent = None, False
        try:
            for rows in parts:
                start, total = 0, count(rows)
                while start < total:
                    piece = part(rows, slice(start, start + self._fitting(rows)))
                    while len(self._waiting) >= self._window:
                        yield from self._next()
                    self._waiting.append((piece, self._begun(piece)))
                    start, sent = start + count(piece), True
            if rows is not None and not sent:
                self._waiting.append((rows, self._begun(rows)))
            while self._waiting:
                yield from self._next()
        finally:
            for _, pending in self._waiting:
                pending.cancel()

    def _fitting(self, rows: Any) -> int:
        """How many rows the next request has."""
        most = min(self._model.max_batch_size or count(rows), self._most or count(rows))
        return max(1, min(most, REQUEST_BYTES // max(1, row_bytes(rows, self._model.inputs))))

    def _call(self, rows: Any) -> Call[Answer]:
        return inference(self._model, rows, version=self._version)

    def _begun(self, rows: Any) -> Pending[Answer]:
        return begin(self._client, self._call(rows))

    def _next(self) -> Iterator[Answer]:
        """The answers for the oldest request."""
        rows, pending = self._waiting.popleft()
        try:
            answer = pending.result()
        except RateLimited as error:
            self._window = 1
            _sleep(error, until=time.monotonic() + self._client.timeout)
        except TooLarge:
            if count(rows) < 2:
                raise
        else:
            if pending.held_back:
                self._window = max(1, self._window // 2)
            yield answer
            return
        size = min(self._most or count(rows), count(rows))
        answers = split(self._client, rows, size, lambda piece: self._begun(piece).result(), None)
        self._most = min(size, rows_of(answers[0]) or size)
        yield from answers


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
    called, rows = index_of(rows), of_frame(rows, described.names)
    width = max(1, *(math.prod(tensor.shape[1:]) for tensor in described.inputs))
    each = width * 8 * (len(outputs) or max(1, described.output.shape[-1]))
    most = max(1, min(described.max_rows, described.max_response_bytes // (2 * each)))
    most = min(most, REQUEST_BYTES // max(1, row_bytes(rows, described.inputs)))
    found = explanations.joined(
        split(
            client,
            rows,
            most,
            lambda part: client.explain(described, part, reference=reference, outputs=outputs, method=method),
            progress,
        )
    )
    return dataclasses.replace(found, index=called)


def coverage(client: Client, described: Description, rows: Any, *, progress: Progress | None = None) -> cover.Coverage:
    """As `Client.coverage`, for any number of rows. Raises ClientError."""
    rows = of_frame(rows, described.names)
    fits = REQUEST_BYTES // max(1, row_bytes(rows, described.inputs))
    most = min(fits, described.max_rows, described.max_batch_size or fits)
    return cover.joined(split(client, rows, most, lambda part: client.coverage(described, part), progress))


def split(client: Client, rows: Any, most: int, call: Callable[[Any], T], progress: Progress | None) -> list[T]:
    """Call with consecutive parts of at most `most` rows. If there are no rows, there is one call. If the server limits
    the rate, the `client` repeats a part for as long as one call may take. Raises ClientError."""
    size, total = max(1, most), count(rows)
    parts: list[T] = []
    start = 0
    while start < total or not parts:
        try:
            parts.append(patient(client, call, part(rows, slice(start, start + size))))
        except TooLarge:
            if size == 1 or total - start < 2:
                raise
            size = min(size, total - start) // 2
            continue
        start += size
        if progress:
            progress(min(start, total), total)
    return parts


def patient(client: Client, call: Callable[[Any], T], rows: Any) -> T:
    """One call of the `client`, repeated while the server limits the rate, for as long as a call may take. Raises
    ClientError."""
    until = time.monotonic() + client.timeout
    while True:
        try:
            return call(rows)
        except RateLimited as error:
            _sleep(error, until=until)


def _sleep(error: RateLimited, *, until: float) -> None:
    """Wait for the time that the server states. Raises the error if the server states "never", or a time after
    `until`."""
    wait = PAUSE if error.retry_after == 0 else error.retry_after
    if wait is None or time.monotonic() + wait >= until:
        raise error
    time.sleep(wait)


def rows_of(answer: Answer) -> int:
    """How many rows an answer is for."""
    return max(map(len, answer.outputs.values()), default=0)


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
