"""Functions of the library: names, domains, and pairs at which a search begins."""

import math

import numpy as np
import pytest

from kanexport.edit import library
from kanexport.edit.library import Domain
from kanexport.errors import OptionError
from tests.support.conformance import check_each


def test_functions_by_name() -> None:
    assert [function.name for function in library.chosen(("sin", "x"))] == ["x", "sin"]  # by complexity
    with pytest.raises(OptionError, match="unknown function 'sine'") as caught:
        library.chosen(("sine",))
    assert caught.value.code == "function-unknown"


def check_starts(name: str) -> None:
    candidate = library.ALL[name]
    pairs = library.starts(candidate)
    ends = np.sort(pairs[:, :1] * np.array([-1.0, 1.0]) + pairs[:, 1:], axis=1)
    defined = [library.defined(candidate.domain, low, high) for low, high in ends]
    assert any(defined)
    for low, high in ends[defined]:
        assert np.isfinite(candidate.function.evaluate(np.linspace(low, high, 50))).all() or low == 0


def test_starts_are_defined_and_finite() -> None:
    check_each(check_starts, library.ALL)


def test_domains() -> None:
    for domain, inside, outside in (
        (Domain.POSITIVE, (0.1, 2), (0, 2)),
        (Domain.ROOT, (0, 2), (-0.1, 2)),
        (Domain.NOT_ZERO, (-2, -0.1), (-1, 1)),
        (Domain.UNIT, (-1, 1), (-1.1, 1)),
        (Domain.OPEN_UNIT, (-0.9, 0.9), (-1, 1)),
        (Domain.QUARTER, (-1.5, 1.5), (-1.6, 0)),
        (Domain.ALL, (-1e9, 1e9), (-math.inf, 0)),
    ):
        assert library.defined(domain, *inside)
        assert not library.defined(domain, *outside)
