"""`--out-of-range`: manifest fields, the graph that clamps inputs to the grid, its verification, and rejections."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.bundle import publish
from kanexport.errors import OptionError
from kanexport.shared import manifest as manifests
from kanexport.shared.sections import AS_TRAINED, CLAMP, FLAG, OUT_OF_RANGE_POLICIES, REJECT
from tests.support import golden_cases
from tests.support.golden_cases import run
from tests.support.tiers import spread

GRIDLESS = ("chebykan-bare-layer", "fourierkan-breast-cancer", "wav-kan-dog-breast-cancer")
NORMED = "fastkan-digits"


def exported(folder: Path, name: str, policy: str, **more: Any) -> Any:
    return golden_cases.exported(name, folder, out_of_range=policy, **more)


def first(graph: Path, x: np.ndarray) -> np.ndarray:
    """The first output of a graph."""
    return next(iter(run(graph, {"x": x}).values()))


@pytest.mark.parametrize("policy", list(OUT_OF_RANGE_POLICIES))
def test_the_policy_is_kept_in_the_manifest_and_stands_in_the_report(tmp_path: Path, policy: str) -> None:
    result = exported(tmp_path, "efficient-kan-wine-update-grid", policy)
    stored = manifests.load(result.directory)
    assert (stored.out_of_range, stored.format) == (policy, manifests.FORMAT)
    assert any("--out-of-range clamp" in note for note in stored.notes) == (policy == CLAMP)
    assert [step.kind for step in stored.layers[0].pre_steps] == (["clip"] if policy == CLAMP else [])


@spread("name", ["pykan-prune-input", "efficient-kan-digits", "rbf-kan-diabetes", "pykan-ellipj-float64"], 1)
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
        np.testing.assert_array_equal(first(clamped.directory / file, x), first(plain.directory / file, there))
    both = [first(result.directory / "model.onnx", there[3:]) for result in (plain, clamped)]
    np.testing.assert_array_equal(*both)


@spread("name", GRIDLESS, 1)
def test_without_a_grid_there_is_nothing_outside_but_of_a_reference(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="input 0 has no grid"):
        exported(tmp_path, name, CLAMP)
    for policy in (FLAG, REJECT):
        with pytest.raises(
            OptionError, match=f"--out-of-range {policy} does not fit this model: the first layer has no grid"
        ):
            exported(tmp_path, name, policy)
    assert not any(tmp_path.glob("m/[0-9]*"))
    width = exported(tmp_path, name, AS_TRAINED).manifest.input.shape[1]
    rows = np.random.default_rng(1).uniform(-0.5, 0.5, (20, width))
    np.save(tmp_path / "train.npy", rows)
    done = exported(tmp_path, name, REJECT, baseline=tmp_path / "train.npy", force=True)
    assert done.manifest.out_of_range == REJECT


def test_a_normalisation_before_the_grid_cannot_be_clamped_and_can_be_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="already maps its inputs to the grid") as caught:
        exported(tmp_path, NORMED, CLAMP)
    assert "--out-of-range reject or flag" in caught.value.hint
    assert exported(tmp_path, NORMED, REJECT).manifest.out_of_range == REJECT


def test_some_inputs_without_a_grid_are_noted(tmp_path: Path) -> None:
    actual = exported(tmp_path, "pykan-mult-affine", AS_TRAINED).manifest
    first = actual.layers[0]
    bases = tuple(
        dataclasses.replace(basis, knots=(basis.knots[0], (0.0,) * len(basis.knots[0]))) if basis.knots else basis
        for basis in first.bases
    )
    layers = (dataclasses.replace(first, bases=bases), *actual.layers[1:])
    (note,) = publish.check(FLAG, layers, actual.inputs, actual.baseline)
    assert note == "source 1 of the first layer has no grid, so it is not checked for values out of range"
    assert publish.check(AS_TRAINED, layers, actual.inputs, actual.baseline) == ()
    moved = (dataclasses.replace(first, node_tensor="layer0_in"), *actual.layers[1:])
    with pytest.raises(OptionError, match="no layer with edges reads the inputs unchanged"):
        publish.check(FLAG, moved, actual.inputs, actual.baseline)


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="out_of_range is 'ignore', expected one of as-trained, flag, reject, clamp"):
        exported(tmp_path, "pykan-mult-affine", "ignore")


def test_expected_outputs_are_compared_with_the_graph_as_it_was_trained(tmp_path: Path) -> None:
    """Out of grid the clamped graph differs, and its note says so; the claim is about the interpretation."""
    plain = exported(tmp_path / "plain", "efficient-kan-wine-update-grid", AS_TRAINED)
    x = np.random.default_rng(3).normal(scale=3, size=(40, 13)).astype(np.float32)
    np.savez(tmp_path / "outputs.npz", x=x, y=first(plain.directory / "model.onnx", x))
    done = exported(
        tmp_path / "m", "efficient-kan-wine-update-grid", CLAMP, expected_outputs=(tmp_path / "outputs.npz",)
    )
    assert done.manifest.verification_basis == manifests.EXPECTED_OUTPUTS
    assert any("not the output of the trained model" in note for note in done.manifest.notes)
