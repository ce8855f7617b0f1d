"""`--out-of-range`: what the manifest keeps, the graph that keeps its inputs on the grid, its proof, and what is
refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport import bases
from kanexport.contract import grids
from kanexport.contract import manifest as contract
from kanexport.contract.sections import AS_TRAINED, CLAMP, FLAG, OUT_OF_RANGE_POLICIES, REJECT
from kanexport.errors import OptionError, VerificationFailed
from kanexport.ir import norms
from kanexport.ir.model import Kan
from kanexport.ir.steps import Clip, Select
from kanexport.lowering import lower
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference, prover, test_points
from kanserve.analysis import coverage
from kanserve.analysis.coverage import Zone
from tests.support.command_line import checkpoint
from tests.support.golden_cases import cases
from tests.support.small_checkpoints import read

GRIDLESS = ("chebykan-bare-layer", "fourierkan-breast-cancer", "wav-kan-dog-breast-cancer")
NORMED = "fastkan-digits"


def exported(folder: Path, name: str, policy: str, **more: Any) -> Any:
    (case,) = (case for case in cases() if case.name == name)
    fields: dict[str, Any] = {"options": case.options, "out_of_range": policy, **more}
    return export(Request(path=case.path, repository=folder, name="m", **fields))


def run(folder: Path, file: str, x: np.ndarray, name: str = "x") -> list[np.ndarray]:
    session = onnxruntime.InferenceSession((folder / file).read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: x})


@pytest.mark.parametrize("policy", list(OUT_OF_RANGE_POLICIES))
def test_the_policy_is_kept_in_the_manifest_and_stands_in_the_report(tmp_path: Path, policy: str) -> None:
    result = exported(tmp_path, "efficient-kan-wine-update-grid", policy)
    stored = contract.load(result.directory)
    assert (stored.out_of_range, stored.format) == (policy, contract.FORMAT)
    assert any("--out-of-range clamp" in note for note in stored.notes) == (policy == CLAMP)
    assert [step.kind for step in stored.layers[0].pre_steps] == (["clip"] if policy == CLAMP else [])


def test_who_chooses_nothing_has_what_was_trained(tmp_path: Path) -> None:
    (case,) = (case for case in cases() if case.name == "pykan-mult-affine")
    plain = export(Request(path=case.path, repository=tmp_path / "a", name="m", options=case.options))
    chosen = exported(tmp_path / "b", "pykan-mult-affine", AS_TRAINED)
    assert plain.manifest.out_of_range == chosen.manifest.out_of_range == AS_TRAINED
    for file in ("model.onnx", "edges_l0.onnx"):
        assert (plain.directory / file).read_bytes() == (chosen.directory / file).read_bytes()


@pytest.mark.parametrize(
    "name", ["pykan-prune-input", "efficient-kan-digits", "rbf-kan-diabetes", "pykan-ellipj-float64"]
)
def test_a_clamped_graph_is_the_other_one_given_what_lies_on_the_grid(tmp_path: Path, name: str) -> None:
    """In onnxruntime, without kanserve; and the edges of the first layer with it."""
    plain, clamped = (exported(tmp_path / policy, name, policy) for policy in (AS_TRAINED, CLAMP))
    layer, width = clamped.manifest.layers[0], clamped.manifest.input.shape[1]
    clip = layer.pre_steps[-1]
    columns = next((list(step.indices) for step in layer.pre_steps if step.kind == "select"), list(range(width)))
    rng = np.random.default_rng(0)
    x = rng.normal(scale=4, size=(64, width)).astype(np.float32)
    x[0], x[1], x[2] = np.inf, -np.inf, np.nan
    there = x.copy()
    there[:, columns] = np.clip(x[:, columns], np.float32(clip.scale), np.float32(clip.bias))
    assert (there != x).any()
    for file in ("model.onnx", layer.edges_file):
        found, expected = run(clamped.directory, file, x), run(plain.directory, file, there)
        np.testing.assert_array_equal(found[0], expected[0])
    inside = there[3:]
    np.testing.assert_array_equal(
        run(clamped.directory, "model.onnx", inside)[0], run(plain.directory, "model.onnx", inside)[0]
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_what_a_clamped_network_means(tmp_path_factory: pytest.TempPathFactory, seed: int, row: list[float]) -> None:
    folder = tmp_path_factory.mktemp("means")
    kan, _ = read(checkpoint(folder / "m.safetensors", (3, 4, 2), seed=seed))
    low, high = norms.limits(kan.layers[0])
    assert low.tolist() == pytest.approx([-1] * 3, abs=1e-6)
    assert high.tolist() == pytest.approx([1] * 3, abs=1e-6)
    x = np.array([row])
    found = float64_reference.evaluate(norms.clamped(kan), x).y
    np.testing.assert_array_equal(found, float64_reference.evaluate(kan, np.clip(x, low, high)).y)


def network(folder: Path) -> Kan:
    return read(checkpoint(folder / "m.safetensors", (3, 4, 2)))[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_proof_counts_what_lies_beyond_and_notices_another_grid(tmp_path: Path, dtype: str) -> None:
    kan = network(tmp_path)
    plain, given_ = lower.lower(kan, dtype), norms.clamped(kan)
    first = given_.layers[0]
    beyond = prover.verify_clamping(first, 3, plain, lower.lower(given_, dtype), dtype)
    assert beyond > 10
    (clip,) = first.pre_steps
    assert isinstance(clip, Clip)
    moved = dataclasses.replace(first, pre_steps=(Clip(clip.low, clip.high + 0.01),))
    other = lower.lower(dataclasses.replace(given_, layers=(moved, *given_.layers[1:])), dtype)
    with pytest.raises(VerificationFailed, match="keeps inputs on the grid gives another"):
        prover.verify_clamping(first, 3, plain, other, dtype)
    edges = dataclasses.replace(lower.lower(given_, dtype), edges=other.edges)
    with pytest.raises(VerificationFailed, match="gives another edges for row"):
        prover.verify_clamping(first, 3, plain, edges, dtype)


def test_an_input_that_is_several_sources_is_kept_on_the_grids_of_all(tmp_path: Path) -> None:
    kan = network(tmp_path)
    first = kan.layers[0]
    term = max(first.terms, key=lambda one: one.functions)
    shifted = dataclasses.replace(term.basis, extended=term.basis.extended + np.array([[0.0], [0.0], [0.5]]))
    terms = tuple(dataclasses.replace(one, basis=shifted) if one is term else one for one in first.terms)
    layer = dataclasses.replace(first, terms=terms, pre_steps=(Select((1, 0, 1)),))
    two = Kan(2, (layer, *kan.layers[1:]))
    low, high = norms.limits(layer)
    assert low.tolist() == pytest.approx([-0.5, -1, -0.5], abs=1e-6)
    assert high.tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    given_ = norms.clamped(two)
    assert prover.verify_clamping(
        given_.layers[0], 2, lower.lower(two, "float32"), lower.lower(given_, "float32"), "float32"
    )


@pytest.mark.parametrize("name", GRIDLESS)
def test_without_a_grid_there_is_nothing_outside_but_of_a_reference(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="input 0 has no grid to be kept on"):
        exported(tmp_path, name, CLAMP)
    for policy in (FLAG, REJECT):
        with pytest.raises(OptionError, match=f"--out-of-range {policy}: the first layer has no grid"):
            exported(tmp_path, name, policy)
    assert not any(tmp_path.glob("m/[0-9]*"))
    width = exported(tmp_path, name, AS_TRAINED).manifest.input.shape[1]
    rows = np.random.default_rng(1).uniform(-0.5, 0.5, (20, width))
    np.save(tmp_path / "train.npy", rows)
    done = exported(tmp_path, name, REJECT, baseline=tmp_path / "train.npy", force=True)
    assert done.manifest.out_of_range == REJECT


def test_a_normalisation_before_the_grid_cannot_be_clamped_and_can_be_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="reads its inputs after a step") as caught:
        exported(tmp_path, NORMED, CLAMP)
    assert "--out-of-range reject or flag" in caught.value.hint
    assert exported(tmp_path, NORMED, REJECT).manifest.out_of_range == REJECT


def test_some_inputs_without_a_grid_are_noted(tmp_path: Path) -> None:
    from kanexport.bundle import publish

    found = exported(tmp_path, "pykan-mult-affine", AS_TRAINED).manifest
    first = found.layers[0]
    bases = tuple(
        dataclasses.replace(basis, knots=(basis.knots[0], (0.0,) * len(basis.knots[0]))) if basis.knots else basis
        for basis in first.bases
    )
    layers = (dataclasses.replace(first, bases=bases), *found.layers[1:])
    (note,) = publish.check(FLAG, layers, found.inputs, found.baseline)
    assert note == "of source 1 of the first layer nobody can say whether it is out of range: it has no grid"
    assert publish.check(AS_TRAINED, layers, found.inputs, found.baseline) == ()
    moved = (dataclasses.replace(first, node_tensor="layer0_in"), *found.layers[1:])
    with pytest.raises(OptionError, match="no layer with edges is known to read"):
        publish.check(FLAG, moved, found.inputs, found.baseline)


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="out_of_range is 'ignore', expected one of as-trained, flag, reject, clamp"):
        exported(tmp_path, "pykan-mult-affine", "ignore")


def test_expected_outputs_are_compared_with_the_graph_as_it_was_trained(tmp_path: Path) -> None:
    """Beyond the grid the clamped graph answers otherwise, and its note says so; the claim is about what was read."""
    plain = exported(tmp_path / "plain", "efficient-kan-wine-update-grid", AS_TRAINED)
    x = np.random.default_rng(3).normal(scale=3, size=(40, 13)).astype(np.float32)
    np.savez(tmp_path / "outputs.npz", x=x, y=run(plain.directory, "model.onnx", x)[0])
    done = exported(
        tmp_path / "m", "efficient-kan-wine-update-grid", CLAMP, expected_outputs=(tmp_path / "outputs.npz",)
    )
    assert done.manifest.verification_basis == contract.EXPECTED_OUTPUTS
    assert any("not as the trained model answers it" in note for note in done.manifest.notes)


@pytest.mark.parametrize("policy", [FLAG, REJECT])
def test_of_a_module_nobody_knows_which_inputs_are_outside(tmp_path: Path, policy: str) -> None:
    """Its layers have tensors of their own, whatever stands before them."""
    torch = pytest.importorskip("torch")
    import kanexport
    from tests.support import torch_modules as modules

    rows = torch.rand(16, 4) - 0.5
    stack = modules.Stack(modules.KANLinear(4, 3), modules.KANLinear(3, 2))
    with pytest.raises(
        OptionError, match="no layer with edges is known to read the model's inputs as they are"
    ) as caught:
        kanexport.export(stack, rows, name="m", repository=tmp_path, out_of_range=policy)
    assert "kan.coverage" in caught.value.hint
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", [case.name for case in cases()])
def test_what_an_export_proves_as_inside_is_inside_for_the_server(tmp_path: Path, name: str) -> None:
    """The exporter's zones and the server's are of one grid, whatever the family, wherever there is one alone."""
    (case,) = (case for case in cases() if case.name == name)
    layers = exported(tmp_path, name, AS_TRAINED).manifest.layers
    kan, _ = read(case.path, *case.options)
    for info, layer, width in zip(layers, kan.layers, kan.widths(), strict=False):
        limits = coverage.bounds(info, width, None)
        if len(limits.scales) != 1 or layer.mixes:
            continue
        (scale,) = limits.scales
        support = layer.support()
        known = np.isfinite(scale.low)
        np.testing.assert_allclose(scale.low[known], support.core[0][known], atol=1e-6)
        np.testing.assert_allclose(scale.high[known], support.core[1][known], atol=1e-6)
        rows = test_points.zone_rows(layer, width, seed=0)
        read_ = np.isin(np.arange(width), scale.nodes[known])
        zones = {zone: coverage.measure(limits, rows[zone]).zones[:, read_] for zone in ("inside", "far")}
        assert (zones["inside"] == Zone.INSIDE).all()
        assert (zones["far"] != Zone.INSIDE).all()


@pytest.mark.parametrize("name", bases.names())
def test_the_grid_that_knots_tell_is_one_that_the_proof_has_tried(name: str) -> None:
    """For families to come as well: what a server calls inside lies where rows of the proof lie, and is their zone
    "inside" itself but for pieces that nothing ends."""
    for basis in bases.examples(name):
        support = basis.support(3)
        for source, row in enumerate(basis.knots().tolist()):
            grid = grids.of_knots(basis.kind, basis.functions, row)
            ends = np.array([part[source] for part in support.core])
            if grid is None or not ends[1] > ends[0]:
                continue
            room = 1e-9 * max(1.0, abs(grid.low), abs(grid.high))
            assert support.outer[0][source] <= grid.low + room
            assert support.outer[1][source] >= grid.high - room
            if name != "piecewise_polynomial":
                np.testing.assert_allclose([grid.low, grid.high], ends, rtol=0, atol=room)
