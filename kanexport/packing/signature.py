"""What a served model takes and gives: its inputs and outputs, their names, types and shapes.

The one place for it: the manifest and Triton's config.pbtxt repeat what is said here. The
names are those that the serving graph is built with. Shapes are those of one row; the batch
comes before them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kanexport.form.ir import Kan
from kanexport.manifest import TensorSpec
from kanexport.operators import precision
from kanexport.proof.ports import FLOAT, Port, Ports
from kanexport.proof.verify import network_ports

BATCH = -1  # any number of rows, in a TensorSpec


# Of whole numbers and truth values, by numpy's names.
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
}


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a graph in `dtype`, which is float32 or float64.

    Example: one input of (784,) and one output of (10,) in float32 are x FP32 [-1, 784] and
    y FP32 [-1, 10].
    """

    ports: Ports
    dtype: str

    @classmethod
    def of_network(cls, kan: Kan, dtype: str) -> Signature:
        """A stack of KAN layers: vectors in, vectors out."""
        return cls(network_ports(kan), dtype)

    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, for the manifest."""
        return tuple(map(self._tensor, self.ports.inputs))

    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, for the manifest."""
        return tuple(map(self._tensor, self.ports.outputs))

    def _tensor(self, port: Port) -> TensorSpec:
        datatype = precision.DATATYPES[self.dtype] if port.kind == FLOAT else DATATYPES[port.kind]
        return TensorSpec(name=port.name, datatype=datatype, shape=(BATCH, *port.shape))
