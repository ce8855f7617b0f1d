"""State of one efficient-kan layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy


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


def save(folder: Path, tensors: dict[str, Any]) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(safetensors.numpy.save({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
    return path


def model(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for prefix, tensors in parts.items() for key, value in tensors.items()}
