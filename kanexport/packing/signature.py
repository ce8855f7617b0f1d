"""What a served model takes and gives: one input and one output, their names, types and shapes.

The one place for it: the manifest and Triton's config.pbtxt repeat what is said here. The
names are those that the serving graph is built with. Shapes are those of one row; the batch
comes before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.form.ir import Kan
from kanexport.lowering.serving import INPUT, OUTPUT
from kanexport.manifest import TensorSpec
from kanexport.operators import precision

BATCH = -1  # any number of rows, in a TensorSpec


@dataclass(frozen=True, slots=True)
class Signature:
    """One input and one output of a graph in `dtype`, which is float32 or float64.

    Example: (784,) and (10,) in float32 are x FP32 [-1, 784] and y FP32 [-1, 10].
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of_network(cls, kan: Kan, dtype: str) -> Signature:
        """A stack of KAN layers: vectors in, vectors out."""
        return cls((kan.n_inputs,), (kan.n_outputs,), dtype)

    @classmethod
    def of_rows(cls, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], dtype: str) -> Signature:
        """A module that gave y [B, ...] for x [B, ...]."""
        return cls(x.shape[1:], y.shape[1:], dtype)

    def input(self) -> TensorSpec:
        """What the model takes, for the manifest."""
        return self._tensor(INPUT, self.input_shape)

    def output(self) -> TensorSpec:
        """What the model gives, for the manifest."""
        return self._tensor(OUTPUT, self.output_shape)

    def _tensor(self, name: str, row: tuple[int, ...]) -> TensorSpec:
        return TensorSpec(name=name, datatype=precision.DATATYPES[self.dtype], shape=(BATCH, *row))
