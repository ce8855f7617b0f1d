"""The matrix's network as a torch module: efficient-kan's parameters and layout, with uniform or adapted knots.

The weights are random, scaled so that hidden values stay near the grid. One module gives the checkpoint that kanexport
reads, the graph that torch exports, torch's predictions, and the float64 reference for all systems.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

DEGREE = 3
REACH = 0.5  # of the weights, so that hidden values stay near the grid
UNEVEN = (0.3, 1.0)  # between these the cells of adapted knots differ, before they are stretched over the grid
MOST = 4096  # rows of a run of what torch exports


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of the layers, grid intervals, and whether the knots are adapted to data."""

    widths: tuple[int, ...]
    cells: int = 5
    adapted: bool = False

    def __str__(self) -> str:
        return f"{list(self.widths)}, G = {self.cells}"

    @property
    def edges(self) -> int:
        """Number of edges, which each row evaluates once."""
        return sum(n * m for n, m in itertools.pairwise(self.widths))

    @property
    def parameters(self) -> int:
        """A coefficient for every function of an edge, its scale, and its base weight."""
        return self.edges * (self.cells + DEGREE + 2)


class Layer(torch.nn.Module):
    """One layer of n inputs and m outputs, with efficient-kan's tensor names."""

    def __init__(self, n: int, m: int, shape: Shape) -> None:
        super().__init__()
        size, count = REACH / n**0.5, shape.cells + DEGREE
        self.register_buffer("grid", _knots(n, shape))
        self.base_weight = torch.nn.Parameter(torch.randn(m, n) * size)
        self.spline_weight = torch.nn.Parameter(torch.randn(m, n, count) * size)
        self.spline_scaler = torch.nn.Parameter(torch.rand(m, n) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, n] -> [B, m]: silu(x) times the base weights, plus the splines."""
        t = self.grid
        u = x.unsqueeze(-1)
        basis = ((u >= t[:, :-1]) & (u < t[:, 1:])).to(x.dtype)  # [B, n, K]
        for p in range(1, DEGREE + 1):
            left = (u - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1]) * basis[..., :-1]
            right = (t[:, p + 1 :] - u) / (t[:, p + 1 :] - t[:, 1:-p]) * basis[..., 1:]
            basis = left + right
        weight = self.spline_weight * self.spline_scaler.unsqueeze(-1)
        spline = functional.linear(basis.flatten(1), weight.flatten(1))
        return functional.linear(functional.silu(x), self.base_weight) + spline


def _knots(n: int, shape: Shape) -> torch.Tensor:
    """[n, G + 2 k + 1] from -1 to 1, and k evenly on either side: as efficient-kan and pykan extend a grid that was
    adapted to data."""
    step = 2 / shape.cells
    if not shape.adapted:
        return (torch.arange(-DEGREE, shape.cells + DEGREE + 1) * step - 1).expand(n, -1).contiguous()
    low, high = UNEVEN
    gaps = torch.rand(n, shape.cells) * (high - low) + low
    inner = torch.cumsum(2 * gaps / gaps.sum(1, keepdim=True), dim=1)[:, :-1] - 1
    outer = torch.arange(DEGREE + 1) * step
    return torch.cat([(outer.flip(0) * -1 - 1).expand(n, -1), inner, (outer + 1).expand(n, -1)], dim=1)


class Network(torch.nn.Module):
    """A stack of layers, with the state dict of an efficient-kan model."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(n, m, shape) for n, m in itertools.pairwise(shape.widths)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, widths[0]] -> [B, widths[-1]]."""
        for layer in self.layers:
            x = layer(x)
        return x


def network(shape: Shape) -> Network:
    """Always the same weights."""
    torch.manual_seed(0)
    return Network(shape).eval()


def rows(width: int, count: int) -> NDArray[np.float32]:
    """[count, width], evenly inside the grid; always the same."""
    return np.random.default_rng(1).uniform(-1, 1, (count, width)).astype(np.float32)


def exactly(module: torch.nn.Module, x: NDArray[np.floating]) -> NDArray[np.float64]:
    """The module's outputs in float64, computed by torch."""
    torch.set_default_dtype(torch.float64)  # of what it makes on the way
    try:
        with torch.inference_mode():
            result: NDArray[np.float64] = copy.deepcopy(module).double()(torch.from_numpy(x.astype(np.float64))).numpy()
    finally:
        torch.set_default_dtype(torch.float32)
    return result


def save(module: torch.nn.Module, folder: Path) -> Path:
    """As a user would."""
    path = folder / "model.pt"
    torch.save(module.state_dict(), path)
    return path


def exported(module: torch.nn.Module, width: int, keep: Path) -> bytes:
    """The ONNX model that torch makes, with a free batch axis. It takes up to a minute, so it is kept in the folder, by
    the module's code and weights and the versions of those who made it."""
    path = keep / "exported" / f"{_digest(module)}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        batch = torch.export.Dim("batch", min=1, max=MOST)
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                module, (torch.zeros(2, width),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
            )
            target = Path(folder) / path.name
            program.save(str(target), external_data=False)
            target.replace(path)
    return path.read_bytes()


def _digest(module: torch.nn.Module) -> str:
    digest = hashlib.sha256(f"{torch.__version__} {metadata.version('onnxscript')} {module}".encode())
    for kind in dict.fromkeys(type(part) for part in module.modules()):
        digest.update(Path(inspect.getfile(kind)).read_bytes())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    return digest.hexdigest()[:24]


def depths(shape: Shape) -> Sequence[tuple[int, int]]:
    """For each layer's matrix product, the number of values in each sum and the number of outputs."""
    return [(n * (shape.cells + DEGREE + 1), m) for n, m in itertools.pairwise(shape.widths)]
