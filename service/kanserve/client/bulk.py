"""Many rows: split into requests that the server's limits allow, joined again.

A request that is refused as too large is halved, so a server with tighter
limits than it announces is served too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kanexport.manifest import LayerInfo
from kanserve.client import coverage as cover
from kanserve.client import explain as explanations
from kanserve.client.answers import Answer, LayerValues, ServedModel
from kanserve.client.connection import Client
from kanserve.client.description import Description
from kanserve.client.errors import InvalidInput, TooLarge
from kanserve.client.explain import Explanation
from kanserve.client.rows import of_frame
from kanserve.errors import BadRequest
from kanserve.interpret import select
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
    most = min(most, REQUEST_BYTES // max(1, _row_bytes(rows, model.inputs)))
    parts = _split(rows, most, lambda part: client.infer(tensors, part, model=model.name, version=version), progress)
    names = parts[0].outputs
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in names}
    return Answer(parts[-1].version, outputs)


def edges(
    client: Client,
    described: Description,
    rows: Any,
    *,
    layers: Sequence[int | str] = (),
    sources: tuple[int, ...] = (),
    destinations: tuple[int, ...] = (),
    top_k: int = 0,
    progress: Progress | None = None,
) -> Iterator[LayerValues]:
    """Edge values of the layers chosen by index or name, one layer after the other, for `rows` as
    `infer` takes them. Raises ClientError.

    With `top_k`, the strongest edges over *all* rows, also when they travel in several requests.
    """
    rows = of_frame(rows, described.names)
    try:
        wanted = select.find([layer.name for layer in described.layers], layers)
    except BadRequest as error:
        raise InvalidInput(f"model {described.name!r}: {error}", code="INVALID_ARGUMENT") from error
    for done, index in enumerate(wanted):
        report = _shifted(progress, done, len(wanted))
        query = _LayerQuery(client, described, index, sources, destinations, report)
        yield query.strongest(rows, top_k) if top_k else query.all(rows)


def explain(
    client: Client,
    described: Description,
    rows: Any,
    *,
    reference: Any = "",
    outputs: Sequence[int] = (),
    progress: Progress | None = None,
) -> Explanation:
    """As `Client.explain`, for any number of rows. Raises ClientError."""
    rows = of_frame(rows, described.names)
    width = max(1, *(math.prod(tensor.shape[1:]) for tensor in described.inputs))
    each = width * 8 * (len(outputs) or max(1, described.output.shape[-1]))
    most = max(1, min(described.max_rows, described.max_response_bytes // (2 * each)))
    most = min(most, REQUEST_BYTES // max(1, _row_bytes(rows, described.inputs)))
    return explanations.joined(
        _split(
            rows,
            most,
            lambda part: client.explain(described, part, reference=reference, outputs=outputs),
            progress,
        )
    )


def coverage(client: Client, described: Description, rows: Any, *, progress: Progress | None = None) -> cover.Coverage:
    """As `Client.coverage`, for any number of rows. Raises ClientError."""
    rows = of_frame(rows, described.names)
    fits = REQUEST_BYTES // max(1, _row_bytes(rows, described.inputs))
    most = min(fits, described.max_rows, described.max_batch_size or fits)
    return cover.joined(_split(rows, most, lambda part: client.coverage(described, part), progress))


class _LayerQuery:
    """One layer's edges over all rows."""

    def __init__(
        self,
        client: Client,
        described: Description,
        index: int,
        sources: tuple[int, ...],
        destinations: tuple[int, ...],
        progress: Progress | None,
    ) -> None:
        self.client = client
        self.described = described
        self.index = index
        self.layer: LayerInfo = described.layers[index]
        self.sources = sources
        self.destinations = destinations
        self.progress = progress

    def all(self, rows: Any) -> LayerValues:
        """Every selected edge: [rows, *positions, sources, destinations]."""
        return self._every(rows, self.sources, self.destinations)

    def strongest(self, rows: Any, top_k: int) -> LayerValues:
        """The `top_k` edges of largest magnitude over rows and positions: [rows, *positions, k].

        An edge among the strongest overall is among the strongest of the part
        where it peaks, so the parts' answers hold every candidate.
        """
        edges = min(top_k, self.layer.sources * self.layer.destinations)
        fit = self._most_values(2 * edges) // (edges * math.prod(self.layer.positions) or 1)
        parts = self._ask(rows, fit, self.sources, self.destinations, top_k, self.progress)
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
        values = self._every(rows, sources, destinations).values
        row, column = np.array([(sources.index(i), destinations.index(j)) for i, j in chosen]).T
        return LayerValues(
            layer=self.index,
            sources=np.array([source for source, _ in chosen], np.int64),
            destinations=np.array([destination for _, destination in chosen], np.int64),
            values=values[..., row, column],
        )

    def _every(self, rows: Any, sources: tuple[int, ...], destinations: tuple[int, ...]) -> LayerValues:
        """All edges between some nodes, a few destinations at a time where the positions
        of a single row would not fit an answer."""
        groups = self._groups(sources, destinations)
        answers = [
            self._group(rows, sources, group, _shifted(self.progress, done, len(groups)))
            for done, group in enumerate(groups)
        ]
        if len(answers) == 1:
            return answers[0]
        return LayerValues(
            layer=self.index,
            sources=answers[0].sources,
            destinations=np.concatenate([answer.destinations for answer in answers]),
            values=np.concatenate([answer.values for answer in answers], axis=-1),
        )

    def _groups(self, sources: tuple[int, ...], destinations: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The destinations in groups whose edges, for one row, fit an answer; as they were
        given where one group holds them all."""
        every = destinations or tuple(range(self.layer.destinations))
        most = max(1, self._most_values(self._width(sources) + len(every)) // max(1, self._per_destination(sources)))
        groups = [every[at : at + most] for at in range(0, len(every), most)]
        return [destinations] if len(groups) == 1 else groups

    def _group(
        self, rows: Any, sources: tuple[int, ...], destinations: tuple[int, ...], progress: Progress | None
    ) -> LayerValues:
        """The edges to one group of destinations, for all rows."""
        width = len(destinations) or self.layer.destinations
        fit = self._most_values(self._width(sources) + width) // (self._per_destination(sources) * width or 1)
        parts = self._ask(rows, fit, sources, destinations, 0, progress)
        values = np.concatenate([part.values for part in parts])
        return LayerValues(self.index, parts[0].sources, parts[0].destinations, values)

    def _width(self, sources: tuple[int, ...]) -> int:
        return len(sources) or self.layer.sources

    def _per_destination(self, sources: tuple[int, ...]) -> int:
        """Values of one row that lead to one destination."""
        return self._width(sources) * math.prod(self.layer.positions)

    def _most_values(self, indices: int) -> int:
        """How many values fit one answer that names so many nodes."""
        names = (indices + len(self.layer.positions)) * select.INDEX_BYTES + select.LAYER_BYTES
        return max(0, self.described.max_response_bytes - names) // select.VALUE_BYTES

    def _ask(
        self,
        rows: Any,
        fit: int,
        sources: tuple[int, ...],
        destinations: tuple[int, ...],
        top_k: int,
        progress: Progress | None,
    ) -> list[LayerValues]:
        """The layer's answers for consecutive parts of `rows`; `fit` is how many rows fit one of them."""

        def call(part: Any) -> LayerValues:
            answers = self.client.edges(
                self.described,
                part,
                layers=(self.index,),
                sources=sources,
                destinations=destinations,
                top_k=top_k,
            )
            return answers[0]

        most = min(fit, self.described.max_rows)
        most = min(most, REQUEST_BYTES // max(1, _row_bytes(rows, self.described.inputs)))
        return _split(rows, most, call, progress)


def _split(rows: Any, most: int, call: Callable[[Any], T], progress: Progress | None) -> list[T]:
    """Call with consecutive parts of at most `most` rows; zero rows are one call."""
    size, total = max(1, most), count(rows)
    parts: list[T] = []
    start = 0
    while start < total or not parts:
        try:
            parts.append(call(_part(rows, slice(start, start + size))))
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


def _part(rows: Any, which: slice) -> Any:
    return {name: array[which] for name, array in rows.items()} if isinstance(rows, Mapping) else rows[which]


def _shifted(progress: Progress | None, done: int, count: int) -> Progress | None:
    """Progress of part `done` of `count` equal parts."""
    if progress is None:
        return None
    report = progress
    return lambda at, total: report(done * total + at, count * total)


def _row_bytes(rows: Any, tensors: Sequence[TensorInfo]) -> int:
    arrays = rows if isinstance(rows, Mapping) else {tensors[0].name: rows}
    return sum(
        int(np.prod(arrays[tensor.name].shape[1:])) * DTYPES[tensor.datatype].itemsize
        for tensor in tensors
        if tensor.name in arrays
    )
