"""Layers of a network for pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanserve.plotting import scenes
from kanserve.plotting.scenes import Curve, Layer, Network, Scene

X = np.linspace(-1, 1, 33)


def layer(sources: int, destinations: int, groups: tuple[int, ...] = (), seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    shape = (sources, destinations)
    curves = {(i, j): Curve(X, np.sin(X * (i + 1)) + j) for i in range(sources) for j in range(destinations)}
    return Layer(
        rng.uniform(0.1, 1, shape),
        np.zeros(shape, bool),
        np.ones(shape, bool),
        tuple(range(sources)),
        groups or (1,) * destinations,
        curves if sources * destinations <= scenes.CURVES else {},
    )


def made(*layers: Layer, inputs: int = 0) -> Network:
    names = tuple(f"x{at}" for at in range(inputs or len(layers[0].columns)))
    outputs = tuple(f"y{at}" for at in range(len(layers[-1].groups)))
    return Network("net <1> & more", "what it means", names, outputs, layers)


def of(scene: Scene, kind: type) -> list[Any]:
    """The elements of one kind."""
    return [item for item in scene.items if isinstance(item, kind)]
