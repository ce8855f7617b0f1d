"""Many rows: split into requests that the server's limits allow, joined again.

A request that is refused as too large is halved, so a server with tighter
limits than it announces is served too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from kanserve.rpc.client import Answer, Client, ClientError, Description, Layer, LayerValues, Model
from kanserve.tensors import DTYPES

T = TypeVar("T")
Progress = Callable[[int, int], None]  # rows done, rows in all

REQUEST_BYTES = 3 * 2**20  # of tensor data; servers take 4 MiB messages by default
RESPONSE_SHARE = 0.9  # of the announced bound; the rest is for names, shapes and indices


def infer(client: Client, model: Model, rows: Any, *, version: str = "", progress: Progress | None = None) -> Answer:
    """Outputs by name for all `rows` [rows, columns], in order. Raises ClientError."""
    tensor = model.inputs[0]
    most = model.max_batch_size or max(1, len(rows))
    most = min(most, REQUEST_BYTES // max(1, _row_bytes(rows, tensor.datatype)))
    parts = _split(rows, most, lambda part: client.infer(tensor, part, model=model.name, version=version), progress)
    names = parts[0].outputs
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in names}
    return Answer(parts[-1].version, outputs)


def edges(
    client: Client,
    described: Description,
    rows: Any,
    *,
    layers: tuple[int, ...] = (),
    sources: tuple[int, ...] = (),
    destinations: tuple[int, ...] = (),
    top_k: int = 0,
    progress: Progress | None = None,
) -> Iterator[LayerValues]:
    """Edge values of the chosen layers, one layer after the other. Raises ClientError.

    With `top_k`, the strongest edges over *all* rows, also when they travel in several requests.
    """
    wanted = layers or tuple(layer.index for layer in described.layers)
    for done, index in enumerate(wanted):
        if index >= len(described.layers):
            known = f"its layers are 0 to {len(described.layers) - 1}"
            raise ClientError(
                f"model {described.name!r} has no layer {index}: {known}",
                code="INVALID_ARGUMENT",
                input_is_wrong=True,
            )
        report = _shifted(progress, done, len(wanted))
        query = _LayerQuery(client, described, described.layers[index], sources, destinations, report)
        yield query.strongest(rows, top_k) if top_k else query.all(rows)


class _LayerQuery:
    """One layer's edges over all rows."""

    def __init__(
        self,
        client: Client,
        described: Description,
        layer: Layer,
        sources: tuple[int, ...],
        destinations: tuple[int, ...],
        progress: Progress | None,
    ) -> None:
        self.client = client
        self.described = described
        self.layer = layer
        self.sources = sources
        self.destinations = destinations
        self.progress = progress

    def all(self, rows: Any) -> LayerValues:
        """Every selected edge: [rows, sources, destinations]."""
        per_row = (len(self.sources) or self.layer.sources) * (len(self.destinations) or self.layer.destinations)
        parts = self._ask(rows, per_row, self.sources, self.destinations, 0)
        first = parts[0]
        values = np.concatenate([part.values for part in parts])
        return LayerValues(first.layer, first.sources, first.destinations, values)

    def strongest(self, rows: Any, top_k: int) -> LayerValues:
        """The `top_k` edges of largest magnitude over all rows: [rows, k].

        An edge among the strongest overall is among the strongest of the part
        where it peaks, so the parts' answers hold every candidate.
        """
        edges = self.layer.sources * self.layer.destinations
        parts = self._ask(rows, min(top_k, edges), self.sources, self.destinations, top_k)
        if len(parts) == 1:
            return parts[0]
        peaks: dict[tuple[int, int], float] = {}
        for part in parts:
            magnitude = np.abs(part.values).max(axis=0, initial=0.0)
            strength = np.where(np.isnan(magnitude), np.inf, magnitude)
            for edge in zip(part.sources.tolist(), part.destinations.tolist(), strength.tolist(), strict=True):
                peaks[edge[:2]] = max(peaks.get(edge[:2], 0.0), edge[2])
        chosen = sorted(peaks, key=lambda edge: (-peaks[edge], edge))[:top_k]
        sources = tuple(sorted({source for source, _ in chosen}))
        destinations = tuple(sorted({destination for _, destination in chosen}))
        parts = self._ask(rows, len(sources) * len(destinations), sources, destinations, 0)
        at = [(sources.index(source), destinations.index(destination)) for source, destination in chosen]
        row, column = np.array(at).T
        return LayerValues(
            layer=self.layer.index,
            sources=np.array([source for source, _ in chosen], np.int64),
            destinations=np.array([destination for _, destination in chosen], np.int64),
            values=np.concatenate([part.values[:, row, column] for part in parts]),
        )

    def _ask(
        self, rows: Any, per_row: int, sources: tuple[int, ...], destinations: tuple[int, ...], top_k: int
    ) -> list[LayerValues]:
        """The layer's answers for consecutive parts of `rows`; `per_row` is how many values a row gives."""

        def call(part: Any) -> LayerValues:
            found = self.client.edges(
                self.described,
                part,
                layers=(self.layer.index,),
                sources=sources,
                destinations=destinations,
                top_k=top_k,
            )
            return found[0]

        most = int(self.described.max_response_bytes * RESPONSE_SHARE) // max(1, per_row * 4)
        most = min(most, self.described.max_rows)
        most = min(most, REQUEST_BYTES // max(1, _row_bytes(rows, self.described.input.datatype)))
        return _split(rows, most, call, self.progress)


def _split(rows: Any, most: int, call: Callable[[Any], T], progress: Progress | None) -> list[T]:
    """Call with consecutive parts of at most `most` rows; zero rows are one call."""
    size = max(1, most)
    parts: list[T] = []
    start = 0
    while start < len(rows) or not parts:
        try:
            parts.append(call(rows[start : start + size]))
        except ClientError as error:
            if error.code != "RESOURCE_EXHAUSTED" or size == 1 or len(rows) - start < 2:
                raise
            size = min(size, len(rows) - start) // 2
            continue
        start += size
        if progress:
            progress(min(start, len(rows)), len(rows))
    return parts


def _shifted(progress: Progress | None, done: int, count: int) -> Progress | None:
    """Progress of part `done` of `count` equal parts."""
    if progress is None:
        return None
    report = progress
    return lambda at, total: report(done * total + at, count * total)


def _row_bytes(rows: Any, datatype: str) -> int:
    return int(np.prod(rows.shape[1:])) * DTYPES[datatype].itemsize
