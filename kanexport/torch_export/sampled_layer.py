"""Sampled layers, which have no reader: an edge is the output of the layer while only one source changes.

A layer of n sources is a KAN layer, whatever its functions are, if

    f_j(x) = f_j(b) + sum_i phi_ij(x_i),    phi_ij(x_i) = f_j(b with x_i in place i) - f_j(b)

for a base point b and every x. Where the layer begins with a norm z(x) of its whole row, f is a function of both,
and each source is moved in both: phi_ij = f_j(x_i and z_i in place i) - f_j(b). Nothing is interpolated: phi is the
layer itself on rows that have b in all places but one. It is offered only if the sums hold wherever a reading
would have to; `additive.py` looks for such layers.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import ExportError, LayerSkipped
from kanexport.functions.elementwise import Unary
from kanexport.ir.model import EdgeTerm, Kan, Layer
from kanexport.lowering.lower import EDGES
from kanexport.shared.manifest import NodeStep
from kanexport.torch_export import splice, trace
from kanexport.torch_export.borrowed_module import ForeignError, foreign_code, replaced
from kanexport.torch_export.capture import Call, array
from kanexport.verify import graph_runner
from kanexport.verify.graph_runner import Port, Ports

if TYPE_CHECKING:
    from kanexport.graph.builder import Graph, Value


Array = npt.NDArray[np.float64]

NO_OPERATORS = "torch.onnx writes the graph of a sampled layer"
SAMPLED = "sampled"  # the family, and the kind of function
ROWS, NUMBERS = 4096, 1 << 20  # limits for one chunk: rows that the layer gets, and numbers in them
PRODUCTS, LEAST = 1 << 19, 8  # numbers in one run, one per row, source and destination; rows in it at least
USUAL = 16  # sources of a layer whose edges take as long as a formula's edges


@dataclass(frozen=True, slots=True)
class NormStep:
    """A norm inside a layer, which is computed with the layer."""

    name: str

    mixes = True

    def width_out(self, width_in: int) -> int:
        """The number of sources, unchanged."""
        return width_in

    def evaluate(self, x: Array) -> Array:
        """The sources, unchanged: the layer includes the norm."""
        return x

    def emit(self, g: Graph, x: Value) -> Value:
        """Raises InvalidKan."""
        raise LayerSkipped(NO_OPERATORS)

    def describe(self) -> NodeStep:
        """The class of the norm."""
        return NodeStep(kind="module", function=self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """A layer that is evaluated by running it.

    base      point [n] that all sources but one stay at
    constant  output [m] at the base
    norms     norms that begin it and look at its whole row
    rests     outputs [n] of the norms at the base
    """

    call: Call
    base: Array
    constant: Array
    norms: tuple[nn.Module, ...] = ()
    rests: tuple[Array, ...] = ()

    @classmethod
    def of(cls, call: Call, norms: tuple[nn.Module, ...] = ()) -> Sampled:
        """The layer at zero or, if it has no finite output there, at the vectors of the call. Raises InvalidKan."""
        n = call.x.shape[-1]
        for base in (np.zeros(n), call.x.reshape(-1, n)[0]):
            rests = tuple(_normed(call, norm, base[None])[0] for norm in norms)
            constant = _outputs(call, base[None], norms, [rest[None] for rest in rests])[0]
            if np.isfinite(constant).all():
                return cls(call, base, constant, norms, rests)
        raise LayerSkipped(
            "returns NaN or infinity for both the zero input and the first row, so its edge values cannot be measured"
        )

    def edges(self, x: Array, times: float = 1.0) -> Array:
        """[N, n] -> [N, n, m], in chunks; while the module is lent. `times`: the factor of the distance from the
        base."""
        n, m = len(self.base), len(self.constant)
        each, each_run = max(1, min(ROWS // n, NUMBERS // n**2)), max(LEAST, PRODUCTS // (n * m))
        pieces = [np.zeros((0, n, m))]
        for rows in (x[at : at + each] for at in range(0, len(x), each)):
            alone = []  # [N * n, n] of the vectors and of each norm: each source by itself, the others at the base
            for values, rest in zip((rows, *self._normed(rows)), (self.base, *self.rests), strict=True):
                with np.errstate(invalid="ignore"):
                    moved = rest + times * (values - rest) if times != 1 else values
                alone.append(np.where(np.eye(n, dtype=bool), moved[:, :, None], rest).reshape(-1, n))
            runs = ([values[at : at + each_run] for values in alone] for at in range(0, len(alone[0]), each_run))
            outputs = [_outputs(self.call, vectors, self.norms, normed) for vectors, *normed in runs]
            with np.errstate(invalid="ignore"):
                pieces.append(np.concatenate(outputs).reshape(len(rows), n, -1) - self.constant)
        return np.concatenate(pieces)

    def _normed(self, rows: Array) -> list[Array]:
        return [_normed(self.call, norm, rows) for norm in self.norms]

    def kan(self) -> Kan:
        """The layer as a network of one layer."""
        shape = (len(self.base), len(self.constant))
        largest = np.abs(self.call.x[np.isfinite(self.call.x)]).max(initial=1.0)
        rate = 2.0 ** -np.ceil(np.log2(largest))  # a power of two, so that nothing is rounded

        def evaluate(inner: Array) -> Array:
            return self.edges(inner[:, :, 0, 0] / rate)[..., None]

        edge, ones = np.ones((*shape, 1)), np.ones(shape)
        before = tuple(NormStep(type(norm).__name__) for norm in self.norms)
        term = EdgeTerm(
            Unary(SAMPLED, evaluate, _emit, effort=-(-shape[0] // USUAL)), 0 * edge, rate * edge, edge, before
        )
        return Kan(shape[0], (Layer((term,), ones, self.constant, np.zeros(shape, dtype=bool)),))


def _emit(g: Graph, x: Value) -> Value:
    raise LayerSkipped(NO_OPERATORS)


def _shaped(call: Call, rows: Array) -> Array:
    return rows.reshape(len(rows), *[1] * (call.x.ndim - 2), rows.shape[1])


def _outputs(call: Call, rows: Array, norms: Sequence[nn.Module] = (), normed: Sequence[Array] = ()) -> Array:
    """The outputs [N, m] of the layer for rows [N, n], with `normed` as the outputs of its norms. Raises InvalidKan
    if it does not accept them."""
    with injected(zip(norms, map(torch.from_numpy, normed), strict=True)):
        repeated = call.rerun(_shaped(call, rows))
    if repeated is None or repeated.y.size % len(rows):
        raise LayerSkipped("does not accept single rows")
    return repeated.y.reshape(len(rows), -1)


def _normed(call: Call, norm: nn.Module, rows: Array) -> Array:
    """The output of a norm for rows [N, n]. Raises InvalidKan."""
    kind = next((value.dtype for value in call.args if isinstance(value, torch.Tensor)), torch.float64)
    try:
        with foreign_code(), torch.no_grad():
            return array(norm(torch.from_numpy(_shaped(call, rows)).to(kind))).reshape(rows.shape)
    except ForeignError as foreign:
        raise LayerSkipped("does not accept single rows") from foreign.error


@contextlib.contextmanager
def injected(values: Iterable[tuple[nn.Module, torch.Tensor]], *, shape: bool = False) -> Iterator[None]:
    """A context in which modules return these values, in the shape of their input. `shape`: copies in the shape of the
    values."""

    def forward(value: torch.Tensor) -> Callable[..., Any]:
        return lambda _, x, *args, **kwargs: (value.clone() if shape else value.reshape(x.shape)).to(x.dtype)

    with replaced([(module, forward(value)) for module, value in values]):
        yield


TABLES = ("_parameters", "_buffers", "_modules")  # attributes of a module whose tensors may differ
NEAR = 1e-4  # largest difference from the layer, relative to the largest edge value of three rows
EXACT = (torch.float32, torch.float64, torch.int64, torch.bool)  # types of unregistered tensors that are compared
SMALL = 1 << 16  # bytes of an unregistered tensor that are compared


class _LayerOnVectors(nn.Module):
    """The layer on vectors [N, n], called as the module calls it."""

    def __init__(self, sampled: Sampled, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.call = sampled.call.module, sampled.call
        self.axes, self.width = sampled.call.x.ndim - 2, len(sampled.constant)
        self.kind = dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        args, kwargs = self.call.arguments(x.reshape(-1, *[1] * self.axes, x.shape[-1]))
        y = self.layer(*map(self._cast, args), **{name: self._cast(value) for name, value in kwargs.items()})
        return self.call.output(y).reshape(-1, self.width)

    def _cast(self, value: object) -> object:
        return value.to(self.kind) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


class _SeparateEdges(nn.Module):
    """The edges [N, n, m] of vectors [N, n]: each source changed by itself."""

    def __init__(self, sampled: Sampled, dtype: torch.dtype) -> None:
        super().__init__()
        self.alone = _LayerOnVectors(sampled, dtype)
        self.shape = (len(sampled.base), len(sampled.constant))
        self.base = nn.Buffer(torch.from_numpy(sampled.base).to(dtype))
        self.constant = nn.Buffer(torch.from_numpy(sampled.constant).to(dtype))
        self.own = nn.Buffer(torch.eye(len(sampled.base), dtype=torch.bool))
        self.norms = sampled.norms
        for at, rest in enumerate(sampled.rests):
            self.register_buffer(f"rest{at}", torch.from_numpy(rest).to(dtype))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        rests = [self.get_buffer(f"rest{at}") for at in range(len(self.norms))]
        rows, *normed = (
            torch.where(self.own, values[:, :, None], rest).reshape(-1, self.shape[0])
            for values, rest in zip((x, *self._normed(x)), (self.base, *rests), strict=True)
        )
        with injected(zip(self.norms, normed, strict=True)):
            edges: torch.Tensor = self.alone(rows).reshape(-1, *self.shape) - self.constant
        return edges

    def _normed(self, x: torch.Tensor) -> list[torch.Tensor]:
        shaped = x.reshape(-1, *[1] * self.alone.axes, x.shape[-1])
        return [norm(shaped).reshape(x.shape) for norm in self.norms]


class _ParametricEdges(nn.Module):
    """The edges as a function of vectors [N, n] and of all tensors of a layer, in the order of `_tensors`."""

    def __init__(self, edges_module: _SeparateEdges) -> None:
        super().__init__()
        self.edges_module = (edges_module,)  # a tuple: its tensors are not this module's
        self.names = tuple(_tensors(edges_module))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, *own = inputs
        edges: torch.Tensor = torch.func.functional_call(
            self.edges_module[0], dict(zip(self.names, own, strict=True)), (x,)
        )
        return edges


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a module, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


class EdgeGraphs:
    """The edge graphs of the layers of one module, which must be lent.

    layers  all of them, to know which ones share a trace
    """

    def __init__(self, layers: Iterable[Sampled]) -> None:
        self._count = Counter(map(_kind, layers))
        self._traced: dict[Hashable, bytes | None] = {}

    def edges(self, sampled: Sampled, name: str, dtype: str, most: int) -> bytes:
        """The graph of the edges of a layer, from `name` [N, n] to EDGES [N, n, m]. The module must be lent in that
        type. Raises InvalidKan."""
        n, m = len(sampled.base), len(sampled.constant)
        edges_module = _SeparateEdges(sampled, getattr(torch, dtype))
        input_port, output_port = Port(name, (n,)), Port(EDGES, (n, m))
        kind = _kind(sampled)
        if kind is not None and self._count[kind] > 1:
            graph = self._copy((kind, dtype), edges_module, input_port, output_port, dtype)
            if graph is not None:
                return graph
        return graph_of(edges_module, n, input_port, output_port, dtype, most)

    def _copy(
        self, key: Hashable, edges_module: _SeparateEdges, input_port: Port, output_port: Port, dtype: str
    ) -> bytes | None:
        """The common graph with the tensors of one layer, or None if there is none or it is wrong for that layer."""
        rows = _rows(edges_module.shape[0], dtype)
        own = _tensors(edges_module)
        if key not in self._traced:
            try:
                self._traced[key] = trace.opened(
                    _ParametricEdges(edges_module), [rows], tuple(own.values()), getattr(torch, dtype)
                )
            except ForeignError:
                self._traced[key] = None
        traced = self._traced[key]
        if traced is None:
            return None
        constants = [tensor.detach().numpy() for tensor in own.values()]
        with torch.no_grad():
            expected = edges_module(torch.from_numpy(rows)).numpy()
        try:
            graph = splice.splice(splice.filled(traced, constants), [], Ports((input_port,), (output_port,)))
            edges = graph_runner.run(graph_runner.session(graph), {input_port.name: rows})[output_port.name]
        except ExportError:
            return None
        scale = float(np.abs(expected).max(initial=0)) or 1.0
        return graph if float(np.abs(edges - expected).max(initial=0)) <= NEAR * scale else None


def _rows(n: int, dtype: str) -> np.ndarray[tuple[int, int], np.dtype[np.floating]]:
    return np.random.default_rng(0).normal(size=(3, n)).astype(dtype)


def _kind(sampled: Sampled) -> Hashable | None:
    """A key for sharing. Layers with equal keys differ only in the values of their tensors. None: the layer takes
    more than its vectors, and shares no trace."""
    call = sampled.call
    if call.kwargs or len(call.args) != 1:
        return None
    places = {part: name for name, part in call.module.named_modules()}
    norms = tuple(places.get(norm) for norm in sampled.norms)
    if None in norms:
        return None
    shape = (call.x.ndim, call.part, len(sampled.base), len(sampled.constant))
    return _structure(call.module), tuple(_tensors(call.module)), shape, norms  # tied tensors have one name


def _structure(module: nn.Module) -> Hashable:
    """All facts on which a trace of the module may depend, except the values of parameters and buffers."""
    own = itertools.chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    tensors = {name: (value.shape, value.dtype) for name, value in own}
    rest = tuple((name, _plain(value)) for name, value in sorted(vars(module).items()) if name not in TABLES)
    parts = tuple((name, part and _structure(part)) for name, part in module._modules.items())
    return type(module), tuple(tensors.items()), rest, parts


def _plain(value: object, levels: int = 8) -> Hashable:
    """A value for comparison: numbers, texts, small tensors and collections of these by content, other values by
    identity. `levels`: of nested collections."""
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes() | torch.dtype() | torch.device():
            return type(value), value
        case torch.Tensor() if value.dtype in EXACT and value.layout is torch.strided and value.nbytes <= SMALL:
            return "tensor", value.shape, value.dtype, value.detach().cpu().numpy().tobytes()
        case list() | tuple() | set() | frozenset() if levels:
            return type(value), tuple(_plain(item, levels - 1) for item in value)
        case dict() if levels:
            return type(value), tuple((key, _plain(item, levels - 1)) for key, item in value.items())
    return "object", id(value)


def graph_of(module: nn.Module, n: int, input_port: Port, output_port: Port, dtype: str, most: int) -> bytes:
    """The graph of a module, from vectors `input_port` [N, n] to `output_port`; while it is lent. Raises InvalidKan."""
    rows = _rows(n, dtype)
    traced = next(trace.traces(module, [rows], [], getattr(torch, dtype), most=most, derives=False))
    if traced.sizes and not traced.written:  # the whole graph is tried with those
        raise LayerSkipped("a sampled layer computes differently for some batch sizes")
    return splice.splice(traced.model, [], Ports((input_port,), (output_port,)))
