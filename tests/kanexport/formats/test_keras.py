"""`.keras` files written by Keras (tests/golden/generators/keras_files.py), compared with its outputs, and damaged."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import CheckpointError, FamilyError
from kanexport.formats import keras
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import exported, reading, refused

FOLDER = Path(__file__).parents[2] / "golden" / "keras"
CHAIN = FOLDER / "chain.keras"


def parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(folder: Path, entries: dict[str, bytes]) -> Path:
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def changed(folder: Path, change: Any, name: str = "chain") -> Path:
    """The file with another config; `change(model)` works on the parsed one."""
    entries = parts(FOLDER / f"{name}.keras")
    model = json.loads(entries[keras.CONFIG])
    change(model)
    return packed(folder, entries | {keras.CONFIG: json.dumps(model).encode()})


@pytest.mark.parametrize("name", ["chain", "functional"])
def test_it_computes_what_keras_computes(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path, parts(FOLDER / f"{name}.keras"))
    source, kan = exported(path).source, reading(path).kan
    assert source.family == "keras-efficient-kan"
    assert source.options_assumed["layernorm_eps"] == "1e-3"
    with np.load(FOLDER / f"{name}.npz") as outputs:
        x, y = outputs["x"].astype(np.float64), outputs["y"]
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, y, rtol=0, atol=3e-6 * np.abs(y).max())


def test_a_model_that_is_no_chain_is_refused_with_what_to_do(tmp_path: Path) -> None:
    refused(packed(tmp_path, parts(FOLDER / "residual.keras")), kind=FamilyError, hint="--module")

    def reverse(model: Any) -> None:
        model["config"]["output_layers"] = ["kan_linear", 0, 0]

    refused(changed(tmp_path, reverse, "functional"), said="last layer")


def test_advice_is_for_keras(tmp_path: Path) -> None:
    def rename(model: Any) -> None:
        for layer in model["config"]["layers"]:
            layer["class_name"] = layer["class_name"].replace("KANLinear", "DenseKAN")

    def double(model: Any) -> None:
        model["config"]["layers"].insert(1, {"class_name": "KANLinear", "config": {}})

    def append(model: Any) -> None:
        model["config"]["layers"] += [{"class_name": "KANLinear"}]

    other = tmp_path / "outputs.npz"
    np.savez(other, x=np.eye(3, dtype=np.float32), y=np.arange(6, dtype=np.float32).reshape(3, 2))
    errors = {
        refused(changed(tmp_path, rename), said="DenseKAN").hint: keras.OTHER_WAYS,
        refused(changed(tmp_path, double), said="has shape").hint: keras.SAVE_WITH_KERAS,
        refused(changed(tmp_path, append), said="is missing").hint: keras.SAVE_WITH_KERAS,
        refused(changed(tmp_path, len), expected_outputs=(other,)).hint: keras.OTHER_WAYS,
    }
    assert all(hint.endswith(expected) for hint, expected in errors.items()), errors


@pytest.mark.parametrize(
    ("kind", "said"),
    [({"class_name": "Conv1D"}, "Conv1D"), ({"class_name": "ReLU", "config": {"max_value": 6.0}}, "max_value")],
)
def test_layers_that_are_not_read_are_named(tmp_path: Path, kind: dict[str, Any], said: str) -> None:
    def change(model: Any) -> None:
        model["config"]["layers"].append(kind)

    refused(changed(tmp_path, change), said=said)


def test_a_config_that_means_nothing_is_refused(tmp_path: Path) -> None:
    entries = parts(CHAIN)
    for config in (b"{", b"[]", b"[" * 100_000, b"{}", b'{"config": {"layers": [1]}}'):
        assert refused(packed(tmp_path, entries | {keras.CONFIG: config})).message

    def activation(model: Any) -> None:
        model["config"]["layers"][2]["config"]["base_activation"] = ["relu"]

    refused(changed(tmp_path, activation), said="activation")


def test_every_cut_and_every_changed_byte_of_the_weights_is_read_or_refused() -> None:
    weights = parts(CHAIN)[keras.WEIGHTS]
    whole = keras.read_hdf5(weights)
    assert len(whole) > 10
    outcomes = set()
    for at in range(0, len(weights), 53):
        with pytest.raises(CheckpointError):
            keras.read_hdf5(weights[:at])
    rng = np.random.default_rng(0)
    for at in rng.choice(len(weights), 1500, replace=False):
        damaged = bytearray(weights)
        damaged[at] ^= int(rng.integers(1, 256))
        try:
            outcomes.add(len(keras.read_hdf5(bytes(damaged))) == len(whole))
        except CheckpointError as error:
            outcomes.add(error.message)
    assert True in outcomes
    assert len(outcomes) > 5


def test_other_layouts_of_hdf5_are_named() -> None:
    weights = bytearray(parts(CHAIN)[keras.WEIGHTS])
    weights[8] = 3
    with pytest.raises(CheckpointError, match="superblock version 3"):
        keras.read_hdf5(bytes(weights))
    with pytest.raises(CheckpointError, match="not an HDF5"):
        keras.read_hdf5(b"text")


def test_a_group_inside_of_itself_ends(tmp_path: Path) -> None:
    """The address of the root header overwrites the first entry of its table."""
    weights = bytearray(parts(CHAIN)[keras.WEIGHTS])
    (root,) = struct.unpack_from("<Q", weights, 64)
    at = weights.index(b"SNOD")
    struct.pack_into("<Q", weights, at + 16, root)
    with pytest.raises(CheckpointError, match=r"deep|contains itself|more data than it has"):
        keras.read_hdf5(bytes(weights))


def test_weights_that_unpack_far_too_large_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(keras.CONFIG, parts(CHAIN)[keras.CONFIG])
        archive.writestr(keras.WEIGHTS, keras.MAGIC + bytes(10_000_000))
    with pytest.raises(CheckpointError, match="unpack"):
        keras.read(buffer.getvalue())
