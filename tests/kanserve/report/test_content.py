"""Tests of `report/content.py`."""

from dataclasses import replace

import numpy as np

from kanexport.shared.manifest import SymbolicEdge
from kanserve.plotting import scenes
from kanserve.plotting.scenes import BLACK
from kanserve.report import content
from tests.support import toy_model


def test_edges_are_coloured_as_in_the_network() -> None:
    edge = SymbolicEdge(source=0, destination=1, function="sin", a=1.0, b=0.0, c=1.0, d=0.0, mask=1.0)
    layer = toy_model.manifest("toy").layers[0]
    mask = tuple(
        tuple(float((row + column) % 2) for column in range(layer.destinations)) for row in range(layer.sources)
    )
    for item in (layer, replace(layer, mask=mask), replace(layer, mask=mask, symbolic=(edge,))):
        symbolic, numeric = content.kinds(item)
        whole = scenes.Layer(np.ones(symbolic.shape), symbolic, numeric, (), ())
        for source, destination in np.ndindex(symbolic.shape):
            expected = whole.colour(source, destination) or BLACK
            assert content.colour(item, source, destination) == expected
