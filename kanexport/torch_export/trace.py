"""Trace of a module through torch.onnx, with a placeholder for each KAN layer."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
import onnxscript
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.function_libs.torch_lib.ops import nn as torch_lib
from torch import nn
from torch.onnx._internal.exporter import _registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kanexport.errors import ModuleRefused
from kanexport.torch_export import capture, control_flow
from kanexport.torch_export.borrowed_module import (
    ForeignError,
    causes,
    first_line,
    first_tensor,
    foreign_code,
    plain,
    replaced,
    user_line,
)
from kanexport.torch_export.capture import COLUMN, FLAT, KEEP, TAP, TAP_AFTER, Rewritten, argument, with_argument
from kanexport.torch_export.io_binding import REAL, dtype_name

Rows = Sequence[npt.NDArray[Any]]  # [B, ...] of each input

DOMAIN = "kanexport"
PLACEHOLDER, TAPPED = "Layer", "Tap"  # in place of a layer; what goes into one, which passes
OPSET = 18  # the oldest that the exporter writes without converting
CAUSES = 8  # causes of a failure that the exporter reads, at most
RANGES = 8  # of batches that a module may tell from each other
OPERATIONS = 20_000  # of one run; torch traces about 150 of them in a second of processor time
NUMBERS = 1_000_000_000  # of one row; torch computes about 200 million in a second of processor time
VECTORIZED = (
    "compute all edges and basis functions at once with tensor operations, in place of loops in Python; or "
    "export the state dict without --module if a reader knows the layers"
)
SMALLER = (
    "export with smaller inputs, such as --input-shape 3,32,32, if the module takes any size; or export a module that "
    "has only the KAN layers"
)
TRACEABLE = "remove branches on values and fixed batch sizes from the forward, use x.shape, and keep only tensor code"
ONE_SIZE = "it works for batches of one size only"
GUARD = "satisfy the generated guard"  # torch's words where a branch on the number of rows was met
OF_VALUES = "data-dependent"  # where values are asked for, of which there are none
OF_SIZES = "it does not compute the same for every number of rows"
# Signs in torch's words, and what they mean.
KINDS = {
    "no autograd formula was registered": "the module derives a KAN layer, and a replaced layer has no derivative: ",
    "data-dependent": "a branch or a size depends on the values of a tensor: ",
    "DynamicOutputShape": "the shape of a result depends on the values of a tensor: ",
    "No ONNX function found": "ONNX has no such operator: ",
}


@dataclass(frozen=True, slots=True)
class Placeholder:
    """The operator in place of a submodule: its number, its width, and the shape of its output."""

    index: int
    sources: int
    destinations: int
    form: str  # as `capture.form` says


def _output_shape(x: torch.Tensor, sources: int, destinations: int, form: str) -> tuple[Any, ...]:
    rows: Any = x.numel() // sources
    shapes = {
        KEEP: (*x.shape[:-1], destinations),
        FLAT: (rows, destinations),
        COLUMN: (rows, destinations, 1),
    }
    return shapes[form]


@torch.library.custom_op(f"{DOMAIN}::layer", mutates_args=())
def _layer(x: torch.Tensor, index: int, sources: int, destinations: int, form: str) -> torch.Tensor:
    return x.new_zeros(_output_shape(x, sources, destinations, form))


@_layer.register_fake
def _fake(x: torch.Tensor, index: int, sources: int, destinations: int, form: str) -> torch.Tensor:
    return x.new_empty(_output_shape(x, sources, destinations, form))


@torch.library.custom_op(f"{DOMAIN}::tap", mutates_args=())
def _tap(x: torch.Tensor, index: int) -> torch.Tensor:
    return x.clone()


@_tap.register_fake
def _fake_tap(x: torch.Tensor, index: int) -> torch.Tensor:
    return torch.empty_like(x)


_tap.register_autograd(lambda _, gradient: (gradient, None))


def _forward(part: nn.Module, placeholder: Placeholder) -> Callable[..., Any]:
    """The forward of a module that becomes a placeholder, or is tapped."""
    own, index, form = part.forward, placeholder.index, placeholder.form
    sources, destinations = placeholder.sources, placeholder.destinations

    def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if form == TAP_AFTER:
            return _tap(own(*args, **kwargs), index)
        at = first_tensor(args, kwargs)
        if form == TAP:
            if at is not None:
                args, kwargs = with_argument(args, kwargs, at, _tap(argument(args, kwargs, at), index))
            return own(*args, **kwargs)
        if at is None:
            raise TypeError("a KAN layer is called without a tensor")
        return _layer(argument(args, kwargs, at), index, sources, destinations, form)

    return forward


def _as_onnx(x: Any, index: int, sources: int, destinations: int, form: str) -> Any:
    return onnxscript.values.Opset(DOMAIN, 1).Layer(x, index=index)


def _tap_as_onnx(x: Any, index: int) -> Any:
    return onnxscript.values.Opset(DOMAIN, 1).Tap(x, index=index)


def _distances(a: Any, b: Any, p: float, compute_mode: int | None = None) -> Any:
    """torch.cdist between few vectors, which torch.onnx does not support: [..., P, M], [..., R, M] to [..., P, R]."""
    op = onnxscript.values.Opset("", OPSET)
    last, second_last = (op.Constant(value_ints=[at]) for at in (-1, -2))
    differences = op.Abs(op.Sub(op.Unsqueeze(a, second_last), op.Unsqueeze(b, op.Constant(value_ints=[-3]))))
    if p == math.inf:
        return op.ReduceMax(differences, last, keepdims=0)
    if p in (1.0, 2.0):
        norm = op.ReduceL1 if p == 1.0 else op.ReduceL2
        return norm(differences, last, keepdims=0)
    sums = op.ReduceSum(op.Pow(differences, op.CastLike(op.Constant(value_float=p), differences)), last, keepdims=0)
    return op.Pow(sums, op.CastLike(op.Constant(value_float=1 / p), differences))


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *rest: Any, **named: Any) -> Any:
    """Attention without an axis of heads, which onnxscript needs: [N, L, E] or [L, E] as for one head."""
    missing = 4 - len(query.shape)
    if missing <= 0:
        return torch_lib.aten_scaled_dot_product_attention(query, key, value, attn_mask, *rest, **named)
    at = [1] if missing == 1 else [0, 1]
    heads = [_with_axes(part, at) for part in (query, key, value)]
    if attn_mask is not None and len(attn_mask.shape) > 2:
        attn_mask = _with_axes(attn_mask, at)
    op = onnxscript.values.Opset("", OPSET)
    y = torch_lib.aten_scaled_dot_product_attention(*heads, attn_mask, *rest, **named)
    return op.Squeeze(y, op.Constant(value_ints=at))


def _with_axes(part: Any, at: list[int]) -> Any:
    """A tensor with axes of one, with known shape and type."""
    op = onnxscript.values.Opset("", OPSET)
    more = op.Unsqueeze(part, op.Constant(value_ints=at))
    sizes = list(part.shape)
    for axis in at:
        sizes.insert(axis, 1)
    more.shape, more.type = onnxscript.ir.Shape(sizes), part.type
    return more


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced model.

    sizes    batches to try it with, because the module may go another way there; empty if torch.export vouches for all
    written  whether its operators were written down for one number of rows first
    """

    model: bytes
    sizes: tuple[int, ...] = ()
    written: bool = False


@dataclass(frozen=True, slots=True)
class _TraceMode:
    """A mode of tracing a module.

    rows      number of rows of the example batch
    strict    whether Python is followed more slowly but further, for example through len(x)
    free      whether torch finds out for which batches its graph holds
    written   whether its operators are written down first, because it takes derivatives
    replayed  whether recorded values replace conditions on its own weights
    """

    rows: int
    strict: bool
    free: bool
    written: bool = False
    replayed: bool = False


FIRST, STRICT = _TraceMode(3, strict=False, free=False), _TraceMode(3, strict=True, free=False)
REPLAYED = _TraceMode(3, strict=False, free=False, replayed=True)
WRITTEN = _TraceMode(3, strict=False, free=False, written=True)
# Where a named batch is refused, because the module goes another way from some number of rows on.
FREE = (_TraceMode(3, strict=False, free=True), _TraceMode(31, strict=False, free=True))


def traces(
    module: nn.Module,
    rows: Rows,
    placeholders: Sequence[tuple[nn.Module, Placeholder]],
    dtype: torch.dtype,
    *,
    most: int,
    derives: bool,
) -> Iterator[Traced]:
    """ONNX models of a module that is lent in a type, with a free batch axis and one placeholder per call of a replaced
    submodule. The next one is made if the previous one did not work. A model that holds for all batches is the last.

    most     rows of the largest batch that matters
    derives  whether the module takes derivatives

    Raises InvalidKan where there is no other, with the exporter's first words and the line of the module's code.
    """
    operations = Operations()
    stand_ins = replaced((part, _forward(part, placeholder)) for part, placeholder in placeholders)
    untouched = plain(dtype, compile_too=False)
    # The trace reports an error of the module, in better words.
    with contextlib.suppress(ForeignError), foreign_code(), torch.no_grad(), untouched, stand_ins, operations:
        module(*_batch(rows, FIRST.rows))
    operations.require_few()
    failures: list[BaseException] = []
    ways = [WRITTEN if derives else FIRST]
    while ways:
        way = ways.pop(0)
        try:
            with foreign_code(), replaced((part, _forward(part, placeholder)) for part, placeholder in placeholders):
                traced = _export(module, rows, dtype, way, most)
        except ForeignError as foreign:
            failures.append(foreign.error)
            ways += _next(way, foreign.error)
        else:
            yield traced
            if not way.free:
                return
    raise _refusal(failures, module)


class Operations(TorchDispatchMode):
    """A context that counts the operations of torch, which become nodes of a graph, outside some modules; and the
    numbers that all operations compute, views left out."""

    def __init__(self, outside: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.count, self.numbers, self._depth, self._outside = 0, 0, 0, tuple(outside)
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for part in self._outside:
            self._hooks.append(part.register_forward_pre_hook(lambda *_: self._move(1)))
            self._hooks.append(part.register_forward_hook(lambda *_: self._move(-1)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += self._depth == 0
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.numbers += sum(item.numel() for item in tree_leaves(result) if isinstance(item, torch.Tensor))
        return result

    def _move(self, by: int) -> None:
        self._depth += by

    def require_few(self, rows: int = 0) -> None:
        """Raises ModuleRefused for more operations than torch traces in minutes; and, if this was a run of `rows`
        rows, for more numbers per row than an export can compute for hundreds of rows."""
        if rows and self.numbers // rows > NUMBERS:
            raise ModuleRefused(
                f"the module computes {self.numbers // rows} numbers for each row, expected at most {NUMBERS}: the "
                "exporter runs hundreds of rows, which would take hours",
                code="module-too-large",
                hint=SMALLER,
            )
        if self.count > OPERATIONS:
            raise ModuleRefused(
                f"the module runs {self.count} operations outside of its KAN layers, expected at most {OPERATIONS}: a "
                "trace would take many minutes and GiB",
                code="module-too-large",
                hint=VECTORIZED,
            )


def opened(module: nn.Module, rows: Rows, constants: tuple[torch.Tensor, ...], dtype: torch.dtype) -> bytes:
    """The ONNX model of a module that takes `constants`, tensors without a batch, after its rows. The graph has its
    inputs in that order. There is one attempt. Raises ForeignError."""
    with foreign_code(), torch.no_grad(), plain(dtype, compile_too=False), _quiet(), _one_table():
        exported = _follow(module, _batch(rows, FIRST.rows), strict=False, free=False, constants=constants)
        return bytes(_model(exported).SerializeToString())


def _next(way: _TraceMode, failure: BaseException) -> tuple[_TraceMode, ...]:
    """The next modes to test after a failure: tracing with more Python, or without a named batch."""
    if way.free or way.written:
        return ()
    # A module that catches the error of a layer may raise another one.
    messages = "\n".join(map(str, causes(failure)[:CAUSES]))
    if GUARD in messages:
        return FREE
    if way == FIRST and OF_VALUES in messages:
        return (REPLAYED,)
    if way in (FIRST, REPLAYED):
        return (STRICT,)
    if capture.in_functorch(failure):
        return (WRITTEN,)
    return FREE if _is_batch_size_error(failure) else ()


def _is_batch_size_error(failure: BaseException) -> bool:
    """Whether the only failure is that the graph does not hold for every batch."""
    return any(sign in str(failure) for sign in (GUARD, "specialized it to be a constant", ONE_SIZE, OF_SIZES))


def _ranges(module: nn.Module, rows: Rows, strict: bool, most: int) -> tuple[int, ...]:
    """The first batch, up to `most` rows, of each range in which the module computes in a different way, such as 2
    and 26 for torch.cdist."""
    sizes: list[int] = []
    size = 2
    while size <= most:
        sizes.append(size)
        exported = _follow(module, _batch(rows, size), strict=strict, free=True)
        node = next(node for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs)
        batch = node.meta["val"].shape[0]
        if isinstance(batch, int):
            raise ValueError(ONE_SIZE)  # noqa: TRY004 - not a type but a module that is wrong
        limits = exported.range_constraints.get(batch.node.expr)
        if limits is None or not getattr(limits.upper, "is_Integer", False):  # the graph holds for all larger batches
            break
        if len(sizes) == RANGES:
            raise ValueError(OF_SIZES)
        size = int(limits.upper) + 1
    return tuple(sizes)


def _batch(rows: Rows, size: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.resize(part, (size, *part.shape[1:]))) for part in rows)


def _refusal(failures: Sequence[BaseException], module: nn.Module) -> ModuleRefused:
    """The error for the user: the kind of failure, the first words of torch, and the line."""
    words = OF_SIZES
    if not _is_batch_size_error(failures[0]):
        first = causes(failures[0])[-1]
        words = first_line(first)
        if any(sign in str(first).lower() for sign in ("complex", "no onnx function")):
            for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
                if tensor.is_complex():
                    words = f"{name.removeprefix('body.')} is {dtype_name(tensor)}; {REAL}"
                    break
    where = next(filter(None, map(user_line, failures)), "")
    kind = next((kind for sign, kind in KINDS.items() if sign in words), "")
    return ModuleRefused(
        f"torch.export cannot trace the module: {kind}{words.partition(' (unhinted')[0]}{where}",
        code="module-not-traceable",
        hint=TRACEABLE,
    )


def _follow(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    *,
    strict: bool,
    free: bool,
    constants: tuple[torch.Tensor, ...] = (),
) -> Any:
    batch = torch.export.Dim.AUTO if free else torch.export.Dim("batch")
    shapes = ((*({0: batch} for _ in inputs), *(None for _ in constants)),)
    with contextlib.redirect_stderr(io.StringIO()), Rewritten():  # where torch prints the graph that it did not finish
        return torch.export.export(module, (*inputs, *constants), dynamic_shapes=shapes, strict=strict)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without the log of torch's exporter, which reports its steps to the log of a service."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


TABLES: dict[str, Any] = {}  # of operators, by the arguments of the call that builds one


@contextlib.contextmanager
def _one_table() -> Iterator[None]:
    """A context in which torch.onnx builds its table of operators once per process. Otherwise it builds the table in
    every export, which takes half a second. If this version of torch stores the table elsewhere, nothing changes."""
    kind: Any = getattr(_registration, "ONNXRegistry", None)
    original = getattr(kind, "__dict__", {}).get("from_torchlib")
    if not isinstance(original, classmethod):
        yield
        return

    def from_torchlib(*args: Any, **kwargs: Any) -> Any:
        call = repr((args, kwargs))
        if call not in TABLES:
            TABLES[call] = original.__get__(None, kind)(*args, **kwargs)
        table = copy.copy(TABLES[call])
        table.functions = {key: list(some) for key, some in table.functions.items()}  # an export extends these lists
        return table

    kind.from_torchlib = staticmethod(from_torchlib)
    try:
        yield
    finally:
        kind.from_torchlib = original


def _export(module: nn.Module, rows: Rows, dtype: torch.dtype, way: _TraceMode, most: int) -> Traced:
    """The ONNX model of a module with placeholders in it."""
    with torch.no_grad(), plain(dtype, compile_too=way.strict), _quiet(), _one_table():
        inputs = _batch(rows, way.rows)
        if way.written:
            inputs = _batch(rows, capture.rows(module, inputs))
            module = capture.written_down(module, inputs)
        if way.replayed:
            module = control_flow.with_recorded_conditions(module, (inputs, _batch(rows, 2))) or module
        exported = _follow(module, inputs, strict=way.strict, free=way.free)
        model = _model(exported)
        if not all(value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input):
            raise ValueError(ONE_SIZE)
        sizes = _ranges(module, rows, way.strict, most) if way.free else (2,) if way.written else ()
    return Traced(bytes(model.SerializeToString()), sizes, way.written)


def _model(exported: Any) -> onnx.ModelProto:
    if not onnx.defs.has(PLACEHOLDER, DOMAIN):
        # Placeholders are operators between the trace and the splice.
        schema, types = onnx.defs.OpSchema, ["tensor(float)", "tensor(double)"]
        for kind in (PLACEHOLDER, TAPPED):
            onnx.defs.register_schema(
                schema(
                    kind,
                    DOMAIN,
                    1,
                    inputs=[schema.FormalParameter("x", "T")],
                    outputs=[schema.FormalParameter("y", "T")],
                    type_constraints=[("T", types, "")],
                    attributes=[schema.Attribute("index", schema.AttrType.INT)],
                )
            )
    table: dict[Any, Any] = {
        torch.ops.kanexport.layer.default: _as_onnx,
        torch.ops.kanexport.tap.default: _tap_as_onnx,
        torch.ops.aten._cdist_forward.default: _distances,
        torch.ops.aten.scaled_dot_product_attention.default: _attention,
    }
    program = torch.onnx.export(
        exported, dynamo=True, opset_version=OPSET, custom_translation_table=table, optimize=False, verbose=False
    )
    assert program is not None
    # The rewrites of `optimize=True` take 1e-8 for 0, and 1 + 1e-5 for 1, and drop the operator.
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    passes.OutputFixPass()(program.model)  # an input among the outputs
    model: onnx.ModelProto = program.model_proto
    return model
