"""Tests of `verify/float64_reference.py`."""

import numpy as np
import pytest

from kanexport.verify import float64_reference
from tests.support.golden_cases import case, network


def test_what_is_evaluated_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "efficient-kan-digits"
    kan, x = network(name), case(name).reference()["x"][:20].astype(np.float64)

    def values() -> list[np.ndarray]:
        trace = float64_reference.evaluate(kan, x)
        edges = [np.concatenate([v for _, v, _ in float64_reference.edges(kan.layers[0], x)])]
        return [trace.y, trace.peak, *edges]

    whole = values()
    monkeypatch.setattr(float64_reference, "CHUNK_NUMBERS", 7000)
    for result, expected in zip(values(), whole, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_rounding_is_drawn_anew_in_every_block() -> None:
    jitter = float64_reference.Jitter(2.0**-24, 1)
    item, other = (jitter.shake(np.ones((50, 3)), block) for block in (0, 1))
    assert not np.array_equal(item, other)
    np.testing.assert_array_equal(item, jitter.shake(np.ones((50, 3))))
    assert 0 < np.abs(other - 1).max() <= 2 * jitter.size
