"""Small checkpoints that tests write, export, and compare with formulas in loops."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from scipy import special

from kanexport.bundle.publish import Result
from kanexport.detection import detect
from kanexport.errors import ExportError
from kanexport.formats import checkpoint
from kanexport.ir.model import Kan
from kanexport.options import KnownFacts, Options
from kanexport.pipeline import Request, export
from kanexport.shared.manifest import Manifest, Source
from kanexport.verify import float64_reference
from tests.kanexport.conftest import PykanCheckpoint

Tensors = dict[str, Any]
# Options that a reader assumes for each network, independent of its layers.
AROUND = ("forward", "architecture", "flow", "between", "before", "after")
# From a layer's tensors in float64 and one row of its sources to its edges [I][O].
Edges = Callable[[Tensors, list[float]], Sequence[Sequence[float]]]


def silu(u: float) -> float:
    return u / (1 + math.exp(-u))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def floats(tensors: Tensors, kind: str = "float32") -> Tensors:
    return {key: np.asarray(value, kind) for key, value in tensors.items()}


def layernorm(part: Tensors, row: Sequence[float], name: str = "layernorm") -> list[float]:
    """A row, normalised with the weights of that name."""
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row) + 1e-5)
    scale, bias = part[f"{name}.weight"], part[f"{name}.bias"]
    return [float((v - mean) / deviation * s + b) for v, s, b in zip(row, scale, bias, strict=True)]


def spline(x: float, t: Sequence[float], c: int, k: int) -> float:
    """Cox-de Boor for one basis function, on half-open cells; 0 / 0 counts as 0."""
    if k == 0:
        return float(t[c] <= x < t[c + 1])
    left = (x - t[c]) / (t[c + k] - t[c] or 1) * spline(x, t, c, k - 1)
    right = (t[c + k + 1] - x) / (t[c + k + 1] - t[c + 1] or 1)
    return float(left + right * spline(x, t, c + 1, k - 1))


def save(folder: Path, tensors: Tensors) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(safetensors.numpy.save({key: np.array(value, order="C") for key, value in tensors.items()}))
    return path


def stacked(layers: Sequence[Tensors], prefix: str = "layers.") -> Tensors:
    """The layers' tensors under `prefix` and their numbers."""
    return {f"{prefix}{at}.{key}": value for at, layer in enumerate(layers) for key, value in layer.items()}


def under(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): v.astype(np.float64) for key, v in tensors.items() if key.startswith(prefix)}


@dataclasses.dataclass(frozen=True)
class Reading:
    """The network that a checkpoint is read as, its family, and the options, with the facts that the reader assumed."""

    kan: Kan
    family: str
    options: Options

    @property
    def assumed(self) -> dict[str, str]:
        """The assumptions about the layers."""
        return {key: value for key, value in self.options.assumed.items() if key not in AROUND}

    @property
    def basis(self) -> Any:
        """The first basis of the first layer."""
        return self.kan.layers[0].terms[0].basis


def reading(path: Path, *options: str, family: str | None = None, symbolic: Sequence[str] = ()) -> Reading:
    loaded, parsed = checkpoint.load(path), Options(KnownFacts.parse(options, symbolic=symbolic))
    reader, _ = detect.detect(loaded, family)
    return Reading(detect.read(reader, loaded, parsed), reader.FAMILY, parsed)


def read(path: Path, *options: str) -> tuple[Kan, str]:
    """The network, and the family that its tensors were recognised as."""
    result = reading(path, *options)
    return result.kan, result.family


def check(
    path: Path, tensors: Tensors, edges: Edges, *options: str, prefixes: Sequence[str] = ("",), bias: str = ""
) -> Reading:
    """Compare each edge and each sum of a saved checkpoint with `edges`.

    `bias` names the tensor that the layer adds to the sums. `exported` also compares the graphs.
    """
    result = reading(path, *options)
    result.options.finish(result.family)
    kan = result.kan
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
    return result


def exported(path: Path, *options: str, **more: Any) -> Manifest:
    """The manifest of an export, which verifies the graphs."""
    request = Request(path=path, repository=path.parent / "models", options=options, force=True, **more)
    return export(request).manifest


def beside_forward(source: Source) -> dict[str, str]:
    """Return the assumptions about the layers, without those about the forward variant and the network around them."""
    return {key: value for key, value in source.options_assumed.items() if key not in AROUND}


def refuse(folder: Path, tensors: Tensors, *options: str, **more: Any) -> ExportError:
    """`refused` for a file of these tensors."""
    return refused(save(folder, tensors), *options, **more)


def refused(
    path: Path,
    *options: str,
    kind: type[ExportError] | UnionType = ExportError,
    said: str | Sequence[str] = (),
    hint: str = "",
    **more: Any,
) -> ExportError:
    """The error of an export that leaves nothing behind: of a kind, with one or more texts that it says, and with a
    part of its hint."""
    folder = path.parent / "no"
    with pytest.raises(ExportError) as caught:
        export(Request(path=path, repository=folder, options=options, **more))
    assert not folder.exists()
    assert isinstance(caught.value, kind)
    texts = [said] if isinstance(said, str) else said
    assert not [text for text in texts if text not in caught.value.message], caught.value.message
    assert hint in caught.value.hint
    return caught.value


def chebyshev(coef: Any, u: Any) -> Any:
    """Coefficients [I, O, K] and what the polynomials are taken of, [B, I]."""
    values = np.stack([special.eval_chebyt(d, u) for d in range(coef.shape[2])], axis=2)
    return np.einsum("bid,iod->bo", values, coef.astype(np.float64))


def decided(path: Path, x: Any, y: Any, *options: str, architecture: str = "", **more: Any) -> Result:
    """An export that recorded outputs decide."""
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
            **more,
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


def layer(
    n: int, m: int, seed: int = 0, *, k: int = 3, g: int = 4, scaler: bool = True, uniform: bool = False
) -> dict[str, Any]:
    """Tensors of one KANLinear, with separate knots for each input."""
    rng = np.random.default_rng(seed)
    gaps = np.full((n, g + 2 * k), 0.5) if uniform else rng.uniform(0.2, 0.9, size=(n, g + 2 * k))
    knots = np.cumsum(np.concatenate([np.full((n, 1), -2.5), gaps], axis=1), axis=1)
    tensors = {
        "base_weight": rng.normal(size=(m, n)),
        "spline_weight": rng.normal(size=(m, n, g + k)),
        "grid": knots,
        "spline_scaler": rng.normal(size=(m, n)),
    }
    if not scaler:
        del tensors["spline_scaler"]
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def model(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for prefix, tensors in parts.items() for key, value in tensors.items()}
