"""Words of the report for the systems and facts of the records, whose names in the records never change."""

from __future__ import annotations

from benchmarks.matrix import contestants
from benchmarks.matrix.groups import families, fewer, start, symbolic
from benchmarks.matrix.groups.threads import LARGE, PARTED, SMALL
from kanserve.bench.entrants import MLP, OURS

SHOWN = {
    contestants.GEMMS: "matrix products only",
    MLP: "MLP",
    PARTED: f"{OURS}, {LARGE // SMALL} calls of {SMALL} rows",
    families.LIBRARY: "library in PyTorch",
    families.OWN_EXPORT: "ONNX export of the library",
    symbolic.PYKAN: "pykan in PyTorch",
    symbolic.NODES: f"nodes of {OURS}",
    fewer.SMALLER: "size reduction by int8",
    contestants.SAME: "its graph equals the default graph",
    start.LOADED: f"{OURS}, as the server loads it",
}


def of(name: str) -> str:
    """The words for a name of the records."""
    return SHOWN.get(name, name.replace(", one run", ", one call"))
