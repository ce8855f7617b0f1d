"""Quantized exports compared with the exact export. Each must stay within the error bound of its export."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from benchmarks.matrix import contestants
from benchmarks.matrix.cells import Case, Made, Work
from benchmarks.matrix.groups import splines
from benchmarks.matrix.module import Shape
from kanexport.errors import ExportError
from kanexport.quantization.quantize import QuantizationOptions
from kanexport.shared.manifest import MODEL_FILE
from kanserve.contrib.bench.entrants import OURS, Absent, Entrant

FEWER, INT8, HALF, SMALLER = (
    "fewer",
    f"{OURS} --quantize int8",
    f"{OURS} --quantize fp16-weights",
    "times smaller, int8",
)
WIDTHS, BATCHES = (784, 64, 10), (1, 64, 256)
ASKED = {INT8: QuantizationOptions("int8"), HALF: QuantizationOptions("fp16-weights")}


def fewer(quick: bool) -> Iterator[Case]:
    """One network, uniform and adapted."""
    for adapted in (False,) if quick else (False, True):
        shape = Shape(WIDTHS, adapted=adapted)
        name = f"{shape}, {splines.ADAPTED if adapted else splines.UNIFORM}"
        yield Case(FEWER, name, BATCHES[:2] if quick else BATCHES, functools.partial(_make, shape))


def _make(shape: Shape, work: Work) -> Made:
    _, truth, path = splines.ready(shape, work, max(BATCHES))
    exact = contestants.exported(work, path)
    every: list[Entrant | Absent] = [contestants.served(work, exact, truth)]
    facts = {}
    for name, options in ASKED.items():
        try:
            version = contestants.exported(work, path, quantization=options)
        except ExportError as error:
            every.append(Absent(name, f"it was not exported: {error.message}"))
            continue
        every.append(contestants.served(work, version, dataclasses.replace(truth, tolerance=options.bound), name))
        if name == INT8:
            facts[SMALLER] = round((exact / MODEL_FILE).stat().st_size / (version / MODEL_FILE).stat().st_size, 2)
    return Made.of(every, truth.feeds, **facts)
