"""Golden cases: checkpoints with reference values from the original libraries, their networks and their exports."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from kanexport import pipeline
from kanexport.bundle.publish import Result
from kanexport.detection import registry
from kanexport.ir.model import Kan
from kanexport.pipeline import Request

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "golden" / "checkpoints"
# More cases may lie beside the repository.
BESIDE = ROOT.parent / "shared" / "golden"

OUTPUT_TOLERANCE = 1e-5
EDGE_TOLERANCE = 5e-5


@dataclass(frozen=True)
class Case:
    """One checkpoint; `path` is what a user would give to `kanserve export`."""

    name: str
    path: Path
    facts: dict[str, Any]

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(arg for arg in self.facts["export_args"] if arg != "--option")

    @property
    def tolerance(self) -> float:
        return max(OUTPUT_TOLERANCE, self.facts["tolerance_rel"])

    def reference(self) -> dict[str, np.ndarray]:
        with np.load(self.path.parent / "reference.npz") as arrays:
            return dict(arrays)


def cases() -> list[Case]:
    """All cases of the families that are read, each once."""
    result: dict[str, Case] = {}
    for folder in (OWN, BESIDE):
        for facts_file in sorted(folder.glob("*/case.json")):
            facts = json.loads(facts_file.read_text())
            if facts["family"] in registry.readers():
                result.setdefault(facts["name"], Case(facts["name"], _path(facts_file.parent), facts))
    return list(result.values())


def _path(folder: Path) -> Path:
    if (folder / "model_state").exists():
        return folder / "model"
    return next(p for p in sorted(folder.iterdir()) if p.suffix in (".pt", ".pth", ".safetensors"))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest magnitude, where finite; infinite if the
    non-finite places differ."""
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.abs(expected[finite]).max())
    return float(np.abs(found[finite] - expected[finite]).max()) / (scale or 1.0)


@functools.cache
def _known() -> dict[str, Case]:
    return {case.name: case for case in cases()}


def case(name: str) -> Case:
    return _known()[name]


@functools.cache
def network(name: str) -> Kan:
    """The network of a golden case, as an export serves it. Tests do not change it."""
    return pipeline.network(Request(path=case(name).path, repository=None, options=case(name).options))[0]


def exported(name: str, folder: Path, /, **fields: Any) -> Result:
    """An export into a repository, as the model `m` if `fields` has no name; `fields` are those of a request."""
    own = case(name)
    return pipeline.export(
        Request(**{"path": own.path, "repository": folder, "name": "m", "options": own.options, **fields})
    )


def run(graph: Path | bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a graph, by name. A graph with external weights is run by its path."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
