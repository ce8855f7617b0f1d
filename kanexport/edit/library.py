"""Functions that can replace an edge: their complexity, their domain, and where a search for them begins.

The functions are those of pykan's table. Functions that differ from another one only by a shift or a scale are not in
the standard library: cos and sin, arccos and arcsin, sigmoid and tanh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from kanexport.errors import OptionError
from kanexport.functions import elementwise
from kanexport.functions.elementwise import Unary
from kanexport.shared.cli.suggest import advice

Array = npt.NDArray[np.float64]


class Search(Enum):
    """Parameters of c * f(a * x + b) + d that are searched. c and d always follow from least squares."""

    NONE = "a line"
    CENTRE = "b, since a scale of x is also a scale of the value"
    RATE = "a, since a shift of x is also a scale of the value"
    BOTH = "a and b"


class Domain(Enum):
    """Arguments with a finite value and a finite slope nearby. The argument a * x + b of an edge stays on one side."""

    ALL = "all numbers"
    POSITIVE = "above 0"
    ROOT = "0 and above"
    NOT_ZERO = "all numbers except 0"
    UNIT = "-1 to 1"
    OPEN_UNIT = "between -1 and 1"
    QUARTER = "between -pi/2 and pi/2"


CLOSED = (Domain.ROOT, Domain.UNIT)
BOUNDS = {
    Domain.ALL: (-math.inf, math.inf),
    Domain.POSITIVE: (0.0, math.inf),
    Domain.ROOT: (0.0, math.inf),
    Domain.UNIT: (-1.0, 1.0),
    Domain.OPEN_UNIT: (-1.0, 1.0),
    Domain.QUARTER: (-math.pi / 2, math.pi / 2),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """Function of the library. complexity: a small number; functions with a smaller one are simpler."""

    function: Unary
    complexity: int
    search: Search
    domain: Domain

    @property
    def name(self) -> str:
        """The name in pykan's table."""
        return self.function.name

    @property
    def free(self) -> tuple[str, ...]:
        """The names of the parameters that are searched."""
        return {Search.NONE: (), Search.CENTRE: ("b",), Search.RATE: ("a",), Search.BOTH: ("a", "b")}[self.search]


_ROWS: tuple[tuple[str, int, Search, Domain], ...] = (
    ("0", 0, Search.NONE, Domain.ALL),
    ("x", 1, Search.NONE, Domain.ALL),
    ("x^2", 2, Search.CENTRE, Domain.ALL),
    ("1/x", 2, Search.CENTRE, Domain.NOT_ZERO),
    ("sqrt", 2, Search.CENTRE, Domain.ROOT),
    ("exp", 2, Search.RATE, Domain.ALL),
    ("log", 2, Search.CENTRE, Domain.POSITIVE),
    ("sin", 2, Search.BOTH, Domain.ALL),
    ("cos", 2, Search.BOTH, Domain.ALL),
    ("x^3", 3, Search.CENTRE, Domain.ALL),
    ("abs", 3, Search.CENTRE, Domain.ALL),
    ("1/x^2", 3, Search.CENTRE, Domain.NOT_ZERO),
    ("1/sqrt(x)", 3, Search.CENTRE, Domain.POSITIVE),
    ("tanh", 3, Search.BOTH, Domain.ALL),
    ("sigmoid", 3, Search.BOTH, Domain.ALL),
    ("gaussian", 3, Search.BOTH, Domain.ALL),
    ("tan", 3, Search.BOTH, Domain.QUARTER),
    ("x^4", 4, Search.CENTRE, Domain.ALL),
    ("x^1.5", 4, Search.CENTRE, Domain.ROOT),
    ("1/x^3", 4, Search.CENTRE, Domain.NOT_ZERO),
    ("arcsin", 4, Search.BOTH, Domain.UNIT),
    ("arccos", 4, Search.BOTH, Domain.UNIT),
    ("arctan", 4, Search.BOTH, Domain.ALL),
    ("arctanh", 4, Search.BOTH, Domain.OPEN_UNIT),
    ("cosh", 4, Search.BOTH, Domain.ALL),
    ("x^5", 5, Search.CENTRE, Domain.ALL),
    ("1/x^4", 5, Search.CENTRE, Domain.NOT_ZERO),
    ("1/x^5", 5, Search.CENTRE, Domain.NOT_ZERO),
)
ALL = {
    name: Candidate(elementwise.symbolic(name), complexity, search, domain)
    for name, complexity, search, domain in _ROWS
}
STANDARD = tuple(name for name in ALL if name not in ("cos", "arccos", "sigmoid"))


def chosen(names: Sequence[str]) -> tuple[Candidate, ...]:
    """The functions with these names, simplest first; without names, the standard ones. Raises OptionError."""
    for name in names:
        if name not in ALL:
            raise OptionError(
                f"unknown function {name[:40]!r}, expected functions of pykan's table",
                code="function-unknown",
                hint=advice(name, tuple(ALL)),
            )
    wanted = names or STANDARD
    return tuple(candidate for name, candidate in ALL.items() if name in wanted)


def defined(domain: Domain, low: float, high: float) -> bool:
    """Whether a function is defined for all arguments from low to high."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return False
    if domain is Domain.NOT_ZERO:
        return low > 0 or high < 0
    least, greatest = BOUNDS[domain]
    if domain in CLOSED:
        return least <= low and high <= greatest
    return least < low and high < greatest


def starts(candidate: Candidate) -> Array:
    """[S, 2]: pairs of a and b at which a search begins, for sources from -1 to 1."""
    match candidate.search, candidate.domain:
        case Search.NONE, _:
            return np.array([[1.0, 0.0]])
        case Search.RATE, _:
            rates = np.geomspace(0.1, 20, 40)
            return np.stack([np.concatenate([-rates, rates]), np.zeros(80)], axis=1)
        case Search.CENTRE, Domain.ALL:
            return np.stack([np.ones(61), np.linspace(-3, 3, 61)], axis=1)
        case Search.CENTRE, domain:
            edge = np.geomspace(1e-4, 20, 50) + 1
            edge = np.append(edge, 1.0) if domain is Domain.ROOT else edge
            signs = np.repeat([1.0, -1.0], len(edge))
            return np.stack([signs, np.tile(edge, 2)], axis=1)
        case Search.BOTH, Domain.ALL:
            rates, centres = np.geomspace(0.1, 16, 36), np.linspace(-1.5, 1.5, 31)
            a, centre = (part.ravel() for part in np.meshgrid(rates, centres, indexing="ij"))
            return np.stack([a, -a * centre], axis=1)
    # The argument reaches from -bound to bound at most.
    bound = math.pi / 2 if candidate.domain is Domain.QUARTER else 1.0
    reach = bound * np.concatenate([np.linspace(0.1, 0.85, 16), 1 - np.geomspace(0.1, 1e-4, 16)])
    r, centre = (part.ravel() for part in np.meshgrid(reach, np.linspace(-1.5, 1.5, 31), indexing="ij"))
    a = r / (1 + np.abs(centre))
    return np.stack([a, -a * centre], axis=1)
