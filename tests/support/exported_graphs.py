"""Exports of golden cases in this process, and runs of graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from kanexport.bundle.publish import Result
from kanexport.pipeline import Request, export
from tests.support.golden_cases import Case, cases


def case(name: str) -> Case:
    """A golden case by its name."""
    (result,) = (item for item in cases() if item.name == name)
    return result


def exported(name: str, folder: Path, **fields: Any) -> Result:
    """A golden case, exported as the model m into the repository `folder`, with these fields of a `Request`."""
    item = case(name)
    return export(Request(path=item.path, repository=folder, **{"name": "m", "options": item.options, **fields}))


def run(graph: Path | bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a graph, by name. A graph with external weights is run by its path."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
