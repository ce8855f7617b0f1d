"""Part of a report that computes: sliders, prediction, contributions and curves, by a WebAssembly module in the page.

The page needs no network. Its content security policy allows one script, by its hash, and WebAssembly. The page
compares the module with outputs of the server before it shows results.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import grids, wasm_module
from kanexport.shared.cli.console import CodedError
from kanexport.shared.wasm_module import ModuleFacts
from kanserve.types import Description, Scores

ROWS = 16  # that the page compares with outputs of the server
SLIDERS = 12  # inputs with a slider, the most important first
SLACK = 10.0  # times the tolerance of the export: other machines round differently
EXPORT = "export the served version again with --c DIR --wasm, and pass its module"

Floats = NDArray[np.float64]


class ModuleMismatch(CodedError):
    """WebAssembly module of another model than the one that the server has."""


@dataclass(frozen=True, slots=True)
class Interactive:
    """Data of the script as JSON, and the script."""

    data: str
    script: str

    @property
    def policy(self) -> str:
        """The content security policy of the page."""
        digest = base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()
        allowed = f"script-src 'sha256-{digest}' 'wasm-unsafe-eval'"
        return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; {allowed}"


def facts(module: bytes, described: Description) -> ModuleFacts:
    """The facts of a module. Raises WasmModuleError for another file, and ModuleMismatch for another model."""
    known = wasm_module.facts(module)
    sizes = tuple(
        math.prod(part[0].shape[1:]) if len(part) == 1 else 0 for part in (described.inputs, described.outputs)
    )
    if sizes != (known.inputs, known.outputs):
        raise ModuleMismatch(
            f"the module has {known.inputs} inputs and {known.outputs} outputs, {described.name} has {sizes[0]} and "
            f"{sizes[1]}",
            code="wasm-module-mismatch",
            hint=EXPORT,
        )
    if known.sources != {file.name: file.sha256 for file in described.files}:
        raise ModuleMismatch(
            f"the module is of the checkpoint {', '.join(known.sources)[:200]}, whose sha256 is not that of the files "
            f"of {described.name} version {described.version}",
            code="wasm-module-mismatch",
            hint=EXPORT,
        )
    return known


def ranges(described: Description) -> tuple[Floats, Floats]:
    """The range of each input: its grid, or -1 to 1 if it has none."""
    count = math.prod(described.inputs[0].shape[1:])
    low, high = -np.ones(count), np.ones(count)
    for at in range(count):
        stored = grids.knots(described.layers[0], at)
        grid = None if stored is None else grids.of_knots(stored[0].kind, stored[0].functions, stored[1])
        if grid is not None:
            low[at], high[at] = grid.low, grid.high
    return low, high


def rows(described: Description) -> NDArray[np.float32]:
    """Rows in the ranges of the inputs, on which the page compares the module with the server."""
    low, high = ranges(described)
    return np.random.default_rng(0).uniform(low, high, size=(ROWS, len(low))).astype(np.float32)


def part(
    module: bytes, described: Description, scores: Scores | None, x: NDArray[np.float32], y: NDArray[Any]
) -> Interactive:
    """The part. `x` and `y`: rows and the outputs of the server. Raises as `facts`."""
    known = facts(module, described)
    low, high = ranges(described)
    start = known.reference if known.base else ((low + high) / 2).tolist()
    units = (*described.names.units, *[""] * known.inputs)
    inputs = [
        {
            "name": described.names.feature(at),
            "unit": units[at],
            "low": float(min(low[at], start[at])),
            "high": float(max(high[at], start[at])),
            "start": float(start[at]),
        }
        for at in range(known.inputs)
    ]
    order = list(range(known.inputs))  # the most important input first
    if scores is not None and len(scores.features) == known.inputs:
        values = np.nan_to_num(scores.features.astype(np.float64), nan=-1.0)
        order = [int(at) for at in np.argsort(-values, kind="stable")]
    error = described.verified_error if math.isfinite(described.verified_error) else 0.0
    document = {
        "module": base64.b64encode(module).decode(),
        "inputs": inputs,
        "outputs": [described.names.output(at) for at in range(known.outputs)],
        "sliders": order[:SLIDERS],
        "base": list(known.base),
        "explained": known.explained,
        "tolerance": max(known.tolerance, error) * SLACK,
        "checks": {"x": x.reshape(len(x), -1).tolist(), "y": y.reshape(len(y), -1).tolist()},
    }
    text = json.dumps(document, allow_nan=False).replace("<", "\\u003c")
    script = importlib.resources.files("kanserve") / "report" / "static" / "interactive.js"
    return Interactive(text, script.read_text("utf-8"))
