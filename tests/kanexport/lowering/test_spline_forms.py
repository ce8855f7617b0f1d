"""`--optimize-for-batch`: a spline layout for large batches, with values equal to the other graph's bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import OptionError, VerificationFailed
from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.lowering import lower, spline_forms
from kanexport.verify import verify
from tests.support import basis_examples, golden_cases
from tests.support.command_line import kanserve
from tests.support.tiers import spread

WIDE = spline_forms.FEW_DESTINATIONS + 1  # destinations, of which splines are no columns of one product
ALWAYS = 10**9  # rows for which every layer is large
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-40])


def layer(basis: BSpline, destinations: int = WIDE, seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    shape = (len(basis.extended), destinations)
    return Layer(
        terms=(
            BasisTerm(Activation(ACTIVATIONS["silu"]), rng.normal(size=(*shape, 1))),
            BasisTerm(basis, rng.normal(size=(*shape, basis.functions))),
        ),
        mask=np.ones(shape),
        bias=rng.normal(size=destinations),
        nan_spreads=np.zeros(shape, dtype=bool),
    )


def uneven(sources: int, intervals: int, degree: int = 3, seed: int = 0) -> BSpline:
    """As a grid that was adapted to data."""
    gaps = np.random.default_rng(seed).uniform(0.05, 1.0, size=(sources, intervals + 2 * degree))
    knots = np.cumsum(np.concatenate([np.full((sources, 1), -2.0), gaps], axis=1), axis=1)
    return BSpline(knots.astype(np.float32).astype(np.float64), degree)


def responses(model: bytes, x: np.ndarray) -> list[np.ndarray]:
    return list(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x}))


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def same_bits(kan: Kan, dtype: str, x: np.ndarray) -> bool:
    both = [responses(lower.lower(kan, dtype, rows=rows).model, x.astype(dtype)) for rows in (1, ALWAYS)]
    return all(a.tobytes() == b.tobytes() for a, b in zip(*both, strict=True))


KNOTS = [(at, "float32") for at in range(len(basis_examples.examples("bspline")))] + [(0, "float64"), (1, "float64")]


@spread("at,dtype", KNOTS, 3)
def test_both_layouts_give_the_same_bits_on_every_kind_of_knots(at: int, dtype: str) -> None:
    basis = basis_examples.examples("bspline")[at]
    assert isinstance(basis, BSpline)
    points = np.concatenate([basis.extended.T, np.nextafter(basis.extended.T, np.inf), basis.extended.T + 0.037])
    rows = np.concatenate([points, np.tile(ODD[:, None], 3)])
    assert same_bits(Kan(3, (layer(basis),)), dtype, rows)


def test_only_layers_that_are_large_enough_change() -> None:
    kan = Kan(40, (layer(uneven(40, 5), WIDE), layer(uneven(WIDE, 5), WIDE, seed=1)))
    plain, wide = (lower.lower(kan, "float32", rows=rows) for rows in (1, spline_forms.MANY // 40))
    joins = [operators(created.model).count("Concat") for created in (plain, wide)]
    assert joins == [0, 1]
    assert wide.edges == plain.edges
    assert lower.lower(kan, "float32", rows=spline_forms.MANY // 40 - 1).model == plain.model
    (note,) = spline_forms.form_notes(kan.layers, spline_forms.MANY // 40)
    assert "splines of layer 0 without a closed form" in note


def test_a_uniform_grid_and_too_many_functions_stay_as_they_are() -> None:
    uniform = BSpline(np.tile(np.linspace(-1, 1, 12), (4, 1)), 3)
    for basis in (uniform, uneven(4, spline_forms.FUNCTIONS)):
        kan = Kan(4, (layer(basis),))
        assert lower.lower(kan, "float32", rows=ALWAYS).model == lower.lower(kan, "float32").model


# Sources, functions, rows, and how much faster apart was, as measured (`benchmarks/layouts.py`).
MEASURED = [(256, 8, 64, 1.19), (16, 23, 1024, 0.79), (64, 53, 256, 0.90), (64, 53, 512, 1.77), (256, 53, 128, 6.62)]


def test_the_form_is_chosen_where_it_was_measured_to_be_faster() -> None:
    wrong = []
    for sources, functions, rows, gain in MEASURED:
        chosen = spline_forms.unpacked(layer(uneven(sources, functions - 3), 64), rows)
        if not (gain > 1.1 if chosen else gain < 1.25):
            wrong.append((sources, functions, rows, gain, chosen))
    assert wrong == []


def test_the_graph_that_ships_is_the_graph_that_is_proved() -> None:
    kan = Kan(6, (layer(uneven(6, 5)), layer(uneven(WIDE, 4), seed=1)))
    created = lower.lower(kan, "float32", rows=ALWAYS)
    proof = verify.verify(kan, created, "float32")
    assert {zone.name for zone in proof.verification.zones} >= {"inside", "extension", "knots", "far", "nonfinite"}
    other = Kan(6, (layer(uneven(6, 5, seed=2)), layer(uneven(WIDE, 4), seed=1)))
    with pytest.raises(VerificationFailed):
        verify.verify(other, created, "float32")


def exported(folder: Path, **more: Any) -> Any:
    return golden_cases.exported("efficient-kan-wine-update-grid", folder, **more)


def test_small_networks_stay_as_they_are_and_the_manifest_says_so(tmp_path: Path) -> None:
    few, some = (exported(tmp_path / name, optimize_for_batch=rows) for name, rows in (("a", 1), ("b", 64)))
    assert (few.directory / "model.onnx").read_bytes() == (some.directory / "model.onnx").read_bytes()
    assert any("no layer of splines is wide enough" in note for note in some.manifest.notes)


@pytest.mark.parametrize("rows", [-1, 1025])
def test_a_batch_beyond_the_maximum_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(OptionError, match=f"--optimize-for-batch is {rows}, expected 1 to 1024"):
        exported(tmp_path, optimize_for_batch=rows)
    assert not list(tmp_path.iterdir())


def test_the_command_optimizes_checkpoints_but_not_modules_for_a_batch(tmp_path: Path) -> None:
    case = golden_cases.case("efficient-kan-wine-update-grid")
    to = ("--repository", tmp_path / "models", "--name", "m", "--optimize-for-batch", "64")
    done = kanserve("export", case.path, *(part for item in case.options for part in ("--option", item)), *to)
    assert done.returncode == 0, done.stderr
    assert "optimized for batches of 64 rows" in " ".join(done.stdout.split())
    refused = kanserve("export", "--module", "nets:make", *to)
    assert refused.returncode == 2
    assert "--optimize-for-batch cannot be combined with --module" in " ".join(refused.stderr.split())
