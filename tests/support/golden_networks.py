"""Golden cases by name, their networks, and exports of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from kanexport import pipeline
from kanexport.bundle.publish import Result
from kanexport.ir.model import Kan
from kanexport.pipeline import Request
from tests.support.golden_cases import Case, cases


@functools.cache
def _known() -> dict[str, Case]:
    return {case.name: case for case in cases()}


def case(name: str) -> Case:
    return _known()[name]


@functools.cache
def network(name: str) -> Kan:
    """The network of a golden case, as an export serves it. Tests do not change it."""
    return pipeline.network(Request(path=case(name).path, repository=None, options=case(name).options))[0]


def exported(folder: Path, name: str, /, **fields: Any) -> Result:
    """An export into a repository, as the model `m` if `fields` has no name; `fields` are those of a request."""
    own = case(name)
    return pipeline.export(
        Request(**{"path": own.path, "repository": folder, "name": "m", "options": own.options, **fields})
    )
