"""MLflow: an exported version as a logged model.

    kanexport.contrib.mlflow.log_model("models/hello/2", registered_model_name="hello")

A logged model has the whole version in the layout of a model repository, so that `mlflow artifacts download` fills the
repository of a server:

    MLmodel, conda.yaml, python_env.yaml, requirements.txt, the input example
    NAME/config.pbtxt
    NAME/VERSION/manifest.json, model.onnx, ...   the files of the version, unchanged
    NAME/VERSION/MLmodel                          mlflow.onnx reads it next to the graph; a server ignores it

Its flavors are `onnx` and `python_function`, which load `model.onnx` with MLflow's own code, and `kanserve`, which has
name and version. MLflow is imported at the first use. It is the extra `mlflow`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.bundle.publish import Result
from kanexport.bundle.repository import CONFIG_BYTES, CONFIG_FILE, FILE
from kanexport.errors import RepositoryError
from kanexport.shared import manifest as manifests
from kanexport.shared import safe_files
from kanexport.shared.cli.suggest import how_to_install
from kanexport.shared.manifest import Manifest, ManifestError, TensorSpec

FLAVOR = "kanserve"
COPY_AGAIN = "copy the version folder again, or export the model again"
EXAMPLE_ROWS = 5
LARGEST = 2**40  # bytes of a file; its size in the manifest is the limit
DATATYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool"}
DATATYPES |= {f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
PROVIDERS = ["CPUExecutionProvider"]  # a graph of float32 gives equal outputs there


def log_model(
    version: str | os.PathLike[str] | Result,
    *,
    name: str = "",
    registered_model_name: str | None = None,
    **options: Any,
) -> Any:
    """Log an exported version to the active run of MLflow. Returns the `mlflow.models.model.ModelInfo`.

    `mlflow.onnx.load_model` and `mlflow.pyfunc.load_model` load it. The model has a signature, and reference rows of
    the export as input example. If `registered_model_name` is set, the new registered version has the tags
    `kanserve.model` and `kanserve.version`.

    version                a version folder, such as models/hello/2, or the result of an export
    name                   of the logged model; default: that of the version
    registered_model_name  a model of the registry that gets a new version; default: none
    options                further arguments of `mlflow.models.Model.log`, such as `params` and `tags`

    Raises ImportError without MLflow, and RepositoryError if a file of the version differs from its manifest.
    """
    mlflow = _needed()
    directory, manifest = _read(version)
    info = mlflow.models.Model.log(
        artifact_path=None,
        name=name or manifest.name,
        flavor=sys.modules[__name__],
        flavor_name=FLAVOR,
        registered_model_name=registered_model_name,
        version=directory,
        **options,
    )
    if registered_model_name is not None:
        client = mlflow.MlflowClient()
        for key, value in _facts(manifest).items():
            client.set_model_version_tag(registered_model_name, info.registered_model_version, f"kanserve.{key}", value)
    return info


def save_model(
    version: str | os.PathLike[str] | Result, path: str | os.PathLike[str], mlflow_model: Any = None, **_: Any
) -> None:
    """Write an exported version to the new folder `path` as a model of MLflow, without a tracking server.

    `mlflow_model`: metadata to complete, which `Model.log` passes. Raises what `log_model` raises.
    """
    mlflow = _needed()
    directory, manifest = _read(version)
    root = Path(path)
    place = Path(manifest.name, str(manifest.version))
    (root / place).mkdir(parents=True)
    _copy(directory, manifest, root / place)
    model = mlflow.models.Model() if mlflow_model is None else mlflow_model
    model.signature = _signature(manifest)
    if (example := _example(manifest)) is not None:
        mlflow.models.utils._save_example(model, example, str(root))  # the flavors of MLflow and others call it too
    _add_flavors(mlflow, model, manifest, place)
    _write_environment(root)
    model.save(str(root / "MLmodel"))
    model.save(str(root / place / "MLmodel"))


def _needed() -> Any:
    """The package mlflow. Raises ImportError with the command that installs it."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # MLflow runs the example with ONNX Runtime; see shared/ort.py
    try:
        import mlflow
        import mlflow.models
        import mlflow.models.utils
        import mlflow.pyfunc
    except ModuleNotFoundError as error:
        reason = f"kanexport.contrib.mlflow needs the package {error.name}, which is not installed"
        raise ImportError(f"{reason}: {how_to_install('mlflow')}", name=error.name) from error
    return mlflow


def _read(version: str | os.PathLike[str] | Result) -> tuple[Path, Manifest]:
    """The folder of a version, and its manifest. Raises RepositoryError."""
    directory = version.directory if isinstance(version, Result) else Path(version)
    try:
        return directory, manifests.load(directory)
    except ManifestError as error:
        raise RepositoryError(f"{directory}: {error}", code=error.code, hint=error.hint) from error
    except OSError as error:
        raise RepositoryError(
            f"{directory} is not a version folder: {error.strerror or error}, expected a {manifests.FILE_NAME}",
            code="version-not-readable",
            hint="name the folder of an exported version, such as models/hello/1",
        ) from error


def _copy(directory: Path, manifest: Manifest, target: Path) -> None:
    """Copy the files of a version, each compared with its hash, and the config.pbtxt of its model. Raises
    RepositoryError."""
    for entry in manifest.files:
        if os.path.basename(entry.path) != entry.path:
            raise RepositoryError(
                f"the manifest lists {entry.path!r}, expected a plain file name",
                code="manifest-file-name-invalid",
                hint=COPY_AGAIN,
            )
        data = _bytes(directory / entry.path, entry.size)
        if (digest := hashlib.sha256(data).hexdigest()) != entry.sha256:
            raise RepositoryError(
                f"{directory / entry.path} has sha256 {digest}, the manifest has {entry.sha256}",
                code="file-hash-differs",
                hint=COPY_AGAIN,
            )
        safe_files.create(target / entry.path, [data], mode=FILE)
    about = _bytes(directory / manifests.FILE_NAME, manifests.SIZE_LIMIT)
    safe_files.create(target / manifests.FILE_NAME, [about], mode=FILE)
    if (directory.parent / CONFIG_FILE).is_file():
        config = _bytes(directory.parent / CONFIG_FILE, CONFIG_BYTES)
        safe_files.create(target.parent / CONFIG_FILE, [config], mode=FILE)


def _bytes(path: Path, most: int) -> bytes:
    """The bytes of a file. Raises RepositoryError."""
    try:
        return safe_files.read(path, min(most, LARGEST))
    except OSError as error:
        reason = error.reason if isinstance(error, safe_files.UnsafeFile) else f"cannot be read: {error.strerror}"
        raise RepositoryError(f"{path} {reason}", code="file-not-readable", hint=COPY_AGAIN) from error


def _signature(manifest: Manifest) -> Any:
    """The ModelSignature. A single input has no name in it, so that MLflow accepts arrays."""
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Schema

    bare = len(manifest.inputs) == 1
    inputs = [_tensor(tensor, "" if bare else tensor.name) for tensor in manifest.inputs]
    return ModelSignature(Schema(inputs), Schema([_tensor(tensor, tensor.name) for tensor in manifest.outputs]))


def _tensor(tensor: TensorSpec, name: str) -> Any:
    from mlflow.types.schema import TensorSpec as Spec

    return Spec(np.dtype(DATATYPES[tensor.datatype]), tuple(tensor.shape), name or None)


def _example(manifest: Manifest) -> Any:
    """Some reference rows of the export: an array for a single input, otherwise arrays by name; None without rows."""
    rows = manifest.reference.inputs[:EXAMPLE_ROWS]
    if not rows:
        return None
    named = _split(np.asarray(rows, np.float64), manifest.inputs)
    return next(iter(named.values())) if len(named) == 1 else named


def _split(flat: np.ndarray[Any, Any], tensors: Sequence[TensorSpec]) -> dict[str, np.ndarray[Any, Any]]:
    """The values of each tensor, [R, ...], from rows with all their values, [R, n]."""
    parts, begin = {}, 0
    for tensor in tensors:
        end = begin + math.prod(tensor.shape[1:])
        part = flat[:, begin:end].reshape(len(flat), *tensor.shape[1:])
        parts[tensor.name], begin = part.astype(DATATYPES[tensor.datatype]), end
    return parts


def _add_flavors(mlflow: Any, model: Any, manifest: Manifest, place: Path) -> None:
    data = str(place / manifests.MODEL_FILE)
    env = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
    mlflow.pyfunc.add_to_model(
        model, loader_module="mlflow.onnx", data=data, conda_env=env["conda"], python_env=env["virtualenv"]
    )
    model.add_flavor("onnx", onnx_version=_installed("onnx"), data=data, providers=PROVIDERS)
    model.add_flavor(FLAVOR, data=str(place), kanserve_version=manifest.exporter_version, **_facts(manifest))


def _facts(manifest: Manifest) -> dict[str, str]:
    return {"model": manifest.name, "version": str(manifest.version)}


def _installed(package: str) -> str:
    """The version of a package; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _write_environment(root: Path) -> None:
    """Write the files that name the packages for loading the model. They are JSON, which is also YAML."""
    packages = ("mlflow", "mlflow-skinny", "onnx", "onnxruntime", "numpy", "pandas")
    pinned = [f"{package}=={number}" for package in packages if (number := _installed(package))]
    python = platform.python_version()
    files = {
        "requirements.txt": "\n".join(pinned) + "\n",
        "python_env.yaml": json.dumps(
            {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
        ),
        "conda.yaml": json.dumps(
            {
                "name": "mlflow-env",
                "channels": ["conda-forge"],
                "dependencies": [f"python={python}", "pip", {"pip": pinned}],
            }
        ),
    }
    for name, text in files.items():
        safe_files.create(root / name, [text.encode()], mode=FILE)
