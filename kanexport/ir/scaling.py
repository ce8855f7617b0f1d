"""Scalers of a network as steps: the graph reads and returns values in the user's units, as scikit-learn's scalers map
them.

The input scaler is the first step of the first layer, the inverse of the output scaler the last step of the last layer.
The network between them computes in scaled units. The verification compares outputs in scaled units, because
one error relative to the largest output would hide a wrong column of small values behind a column of large ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, OptionError
from kanexport.graph import precision
from kanexport.ir.model import Kan, Layer
from kanexport.ir.steps import Affine
from kanexport.shared.manifest import NodeStep
from kanexport.shared.sections import Scaler, Scalers

if TYPE_CHECKING:
    from kanexport.graph.builder import Graph, Value

Array = npt.NDArray[np.float64]

COARSE, TOO_COARSE = 1e-4, 0.05  # in scales: the distance of two adjacent float32 values at the offset of a column
LAST = 2.0  # units in the last place that the restored output may be off by
INPUTS, OUTPUTS = "--input-scaler", "--output-scaler"


@dataclass(frozen=True, slots=True, eq=False)
class Standardize:
    """Scaler of the inputs: (x - offset) / scale per node, [N] each, with positive scales.

    In float32, x * a + b would lose the digits in which x differs from a large offset. The graph subtracts the offset
    first, in two parts that together have its value in float64. For x near the offset the first subtraction is exact
    (Sterbenz 1974), and the second one subtracts what float32 cannot store of the offset.
    """

    offset: Array
    scale: Array

    mixes = False

    def __post_init__(self) -> None:
        Affine(self.scale, self.offset)
        if not (self.scale > 0).all():
            raise InvalidKan(
                f"a scaler has the scale {self.scale.min():g}, expected positive numbers",
                code="scaler-value-invalid",
                hint="write the scale of each column as a positive number",
            )

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan for another number of nodes."""
        return Affine(self.scale, self.offset).width_out(width_in)

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        return np.asarray((x - self.offset) / self.scale)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        first = self.offset.astype(g.dtype).astype(np.float64)
        rest = self.offset - first
        centred = g.sub(x, g.const(first))
        if rest.any():
            centred = g.sub(centred, g.const(rest))
        return g.op("Div", centred, g.const(self.scale))

    def describe(self) -> NodeStep:
        """Offsets and scales."""
        return NodeStep(kind="standardize", scale=tuple(self.scale.tolist()), bias=tuple(self.offset.tolist()))


class Restore(Affine):
    """Inverse of the scaler of the outputs: x * scale + offset per node, an affine step for all that read it."""

    def in_network_units(self, y: Array) -> Array:
        """The inverse: outputs [B, N] as the network computes them."""
        return np.asarray((y - self.bias) / self.scale)

    def rounding(self, y: Array, dtype: npt.DTypeLike) -> Array:
        """[N]: the error by the storage of the outputs y [B, N] in `dtype`, in the network's units."""
        largest = np.where(np.isfinite(y), np.abs(y), 0).max(axis=0, initial=0)
        size = precision.rounding(np.dtype(dtype).name)
        return np.asarray(LAST * size * np.maximum(largest, np.abs(self.bias)) / self.scale)


def scaled(kan: Kan, scalers: Scalers, dtype: str) -> Kan:
    """The network in the user's units, with notes on columns for which `dtype` is coarse. Raises OptionError if it is
    too coarse."""
    layers, notes = list(kan.layers), kan.notes
    if scalers.inputs:
        notes += _resolution(scalers.inputs, INPUTS, dtype)
        step = Standardize(np.array(scalers.inputs.offset), np.array(scalers.inputs.scale))
        layers[0] = dataclasses.replace(layers[0], pre_steps=(step, *layers[0].pre_steps))
    if scalers.outputs:
        notes += _resolution(scalers.outputs, OUTPUTS, dtype)
        back = Restore(np.array(scalers.outputs.scale), np.array(scalers.outputs.offset))
        layers[-1] = dataclasses.replace(layers[-1], post_steps=(*layers[-1].post_steps, back))
    return dataclasses.replace(kan, layers=tuple(layers), notes=notes) if scalers else kan


def standardize(layer: Layer) -> Standardize | None:
    """The first step of a layer, if it is the scaler of the inputs."""
    first = layer.pre_steps[:1]
    return first[0] if first and isinstance(first[0], Standardize) else None


def restore(layers: Sequence[Layer]) -> Restore | None:
    """The last step of a network, if it restores the user's units."""
    last = layers[-1].post_steps[-1:] if layers else ()
    return last[0] if last and isinstance(last[0], Restore) else None


def in_network_units(kan: Kan, y: Array) -> Array:
    """Outputs [B, N] of the network without the scaler of its outputs."""
    last = restore(kan.layers)
    return y if last is None else last.in_network_units(y)


def _resolution(scaler: Scaler, option: str, dtype: str) -> tuple[str, ...]:
    """Notes on the column whose values `dtype` stores most coarsely. Raises OptionError."""
    offsets = np.array(scaler.offset)
    steps = np.spacing(np.abs(offsets).astype(dtype)).astype(np.float64) / np.array(scaler.scale)
    at = int(steps.argmax())
    if steps[at] <= COARSE:
        return ()
    column = f"column {at} of {scaler.name}"
    if steps[at] > TOO_COARSE:
        raise OptionError(
            f"{option}: {column} loses precision: one {dtype} step near {offsets[at]:.6g} is {100 * steps[at]:.2g}% of "
            f"its scale, expected at most {TOO_COARSE:.0%}",
            code="scaler-too-fine",
            hint="export with --dtype float64, or subtract a constant from the column before you train the model",
        )
    apart = f"adjacent {dtype} values near {offsets[at]:.6g} differ by {steps[at]:.1e} scales"
    return (f"{column}: {apart}, so that {dtype} requests resolve no smaller differences",)
