"""Exports and plans of torch modules, and the comparison of graphs with modules in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kanexport.bundle.publish import Result, Target
from kanexport.torch_export import plan as planning
from kanexport.torch_export.borrowed_module import lent, plain, unwrapped
from kanexport.torch_export.capture import ReferenceModule
from kanexport.torch_export.convert import convert
from kanexport.torch_export.kan_candidates import Whole, shown
from kanexport.torch_export.plan import Plan
from tests.support.exported_graphs import run
from tests.support.golden_cases import OUTPUT_TOLERANCE, relative_error


def draw(*shape: int, rows: int = 9, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    """Normal float32 rows of a shape."""
    return np.random.default_rng(seed).normal(scale=scale, size=(rows, *shape)).astype(np.float32)


def export(module: Any, example: Any, folder: Path, *, options: dict[str, str] | None = None, **more: Any) -> Result:
    """Version 1 of the model m in the repository `folder`."""
    return convert(module, example, Target(repository=folder, name="m", **more), options=options or {})


def exact(module: Any, x: np.ndarray) -> np.ndarray:
    """The output of a module in float64. torch's fast path of its own blocks would leave out replaced layers."""
    with torch.no_grad(), plain(torch.float64):
        return module.eval().double()(torch.from_numpy(x).double()).numpy()


def require_alike(result: Result, module: Any, *counts: int, scale: float = 1.0) -> None:
    """The graph gives what the module gives, for batches of so many rows."""
    for count in counts or (5,):
        x = draw(*result.manifest.input.shape[1:], rows=count, seed=count, scale=scale)
        actual = run(result.directory / "model.onnx", {"x": x})["y"]
        assert relative_error(actual, exact(module, x)) <= OUTPUT_TOLERANCE


def edges_of(result: Result, at: int, vectors: np.ndarray) -> np.ndarray:
    """The edges of a layer [vectors, sources, destinations] for vectors of any leading axes."""
    layer = result.manifest.layers[at]
    feeds = {layer.node_tensor: vectors.reshape(-1, layer.sources)}
    return run(result.directory / layer.edges_file, feeds)[layer.edges_tensor]


def names(result: Result) -> list[str]:
    """The names of the layers with edges."""
    return [layer.name for layer in result.manifest.layers]


def kinds(result: Result) -> list[tuple[str, str]]:
    """Each layer's name and the kind of its first basis."""
    return [(layer.name, layer.bases[0].kind) for layer in result.manifest.layers]


def plan(module: Any, rows: np.ndarray, **options: str) -> Plan:
    """The plan of a module; no graph is built."""
    whole, rows = Whole(unwrapped(module)), rows.astype(np.float64)
    oracle = ReferenceModule.of(whole, rows)
    with lent(whole, oracle.dtype):
        return planning.make(whole, oracle, rows, options)


def families(actual: Plan) -> dict[str, str]:
    """The reader of each layer, by the layer's name."""
    return {shown(name): reading.family for name, reading in actual.readings.items()}
