"""Curves of edges as plain arrays: the answer of GetCurves, put together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanserve.pb import kan_pb2 as kan


@dataclass(frozen=True, slots=True)
class LayerCurves:
    """Curves of some edges of a layer: `phi` [S, D, N], float32, over `x` [S, N] of each source, and perhaps its
    `derivative`; `parts`: what each basis of the layer, or `symbolic`, has of phi. `domains` [S]: where the range of
    each source comes from, one of asked, grid, reference, assumed. `extrema`, if asked for: where each curve is
    smallest and largest [S, D, 2], and what it is there."""

    layer: int
    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    x: NDArray[np.float64]
    phi: NDArray[np.float32]
    derivative: NDArray[np.float32] | None
    domains: tuple[str, ...]
    parts: Mapping[str, NDArray[np.float32]]
    extrema: tuple[NDArray[np.float64], NDArray[np.float32]] | None = None


def request(
    model: str,
    version: str,
    *,
    layers: Sequence[int | str],
    sources: Sequence[int],
    destinations: Sequence[int],
    points: int,
    span: tuple[float, float] | None,
    derivative: bool,
    parts: bool,
    extrema: bool,
) -> kan.GetCurvesRequest:
    """The message that asks for them."""
    low, high = span or (None, None)
    return kan.GetCurvesRequest(
        model_name=model,
        model_version=version,
        layers=[layer for layer in layers if isinstance(layer, int)],
        layer_names=[layer for layer in layers if isinstance(layer, str)],
        sources=sources,
        destinations=destinations,
        points=points,
        low=low,
        high=high,
        derivative=derivative,
        parts=parts,
        extrema=extrema,
    )


def joined(blocks: Iterable[kan.CurveBlock]) -> tuple[LayerCurves, ...]:
    """The blocks of an answer, a layer each: they come layer by layer, a source's destinations one after the other."""
    layers: dict[int, list[kan.CurveBlock]] = {}
    for block in blocks:
        layers.setdefault(block.layer, []).append(block)
    return tuple(_layer(at, found) for at, found in layers.items())


def _layer(at: int, blocks: Sequence[kan.CurveBlock]) -> LayerCurves:
    rows: dict[tuple[int, ...], list[kan.CurveBlock]] = {}
    for block in blocks:
        rows.setdefault(tuple(block.sources), []).append(block)
    columns, *_ = rows.values()  # the same for all
    ends = [found[0] for found in rows.values()]
    return LayerCurves(
        layer=at,
        sources=tuple(itertools.chain.from_iterable(rows)),
        destinations=tuple(itertools.chain.from_iterable(block.destinations for block in columns)),
        x=np.concatenate([np.frombuffer(end.x, "<f8").reshape(-1, end.points) for end in ends]),
        phi=_array(rows.values(), lambda block: block.phi),
        derivative=_array(rows.values(), lambda block: block.derivative) if blocks[0].derivative else None,
        domains=tuple(itertools.chain.from_iterable(end.domains for end in ends)),
        parts={one.kind: _array(rows.values(), _phi_of(at)) for at, one in enumerate(blocks[0].parts)},
        extrema=_extrema(rows.values()) if blocks[0].extrema else None,
    )


def _extrema(rows: Iterable[Sequence[kan.CurveBlock]]) -> tuple[Any, Any]:
    def all_(of: str, dtype: str) -> Any:
        return np.concatenate(
            [
                np.concatenate(
                    [np.frombuffer(getattr(one, of), dtype).reshape(len(one.sources), -1, 2) for one in found], axis=1
                )
                for found in rows
            ]
        )

    return all_("extrema_x", "<f8"), all_("extrema", "<f4")


def _phi_of(part: int) -> Callable[[kan.CurveBlock], bytes]:
    return lambda block: block.parts[part].phi


def _array(rows: Iterable[Sequence[kan.CurveBlock]], of: Callable[[kan.CurveBlock], bytes]) -> Any:
    return np.concatenate([np.concatenate([_part(block, of(block)) for block in found], axis=1) for found in rows])


def _part(block: kan.CurveBlock, data: bytes) -> Any:
    return np.frombuffer(data, "<f4").reshape(len(block.sources), len(block.destinations), block.points)
