"""Writer of golden cases: a checkpoint as safetensors, the library's values, and their description.

The generators in this folder call `write`. If a library saves its own files, the generator saves the model
first and omits the tensors. README.md in the parent folder describes the files.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

Array = npt.NDArray[Any]

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
FAR = (5.0, 30.0)  # times the largest input in training


@dataclass(frozen=True)
class LayerTrace:
    """Float64 values of one layer of the library: inputs [B, n], edges [B, n, m], bias [m]."""

    inputs: Array
    edges: Array
    bias: Array | None = None

    @property
    def sums(self) -> Array:
        """[B, m]: the edges of every destination, and the bias."""
        return np.asarray(self.edges.sum(axis=1) + (0 if self.bias is None else self.bias))


def rows(
    rng: np.random.Generator, low: float, high: float, points: Array, columns: int
) -> tuple[Array, dict[str, list[int]]]:
    """Rows [B, columns] of float32, and their numbers by group: inside the range of training,
    beside it, on the points of the basis, far outside, and on the ends of the range."""
    span = high - low
    points = np.linspace(low, high, 9) if not len(points) else points
    parts = {
        "inside": rng.uniform(low, high, size=(32, columns)),
        "extension": rng.uniform(low - span / 2, high + span / 2, size=(8, columns)),
        "knots": np.stack([np.roll(points, at) for at in range(columns)], axis=1),
        "far": np.array([[sign * factor * max(abs(low), abs(high))] * columns for factor in FAR for sign in (1, -1)]),
        "ends": np.array([[low] * columns, [high] * columns, [0.0] * columns]),
    }
    groups, start = {}, 0
    for name, part in parts.items():
        groups[name] = list(range(start, start + len(part)))
        start += len(part)
    return np.concatenate(list(parts.values())).astype(np.float32), groups


def write(
    name: str,
    *,
    x: Array,
    groups: dict[str, list[int]],
    layers: list[LayerTrace],
    facts: dict[str, Any],
    tensors: dict[str, Array] | None = None,
    y: Array | None = None,
) -> Path:
    """Write a case and return its folder. `y` [B, m]: the output in float64, where more follows the last sum."""
    folder = CHECKPOINTS / name
    folder.mkdir(parents=True, exist_ok=True)
    if tensors is not None:
        stored = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        (folder / "model.safetensors").write_bytes(safetensors.numpy.save(stored))
    reference = {"x": x, "y64": layers[-1].sums if y is None else y}
    for at, layer in enumerate(layers):
        reference |= {f"layer{at}_in": layer.inputs, f"layer{at}_edges": layer.edges, f"layer{at}_pre": layer.sums}
    np.savez(folder / "reference.npz", **reference)
    known = {"name": name, "dtype": "float32", "tolerance_rel": 1e-5, "rows": len(x), "layers": len(layers)}
    listed = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != "case.json"
    }
    document = {"export_args": [], **known, **facts, "row_groups": groups, "files": listed}
    (folder / "case.json").write_text(json.dumps(document, indent=1) + "\n")
    return folder
