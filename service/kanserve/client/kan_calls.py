"""The calls of KanService, as values: what is sent where, and what its answer means.

Those that take a model's description take its name as well, and ask for the description first.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from kanserve.client import coverage as coverage_
from kanserve.client import curves as curves_
from kanserve.client import edges as edges_
from kanserve.client import explain as explain_
from kanserve.client import scores as scores_
from kanserve.client import statistics as statistics_
from kanserve.client.answers import LayerValues
from kanserve.client.calls import After, Ask, Call, inference
from kanserve.client.coverage import Coverage
from kanserve.client.curves import LayerCurves
from kanserve.client.description import Description, from_pb
from kanserve.client.explain import Explanation
from kanserve.client.rows import of_frame, packed
from kanserve.client.scores import Scores
from kanserve.client.statistics import Statistics, Update
from kanserve.nouns import Estimate
from kanserve.pb import kan_pb2 as kan

T = TypeVar("T")
P = ParamSpec("P")
KAN = "/kanserve.v1.KanService/"


def describe(name: str, version: str = "") -> Call[Description]:
    """The KAN behind a model. Raises NotFound, and NotSupported for a plain ONNX model."""
    request = kan.DescribeModelRequest(model_name=name, model_version=version)
    return Call(f"{KAN}DescribeModel", request, kan.DescribeModelResponse.FromString, from_pb)


def by_name(
    make: Callable[Concatenate[Description, P], Call[T]],
) -> Callable[Concatenate[Description | str, P], Ask[T]]:
    """The same for a model's name in the place of its description, which is then asked for, each time."""

    def asked(described: Description | str, /, *args: P.args, **kwargs: P.kwargs) -> Ask[T]:
        if isinstance(described, str):
            return After(describe(described), lambda found: make(found, *args, **kwargs))
        return make(described, *args, **kwargs)

    functools.update_wrapper(asked, make)
    told = inspect.signature(make)
    first, *others = told.parameters.values()
    either = first.replace(annotation=f"{first.annotation} | str")
    vars(asked).update(__signature__=told.replace(parameters=[either, *others]))
    return asked


@by_name
def edges(
    described: Description,
    /,
    rows: Any,
    *,
    layers: Sequence[int | str] = (),
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    path: tuple[int, int] | None = None,
    **wanted: Any,
) -> Call[tuple[LayerValues, ...]]:
    """One edge query: values of the selected edges for `rows` [rows, ...], shaped as the model's input; of a model with
    several a mapping by their names. Layers by index or by name; the answer has the indices first. `path`: only edges
    on the ways from an input to an output. `wanted`: what else of them, the fields of `kanserve.nouns.Wanted`: top_k,
    each_row, min_magnitude, rest, nodes, reductions, quantiles, bins."""
    chosen: dict[str, Any] = {"layers": layers, "sources": sources, "destinations": destinations, "path": path}
    request = edges_.request(described, packed(described, rows), **chosen, **wanted)
    return Call(
        f"{KAN}QueryEdges", request, kan.QueryEdgesResponse.FromString, lambda answer: edges_.of(described, answer)
    )


@by_name
def estimate(described: Description, /, row_count: int, **asked: Any) -> Call[Estimate]:
    """What `edges` of so many rows would take, asked in the same way; nothing is computed."""
    request = edges_.request(described, {"row_count": row_count}, **asked)
    request.estimate_only = True
    return Call(f"{KAN}QueryEdges", request, kan.QueryEdgesResponse.FromString, edges_.estimate)


def curves(
    name: str,
    version: str = "",
    *,
    layers: Sequence[int | str] = (),
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    points: int = 0,
    span: tuple[float, float] | None = None,
    derivative: bool = False,
    parts: bool = False,
    extrema: bool = False,
) -> Call[tuple[LayerCurves, ...]]:
    """Edge functions on a grid of so many `points` (0: 101), from the first to the last of `span`; without it over each
    source's own domain. Raises NotFound, NotSupported for a layer whose edges are no curves, TooLarge."""
    request = curves_.request(
        name,
        version,
        layers=layers,
        sources=sources,
        destinations=destinations,
        points=points,
        span=span,
        derivative=derivative,
        parts=parts,
        extrema=extrema,
    )
    return Call(f"{KAN}GetCurves", request, kan.CurveBlock.FromString, curves_.joined, stream=True)


@by_name
def explain(
    described: Description,
    /,
    rows: Any,
    *,
    reference: Any = "",
    outputs: Sequence[int] = (),
    method: str = "",
    path: int = 0,
) -> Call[Explanation]:
    """What the inputs of `rows` [rows, ...] have to do with the answers: see Explanation. `reference`: "mean", "zeros",
    "grid_center", or rows of the caller's; "": what the server takes. `outputs`: which are explained (all).
    `method`: "rescale", the usual one, or "gradient_x_input". `path`: of each layer so many edges that carried most of
    the difference, in `Explanation.path`. Raises
    NotSupported where the model cannot be taken apart, TooLarge."""
    request = explain_.request(described, rows, reference=reference, outputs=outputs, method=method, path=path)
    return Call(
        f"{KAN}Explain",
        request,
        kan.ExplainResponse.FromString,
        lambda answer: explain_.of(answer, described, rows),
    )


@by_name
def scores(described: Description, /, rows: Any = None, *, over: str = "") -> Call[Scores]:
    """What each edge, node and input matters over `rows` [rows, ...], two or more; None: over the reference rows of the
    export. "live": over the counted traffic of the model. "baseline": over the counted rows that the export was given.
    "best": over the baseline if there is one, otherwise over the reference rows. Raises NotSupported for a module with
    KAN layers in it."""
    request = scores_.request(described, rows, over)
    return Call(f"{KAN}EdgeScores", request, kan.EdgeScoresResponse.FromString, scores_.of)


@by_name
def drift(described: Description, /, rows: Any = None) -> Call[Statistics]:
    """What the inputs, the nodes inside and the answers are over `rows` [rows, ...], beside what they were on the rows
    that the export was given; None: over the latest that the model was asked. Raises NotSupported where the export was
    given none."""
    request = statistics_.request(described, rows)
    return Call(
        f"{KAN}GetStatistics",
        request,
        kan.GetStatisticsResponse.FromString,
        lambda answer: statistics_.compared(statistics_.of(answer), described.name),
    )


def statistics(name: str, version: str = "", *, over: str = "total") -> Call[Statistics]:
    """What the inputs, the nodes inside and the answers of a model's traffic are: of all rows that were looked into
    ("total"), or of the latest ("live"). Raises NotSupported where nothing is looked into."""
    request = kan.GetStatisticsRequest(model_name=name, model_version=version, over=over)
    return Call(f"{KAN}GetStatistics", request, kan.GetStatisticsResponse.FromString, statistics_.of)


def watch_statistics(
    name: str, version: str = "", *, over: str = "total", interval: float = 0.0, updates: int = 0
) -> Call[Iterator[Update]]:
    """The same now and after every `interval` seconds (0: 2), so many `updates` at most (0: until the version is
    replaced, or the server ends): the last one says why. No deadline; leave the loop to end it. Raises as
    `statistics`."""
    request = kan.WatchStatisticsRequest(
        model_name=name, model_version=version, over=over, interval=interval, updates=updates
    )
    return Call(
        f"{KAN}WatchStatistics", request, kan.StatisticsUpdate.FromString, statistics_.updates, stream=True, again=False
    )


def reset_statistics(name: str, version: str = "") -> Call[float]:
    """Count anew what a model is asked; since when, in seconds since the epoch. Raises as `statistics`."""
    request = kan.ResetStatisticsRequest(model_name=name, model_version=version)
    return Call(
        f"{KAN}ResetStatistics",
        request,
        kan.ResetStatisticsResponse.FromString,
        lambda answer: float(answer.since),
        again=False,
    )


@by_name
def coverage(described: Description, /, rows: Any) -> Call[Coverage]:
    """Where the nodes of `rows` [rows, ...] are on the grids of each layer: see Coverage."""
    rows = of_frame(rows, described.names)
    tensors = described.inputs if isinstance(rows, Mapping) else described.input
    asked = {"model": described.name, "version": described.version}
    call = inference(tensors, rows, **asked, parameters={coverage_.PARAMETER: True})
    return Call(call.path, call.request, call.parse, lambda answer: coverage_.of(call.result(answer)))
