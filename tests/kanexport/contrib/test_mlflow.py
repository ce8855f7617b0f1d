"""Versions as models of MLflow, as far as this needs no MLflow; tests/integration/deploy has the rest."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import kanexport.contrib.mlflow
from kanexport.errors import RepositoryError
from kanexport.shared.manifest import TensorSpec
from tests.support import toy_model


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="mlflow is installed")
@pytest.mark.parametrize(
    "function", [kanexport.contrib.mlflow.log_model, lambda v: kanexport.contrib.mlflow.save_model(v, "model")]
)
def test_without_mlflow_the_error_names_the_command_that_installs_it(tmp_path: Path, function: object) -> None:
    assert callable(function)
    with pytest.raises(ImportError, match=r"mlflow, which is not installed: .*\.\[mlflow\]"):
        function(toy_model.write(tmp_path))
    assert not (tmp_path / "model").exists()


def test_a_file_that_differs_from_its_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"is not a version folder: .* expected a manifest\.json"):
        kanexport.contrib.mlflow._read(tmp_path)
    directory = toy_model.write(tmp_path)
    _, manifest = kanexport.contrib.mlflow._read(directory)
    for name, data, code in (
        ("edges_l1.onnx", None, "file-not-readable"),
        ("edges_l0.onnx", b"other", "file-hash-differs"),
        ("model.onnx", b"x" * 9, "file-hash-differs"),
    ):
        kept = (directory / name).read_bytes()
        (directory / name).unlink()
        if data is not None:
            (directory / name).write_bytes(data)
        target = tmp_path / f"copy of {name}"
        target.mkdir()
        with pytest.raises(RepositoryError) as caught:
            kanexport.contrib.mlflow._copy(directory, manifest, target)
        assert caught.value.code == code
        assert caught.value.hint
        (directory / name).write_bytes(kept)


def test_all_files_of_a_version_are_copied(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path / "models")
    (directory.parent / "config.pbtxt").write_text("# the operator's")
    (directory / "notes").write_text("not of the version")
    target = tmp_path / "toy" / "1"
    target.mkdir(parents=True)
    kanexport.contrib.mlflow._copy(*kanexport.contrib.mlflow._read(directory), target)
    for path in ("manifest.json", "model.onnx", "edges_l0.onnx", "edges_l1.onnx", "../config.pbtxt"):
        assert (target / path).read_bytes() == (directory / path).read_bytes()
    assert not (target / "notes").exists()


def test_rows_with_all_values_are_split_by_tensor() -> None:
    types = ("a", "FP32", (-1, 2)), ("b", "INT64", (-1, 1, 2))
    specs = tuple(TensorSpec(name=name, datatype=datatype, shape=shape) for name, datatype, shape in types)
    parts = kanexport.contrib.mlflow._split(np.array([[0.5, 1, 2, 3], [4.5, 5, 6, 7]]), specs)
    assert parts["a"].tolist() == [[0.5, 1], [4.5, 5]]
    assert parts["b"].tolist() == [[[2, 3]], [[6, 7]]]
    assert [part.dtype for part in parts.values()] == [np.float32, np.int64]
