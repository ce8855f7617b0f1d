"""Words of the report for the systems and facts of the records, whose names in the records never change."""

from __future__ import annotations

from benchmarks.matrix import contestants
from benchmarks.matrix.contestants import KERNEL
from benchmarks.matrix.groups import families, fewer, start, symbolic
from benchmarks.matrix.groups.threads import LARGE, PARTED, SMALL
from kanserve.contrib.bench.entrants import MLP, OURS

PORTABLE = f"{OURS}, portable graph"
SHOWN = {
    contestants.GEMMS: "matrix products only",
    MLP: "MLP",
    PARTED: f"{PORTABLE}, {LARGE // SMALL} calls of {SMALL} rows",
    families.LIBRARY: "library in PyTorch",
    families.OWN_EXPORT: "ONNX export of the library",
    symbolic.PYKAN: "pykan in PyTorch",
    symbolic.NODES: f"nodes of {PORTABLE}",
    fewer.SMALLER: "size reduction by int8",
    contestants.SAME: "its graph equals the default graph",
    start.LOADED: f"{PORTABLE}, as the server loads it",
}


def of(name: str) -> str:
    """The words for a name of the records: the default export, which has the custom operators, is `kanserve`."""
    if name in SHOWN:
        return SHOWN[name]
    words = name.replace(", one run", ", one call")
    if name.startswith(KERNEL):
        return words.replace(KERNEL, OURS, 1)
    return words.replace(OURS, PORTABLE, 1) if name == OURS or name.startswith(f"{OURS}, ") else words
