"""Tiers of the suite: `make test` leaves out the cases that are marked with `full(KIND)`, `make test-full` runs all."""

from collections.abc import Iterable
from typing import Any

import pytest

# The kind of fault that a case finds and that no case of `make test` finds. docs/contributing/testing.md explains them.
KINDS = {
    "combination": "a fault of two options, families or data types together, each of which `make test` runs alone",
    "rare": "a fault that one in many random inputs, seeds or moments shows",
    "load": "a race, a leak or a loss that needs many repetitions or a busy server",
    "peer": "a change of another program: a proxy, a store, a load generator, a second server or client",
    "package": "a fault of a wheel, an image, a chart or a compiler, which a change of one module seldom causes",
    "document": "a page, a picture or a shown output that differs from the program",
    "second transport": "a fault of grpcio in a suite whose behavior comes from code that asgi shares",
    "second browser page": "a fault of one page of the web UI whose parts `make test` shows on another page",
}


def full(kind: str) -> pytest.MarkDecorator:
    """Mark of a test that only `make test-full` runs."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}, expected one of {', '.join(KINDS)}")
    return pytest.mark.full(kind)


def spread(
    names: str, cases: Iterable[Any], count: int, kind: str = "combination", **options: Any
) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize`, of whose cases `make test` runs `count`, evenly spread from first to last."""
    listed = list(cases)
    kept = {round(at * (len(listed) - 1) / max(1, count - 1)) for at in range(count)}
    single = len([name for name in names.split(",") if name.strip()]) == 1
    marked = [case if at in kept else _marked(case, kind, single) for at, case in enumerate(listed)]
    return pytest.mark.parametrize(names, marked, **options)


def _marked(case: Any, kind: str, single: bool) -> Any:
    if isinstance(case, type(pytest.param())):
        return pytest.param(*case.values, marks=(*case.marks, full(kind)), id=case.id)
    return pytest.param(*((case,) if single else case), marks=full(kind))
