"""Edge graphs of layers that are known by their outputs: torch.onnx makes them.

A trace takes most of a second. Layers that differ only in their numbers share one: it takes their tensors as inputs,
and each layer's graph is a copy with that layer's own tensors as constants. The copy is compared with the layer before
it is used."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator

import numpy as np
import torch
from torch import nn

from kanexport.errors import ExportError, InvalidKan
from kanexport.hybrid import splice, trace
from kanexport.hybrid.faults import ForeignError
from kanexport.hybrid.sampled import Sampled, injected, same
from kanexport.lowering.edges import EDGES
from kanexport.proof import runtime
from kanexport.proof.ports import Port, Ports

TABLES = ("_parameters", "_buffers", "_modules")  # attributes of a module whose tensors may differ
NEAR = 1e-4  # largest difference from the layer, relative to the largest edge value of three rows
EXACT = (torch.float32, torch.float64, torch.int64, torch.bool)  # types of unregistered tensors that are compared
SMALL = 1 << 16  # bytes of an unregistered tensor that are compared


class _Alone(nn.Module):
    """The layer on vectors [N, n], called as its module calls it."""

    def __init__(self, sampled: Sampled, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.call = sampled.call.module, sampled.call
        self.axes, self.width = sampled.call.x.ndim - 2, len(sampled.constant)
        self.kind = dtype

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        (x,) = given
        args, kwargs = self.call.arguments(x.reshape(-1, *[1] * self.axes, x.shape[-1]))
        plain = [self._cast(value) for value in args]
        y = self.call.answer(self.layer(*plain, **{name: self._cast(value) for name, value in kwargs.items()}))
        answer: torch.Tensor = y.reshape(-1, self.width)
        return answer

    def _cast(self, value: object) -> object:
        return value.to(self.kind) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


class _Apart(nn.Module):
    """The edges [N, n, m] of vectors [N, n]: each source moved alone."""

    def __init__(self, sampled: Sampled, dtype: torch.dtype) -> None:
        super().__init__()
        self.alone = _Alone(sampled, dtype)
        self.shape = (len(sampled.base), len(sampled.constant))
        self.base = nn.Buffer(torch.from_numpy(sampled.base).to(dtype))
        self.constant = nn.Buffer(torch.from_numpy(sampled.constant).to(dtype))
        self.own = nn.Buffer(torch.eye(len(sampled.base), dtype=torch.bool))
        self.norms = sampled.norms
        for at, rest in enumerate(sampled.rests):
            self.register_buffer(f"rest{at}", torch.from_numpy(rest).to(dtype))

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        (x,) = given
        rows, *seen = (
            torch.where(self.own, values[:, :, None], rest).reshape(-1, self.shape[0])
            for values, rest in zip((x, *self._normed(x)), (self.base, *self._rests()), strict=True)
        )
        with injected([(norm, functools.partial(same, z)) for norm, z in zip(self.norms, seen, strict=True)]):
            edges: torch.Tensor = self.alone(rows).reshape(-1, *self.shape) - self.constant
        return edges

    def _rests(self) -> Iterator[torch.Tensor]:
        return (self.get_buffer(f"rest{at}") for at in range(len(self.norms)))

    def _normed(self, x: torch.Tensor) -> list[torch.Tensor]:
        shaped = x.reshape(-1, *[1] * self.alone.axes, x.shape[-1])
        return [norm(shaped).reshape(x.shape) for norm in self.norms]


class _Open(nn.Module):
    """The edges as a function of vectors [N, n] and of all tensors of a layer, in the order of `_tensors`."""

    def __init__(self, apart: _Apart) -> None:
        super().__init__()
        self.apart, self.names = (apart,), tuple(_tensors(apart))  # a tuple: its tensors are not this module's

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        x, *own = given
        edges: torch.Tensor = torch.func.functional_call(self.apart[0], dict(zip(self.names, own, strict=True)), (x,))
        return edges


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a module, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


class EdgeGraphs:
    """The edge graphs of the layers of one module. `layers`: all of them, to know which ones share a trace; the module
    must be lent."""

    def __init__(self, layers: Iterable[Sampled]) -> None:
        self._count = Counter(map(_kind, layers))
        self._traced: dict[Hashable, bytes | None] = {}

    def edges(self, sampled: Sampled, name: str, dtype: str, most: int) -> bytes:
        """The graph of a layer's edges, from `name` [N, n] to EDGES [N, n, m]. The module must be lent in that type.
        Raises InvalidKan."""
        n, m = len(sampled.base), len(sampled.constant)
        apart = _Apart(sampled, getattr(torch, dtype))
        given, wanted = Port(name, (n,)), Port(EDGES, (n, m))
        kind = _kind(sampled)
        if kind is not None and self._count[kind] > 1:
            graph = self._copy((kind, dtype), apart, given, wanted, dtype)
            if graph is not None:
                return graph
        return graph_of(apart, n, given, wanted, dtype, most)

    def _copy(self, key: Hashable, apart: _Apart, given: Port, wanted: Port, dtype: str) -> bytes | None:
        """The common graph with the tensors of one layer, or None if there is none or it is wrong for that layer."""
        rows = _rows(apart.shape[0], dtype)
        own = _tensors(apart)
        if key not in self._traced:
            try:
                self._traced[key] = trace.opened(_Open(apart), [rows], tuple(own.values()), getattr(torch, dtype))
            except ForeignError:
                self._traced[key] = None
        traced = self._traced[key]
        if traced is None:
            return None
        constants = [tensor.detach().numpy() for tensor in own.values()]
        with torch.no_grad():
            expected = apart(torch.from_numpy(rows)).numpy()
        try:
            graph = splice.splice(splice.filled(traced, constants), [], Ports((given,), (wanted,)))
            edges = runtime.run(runtime.session(graph), {given.name: rows})[wanted.name]
        except ExportError:
            return None
        scale = float(np.abs(expected).max(initial=0)) or 1.0
        return graph if float(np.abs(edges - expected).max(initial=0)) <= NEAR * scale else None


def _rows(n: int, dtype: str) -> np.ndarray[tuple[int, int], np.dtype[np.floating]]:
    return np.random.default_rng(0).normal(size=(3, n)).astype(dtype)


def _kind(sampled: Sampled) -> Hashable | None:
    """A key for sharing. Layers with equal keys differ only in the values of their tensors. None: the layer takes more
    than its vectors, and shares no trace."""
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
    """All that a trace of the module may depend on, apart from the values of parameters and buffers."""
    held = {name: (value.shape, value.dtype) for name, value in _own(module)}
    rest = tuple((name, _plain(value)) for name, value in sorted(vars(module).items()) if name not in TABLES)
    parts = tuple((name, part and _structure(part)) for name, part in module._modules.items())
    return type(module), tuple(held.items()), rest, parts


def _own(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _plain(value: object, levels: int = 8) -> Hashable:
    """A value for comparison: numbers, texts, small tensors and collections of these by content, others as the same
    object. `levels`: of collections within collections."""
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes() | torch.dtype() | torch.device():
            return type(value), value
        case torch.Tensor() if value.dtype in EXACT and value.layout is torch.strided and value.nbytes <= SMALL:
            return "tensor", value.shape, value.dtype, value.detach().cpu().numpy().tobytes()
        case list() | tuple() | set() | frozenset() if levels:
            return type(value), tuple(_plain(one, levels - 1) for one in value)
        case dict() if levels:
            return type(value), tuple((key, _plain(one, levels - 1)) for key, one in value.items())
    return "object", id(value)


def graph_of(module: nn.Module, n: int, given: Port, wanted: Port, dtype: str, most: int) -> bytes:
    """A module's own graph, from vectors `given` [N, n] to `wanted`; while it is lent. Raises InvalidKan."""
    rows = _rows(n, dtype)
    traced = next(trace.traces(module, [rows], [], getattr(torch, dtype), most=most, derives=False))
    if traced.sizes and not traced.written:  # the whole graph is tried with those
        raise InvalidKan("a layer that is known by its answers goes another way for some batches")
    return splice.splice(traced.model, [], Ports((given,), (wanted,)))
