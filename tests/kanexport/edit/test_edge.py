"""Curves of single edges, compared with the float64 reference of the whole layer, and edges that cannot be edited."""

import dataclasses

import numpy as np
import pytest

from kanexport.edit import edge as edges
from kanexport.errors import ExportError
from kanexport.verify import float64_reference
from tests.support.golden_cases import network

NAMES = "pykan-hello-adapted", "pykan-hello-symbolic", "efficient-kan-wine-update-grid", "wav-kan-mexican-hat-wine"


@pytest.mark.parametrize("name", NAMES)
def test_a_curve_has_the_values_of_the_reference(name: str) -> None:
    kan = network(name)
    for at, layer in enumerate(kan.layers):
        layer = dataclasses.replace(layer, pre_steps=())  # the argument of a curve is what the edges read
        low, high = layer.support().outer
        x = np.linspace(np.maximum(low, -30), np.minimum(high, 30), 40)
        expected = np.concatenate([values for _, values, _ in float64_reference.edges(layer, x)])
        active = layer.active()
        for source, destination in np.argwhere(active)[:: max(1, active.sum() // 8)]:
            own = edges.find(kan, (at, int(source), int(destination))).values(x[:, source])
            target = expected[:, source, destination]
            np.testing.assert_allclose(own, target, rtol=1e-9, atol=1e-12)


def test_an_edge_that_cannot_be_edited_is_named() -> None:
    adapted, pruned = network("pykan-hello-adapted"), network("pykan-pruned-edges")
    source, destination = (int(n) for n in np.argwhere(~pruned.layers[0].active())[0])
    for kan, at, message, code in (
        (adapted, (2, 0, 0), "no layer 2, expected 0 to 1", "edge-unknown"),
        (adapted, (0, 2, 0), "layer 0 has 2 sources and 5 destinations", "edge-unknown"),
        (adapted, (0, 0, 5), "layer 0 has 2 sources and 5 destinations", "edge-unknown"),
        (network("fastkan-digits"), (0, 0, 0), "normalizes each row", "edge-class-b"),
        (pruned, (0, source, destination), "pruned or zero", "edge-inactive"),
    ):
        with pytest.raises(ExportError, match=message) as error:
            edges.find(kan, at)
        assert error.value.code == code
        assert error.value.hint
