"""Order of layers: derived from numbers or widths, never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kanexport.errors import FamilyError, OpenQuestion
from tests.support.small_checkpoints import Tensors, floats, normal, read, refuse, save


def named(**layers: tuple[int, int]) -> Tensors:
    """RBF-KAN layers of those names and widths."""
    tensors: Tensors = {}
    for name, (n, m) in layers.items():
        tensors[f"{name.replace('_', '.')}.rbf_linear.grid"] = np.linspace(-1, 1, 3)
        tensors[f"{name.replace('_', '.')}.rbf_linear.spline_weight"] = normal(0, n * 3, m)
    return floats(tensors)


def widths(path: Path) -> list[tuple[int, int]]:
    return [(layer.sources, layer.destinations) for layer in read(path)[0].layers]


def test_numbers_tell_or_else_widths(tmp_path: Path) -> None:
    tensors = named(kan11=(3, 2), kan10=(4, 3), kan9=(2, 4))
    assert widths(save(tmp_path, tensors)) == [(2, 4), (4, 3), (3, 2)]
    assert widths(save(tmp_path, named(decoder=(2, 5), encoder=(3, 2)))) == [(3, 2), (2, 5)]


@pytest.mark.parametrize(
    "layers",
    [
        {"encoder": (4, 2), "decoder": (2, 4)},  # either may come first
        {"linear_q": (4, 4), "linear_k": (4, 4), "linear_v": (4, 4)},  # side by side
        {"left": (3, 2), "right": (3, 2)},
        {"kan": (3, 3), "kan2": (3, 3)},
    ],
)
def test_nothing_else_does(tmp_path: Path, layers: dict[str, tuple[int, int]]) -> None:
    refuse(
        tmp_path,
        named(**layers),
        kind=FamilyError | OpenQuestion,
        said="does not record the order",
        hint="--architecture",
    )
    first = next(iter(layers))
    path = tmp_path / "model.safetensors"
    assert read(path, f"prefix={first.replace('_', '.')}.")[0].widths() == layers[first]
