"""Splitter of many rows into requests within the server's limits, and joiner of their responses.

If the server rejects a request as too large, the client halves it. This covers a server whose limits are tighter than
it announces. If the server rejects a request for its rate, the client repeats it after the time that the server states.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np

from kanexport.shared.manifest import LayerInfo
from kanserve.analysis import query_plan
from kanserve.client import errors
from kanserve.client.calls import inference
from kanserve.client.encoding import dtype_of, index_of, of_frame, version_text
from kanserve.client.errors import NotFound, RateLimited, TooLarge
from kanserve.client.explanation import Coverage, Explanation, joined, joined_coverage
from kanserve.client.results import InferenceResult, LayerValues, ServedModel, check_rows
from kanserve.client.sync import Client, Pending
from kanserve.errors import BadRequest
from kanserve.types import Description, TensorInfo

T = TypeVar("T")
Progress = Callable[[int, int], None]  # rows done, rows in all

REQUEST_BYTES = 3 * 2**20  # of tensor data; servers take 4 MiB messages by default
WINDOW = 4  # requests in flight at a time
PAUSE = 0.5  # seconds to wait if the server limits the rate and states no time


def stream(
    client: Client, model: ServedModel, parts: Iterable[Any], *, version: int | str = "", outputs: Sequence[str] = ()
) -> Iterator[InferenceResult]:
    """Outputs for consecutive parts of rows, in order. Each part has the form that `infer` takes, and each result has
    the rows of one request. At most WINDOW requests are in flight. The client takes the next part after a response. The
    client sends one request for parts without rows. `outputs`: names; empty: all. If `version` is empty, the version of
    the first response computes all rows, even if the default version changes. Raises ClientError."""
    return _Stream(client, model, version_text(version), outputs).results(parts)


class _Stream:
    """Requests in flight, the oldest first."""

    def __init__(self, client: Client, model: ServedModel, version: str, outputs: Sequence[str]) -> None:
        self._client, self._model, self._version, self._outputs = client, model, version, outputs
        self._window, self._most = WINDOW, 0  # most rows of a request, 0: no limit is known yet
        self._waiting: deque[tuple[Any, Pending[InferenceResult]]] = deque()
        self._first: str | None = None  # version of the first response
        self._several = False

    def results(self, parts: Iterable[Any]) -> Iterator[InferenceResult]:
        rows, sent = None, False
        try:
            for rows in parts:
                start, total = 0, count(rows)
                self._several |= sent
                while start < total:
                    most = min(self._model.max_batch_size or total, self._most or total)
                    most = max(1, min(most, REQUEST_BYTES // max(1, row_bytes(rows, self._model.inputs))))
                    piece = select_rows(rows, slice(start, start + most))
                    while len(self._waiting) >= self._window:
                        yield from self._next()
                    self._waiting.append((piece, self._sent(piece)))
                    start, sent = start + count(piece), True
                    self._several |= start < total
            if rows is not None and not sent:
                self._waiting.append((rows, self._sent(rows)))
            while self._waiting:
                yield from self._next()
        finally:
            for _, pending in self._waiting:
                pending.cancel()

    def _sent(self, rows: Any) -> Pending[InferenceResult]:
        call = inference(self._model, rows, version=self._version, outputs=self._outputs)
        return Pending(self._client, call)

    def _checked(self, rows: Any, pending: Pending[InferenceResult]) -> InferenceResult:
        """The response for `rows` of the version of the first response. The client repeats the request with this
        version if another version responded. Raises ClientError."""
        try:
            result = pending.result()
            if self._first is None:
                self._first, self._version = result.version, self._version or result.version
            if result.version != self._first:
                result = self._sent(rows).result()
        except NotFound as error:
            if self._first:
                error.hint = f"repeat the call, if the server removed version {self._first} during the call"
            raise
        with _joins(self._client):
            if result.version != self._first:
                raise ValueError(f"it is of version '{result.version}', expected version '{self._first}'")
            for name, values in result.outputs.items() if self._several else ():
                check_rows(f"output '{name}'", values.shape, count(rows))
        return result

    def _next(self) -> Iterator[InferenceResult]:
        """The results of the oldest request."""
        rows, pending = self._waiting.popleft()
        try:
            result = self._checked(rows, pending)
        except RateLimited as error:
            self._window = 1
            _sleep(error, until=time.monotonic() + self._client.timeout)
        except TooLarge:
            if count(rows) < 2:
                raise
        else:
            if pending.held_back:
                self._window = max(1, self._window // 2)
            yield result
            return
        size, self._several = min(self._most or count(rows), count(rows)), True
        results = split(self._client, rows, size, lambda piece: self._checked(piece, self._sent(piece)), None)
        self._most = min(size, rows_of(results[0]) or size)
        yield from results


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
    """Explanation as `Client.explain` returns it, for any number of rows. Raises ClientError."""
    called, rows = index_of(rows), of_frame(rows, described.names)
    width = max(1, *(math.prod(tensor.shape[1:]) for tensor in described.inputs))
    each = width * 8 * (len(outputs) or max(1, described.output.shape[-1]))
    most = max(1, min(described.max_rows, described.max_response_bytes // (2 * each)))
    most = min(most, REQUEST_BYTES // max(1, row_bytes(rows, described.inputs)))
    parts = split(
        client,
        rows,
        most,
        lambda part: client.explain(described, part, reference=reference, outputs=outputs, method=method),
        progress,
    )
    with _joins(client):
        return dataclasses.replace(joined(parts), index=called)


def coverage(client: Client, described: Description, rows: Any, *, progress: Progress | None = None) -> Coverage:
    """Coverage as `Client.coverage` returns it, for any number of rows. Raises ClientError."""
    rows = of_frame(rows, described.names)
    fits = REQUEST_BYTES // max(1, row_bytes(rows, described.inputs))
    most = min(fits, described.max_rows, described.max_batch_size or fits)
    parts = split(client, rows, most, lambda part: client.coverage(described, part), progress)
    with _joins(client):
        return joined_coverage(parts)


def _joins(client: Client) -> AbstractContextManager[None]:
    """Context that joins responses. Raises ServerFailed if they do not fit each other."""
    return errors.well_formed(f"one of the responses of {client.url}")


def split(client: Client, rows: Any, most: int, call: Callable[[Any], T], progress: Progress | None) -> list[T]:
    """Call with consecutive parts of at most `most` rows. If there are no rows, there is one call. If the server limits
    the rate, the `client` repeats a part for as long as one call may take. Raises ClientError."""
    size, total = max(1, most), count(rows)
    parts: list[T] = []
    start = 0
    while start < total or not parts:
        try:
            parts.append(patient(client, call, select_rows(rows, slice(start, start + size))))
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
    """Result of one call of the `client`, repeated while the server limits the rate, within the timeout of a call.
    Raises ClientError."""
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


def rows_of(result: InferenceResult) -> int:
    """Number of rows of a response."""
    return max((len(values) for values in result.outputs.values() if values.ndim), default=0)


def count(rows: Any) -> int:
    """Number of rows of an array, or of each array in a mapping by name."""
    return max(map(len, rows.values()), default=0) if isinstance(rows, Mapping) else len(rows)


def select_rows(rows: Any, which: slice) -> Any:
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
        int(np.prod(arrays[tensor.name].shape[1:])) * dtype_of("input", tensor.name, tensor.datatype).itemsize
        for tensor in tensors
        if tensor.name in arrays
    )


def edges(
    client: Client,
    described: Description,
    rows: Any,
    *,
    layers: Sequence[int | str] = (),
    sources: tuple[int, ...] = (),
    destinations: tuple[int, ...] = (),
    path: tuple[int, int] | None = None,
    top_k: int = 0,
    progress: Progress | None = None,
) -> Iterator[LayerValues]:
    """Edge values of the layers chosen by index or name, one layer after the other, for `rows` as
    `infer` takes them. Raises ClientError.

    With `top_k`, these are the strongest edges over *all* rows, also if the rows are sent in several requests. With a
    `path`, these are the edges on the paths from an input to an output, in place of sources and destinations. A layer
    without such a path has no edges.
    """
    rows = of_frame(rows, described.names)
    try:
        indices = query_plan.find([layer.name for layer in described.layers], layers)
    except BadRequest as error:
        text = f"model {described.name!r}: {error}"
        raise errors.from_status("INVALID_ARGUMENT", text, error_code=error.code, hint=error.hint) from None
    ways = dict.fromkeys(indices, (sources, destinations))
    if path is not None:
        no_rows = select_rows(rows, slice(0, 0))
        on_path = patient(client, lambda part: client.edges(described, part, layers=indices, path=path), no_rows)
        ways = {layer.layer: (tuple(layer.sources.tolist()), tuple(layer.destinations.tolist())) for layer in on_path}
    for done, index in enumerate(indices):
        report = shifted(progress, done, len(indices))
        if path is not None and not all(ways[index]):
            none, shape = np.zeros(0, np.int64), (count(rows), *described.layers[index].positions, 0, 0)
            yield LayerValues(layer=index, sources=none, destinations=none, values=np.zeros(shape, np.float32))
            continue
        query = _LayerQuery(client, described, index, report)
        yield query.strongest(rows, *ways[index], top_k) if top_k else query.all(rows, *ways[index])


class _LayerQuery:
    """Edge query of one layer over all rows."""

    def __init__(self, client: Client, described: Description, index: int, progress: Progress | None) -> None:
        self._client, self._described, self._index, self._progress = client, described, index, progress
        self._layer: LayerInfo = described.layers[index]

    def strongest(self, rows: Any, sources: tuple[int, ...], destinations: tuple[int, ...], top_k: int) -> LayerValues:
        """The `top_k` edges of largest magnitude over rows and positions: [rows, *positions, k].

        An edge among the strongest overall is among the strongest of the part where it peaks, so the responses to the
        parts have every candidate.
        """
        edges = min(top_k, self._layer.sources * self._layer.destinations)
        fit = self._most_values(2 * edges) // (edges * math.prod(self._layer.positions) or 1)
        parts = self._query(rows, fit, sources, destinations, top_k, self._progress)
        if len(parts) == 1:
            return parts[0]
        peaks: dict[tuple[int, int], float] = {}
        for part in parts:
            flat = part.values.reshape(-1, len(part.sources))
            magnitude = np.abs(flat).max(axis=0, initial=0.0)
            strength = np.where(np.isnan(magnitude), np.inf, magnitude)
            for edge in zip(part.sources.tolist(), part.destinations.tolist(), strength.tolist(), strict=True):
                peaks[edge[:2]] = max(peaks.get(edge[:2], 0.0), edge[2])
        chosen = sorted(peaks, key=lambda edge: (-peaks[edge], edge))[:top_k]
        sources = tuple(sorted({source for source, _ in chosen}))
        destinations = tuple(sorted({destination for _, destination in chosen}))
        values = self.all(rows, sources, destinations).values
        row, column = np.array([(sources.index(i), destinations.index(j)) for i, j in chosen]).T
        return LayerValues(
            layer=self._index,
            sources=np.array([source for source, _ in chosen], np.int64),
            destinations=np.array([destination for _, destination in chosen], np.int64),
            values=values[..., row, column],
        )

    def all(self, rows: Any, sources: tuple[int, ...], destinations: tuple[int, ...]) -> LayerValues:
        """All edges between some nodes, [rows, *positions, sources, destinations], in groups of destinations if the
        positions of a single row do not fit a response."""
        every, width = destinations or tuple(range(self._layer.destinations)), len(sources) or self._layer.sources
        each = width * math.prod(self._layer.positions)  # values of one row for one destination
        most = max(1, self._most_values(width + len(every)) // max(1, each))
        groups = [every[at : at + most] for at in range(0, len(every), most)]
        groups = [destinations] if len(groups) == 1 else groups
        layers: list[LayerValues] = []
        for done, group in enumerate(groups):
            size = len(group) or self._layer.destinations
            fit = self._most_values(width + size) // (each * size or 1)
            parts = self._query(rows, fit, sources, group, 0, shifted(self._progress, done, len(groups)))
            with _joins(self._client):
                values = np.concatenate([part.values for part in parts])
            layers.append(LayerValues(self._index, parts[0].sources, parts[0].destinations, values))
        if len(layers) == 1:
            return layers[0]
        with _joins(self._client):
            values = np.concatenate([layer.values for layer in layers], axis=-1)
        return dataclasses.replace(
            layers[0], destinations=np.concatenate([layer.destinations for layer in layers]), values=values
        )

    def _most_values(self, indices: int) -> int:
        """Number of values that fit one response with `indices` node numbers."""
        names = (indices + len(self._layer.positions)) * query_plan.INDEX_BYTES + query_plan.LAYER_BYTES
        return max(0, self._described.max_response_bytes - names) // query_plan.VALUE_BYTES

    def _query(
        self,
        rows: Any,
        fit: int,
        sources: tuple[int, ...],
        destinations: tuple[int, ...],
        top_k: int,
        progress: Progress | None,
    ) -> list[LayerValues]:
        """The values of the layer for consecutive parts of `rows`. `fit`: number of rows that fit one response."""
        selection: dict[str, Any] = {"sources": sources, "destinations": destinations, "top_k": top_k}

        def call(part: Any) -> LayerValues:
            return self._client.edges(self._described, part, layers=(self._index,), **selection)[0]

        most = min(fit, self._described.max_rows)
        most = min(most, REQUEST_BYTES // max(1, row_bytes(rows, self._described.inputs)))
        return split(self._client, rows, most, call, progress)
