"""Small checkpoints that tests write, export, and compare with formulas in loops."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from scipy import special

from kanexport.bundle.publish import Result
from kanexport.contract.manifest import Manifest, Source
from kanexport.detection import detect
from kanexport.errors import ExportError
from kanexport.formats import checkpoint
from kanexport.ir.model import Kan
from kanexport.options import Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference
from tests.kanexport.conftest import PykanCheckpoint

Tensors = dict[str, Any]
# Options that a reader assumes for each network, independent of its layers.
AROUND = ("forward", "architecture", "flow", "between", "before", "after")
# From a layer's tensors in float64 and one row of its sources to its edges [I][O].
Edges = Callable[[Tensors, list[float]], Sequence[Sequence[float]]]


def silu(u: float) -> float:
    return u / (1 + math.exp(-u))


def save(folder: Path, tensors: Tensors) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(safetensors.numpy.save({key: np.array(value, order="C") for key, value in tensors.items()}))
    return path


def stacked(layers: Sequence[Tensors], prefix: str = "layers.") -> Tensors:
    """The layers' tensors under `prefix` and their numbers."""
    return {f"{prefix}{at}.{key}": value for at, layer in enumerate(layers) for key, value in layer.items()}


def under(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): v.astype(np.float64) for key, v in tensors.items() if key.startswith(prefix)}


def read(path: Path, *options: str) -> tuple[Kan, str]:
    """The network, and the family that its tensors were recognised as."""
    loaded = checkpoint.load(path)
    reader, _ = detect.detect(loaded, None)
    return detect.read(reader, loaded, Options.parse(options)), reader.FAMILY


def check(
    path: Path, tensors: Tensors, edges: Edges, *options: str, prefixes: Sequence[str] = ("",), bias: str = ""
) -> Manifest:
    """Compare each edge and each sum of a saved checkpoint with `edges`, then export it, which verifies the graphs.

    `bias` names the tensor that the layer adds to the sums. The manifest lists the assumptions about the layers.
    """
    kan, family = read(path, *options)
    trace = float64_reference.evaluate(kan, np.random.default_rng(5).uniform(-3, 3, size=(12, kan.n_inputs)))
    sums = [*trace.inputs[1:], trace.y]
    for layer, prefix, nodes, after in zip(kan.layers, prefixes, trace.inputs, sums, strict=True):
        part = under(tensors, prefix)
        actual = np.concatenate([values for _, values, _ in float64_reference.edges(layer, nodes)])
        expected = np.array([edges(part, row) for row in nodes.tolist()])
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        total = expected.sum(axis=1) + part.get(bias, 0)
        np.testing.assert_allclose(after, total, rtol=0, atol=1e-11 * max(1.0, np.abs(total).max()))
    result = export(Request(path=path, repository=path.parent / "models", options=options, force=True))
    assert result.manifest.source.family == family
    own = beside_forward(result.manifest.source)
    return dataclasses.replace(result.manifest, source=dataclasses.replace(result.manifest.source, options_assumed=own))


def beside_forward(source: Source) -> dict[str, str]:
    """Return the assumptions about the layers, without those about the forward variant and the network around them."""
    return {key: value for key, value in source.options_assumed.items() if key not in AROUND}


def refuse(folder: Path, tensors: Tensors, *options: str, family: str | None = None) -> ExportError:
    """The error of an export that leaves nothing behind."""
    with pytest.raises(ExportError) as caught:
        export(Request(path=save(folder, tensors), repository=folder / "no", options=options, family=family))
    assert not (folder / "no").exists()
    return caught.value


def chebyshev(coef: Any, u: Any) -> Any:
    """Coefficients [I, O, K] and what the polynomials are taken of, [B, I]."""
    values = np.stack([special.eval_chebyt(d, u) for d in range(coef.shape[2])], axis=2)
    return np.einsum("bid,iod->bo", values, coef.astype(np.float64))


def decided(path: Path, x: Any, y: Any, *options: str, architecture: str = "") -> Result:
    np.savez(path.parent / "outputs.npz", x=x, y=y)
    if architecture:
        (path.parent / "layers.toml").write_text(architecture)
    return export(
        Request(
            path=path,
            repository=path.parent / "models",
            options=options,
            expected_outputs=(path.parent / "outputs.npz",),
            architecture=path.parent / "layers.toml" if architecture else None,
            force=True,
        )
    )


def network(seed: int, *, products: bool) -> PykanCheckpoint:
    """A pykan model with affine nodes, a symbolic edge and a masked edge; `products` adds product nodes."""
    width: list[Any] = [3, (2, 2), (1, 1)] if products else [3, 4, 2]
    toy = PykanCheckpoint(width, **({"arity": [[], [2, 3], [2]]} if products else {}))
    toy.rng = np.random.default_rng(seed)
    for name, values in toy.tensors.items():
        if name.startswith(("node_", "subnode_")):
            values[:] = toy.rng.uniform(0.3, 1.5, size=values.shape)
    toy.symbolic(0, 1, 0, "sin", (1.3, 0.2, 0.7, 0.1))
    toy.tensors["act_fun.0.mask"][2, 1] = 0
    return toy
