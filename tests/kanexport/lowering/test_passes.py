"""Graph passes: sources without live edges, and extra symbolic functions, cost no computation."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kanexport.bases.gaussian import Gaussian
from kanexport.bases.uniform_bspline import UniformSpline
from kanexport.functions.elementwise import SYMBOLIC
from kanexport.functions.wavelets import WAVELETS
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer
from kanexport.ir.norms import LayerNorm
from kanexport.ir.steps import Elementwise
from kanexport.lowering import lower, passes
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference, verify
from tests.kanexport.lowering.test_lower import folder, read
from tests.kanexport.lowering.test_near_uniform_knots import rounded
from tests.kanexport.lowering.test_spline_forms import layer, responses, uneven

DEAD = [1, 4, 5]
LIVE = [0, 2, 3, 6, 7]


def masked(entry: Layer, dead: list[int], *, spreads: bool = True) -> Layer:
    mask = entry.mask.copy()
    mask[dead] = 0
    return dataclasses.replace(entry, mask=mask, nan_spreads=np.full(mask.shape, spreads))


def proved(kan: Kan, **settings: Any) -> lower.Lowered:
    """The verified graphs of a network."""
    created = lower.lower(kan, "float32", **settings)
    verify.verify(kan, created, "float32")
    return created


def numbers(model: bytes) -> int:
    """Count the numbers in all constants of a graph."""
    return sum(numpy_helper.to_array(item).size for item in onnx.load_from_string(model).graph.initializer)


def edge_term(sources: int, destinations: int) -> EdgeTerm:
    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=(sources, destinations, 2)) for _ in range(3))
    return EdgeTerm(WAVELETS["mexican_hat"], *arrays)


@pytest.mark.parametrize(("destinations", "symbolic"), [(3, True), (40, False)])
def test_sources_without_a_live_edge_are_not_looked_at(destinations: int, symbolic: bool) -> None:
    whole = layer(uneven(8, 5), destinations)
    if symbolic:
        whole = dataclasses.replace(whole, terms=(*whole.terms, edge_term(8, destinations)))
    item = masked(whole, DEAD)
    kan = Kan(8, (item,))
    created = proved(kan)
    _, kept = passes.drop_idle_sources(item)
    assert kept is not None
    assert kept.tolist() == LIVE
    assert numbers(created.model) < 0.7 * numbers(lower.lower(Kan(8, (masked(whole, []),)), "float32").model)
    x = np.random.default_rng(1).uniform(-1, 1, size=(5, 8)).astype(np.float32)
    moved = x.copy()
    moved[:, DEAD] = 0.25
    assert responses(created.model, x)[0].tobytes() == responses(created.model, moved)[0].tobytes()
    x[0, 4], x[1, 5], x[2, 0] = np.nan, np.inf, np.nan
    assert np.isnan(responses(created.model, x)[0]).all(axis=1).tolist() == [True, True, True, False, False]


def two_blocks(*, spreads: bool) -> Layer:
    """Splines between the first half of the nodes, wavelets between the second."""
    spline = layer(uneven(8, 5), 6).terms[1]
    assert isinstance(spline, BasisTerm)
    wavelet = edge_term(8, 6)
    first, second = np.zeros((8, 6, 1)), np.zeros((8, 6, 1))
    first[:4, :3], second[4:, 3:] = 1, 1
    terms = (
        dataclasses.replace(spline, coef=spline.coef * first),
        dataclasses.replace(wavelet, coef=wavelet.coef * second),
    )
    return Layer(terms, np.ones((8, 6)), np.arange(6.0), np.full((8, 6), spreads))


@pytest.mark.parametrize("spreads", [False, True])
def test_terms_of_some_edges_are_summed_over_these_edges_only(spreads: bool) -> None:
    item = two_blocks(spreads=spreads)
    rest, blocks = passes.separate(item)
    assert not rest.terms
    assert [(block.sources, block.destinations) for block in blocks] == [
        (slice(0, 4), slice(0, 3)),
        (slice(4, 8), slice(3, 6)),
    ]
    kan = Kan(8, (item,))
    created = proved(kan)
    dense = tuple(dataclasses.replace(term, coef=np.ones(term.coef.shape)) for term in item.terms)
    whole = lower.lower(Kan(8, (dataclasses.replace(item, terms=dense),)), "float32")
    assert numbers(created.model) < 0.5 * numbers(whole.model)
    x = np.full((3, 8), 0.3, dtype=np.float32)
    x[1, 0] = x[2, 6] = np.nan
    expected = float64_reference.evaluate(kan, x.astype(np.float64)).y
    assert np.isnan(responses(created.model, x)[0]).tolist() == np.isnan(expected).tolist()


def spreading() -> list[Layer]:
    """Two layers in which NaN spreads over all edges."""
    return [
        dataclasses.replace(layer(uneven(n, 5), m), nan_spreads=np.ones((n, m), bool)) for n, m in ((8, 40), (40, 3))
    ]


def test_nan_of_the_layer_before_needs_no_term_of_its_own() -> None:
    first, second = spreading()
    assert passes.carries_nan(first, second)
    created = proved(Kan(8, (first, second)))
    sums = [node.op_type for node in onnx.load_from_string(created.model).graph.node].count("ReduceSum")
    assert sums == 1
    x = np.full((4, 8), 0.3, dtype=np.float32)
    x[1, 2], x[2, 0], x[3, 7] = np.nan, np.inf, -np.inf
    assert np.isnan(responses(created.model, x)[0]).all(axis=1).tolist() == [False, True, True, True]


def test_nan_that_the_base_branch_does_not_carry_has_a_term() -> None:
    first, second = spreading()
    splines = dataclasses.replace(second, terms=second.terms[1:])
    some = dataclasses.replace(first, nan_spreads=np.zeros((8, 40), bool))
    logarithm = Elementwise(SYMBOLIC["log"])
    edges = dataclasses.replace(first, terms=(*first.terms, edge_term(8, 40)))
    cases = [
        (first, splines),
        (some, second),
        (dataclasses.replace(first, post_steps=(logarithm,)), second),
        (edges, second),
    ]
    assert not any(passes.carries_nan(before, after) for before, after in cases)


def test_what_would_become_of_nan_otherwise_is_kept() -> None:
    item = masked(layer(uneven(8, 5), 3), DEAD, spreads=False)
    assert passes.drop_idle_sources(item)[1] is None  # silu(NaN) * 0 is NaN
    alone = dataclasses.replace(item, terms=item.terms[1:])
    assert passes.drop_idle_sources(alone)[1] is not None  # a spline of NaN is zero
    created = proved(Kan(8, (alone,)))
    x = np.full((1, 8), 0.3, dtype=np.float32)
    x[0, 4] = np.nan
    assert np.isfinite(responses(created.model, x)[0]).all()


def test_uniform_knots_bases_of_any_source_and_those_made_for_all() -> None:
    near = masked(layer(rounded(24, 50), 3), list(range(0, 24, 2)))
    proved(Kan(24, (near,)), near=(0,))
    spline = near.terms[1].basis
    part, kept = passes.drop_idle_sources(
        dataclasses.replace(near, terms=(BasisTerm(UniformSpline(spline), near.terms[1].coef),))
    )
    assert kept is not None
    assert part.terms[0].basis.sources == 12
    centres = BasisTerm(Gaussian(np.linspace(-1, 1, 4), 0.5), np.ones((8, 3, 4)))
    item = masked(dataclasses.replace(layer(uneven(8, 5), 3), terms=(centres,)), DEAD)
    assert passes.drop_idle_sources(item)[1] is not None
    own = BasisTerm(Gaussian(np.tile(np.linspace(-1, 1, 4), (8, 1)), np.full(8, 0.5)), np.ones((8, 3, 4)))
    assert own.basis.sources == 8
    assert passes.drop_idle_sources(dataclasses.replace(item, terms=(own,)))[1] is None


def test_a_norm_before_a_term_few_dead_sources_and_terms_of_most_edges_leave_all_as_it_is() -> None:
    whole = layer(uneven(8, 5), 6)
    assert passes.separate(whole) == (whole, [])
    item = masked(layer(uneven(8, 5), 3), DEAD)
    norm = LayerNorm(np.ones(8), np.zeros(8), 1e-5)
    normed = tuple(dataclasses.replace(term, pre_steps=(norm,)) for term in item.terms)
    assert passes.drop_idle_sources(dataclasses.replace(item, terms=normed))[1] is None
    assert passes.drop_idle_sources(masked(layer(uneven(20, 5), 3), [7]))[1] is None


def test_pruned_inputs_of_a_trained_form_cost_nothing(pykan: Any, tmp_path: Path) -> None:
    toy, sizes = pykan([6, 3, 1]), []
    for name in ("whole", "pruned"):
        path = toy.write(folder(tmp_path, name))
        result = export(Request(path=path, repository=tmp_path / name / "models"))
        sizes.append(numbers((result.directory / "model.onnx").read_bytes()))
        toy.tensors["act_fun.0.mask"][[1, 2, 4]] = 0
        for i, j in itertools.product((1, 2, 4), range(3)):
            toy.symbolic(0, i, j, "0", (1, 0, 1, 0), 0.0)
    _, kept = passes.drop_idle_sources(read(path).layers[0])
    assert kept is not None
    assert kept.tolist() == [0, 3, 5]
    assert sizes[1] < 0.8 * sizes[0]
