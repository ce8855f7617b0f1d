"""Scalers as steps: precision at large offsets, limits of float32, and the units of a verification."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from kanexport.bundle import description
from kanexport.errors import InvalidKan, OptionError, VerificationFailed
from kanexport.ir import scaling
from kanexport.ir.model import Kan
from kanexport.ir.scaling import Standardize
from kanexport.lowering import lower
from kanexport.shared import grids
from kanexport.shared.sections import Scaler, Scalers
from kanexport.verify import float64_reference, verify
from kanexport.verify.float64_reference import Jitter
from tests.support.conformance import Emitted
from tests.support.golden_cases import network
from tests.support.tiers import spread


def scaler(offset: Any, scale: Any) -> Scaler:
    return Scaler(kind="standard", offset=tuple(offset), scale=tuple(scale), name="s.json")


@pytest.fixture(scope="module")
def kan() -> Kan:
    """Trained network with 13 inputs and 3 outputs."""
    return network("efficient-kan-wine-update-grid")


def test_no_digits_are_lost_at_a_large_offset() -> None:
    """Inputs are exact in float32. The offset is not, and x * a + b in float32 is off by 0.6 of a scale."""
    offset, scale = np.array([1e6 + 0.3, -4097.123]), np.array([0.1, 3.0])
    step = Standardize(offset, scale)
    x = (np.array([[-3.0, 0.0], [0.0, 1.0], [5.0, -2.0]]) * scale + offset).astype(np.float32)
    exact = (x.astype(np.float64) - offset) / scale
    computed = Emitted(step.emit, 2, (2,), "float32", exact=False)(x)
    np.testing.assert_allclose(computed, exact, rtol=1e-6, atol=1e-6)
    naive = x * (1 / scale).astype(np.float32) + (-offset / scale).astype(np.float32)
    assert np.abs(naive - exact).max() > 0.1
    for bad in (0.0, -1.0):
        with pytest.raises(InvalidKan, match="expected positive numbers"):
            Standardize(np.zeros(2), np.array([1.0, bad]))


def test_the_scaled_network_is_the_network_between_two_maps(kan: Kan) -> None:
    rng = np.random.default_rng(0)
    offset, scale = rng.normal(size=13) * 100, np.exp(rng.normal(size=13))
    offset_out, scale_out = rng.normal(size=3), np.exp(rng.normal(size=3))
    own = scaling.scaled(kan, Scalers(inputs=scaler(offset, scale), outputs=scaler(offset_out, scale_out)), "float32")
    x = rng.uniform(-2, 2, (20, 13))
    plain = float64_reference.evaluate(kan, x).y
    actual = float64_reference.evaluate(own, x * scale + offset).y
    np.testing.assert_allclose(actual, plain * scale_out + offset_out, rtol=1e-9)
    np.testing.assert_allclose(scaling.in_network_units(own, actual), plain, rtol=1e-9, atol=1e-9)
    assert scaling.scaled(kan, Scalers(), "float32") is kan
    assert own.edge_class == kan.edge_class == "A"


def test_coarse_columns_are_noted_and_too_coarse_ones_are_errors(kan: Kan) -> None:
    def of(offset: float) -> Scalers:
        return Scalers(inputs=scaler([0.0] * 12 + [offset], [1.0] * 13))

    assert scaling.scaled(kan, of(100.0), "float32").notes == kan.notes
    (note,) = set(scaling.scaled(kan, of(1e4), "float32").notes) - set(kan.notes)
    assert note.startswith("column 12 of s.json: adjacent float32 values near 10000 differ by 9.8e-04 scales")
    text = r"--input-scaler: column 12 of .* is 12% of its scale, expected at most 5%"
    with pytest.raises(OptionError, match=text) as e:
        scaling.scaled(kan, of(2e6), "float32")
    assert (e.value.code, "--dtype float64" in e.value.hint) == ("scaler-too-fine", True)
    assert scaling.scaled(kan, of(2e6), "float64").notes == kan.notes


def proven(kan: Kan, served: Kan) -> verify.Proof:
    """The verification of graphs of `served` against `kan`."""
    return verify.verify(kan, lower.lower(served, "float32"), "float32")


@spread("offset", [0.0, 900.0, -40_000.0], 2)
def test_ill_conditioned_scalers_pass_the_verification(kan: Kan, offset: float) -> None:
    both = Scalers(inputs=scaler([offset] * 13, [1.0] * 13), outputs=scaler([offset] * 3, [1e-1, 1.0, 1e3]))
    own = scaling.scaled(kan, both, "float32")
    zones = {zone.name: zone for zone in proven(own, own).verification.zones}
    assert zones["inside"].outputs_max_rel <= 1e-5 + 2e-7 * abs(offset) * 10


@spread("side,offset", itertools.product(["inputs", "outputs"], [0.0, 900.0, -40_000.0]), 2)
def test_a_wrong_number_of_one_column_fails_the_verification(kan: Kan, side: str, offset: float) -> None:
    """Also for an output of small values next to one of large values, and if the offset is large."""
    width = 13 if side == "inputs" else 3
    scales = [1.0, 1e-1, 1e3][:width] + [1.0] * (width - 3)
    right = scaler([offset] * width, scales)
    for field, at, factor in (("scale", 1, 1.02), ("offset", 1, None)):
        values = list(getattr(right, field))
        values[at] = values[at] * factor if factor else values[at] + 0.05 * scales[at]
        wrong = dataclasses.replace(right, **{field: tuple(values)})
        nets = [scaling.scaled(kan, Scalers(**{side: own}), "float32") for own in (right, wrong)]
        with pytest.raises(VerificationFailed):
            proven(*nets)


def test_rounding_of_inputs_is_relative_to_their_distance_from_the_offset(kan: Kan) -> None:
    own = scaling.scaled(kan, Scalers(inputs=scaler([1e6] * 13, [1e3] * 13)), "float32")
    x = np.full((4, 13), 1e6 + 500.0)
    moved = float64_reference.shaken_nodes(own.layers[0], x, Jitter(6e-8, 0))
    assert 0 < np.abs(moved - x).max() <= 500 * 1.2e-7
    plain = float64_reference.shaken_nodes(kan.layers[0], x, Jitter(6e-8, 0))
    assert np.abs(plain - x).max() > 0.01


def test_grids_are_in_the_units_of_the_inputs(kan: Kan) -> None:
    own = scaling.scaled(kan, Scalers(inputs=scaler(range(13), range(1, 14))), "float32")
    plain, scaled = (description.layers(net, ("x", "h"))[0] for net in (kan, own))
    for node in (0, 5, 12):
        stored, moved = grids.knots(plain, node), grids.knots(scaled, node)
        assert stored is not None
        assert moved is not None
        np.testing.assert_allclose(moved[1], node + (node + 1) * np.array(stored[1]))
        assert grids.knots_by_node(scaled)[node] == moved
