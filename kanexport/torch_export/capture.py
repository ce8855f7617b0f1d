"""Capture of a run of a module, in float64 if possible, with the inputs and outputs of its layers."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import traceback
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from kanexport.errors import InvalidKan, LayerSkipped, ModuleRefused
from kanexport.torch_export.borrowed_module import (
    ForeignError,
    first_line,
    first_tensor,
    foreign_code,
    lent,
    replaced,
    user_line,
)
from kanexport.torch_export.io_binding import Whole, tensors, why_not
from kanexport.verify.float64_reference import Jitter
from kanexport.verify.tolerances import magnitude

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a submodule.

    x       vectors that it received
    y       its output
    args    positional arguments of the call
    kwargs  keyword arguments of the call
    at      place of the vectors among both
    part    position of `y` among the module's outputs; None if it is the only one
    """

    name: str
    x: Array
    y: Array
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    at: int | str
    part: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The type of the vectors."""
        kind: torch.dtype = argument(self.args, self.kwargs, self.at).dtype
        return kind

    def rerun(self, x: Array) -> Call | None:
        """The same call with other vectors; None if the module does not accept them."""
        args, kwargs = self.arguments(torch.from_numpy(x).to(self.dtype))
        with contextlib.suppress(ForeignError), foreign_code(), torch.no_grad():
            y = self.output(self.module.forward(*args, **kwargs))
            return Call(self.name, x, array(y), self.module, args, kwargs, self.at, self.part)
        return None

    def output(self, y: Any) -> torch.Tensor:
        """The output tensor of the layer among the outputs of the module."""
        tensor: torch.Tensor = y if self.part is None else list(tensors(y))[self.part][1]
        return tensor

    def arguments(self, vectors: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call, with other vectors."""
        return with_argument(self.args, self.kwargs, self.at, vectors)


@dataclass(frozen=True, slots=True)
class ReferenceModule:
    """The module in the precision in which it runs: float64 if possible, otherwise float32."""

    module: Whole
    dtype: torch.dtype
    derives: bool = False  # takes derivatives in its forward

    @classmethod
    def of(cls, module: Whole, rows: Array) -> ReferenceModule:
        """Raises InvalidKan, with the error of the module, if the module does not run."""
        try:
            return cls._running(module, torch.float64, rows)
        except InvalidKan as error:
            if error.__cause__ is None:  # it runs, but gives nothing that can be served
                raise
            # The code may ask for float32 by name.
            return cls._running(module, torch.float32, rows)

    @classmethod
    def _running(cls, module: Whole, dtype: torch.dtype, rows: Array) -> ReferenceModule:
        """The module in a type, without derivatives or with them. Raises InvalidKan."""
        with lent(module, dtype), watched() as taken:
            try:
                cls(module, dtype).run(rows)
            except InvalidKan as error:
                if not any(words in error.message for words in NO_GRAPH):
                    raise
                cls(module, dtype, derives=True).run(rows)
        return cls(module, dtype, derives=bool(taken))

    def run(
        self,
        rows: Array,
        watched: Mapping[str, nn.Module] | None = None,
        jitter: Jitter | None = None,
        *,
        nested: bool = False,
        tapped: Container[str] = (),
    ) -> tuple[Array, list[Call]]:
        """The output for rows [B, ...], and the calls of the watched submodules in the order in which they ended.

        nested  also record calls that a watched submodule makes of another
        tapped  names of modules inside of which others still run
        jitter  perturbation of the rows and of the inputs of those submodules

        The module must be lent. Raises InvalidKan with the module's own words.
        """
        watch = _Watch([], jitter, nested, tapped)
        x = torch.from_numpy(rows if jitter is None else jitter.shake(rows)).to(self.dtype)
        forwards = [(part, watch.forward(name, part)) for name, part in (watched or {}).items()]
        try:
            with foreign_code(), replaced(forwards), Rewritten(DISTANCES), torch.set_grad_enabled(self.derives):
                y = self.module(differentiable(x) if self.derives else x)
        except ForeignError as foreign:
            count = "1 row" if len(x) == 1 else f"{len(x)} rows"
            raise ModuleRefused(
                f"the module does not run on {count} of {self.module.wiring.shown(x)}: {first_line(foreign.error)}"
                + user_line(foreign.error),
                code="module-does-not-run",
                hint="pass input rows with --example rows.npy (for several inputs an .npz with an array per parameter "
                "of its forward), or the shape of a row with --input-shape",
            ) from foreign.error
        if not isinstance(y, torch.Tensor) or not y.is_floating_point() or y.ndim < 2:
            raise ModuleRefused(
                why_not(y, len(x)),
                code="outputs-not-per-row",
                hint="wrap it in a module that returns the tensors to be served",
            )
        return array(y), watch.calls

    def in_float32(self, rows: Array) -> Array | None:
        """The output in float32 of a module that was lent in float64; None if it runs only in float32, or fails."""
        if self.dtype == torch.float32:
            return None
        with contextlib.suppress(InvalidKan), lent(self.module, torch.float32):
            return dataclasses.replace(self, dtype=torch.float32).run(rows)[0]
        return None


@dataclass
class _Watch:
    """Recorder of the calls of submodules. With `jitter`, it also changes their inputs."""

    calls: list[Call]
    jitter: Jitter | None
    nested: bool
    tapped: Container[str] = ()
    inside: bool = False

    def forward(self, name: str, part: nn.Module) -> Callable[..., Any]:
        """A forward that calls the original forward and records it."""
        own = part.forward

        def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
            at = first_tensor(args, kwargs)
            if at is None or (self.inside and not self.nested) or hidden(argument(args, kwargs, at)):
                return own(*args, **kwargs)
            vectors = argument(args, kwargs, at)
            if self.jitter is not None and vectors.is_floating_point():
                shaken = torch.from_numpy(self.jitter.shake(array(vectors))).to(vectors.dtype)
                # Derivatives are still taken by the same tensor.
                shaken = vectors + (shaken - vectors).detach() if vectors.requires_grad else shaken
                args, kwargs = with_argument(args, kwargs, at, shaken)
            # Copied before and after, because either may be changed in place by what follows.
            x = array(argument(args, kwargs, at))
            before, self.inside = self.inside, self.inside or name not in self.tapped
            try:
                y = own(*args, **kwargs)
            finally:
                self.inside = before
            output, place = _output_vectors(y, vectors)
            if output is not None and vectors.is_floating_point() and output.is_floating_point():
                self.calls.append(Call(name, x, array(output), part, args, kwargs, at, place))
            return y

        return forward


def _output_vectors(y: Any, vectors: torch.Tensor) -> tuple[torch.Tensor | None, int | None]:
    """The output vectors, and their position among the tensors of a layer that also returns a loss or activations.
    They are the first tensor with one vector per input vector."""
    if isinstance(y, torch.Tensor):
        return y, None
    for at, (_, value) in enumerate(tensors(y)):
        if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[:-1] == vectors.shape[:-1]:
            return value, at
    return None, None


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], at: int | str) -> Any:
    """The argument of a call at a place that `first_tensor` returns."""
    return args[at] if isinstance(at, int) else kwargs[at]


def with_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], at: int | str, value: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another value at such a place."""
    if isinstance(at, int):
        return (*args[:at], value, *args[at + 1 :]), kwargs
    return args, kwargs | {at: value}


def array(value: torch.Tensor) -> Array:
    """A copy in float64."""
    return value.detach().to("cpu", torch.float64, copy=True).numpy()


def rounded(values: Array) -> Array:
    """Numbers that float32 represents."""
    return values.astype(np.float32).astype(np.float64)


def close(values: Array, expected: Array, limit: float) -> bool:
    """Whether arrays of one shape differ by at most `limit` of the largest finite expected number."""
    if values.shape != expected.shape:
        return False
    scale = magnitude(expected) or 1.0
    return bool(np.allclose(values, expected, rtol=0, atol=limit * scale, equal_nan=True))


NO_GRAPH = ("does not require grad", "not have been used in the graph")  # torch's words for what no_grad hides
# Numbers of rows, of which one divides no other size in a module: multiples of it are taken for the rows.
ROWS = (31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79)
# Operators that are given shapes.
SHAPED = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("view", "_unsafe_view", "expand", "reshape", "new_zeros", "repeat")
)


@contextlib.contextmanager
def watched() -> Iterator[list[None]]:
    """A context that records one entry for each derivative."""
    taken: list[None] = []
    autograd: Any = torch.autograd
    engine = autograd._engine_run_backward  # what grad, backward and torch.func come to

    def run(*args: Any, **kwargs: Any) -> Any:
        taken.append(None)
        return engine(*args, **kwargs)

    autograd._engine_run_backward = run
    try:
        yield taken
    finally:
        autograd._engine_run_backward = engine


def hidden(tensor: torch.Tensor) -> bool:
    """Whether torch.func hides the values of a tensor, because it derives by it or maps over it."""
    functorch: Any = torch._C._functorch
    return bool(functorch.is_functorch_wrapped_tensor(tensor))


def rows(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """The number of rows with which a module is traced to operators."""
    tensors = [*inputs, *module.parameters(), *module.buffers()]
    sizes = {size for tensor in tensors for size in tensor.shape}
    return next((count for count in ROWS if all(size % count or not size for size in sizes)), ROWS[-1])


def differentiable(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with respect to which a derivative can be computed."""
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def in_functorch(failure: BaseException) -> bool:
    """Whether a failure occurred within vmap or a derivative of torch.func."""
    error: BaseException | None = failure
    while error is not None:
        frames = (frame.filename for frame in traceback.extract_tb(error.__traceback__))
        if "functorch transform" in str(error) or any("_functorch" in name for name in frames):
            return True
        error = error.__cause__ or error.__context__
    return False


def written_down(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    """A lent module as its operators, without the Python code of a forward, for inputs of any number of rows. The
    inputs have as many rows as `rows` returns, because vmap of torch.func stores that number in places."""

    def forward(*tensors: torch.Tensor) -> object:
        with torch.enable_grad():
            return module(*map(differentiable, tensors))

    with Rewritten():
        operators = make_fx(forward, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    # The number of rows of the input replaces constants that are the number of rows of `inputs`, or a multiple of it.
    count, graph = len(inputs[0]), operators.graph
    first = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(first):
        size = graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
    times: dict[int, Node] = {1: size}

    def free(value: Any) -> Any:
        factor, rest = divmod(value, count) if type(value) is int else (0, 1)
        if rest or not factor:
            return value
        if factor not in times:
            with graph.inserting_after(size):
                times[factor] = graph.call_function(operator.mul, (size, factor))
        return times[factor]

    for node in list(graph.nodes):
        if node.target in SHAPED:
            node.args = tree_map(free, node.args)
    graph.eliminate_dead_code()
    operators.recompile()
    return _Plain(operators)


class _Plain(nn.Module):
    """A module with inputs like a traced module."""

    def __init__(self, operators: nn.Module) -> None:
        super().__init__()
        self.operators = operators

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.operators(*inputs)


EXACT = "donot_use_mm_for_euclid_dist"


def _cdist(a: torch.Tensor, b: torch.Tensor, p: float = 2.0, compute_mode: str = EXACT) -> torch.Tensor:
    """Distances by one method for all numbers of rows; torch uses another above 25 rows, with fewer digits."""
    return torch.cdist(a, b, p, compute_mode=EXACT)


def _clamp(x: torch.Tensor, min: Any = None, max: Any = None) -> torch.Tensor:
    """torch.clamp with a tensor as bound; torch.onnx loses the type of the bound under torch.vmap."""
    if not isinstance(min, torch.Tensor) and not isinstance(max, torch.Tensor):
        return torch.clamp(x, min, max)
    if min is not None:
        x = torch.maximum(x, _like(min, x))
    return x if max is None else torch.minimum(x, _like(max, x))


def _like(value: Any, x: torch.Tensor) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)


def _getitem(x: torch.Tensor, index: Any) -> torch.Tensor:
    """Indexing with indices of 64 bits, as ONNX needs them."""
    narrow = (torch.int32, torch.int16, torch.int8)
    several = index if isinstance(index, tuple) else (index,)
    wide = tuple(item.long() if isinstance(item, torch.Tensor) and item.dtype in narrow else item for item in several)
    return x[wide if isinstance(index, tuple) else wide[0]]


Table = Mapping[Any, Callable[..., torch.Tensor]]
# Torch's own other way: a module is held to it too, because with more than 25 rows a row of infinities returns NaN.
DISTANCES: Table = {torch.cdist: _cdist}
TABLE: Table = {
    **DISTANCES,
    torch.clamp: _clamp,
    torch.Tensor.clamp: _clamp,
    torch.Tensor.__getitem__: _getitem,
}


class Rewritten(TorchFunctionMode):
    """A context in which other functions replace the functions of a table."""

    def __init__(self, table: Table = TABLE) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.table.get(func, func)(*args, **(kwargs or {}))


KEEP, FLAT, COLUMN = "keep", "flat", "column"  # [..., n] -> [..., m]; -> [rows, m]; -> [rows, m, 1]
TAP, TAP_AFTER = "tap", "tap after"  # nothing is replaced: what goes in, or comes out, is looked at, and passes


def form(call: Call, n: int, m: int) -> str:
    """The form of the output of a layer of n sources and m destinations. Raises InvalidKan for an unknown form."""
    rows, rest = divmod(call.x.size, n)
    if not rest and call.x.ndim:
        if call.x.shape[-1] == n and call.y.shape == (*call.x.shape[:-1], m):
            return KEEP
        if call.y.shape == (rows, m):
            return FLAT
        if call.y.shape == (rows, m, 1):
            return COLUMN
    raise LayerSkipped(
        f"maps {list(call.x.shape)} to {list(call.y.shape)}, which does not fit {n} sources and {m} destinations"
    )


def lead(two: Call, three: Call, n: int) -> tuple[int, ...] | None:
    """Axes of the vectors of a layer, -1 for the rows of the batch, from calls with 2 and 3 rows: (-1, 8) for 8
    tokens, (8, -1) if the batch is the second axis. None if the axis of the rows is ambiguous."""
    first, second = (call.x.shape[:-1] if call.x.shape[-1] == n else (call.x.size // n,) for call in (two, three))
    return lead_of(first, second)


def lead_of(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """The same from the axes of the vectors of both calls."""
    if len(first) != len(second):
        return None
    moved = [axis for axis, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if len(moved) != 1 or first[moved[0]] * 3 != second[moved[0]] * 2:
        return None
    axis, each = moved[0], first[moved[0]] // 2
    return (*first[:axis], -1, *(() if each == 1 else (each,)), *first[axis + 1 :])


def by_row(flat: Array, axes: tuple[int, ...]) -> Array:
    """[rows of the layer, n] -> [B, *positions, n]"""
    return np.moveaxis(flat.reshape(*axes, flat.shape[-1]), axes.index(-1), 0)
