"""Limits of a manifest at their exact values: the limit passes, the next value fails."""

import dataclasses
from typing import Any

import pytest

from kanexport.shared.manifest import NodeStep, TensorSpec
from kanserve.repository import validation
from tests.kanserve.repository.test_validation import EDGE, LAYER, TENSOR, basis, layer, listed, shape, step


def batch(size: int) -> dict[str, Any]:
    return {"max_batch_size": size}


def sources(count: int) -> dict[str, Any]:
    return layer(sources=count, destinations=1)


def destinations(count: int) -> dict[str, Any]:
    return layer(sources=1, destinations=count)


def edges(more: int) -> dict[str, Any]:
    return layer(sources=2**16, destinations=2**15 + more)


def functions(count: int) -> dict[str, Any]:
    return basis(functions=count)


def knots(rows: int, kind: str = "bspline") -> dict[str, Any]:
    return basis(kind=kind, knots=((0.0, 1.0),) * rows)


def select(place: str, index: int, kind: str = "select") -> dict[str, Any]:
    """A step of a layer or, at "basis", of its basis."""
    steps = (NodeStep(kind=kind, indices=(index,)),)
    return basis(pre_steps=steps) if place == "basis" else layer(**{place: steps})


def rows(count: int) -> dict[str, Any]:
    return {"reference": dataclasses.replace(listed().reference, inputs=((0.0,) * 3,) * count)}


def tolerance(result: float) -> dict[str, Any]:
    return {"reference": dataclasses.replace(listed().reference, tolerance=result)}


def files(count: int) -> dict[str, Any]:
    return {"files": listed().files[:1] * count}


def edge(source: int, destination: int) -> dict[str, Any]:
    return layer(symbolic=(dataclasses.replace(EDGE, source=source, destination=destination),))


def unequal(*counts: int) -> dict[str, Any]:
    """A mask with rows of so many entries."""
    return layer(mask=tuple((1.0,) * count for count in counts))


AXES = "layer 0: the number of axes of positions is 17, expected 0 to 16"
WIDE = "layer 0: the number of {} is 16777217, expected 1 to 16777216"
MASK = "layer 0: the mask is not [3][4]"
NOWHERE = "layer 0: the layer has no sources, no destinations or no positions"
INDICES = "layer 0: a step 'select' has an index out of range, expected 0 to 16777215"
SHAPE = "'x' has shape [{}], expected [-1, ...] with known extents"
FUNCTIONS = "layer 0: the number of functions of basis 'bspline' is {}, expected 1 to 16777216"
LONG = "layer 0: basis '{}' has {} rows of knots, expected one, or one per source"
BOUNDS: list[tuple[dict[str, Any], dict[str, Any], str]] = [  # the last that passes, the first that does not, why not
    (batch(2**31 - 1), batch(2**31), "max_batch_size is 2147483648, expected 1 to 2147483647"),
    (batch(1), batch(0), "max_batch_size is 0, expected 1 to 2147483647"),
    ({"opset": 64}, {"opset": 65}, "opset is 65, expected 1 to 64"),
    ({"opset": 1}, {"opset": 0}, "opset is 0, expected 1 to 64"),
    ({"inputs": (TENSOR,) * 1024}, {"inputs": (TENSOR,) * 1025}, "the number of inputs is 1025, expected 1 to 1024"),
    ({"inputs": (TENSOR,)}, {"inputs": ()}, "the number of inputs is 0, expected 1 to 1024"),
    ({"outputs": (TENSOR,) * 1024}, {"outputs": (TENSOR,) * 1025}, "the number of outputs is 1025, expected 1 to 1024"),
    ({"outputs": (TENSOR,)}, {"outputs": ()}, "the number of outputs is 0, expected 1 to 1024"),
    ({"layers": (LAYER,) * 4096}, {"layers": (LAYER,) * 4097}, "the number of layers is 4097, expected 0 to 4096"),
    (files(4160), files(4161), "the number of files is 4161, expected 1 to 4160"),
    (files(1), files(0), "the number of files is 0, expected 1 to 4160"),
    (rows(4096), rows(4097), "the number of reference rows is 4097, expected 0 to 4096"),
    (rows(0), tolerance(1.001), "the reference tolerance is 1.001, expected 0 to 1"),
    (tolerance(1), tolerance(-0.001), "the reference tolerance is -0.001, expected 0 to 1"),
    (tolerance(0), tolerance(float("nan")), "the reference tolerance is nan, expected 0 to 1"),
    (shape(-1, *[1] * 16), shape(-1, *[1] * 17), "the number of axes of 'x' is 17, expected 0 to 16"),
    (shape(-1, 2147483647), shape(-1, 2147483648), "the size of a row of 'x' is 2147483648, expected 1 to 2147483647"),
    (shape(-1, 1), shape(-1, 0), SHAPE.format("-1, 0")),
    (shape(-1, 3, 2), shape(-1), SHAPE.format("-1")),
    (shape(-1, 3), shape(-2, 3, 0), SHAPE.format("-2, 3, 0")),
    (sources(2**24), sources(2**24 + 1), WIDE.format("sources")),
    (destinations(2**24), destinations(2**24 + 1), WIDE.format("destinations")),
    (layer(sources=1, active_edges=0), layer(sources=0), NOWHERE),
    (layer(destinations=1, active_edges=0), layer(destinations=0), NOWHERE),
    (layer(positions=(1,)), layer(positions=(1, 0)), NOWHERE),
    (edges(-1), edges(0), "layer 0: the number of edges is 2147483648, expected 1 to 2147483647"),
    (layer(active_edges=12), layer(active_edges=13), "layer 0: active_edges is 13, expected 0 to 12"),
    (layer(active_edges=0), layer(active_edges=-1), "layer 0: active_edges is -1, expected 0 to 12"),
    (layer(positions=(1,) * 16), layer(positions=(1,) * 17), AXES),
    (
        layer(positions=(2**16, 2**15 - 1)),
        layer(positions=(2**16, 2**15)),
        "layer 0: the size of a row of positions is 2147483648, expected 1 to 2147483647",
    ),
    (unequal(4, 4, 4), unequal(4, 4), MASK),
    (unequal(), unequal(4, 4, 4, 4), MASK),
    (unequal(), unequal(5, 5, 5), MASK),
    (unequal(), unequal(4, 4, 3), MASK),
    (layer(bias=(0.0,) * 4), layer(bias=(0.0,) * 5), "layer 0: the bias has 5 entries, expected 4"),
    (layer(bias=()), layer(bias=(0.0,) * 3), "layer 0: the bias has 3 entries, expected 4"),
    (edge(2, 3), edge(3, 3), "layer 0: a symbolic edge is from 3 to 3, which the layer does not have"),
    (edge(0, 0), edge(2, 4), "layer 0: a symbolic edge is from 2 to 4, which the layer does not have"),
    (edge(2, 0), edge(-1, 0), "layer 0: a symbolic edge is from -1 to 0, which the layer does not have"),
    (edge(0, 3), edge(0, -1), "layer 0: a symbolic edge is from 0 to -1, which the layer does not have"),
    (functions(2**24), functions(2**24 + 1), FUNCTIONS.format(2**24 + 1)),
    (functions(1), functions(0), FUNCTIONS.format(0)),
    (knots(1), knots(2), LONG.format("bspline", 2)),
    (knots(3), knots(4, "b" * 50), LONG.format("b" * 40, 4)),
    (select("basis", 0, "s" * 50), select("basis", -1, "s" * 50), INDICES.replace("select", "s" * 40)),
    (select("pre_steps", 2**24 - 1), select("pre_steps", 2**24), INDICES),
    (step(0), step(1, -1), INDICES),
    (select("post_steps", 1), select("post_steps", -1), INDICES),
]


@pytest.mark.parametrize(("last", "first", "text"), BOUNDS, ids=[case[2][:60] for case in BOUNDS])
def test_what_is_at_a_bound_passes_and_the_next_fails(last: dict[str, Any], first: dict[str, Any], text: str) -> None:
    assert list(validation.limit_faults(dataclasses.replace(listed(), **last))) == []
    assert list(validation.limit_faults(dataclasses.replace(listed(), **first))) == [text]


def test_a_number_is_in_words_where_nobody_would_read_it() -> None:
    for result, text in (
        (10**18 - 1, "999999999999999999"),
        (10**18, "2^59 or more"),
        (2**60, "2^60 or more"),
        (-(10**18) + 1, "-999999999999999999"),
        (-(10**18), "-2^59 or more"),
    ):
        (fault,) = validation.limit_faults(dataclasses.replace(listed(), max_batch_size=result))
        assert fault == f"max_batch_size is {text}, expected 1 to 2147483647"


def test_a_datatype_is_named_no_longer_than_needed() -> None:
    long = TensorSpec(name="x", datatype="D" * 50, shape=(-1, 3))
    (fault,) = validation.limit_faults(dataclasses.replace(listed(), inputs=(long,)))
    assert fault == f"'x' is '{'D' * 40}', expected one of {', '.join(validation.DTYPES)}"


def test_the_size_of_a_row_is_reckoned_from_as_many_axes_as_there_may_be() -> None:
    """Otherwise 4000 axes of 2^40 would be a long multiplication."""
    said = list(validation.limit_faults(dataclasses.replace(listed(), **shape(-1, *[1] * 16, 2**40))))
    assert said == ["the number of axes of 'x' is 17, expected 0 to 16"]
