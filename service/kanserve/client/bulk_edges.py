"""Edge values of many rows: as many requests as the server's limits ask for, joined again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kanexport.manifest import LayerInfo
from kanserve.client import bulk
from kanserve.client.answers import LayerValues
from kanserve.client.connection import Client
from kanserve.client.description import Description
from kanserve.client.errors import InvalidInput
from kanserve.client.rows import of_frame
from kanserve.errors import BadRequest
from kanserve.interpret import select


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
    progress: bulk.Progress | None = None,
) -> Iterator[LayerValues]:
    """Edge values of the layers chosen by index or name, one layer after the other, for `rows` as
    `infer` takes them. Raises ClientError.

    With `top_k`, the strongest edges over *all* rows, also when they travel in several requests. With a `path` the
    edges on the ways from an input to an output, in the place of sources and destinations; of a layer that no way leads
    through there are none.
    """
    rows = of_frame(rows, described.names)
    try:
        wanted = select.find([layer.name for layer in described.layers], layers)
    except BadRequest as error:
        raise InvalidInput(f"model {described.name!r}: {error}", code="INVALID_ARGUMENT") from None
    ways = dict.fromkeys(wanted, (sources, destinations))
    if path is not None:
        none = bulk.part(rows, slice(0, 0))
        found = bulk.patient(client, lambda part: client.edges(described, part, layers=wanted, path=path), none)
        ways = {layer.layer: (tuple(layer.sources.tolist()), tuple(layer.destinations.tolist())) for layer in found}
    for done, index in enumerate(wanted):
        report = bulk.shifted(progress, done, len(wanted))
        if path is not None and not all(ways[index]):
            yield _none(described, index, bulk.count(rows))
            continue
        query = _LayerQuery(client, described, index, *ways[index], report)
        yield query.strongest(rows, top_k) if top_k else query.all(rows)


def _none(described: Description, index: int, rows: int) -> LayerValues:
    """No edge of a layer."""
    nobody, shape = np.zeros(0, np.int64), (rows, *described.layers[index].positions, 0, 0)
    return LayerValues(layer=index, sources=nobody, destinations=nobody, values=np.zeros(shape, np.float32))


class _LayerQuery:
    """One layer's edges over all rows."""

    def __init__(
        self,
        client: Client,
        described: Description,
        index: int,
        sources: tuple[int, ...],
        destinations: tuple[int, ...],
        progress: bulk.Progress | None,
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
            self._group(rows, sources, group, bulk.shifted(self.progress, done, len(groups)))
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
        self, rows: Any, sources: tuple[int, ...], destinations: tuple[int, ...], progress: bulk.Progress | None
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
        progress: bulk.Progress | None,
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
        most = min(most, bulk.REQUEST_BYTES // max(1, bulk.row_bytes(rows, self.described.inputs)))
        return bulk.split(self.client, rows, most, call, progress)
