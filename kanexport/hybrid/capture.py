"""The module run as it is, in float64 where it can be, and what its KAN layers saw."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport import evaluate
from kanexport.errors import ExportError, InvalidKan
from kanexport.evaluate import Jitter
from kanexport.ir import Kan

Array = npt.NDArray[np.float64]

AGREEMENT = 1e-6  # relative; float64 agrees to 1e-14, a misread formula to 1e-2
KEEP, FLAT, COLUMN = "keep", "flat", "column"  # [..., n] -> [..., m]; -> [rows, m]; -> [rows, m, 1]


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a recognised submodule: its input and output as they were."""

    name: str
    x: Array
    y: Array


@dataclass(frozen=True, slots=True)
class Oracle:
    """A float64 copy of the module (float32 where it does not run in float64)."""

    module: nn.Module
    dtype: torch.dtype

    @classmethod
    def of(cls, module: nn.Module, rows: Array) -> Oracle:
        """Raises InvalidKan where the module does not run at all, with its own words."""
        double = cls(_frozen(module).double(), torch.float64)
        try:
            double.run(rows)
        except (RuntimeError, TypeError):  # tensors that are neither parameters nor buffers stay float32
            single = cls(_frozen(module).float(), torch.float32)
            single.run(rows)
            return single
        return double

    def run(
        self, rows: Array, kans: Mapping[str, Kan] | None = None, jitter: Jitter | None = None
    ) -> tuple[Array, list[Call]]:
        """Rows [B, ...] to the output and the calls of the named submodules, in order.
        `jitter` shakes the rows and what goes into those submodules."""
        calls: list[Call] = []
        x = torch.from_numpy(rows if jitter is None else jitter.shake(rows)).to(self.dtype)
        with _watched(self.module, kans or {}, calls, jitter), torch.no_grad(), plain(self.dtype):
            y = self.module(x)
        return _array(_only(y)), calls


def single(module: nn.Module) -> nn.Module:
    """A float32 copy for inference."""
    return _frozen(module).float()


def _frozen(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).cpu().eval().requires_grad_(requires_grad=False)


@contextlib.contextmanager
def plain(dtype: torch.dtype, *, compile_too: bool = False) -> Iterator[None]:
    """Some layers allocate in the default type whatever their weights are, and some
    compile themselves, which takes half a minute and is left out."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.compiler.set_stance("default" if compile_too else "force_eager"):
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _watched(module: nn.Module, kans: Mapping[str, Kan], calls: list[Call], jitter: Jitter | None) -> Iterator[None]:
    handles = []
    parts = dict(module.named_modules())
    for name in kans:
        part = parts[name]

        def after(_: nn.Module, args: tuple[object, ...], y: object, name: str = name) -> None:
            if isinstance(y, torch.Tensor) and args and isinstance(args[0], torch.Tensor):
                calls.append(Call(name, _array(args[0]), _array(y)))

        def before(_: nn.Module, args: tuple[object, ...]) -> object:
            if jitter is None or not args or not isinstance(args[0], torch.Tensor):
                return None
            shaken = torch.from_numpy(jitter.shake(_array(args[0]))).to(args[0].dtype)
            return (shaken, *args[1:])

        handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _only(y: object) -> torch.Tensor:
    if isinstance(y, tuple | list) and len(y) == 1:
        y = y[0]
    if not isinstance(y, torch.Tensor) or not y.is_floating_point() or y.ndim < 2:
        shown = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, torch.Tensor) else type(y).__name__
        raise InvalidKan(
            f"the module gives {shown}, expected one floating-point tensor [batch, ...]",
            hint="wrap it in a module that returns the tensor to be served",
        )
    return y


def _array(value: torch.Tensor) -> Array:
    return value.detach().cpu().to(torch.float64).numpy()


def form(call: Call, kan: Kan) -> str:
    """How the layer shapes its output. Raises InvalidKan where it is none of the known ways."""
    n, m = kan.n_inputs, kan.n_outputs
    rows, rest = divmod(call.x.size, n)
    if not rest:
        if call.x.shape[-1] == n and call.y.shape == (*call.x.shape[:-1], m):
            return KEEP
        if call.y.shape == (rows, m):
            return FLAT
        if call.y.shape == (rows, m, 1):
            return COLUMN
    raise InvalidKan(
        f"maps {list(call.x.shape)} to {list(call.y.shape)}, which {n} sources and {m} destinations do not"
    )


def agree(call: Call, kan: Kan) -> str:
    """Why the submodule does not compute what we read, or an empty text."""
    try:
        form(call, kan)
    except InvalidKan as error:
        return error.message
    found = evaluate.evaluate(kan, call.x.reshape(-1, kan.n_inputs)).y.reshape(-1)
    expected = call.y.reshape(-1)
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite):
        return "differs in what is not finite"
    scale = np.abs(expected[finite]).max(initial=0) or 1.0
    relative = np.abs(found - expected)[finite].max(initial=0) / scale
    return "" if relative <= AGREEMENT else f"differs by {relative:.1e} from what its tensors tell"


def lead(two: Call, three: Call, kan: Kan) -> tuple[int, ...] | None:
    """Axes of a layer's vectors, -1 at the rows of the batch, from calls with 2 and 3
    rows: (-1, 8) for 8 tokens, (8, -1) where the batch comes second. None where the
    rows cannot be told apart."""
    first, second = (_lead(call, kan.n_inputs) for call in (two, three))
    if len(first) != len(second):
        return None
    moved = [axis for axis, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if len(moved) != 1 or first[moved[0]] * 3 != second[moved[0]] * 2:
        return None
    axis, each = moved[0], first[moved[0]] // 2
    if each == 1:
        return (*first[:axis], -1, *first[axis + 1 :])
    return (-1, each, *first[1:]) if axis == 0 else None


def _lead(call: Call, n: int) -> tuple[int, ...]:
    return call.x.shape[:-1] if call.x.shape[-1] == n else (call.x.size // n,)


def by_row(flat: Array, axes: tuple[int, ...]) -> Array:
    """[rows of the layer, n] -> [B, *positions, n]"""
    return np.moveaxis(flat.reshape(*axes, flat.shape[-1]), axes.index(-1), 0)


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line without its paths."""
    if isinstance(error, ExportError):
        return error.message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
