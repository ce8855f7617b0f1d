"""Functions of the library: names, domains, and pairs at which a search begins."""

from __future__ import annotations

import math

import pytest

from kanexport.edit import library
from kanexport.edit.library import Domain
from kanexport.errors import OptionError


def test_functions_by_name() -> None:
    assert [function.name for function in library.chosen(("sin", "x"))] == ["x", "sin"]  # by complexity
    with pytest.raises(OptionError, match="unknown function 'sine'") as caught:
        library.chosen(("sine",))
    assert caught.value.code == "function-unknown"


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
