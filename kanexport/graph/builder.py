"""Builder of ONNX graphs, the only module that creates ONNX: values, operators, names, one exit.

Plain operators of the default domain, opset 17 and IR version 8, which every
onnxruntime from 1.13 on loads. Each operator is checked where it is asked for: its
name, how many inputs, their types and their shapes as far as they are known. So
`g.op("Gemm", a, b)` with a b of three axes fails on that line, not at the end.
`build` is the single way out and runs the full checker with strict shape inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

from kanexport.errors import InvalidKan
from kanexport.graph.external_data import PAGE, ExternalTensor, Weights, check, external
from kanexport.shared import custom_ops

OPSET = 17
IR_VERSION = 8
PRODUCER = "kanexport"
# ONNX types of `precision.DATATYPES`; any other type is an error here, never taken for one of them.
ONNX_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Value:
    """Tensor of one graph."""

    name: str


class Graph:
    """Graph under construction, in one floating-point type.

    dtype         numpy float32 or float64; constants are stored in it
    small_values  whether a value near zero must keep its digits, because a normalisation that follows may make it
                  large; otherwise cheaper operators serve
    exact_waves   whether a product before a sine or cosine loses no digits that its factors have, so that no angle is
                  reduced first
    unpacked      whether each function of a basis is a tensor of its own (`lowering/spline_forms.py`)
    weights       the file that takes its large constants, if the model has one
    """

    def __init__(self, name: str, dtype: npt.DTypeLike, weights: Weights | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.weights = weights
        self.small_values = True
        self.exact_waves = self.dtype == np.float64
        self.unpacked = False
        self._name = name
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._initializers: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._nearly_one: dict[str, float] = {}  # float64 constants
        self._types: dict[str, Any] = {}  # of every value: element type and, where known, shape
        self._integers: dict[str, Any] = {}  # constants that shapes depend on
        self._foreign: list[Any] = []  # operators that ONNX does not know
        self._count = 0

    def input(self, name: str, *shape: int, batch: int | str = "batch") -> Value:
        """Declare a graph input [batch, *shape]."""
        declared = _tensor_info(name, self.dtype, (batch, *shape))
        self._inputs.append(declared)
        self._types[name] = declared.type
        return Value(name)

    def const(self, array: npt.ArrayLike) -> Value:
        """A constant in the type of the graph; equal constants are stored once."""
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array, dtype=self.dtype)
        self._require_finite(stored)
        value = self._store(stored)
        if stored.size == 1 and 0 < abs(stored.item() - 1) < 1e-7:
            self._nearly_one[value.name] = stored.item()
        return value

    def derived(
        self,
        origin: tuple[object, ...],
        make: Callable[[], Array],
        shape: tuple[int, ...],
        dtype: npt.DTypeLike | None = None,
    ) -> Value:
        """A constant that other graphs of the model share, possibly in another shape. `make` computes it from the
        objects and numbers of `origin`, with the same result each time, and is called once for all graphs of a file.
        `dtype`: the type that `make` returns, unless it is that of the graph."""
        stored = self.dtype if dtype is None else np.dtype(dtype)

        def checked() -> Array:
            array = make()
            self._require_finite(array)
            return array

        if self.weights is None:
            return self._store(checked().reshape(shape))
        place = self.weights.derived((*origin, stored.name), checked)
        return self._external(onnx.helper.np_dtype_to_tensor_dtype(stored), shape, place)  # noqa: TID251 - as below

    def _require_finite(self, array: Array) -> None:
        if not np.isfinite(array).all():
            raise InvalidKan(
                f"a weight, or a product or quotient of weights, is too large for {self.dtype.name}",
                code="weights-too-large",
                hint="export with --dtype float64, or train again with smaller weights",
            )

    def index(self, array: npt.ArrayLike) -> Value:
        """A constant of int64, for shapes, axes and indices."""
        return self._store(np.ascontiguousarray(array, dtype=np.int64))

    def nan(self) -> Value:
        """NaN, the only constant that is not finite."""
        return self._store(np.array(np.nan, dtype=self.dtype))

    def truth(self, array: npt.ArrayLike) -> Value:
        """A constant of booleans."""
        return self._store(np.ascontiguousarray(array, dtype=np.bool_))

    def raw(self, array: Array) -> Value:
        """A constant of int8, uint8 or int32, unchanged."""
        return self._store(np.ascontiguousarray(array))

    def whole(self, a: Value) -> Value:
        """Numbers without their fraction, as int32: indices."""
        return self.op("Cast", a, to=TensorProto.INT32)

    def cast(self, a: Value) -> Value:
        """Convert booleans, integers or other floating-point numbers to the type of the graph."""
        return self.op("Cast", a, to=_onnx_type(self.dtype))

    def single(self, a: Value) -> Value:
        """A cast to float32, for an operator that onnxruntime has in no other type."""
        return self.op("Cast", a, to=_onnx_type(np.dtype(np.float32)))

    def stack(self, x: Value, sources: int) -> Stack:
        """x [B, I] as one row, in the layout of the option `apart`."""
        return Stack(self, (x if self.unpacked else self.reshape(x, 0, 1, sources),), 1, not self.unpacked)

    def _store(self, array: Array) -> Value:
        if self.weights is not None and array.nbytes >= PAGE:
            element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)  # noqa: TID251 - this file is the builder
            return self._external(element, array.shape, self.weights.keep(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = numpy_helper.from_array(array, f"c{len(self._constants)}")
            self._declare(key, tensor)
            if array.dtype == np.int64:
                self._integers[tensor.name] = tensor
        return self._constants[key]

    def _external(self, element: int, shape: tuple[int, ...], place: ExternalTensor) -> Value:
        key = (str(element), shape, f"{place}".encode())
        if key not in self._constants:
            self._declare(key, external(f"c{len(self._constants)}", element, shape, place))
        return self._constants[key]

    def _declare(self, key: tuple[str, tuple[int, ...], bytes], tensor: Any) -> None:
        self._initializers.append(tensor)
        make = onnx.helper.make_tensor_type_proto  # noqa: TID251 - this file is the builder
        self._types[tensor.name] = make(tensor.data_type, list(tensor.dims))
        self._constants[key] = Value(tensor.name)

    def op(self, kind: str, *inputs: Value, **attributes: Any) -> Value:
        """Append one operator with one output. An error of the calling code raises here: an unknown operator,
        onnx.defs.SchemaError; inputs of a wrong number or type or an unknown attribute,
        onnx.checker.ValidationError; shapes that do not fit, onnx.shape_inference.InferenceError."""
        if kind in ("Mul", "Div"):
            for at, value in enumerate(inputs):
                if value.name in self._nearly_one:
                    return self._in_two(kind, inputs, at)
        self._count += 1
        output = f"{kind.lower()}{self._count}"
        node = onnx.helper.make_node(  # noqa: TID251 - this file is the builder
            kind, [value.name for value in inputs], [output], name=output, **attributes
        )
        self._types |= shape_inference.infer_node_outputs(
            onnx.defs.get_schema(kind, OPSET, ""),
            node,
            {name: self._types[name] for name in node.input},
            {name: self._integers[name] for name in node.input if name in self._integers},
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],  # noqa: TID251 - as above
            ir_version=IR_VERSION,
        )
        self._nodes.append(node)
        return Value(output)

    def custom(self, operator: str, *inputs: Value, shape: int | tuple[int, ...], **attributes: Any) -> Value:
        """[B, shape] or [B, *shape]: an operator of `custom_ops`, without a check; the files
        kernel/src/*operator*.cpp document the arguments."""
        self._count += 1
        output = f"{operator.lower()}{self._count}"
        node = onnx.helper.make_node(  # noqa: TID251 - this file is the builder
            operator,
            [value.name for value in inputs],
            [output],
            name=output,
            domain=custom_ops.DOMAIN,
            **attributes,
        )
        own = (shape,) if isinstance(shape, int) else shape
        declared = _tensor_info(output, self.dtype, ("batch", *own))
        self._types[output] = declared.type
        self._foreign.append(node)
        self._nodes.append(node)
        return Value(output)

    def _in_two(self, kind: str, inputs: Sequence[Value], at: int) -> Value:
        """A product or quotient with twice the constant, and half of that (or twice). onnxruntime treats a scalar
        that is 1 in float32 as 1, in float64 graphs too."""
        doubled = self.const(2 * self._nearly_one[inputs[at].name])
        result = self.op(kind, *inputs[:at], doubled, *inputs[at + 1 :])
        return self.mul(result, self.const(2.0 if (kind, at) == ("Div", 1) else 0.5))

    def rename(self, value: Value, name: str) -> Value:
        """Give the latest value the name of a graph output."""
        self._types[name] = self._types[value.name]
        if self._nodes and list(self._nodes[-1].output) == [value.name]:
            self._nodes[-1].output[0] = name
        else:
            self._nodes.append(onnx.helper.make_node("Identity", [value.name], [name]))  # noqa: TID251 - as above
        return Value(name)

    # The operators that read better as words. Shapes follow numpy broadcasting.

    def add(self, a: Value, b: Value) -> Value:
        """a + b."""
        return self.op("Add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        """a - b."""
        return self.op("Sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        """a * b."""
        return self.op("Mul", a, b)

    def pow(self, a: Value, exponent: float) -> Value:
        """a to the power of one constant."""
        return self.op("Pow", a, self.const(exponent))

    def cube(self, a: Value) -> Value:
        """a to the third power, by two products: onnxruntime's Pow takes as long as three."""
        return self.mul(self.mul(a, a), a)

    def clip(self, a: Value, low: float, high: float) -> Value:
        """a, no less than `low` and no more than `high`; NaN stays."""
        return self.op("Clip", a, self.const(low), self.const(high))

    def hard_sigmoid(self, a: Value, *, alpha: float, beta: float) -> Value:
        """clip(alpha * a + beta, 0, 1) in one pass; onnxruntime has it in float32 only."""
        return self.op("HardSigmoid", a, alpha=alpha, beta=beta)

    def gather(self, a: Value, indices: Sequence[int] | Array, *, axis: int) -> Value:
        """The entries of one axis, in the order of the indices; numpy.take."""
        return self.op("Gather", a, self.index(indices), axis=axis)

    def slice(self, a: Value, start: int, stop: int, *, axis: int) -> Value:
        """a[start:stop] on one axis."""
        return self.op("Slice", a, self.index([start]), self.index([stop]), self.index([axis]))

    def reshape(self, a: Value, *shape: int) -> Value:
        """Reshape; 0 keeps the dimension, so that an empty batch stays empty."""
        return self.op("Reshape", a, self.index(shape))

    def transpose(self, a: Value, *axes: int) -> Value:
        """The axes in this order: (2, 0, 1) makes [B, K, I] to [I, B, K]."""
        return self.op("Transpose", a, perm=list(axes))

    def sum(self, a: Value, *, axis: int, keepdims: bool = False, exact: bool = False) -> Value:
        """The sum over one axis, which is removed or has one entry. The bits of a row do not depend on other rows.
        `exact`: no sum of these numbers is rounded, such as of zeros and NaN, so that any order is correct."""
        shape = self.shape(a)
        ones = None if exact else _ones(shape, axis)
        if ones is None:
            return self.op("ReduceSum", a, self.index([axis]), keepdims=int(keepdims))
        total = self.op("MatMul", *((a, self.const(ones)) if ones.shape[1] == 1 else (self.const(ones), a)))
        if keepdims:
            return total
        return self.reshape(total, 0, *(size or 0 for at, size in enumerate(shape) if at not in (0, axis)))

    def shape(self, a: Value) -> tuple[int | None, ...]:
        """The known extents of a value: None for the batch."""
        axes = self._types[a.name].tensor_type.shape.dim
        return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)

    def gemm(self, a: Value, b: Value, c: Value | None = None) -> Value:
        """a @ b + c for matrices; c broadcasts."""
        return self.op("Gemm", a, b) if c is None else self.op("Gemm", a, b, c)

    def build(self, outputs: Mapping[str, tuple[Value, tuple[int | str, ...]]]) -> bytes:
        """The finished model. `outputs` maps a name to its value and the shape
        after the batch. Raises onnx.checker.ValidationError on a faulty graph."""
        infos = []
        for name, (value, shape) in outputs.items():
            if value.name != name:
                self.rename(value, name)
            infos.append(_tensor_info(name, self.dtype, ("batch", *shape)))
        helper = onnx.helper  # noqa: TID251 - this file is the builder
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._initializers if tensor.name in used]
        # Inference does not know the types of the results of custom operators.
        names = [node.output[0] for node in self._foreign if node.output[0] not in outputs]
        types = [helper.make_value_info(name, self._types[name]) for name in names]
        opsets = [("", OPSET)] + ([(custom_ops.DOMAIN, custom_ops.DOMAIN_VERSION)] if self._foreign else [])
        model = helper.make_model(
            helper.make_graph(self._nodes, self._name, self._inputs, infos, initializer=kept, value_info=types),
            opset_imports=[helper.make_opsetid(*opset) for opset in opsets],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
        )
        check(model)
        return bytes(model.SerializeToString())


def _tensor_info(name: str, dtype: np.dtype[Any], shape: Sequence[int | str]) -> Any:
    return onnx.helper.make_tensor_value_info(name, _onnx_type(dtype), list(shape))  # noqa: TID251 - as above


def _onnx_type(dtype: np.dtype[Any]) -> int:
    return int(ONNX_TYPES[dtype.name])


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Stack of `rows` tensors [B, I]. `values`: these tensors, or one packed tensor. A stack of one row broadcasts."""

    g: Graph
    values: tuple[Value, ...]
    rows: int
    packed: bool

    def slice_rows(self, start: int, stop: int) -> Stack:
        """Rows [start:stop] of the stack."""
        if not self.packed:
            return Stack(self.g, self.values[start:stop], stop - start, packed=False)
        return Stack(self.g, (self.g.slice(self.values[0], start, stop, axis=1),), stop - start, packed=True)

    def joined(self, sources: int) -> Value:
        """[B, n, I]"""
        if self.packed:
            return self.values[0]
        return self.g.reshape(self.g.op("Concat", *self.values, axis=1), 0, self.rows, sources)

    def each(self, make: Callable[..., Value], *others: Stack | Array) -> Stack:
        """The result of `make` for every row of this stack, of other stacks and of constants [n, I], of numbers or
        booleans."""
        rows = max(self.rows, *(operand.rows if isinstance(operand, Stack) else len(operand) for operand in others), 1)

        def row(operand: Stack | Array, at: int) -> Value:
            """The tensor of a stack, or a constant, of row `at`; packed, of all rows."""
            if isinstance(operand, Stack):
                return operand.values[at if len(operand.values) > 1 else 0]
            constant = operand[None] if self.packed else operand[at : at + 1]
            return self.g.truth(constant) if constant.dtype == np.bool_ else self.g.const(constant)

        count = 1 if self.packed else rows
        values = tuple(make(*(row(operand, at) for operand in (self, *others))) for at in range(count))
        return Stack(self.g, values, rows, self.packed)


VECTOR = 4  # entries: a length that is a multiple of it is summed from the first on, in float32 and float64
FEW = 2  # entries, which have one order


def _ones(shape: tuple[int | None, ...], axis: int) -> npt.NDArray[np.float64] | None:
    """The factor of ones for a sum over an axis of a tensor of this shape: [K, 1] from the right for the last axis,
    [1, K] from the left for the one before. None if ReduceSum is equally fast, or if there is no such product."""
    if not 0 < axis < len(shape) or None in shape[1:]:
        return None
    count, after = shape[axis], len(shape) - 1 - axis
    if count is None or count <= FEW or after > 1:
        return None
    if after == 0:
        return None if count % VECTOR == 0 else np.ones((count, 1))
    return np.ones((1, count))
