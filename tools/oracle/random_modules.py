"""Check of kanexport on random modules of published KAN layers, look-alike layers and torch's own layers.

    PYTHONPATH=.:service:tests python tools/oracle/random_modules.py --count 10000
    PYTHONPATH=.:service:tests python tools/oracle/random_modules.py --count 200 --export    # graphs too
    ... --upstream FOLDER    # with the libraries' own files in it: efficient_kan.py, fastkan.py, ...

The program is not part of the suite, which runs a few of the modules (tests/integration/test_oracles.py).
It plans a module as an export does, and computes it in float64 with kanexport's interpretations in place of the
recognized layers. On new rows, the outputs must equal the module's own: near the planned rows, 10, 1000 and a
million times as far, with NaN and infinities. A difference is a silent wrong output, unless rounding of the rows
changes the module's own outputs as much. With `--export` the program runs the exported graph instead, and a note
of the export must report each row with other outputs. Number i is always the same module.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from kanexport.bundle.publish import Target
from kanexport.errors import ExportError
from kanexport.ir.model import Kan
from kanexport.torch_export import capture, replacement_plan
from kanexport.torch_export.borrowed_module import first_tensor, lent, replaced
from kanexport.torch_export.capture import ReferenceModule
from kanexport.torch_export.convert import convert
from kanexport.torch_export.io_binding import Whole
from kanexport.torch_export.replacement_plan import Plan
from kanexport.torch_export.sampled_layer import Sampled
from kanexport.verify import float64_reference
from kanexport.verify.float64_reference import Jitter
from tests.support import modules_unusual as odd
from tests.support import torch_modules as own

ROUNDING = np.finfo(np.float64).eps / 2
AGREED, EXCUSE = 1e-6, 32.0  # relative to a row's largest answer; times what rounding changes
IN_FLOAT32 = 1e-4
LARGE = 1e30  # what a float32 graph need not hold
ROWS, DRAWS = 6, 16  # of rows, and of how they are rounded
Rng = random.Random


class Chebyshev(nn.Module):
    """The tensors and the function of ChebyKAN's layer."""

    def __init__(self, n: int, m: int, degree: int = 4) -> None:
        super().__init__()
        self.inputdim, self.outdim, self.degree = n, m, degree
        self.cheby_coeffs = nn.Parameter(torch.randn(n, m, degree + 1) * 0.3)
        self.register_buffer("arange", torch.arange(0, degree + 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.tanh(x).reshape(-1, self.inputdim, 1).acos() * self.arange
        return torch.einsum("bid,iod->bo", angle.cos(), self.cheby_coeffs).view(-1, self.outdim)


class Fourier(nn.Module):
    """The tensors and the function of FourierKAN's layer."""

    def __init__(self, n: int, m: int, grid: int = 4) -> None:
        super().__init__()
        self.inputdim, self.outdim, self.gridsize, self.addbias = n, m, grid, True
        self.fouriercoeffs = nn.Parameter(torch.randn(2, m, n, grid) * 0.3)
        self.bias = nn.Parameter(torch.zeros(1, m))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead, flat = x.shape[:-1], x.reshape(-1, self.inputdim)
        angle = flat[:, None, :, None] * torch.arange(1, self.gridsize + 1)
        y = (angle.cos() * self.fouriercoeffs[:1]).sum((-2, -1)) + (angle.sin() * self.fouriercoeffs[1:]).sum((-2, -1))
        return (y + self.bias).reshape(*lead, self.outdim)


KANS: dict[str, Callable[[int, int, Rng], nn.Module]] = {
    "efficient-kan": lambda n, m, rng: own.KANLinear(n, m, -1, rng.choice([1, 3])),
    "fastkan": lambda n, m, rng: own.FastKANLayer(n, m, rng.choice([4, 6, 8])),
    "fastkan without its norm": lambda n, m, rng: Raw(n, m),
    "chebykan": lambda n, m, rng: Flat(Chebyshev(n, m, rng.choice([2, 4, 8]))),
    "fourierkan": lambda n, m, rng: Fourier(n, m, rng.choice([3, 5])),
    "gr-kan": lambda n, m, rng: odd.GroupRational(n, 2 * rng.randint(2, 5), m),
}
# By file and class: the constructor arguments after inputs and outputs.
UPSTREAM: list[tuple[str, str, tuple[Any, ...]]] = [
    ("efficient_kan", "KANLinear", ()),
    ("fastkan", "FastKANLayer", ()),
    ("ChebyKANLayer", "ChebyKANLayer", (4,)),
    ("JacobiKANLayer", "JacobiKANLayer", (3,)),
    ("fftKAN", "NaiveFourierKANLayer", (4,)),
    ("wav_kan", "KANLinear", ("mexican_hat",)),
    ("wav_kan", "KANLinear", ("morlet",)),
    ("sine_kan", "SineKANLayer", ("cpu",)),
    ("timekan_cheby", "ChebyKANLinear", (4,)),
    ("faster_kan", "FasterKANLayer", ()),
    ("vision_fasterkan", "FasterKANLayer", ()),
    ("bsrbf_kan", "BSRBF_KANLayer", ()),
    ("FibonacciKANLayer", "FibonacciKANLayer", (3,)),
    ("GegenbauerKANLayer", "GegenbauerKANLayer", (3, 1.0)),
    ("HermiteKANLayer", "HermiteKANLayer", (3,)),
    ("LaguerreKANLayer", "LaguerreKANLayer", (3, 1.0)),
    ("LegendreKANLayer", "LegendreKANLayer", (3,)),
    ("LucasKANLayer", "LucasKANLayer", (3,)),
    ("BesselKANLayer", "BesselKANLayer", (3,)),
    ("Cheby2KANLayer", "Cheby2KANLayer", (3,)),
]
PACKAGES = [("flashkan", "KANLayer"), ("torch_wavelet_kan", "WaveletKANLayer")]
# Functions of look-alike layers, from the forward of the known layer and the rows.
LOOKALIKES: dict[str, Callable[[Any, Any], Any]] = {
    "clamped at 12 cells": lambda f, x: f(x.clamp(-4.8, 4.8)),
    "clamped at 50": lambda f, x: f(x.clamp(-50, 50)),
    "zero beyond 20": lambda f, x: torch.where((x.abs() > 20).any(-1, keepdim=True), 0.0, f(x)),
    "tanh first": lambda f, x: f(torch.tanh(x)),
    "NaN taken away": lambda f, x: f(torch.nan_to_num(x)),
    "infinities taken away": lambda f, x: f(torch.where(x.isinf(), torch.zeros_like(x), x)),
    "answers bounded": lambda f, x: f(x).clamp(-1e3, 1e3),
    "NaN answered with zero": lambda f, x: torch.nan_to_num(f(x)),
    "turned round": lambda f, x: f(x.flip(-1)),
    "scaled": lambda f, x: 1.01 * f(x),
    "a sum beside it": lambda f, x: f(x) + 0.05 * x.sum(-1, keepdim=True),
    "a product beside it": lambda f, x: f(x) + 0.05 * (x[..., :1] * x[..., -1:]),
    "its rows normalised": lambda f, x: f(nn.functional.layer_norm(x, x.shape[-1:])),
    "one sign only": lambda f, x: f(torch.where((x > 0).all(-1, keepdim=True), x.clamp(max=0.7), x)),
    "rounded": lambda f, x: f((x * 64).round() / 64),
    "a step far out": lambda f, x: f(x) + (x > 300).any(-1, keepdim=True).to(x.dtype),
}
ACTIVATIONS = [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Identity]


class Raw(nn.Module):
    """FastKAN's layer, called with use_layernorm=False."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.layer = odd.Loose(n, m)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, use_layernorm=False)


class Flat(nn.Module):
    """A wrapper that flattens the middle axes of its input for a layer that takes only [rows, features]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class Of(nn.Module):
    """A module of several parts, with a function that applies them to the rows."""

    def __init__(self, does: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.does = nn.ModuleList(parts), does

    def forward(self, x: torch.Tensor) -> Any:
        return self.does(x, *self.parts)


@dataclass
class Maker:
    """A generator of random modules. `layers`: by name, factories of a KAN layer of n inputs and m outputs."""

    rng: Rng
    layers: dict[str, Callable[[int, int, Rng], nn.Module]]
    made: list[str] = field(default_factory=list)

    def module(self) -> tuple[nn.Module, tuple[int, ...]]:
        """A module and the shape of a row."""
        n = self.rng.randint(2, 7)
        kind = self.rng.choice(["vector"] * 5 + ["sequence", "sequence", "picture", "signal"])
        self.made.append(kind)
        if kind == "vector":
            return self.vectors(n, self.rng.randint(1, 5)), (n,)
        if kind == "sequence":
            return self.sequence(n), (self.rng.randint(2, 5), n)
        if kind == "picture":
            conv = nn.Conv2d(2, 3, 3, padding=self.rng.choice([0, 1]))
            pool: Any = nn.Sequential(nn.BatchNorm2d(3), self.rng.choice(ACTIVATIONS)(), nn.AdaptiveAvgPool2d(2))
            return nn.Sequential(conv, shaken(pool), nn.Flatten(), self.vectors(12, 3)), (2, 5, 5)
        return nn.Sequential(nn.Conv1d(2, n, 3), nn.AdaptiveMaxPool1d(1), nn.Flatten(), self.vectors(n, 3)), (2, 8)

    def sequence(self, n: int) -> nn.Module:
        kind = self.rng.choice(["lstm", "gru", "attention", "tokens", "mean"])
        self.made.append(kind)
        tail = self.vectors(n, self.rng.randint(1, 4))
        if kind in ("lstm", "gru"):
            cell = (nn.LSTM if kind == "lstm" else nn.GRU)(n, n, batch_first=True)
            return Of(lambda x, cell, tail: tail(cell(x)[0][:, -1]), cell, tail)
        if kind == "attention":
            heads = nn.MultiheadAttention(n, 1, batch_first=True)
            return Of(lambda x, a, tail: tail((x + a(x, x, x, need_weights=False)[0]).mean(1)), heads, tail)
        if kind == "tokens":
            return Of(lambda x, tail: tail(x).flatten(1), tail)
        return Of(lambda x, inner, tail: tail(inner(x).mean(1)), self.vectors(n, n), tail)

    def vectors(self, n: int, m: int, depth: int = 0) -> nn.Module:
        """From [..., n] to [..., m]."""
        steps: list[nn.Module] = []
        for _ in range(self.rng.choice([1, 2, 2, 3])):
            width = self.rng.randint(2, 7)
            steps += [self.block(n, width, depth), *self.between(width)]
            n = width
        return nn.Sequential(*steps, self.block(n, m, depth))

    def block(self, n: int, m: int, depth: int) -> nn.Module:
        kind = self.rng.random()
        if depth < 2 and kind < 0.08:
            self.made.append("residual")
            return nn.Sequential(Of(lambda x, f: x + f(x), self.vectors(n, n, depth + 1)), nn.Linear(n, m))
        if depth < 2 and kind < 0.14 and m > 1:
            self.made.append("concatenation")
            parts = self.block(n, 1, depth + 1), self.block(n, m - 1, depth + 1)
            return Of(lambda x, a, b: torch.cat([a(x), b(x)], -1), *parts)
        if depth < 2 and kind < 0.19:
            self.made.append("product")
            return Of(lambda x, a, b: a(x) * torch.sigmoid(b(x)), *(self.block(n, m, depth + 1) for _ in range(2)))
        if kind < 0.30:
            self.made.append("linear")
            return nn.Linear(n, m, bias=self.rng.random() < 0.7)
        name = self.rng.choice(list(self.layers))
        layer = self.layers[name](n, m, self.rng)
        if kind < 0.55:
            how = self.rng.choice(list(LOOKALIKES))
            self.made.append(f"{name}, {how}")
            return like(layer, LOOKALIKES[how])
        self.made.append(name)
        return layer

    def between(self, n: int) -> list[nn.Module]:
        kind = self.rng.random()
        if kind < 0.35:
            return []
        if kind < 0.6:
            return [self.rng.choice(ACTIVATIONS)()]
        steps: list[Callable[[], nn.Module]] = [
            lambda: nn.LayerNorm(n),
            lambda: nn.RMSNorm(n),
            lambda: nn.Dropout(0.3),
            lambda: Of(lambda x: x.clamp(-2, 2)),
            lambda: Of(lambda x: torch.nan_to_num(x, 0.0, 5.0, -5.0)),
            lambda: nn.Softmax(-1),
            lambda: Of(lambda x: x / (1 + x.abs())),
        ]
        return [self.rng.choice(steps)()]


def shaken(module: nn.Module) -> nn.Module:
    """Statistics as a training leaves them."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module


def like(layer: nn.Module, change: Callable[[Any, Any], Any]) -> nn.Module:
    """The same layer, of a class whose forward does something else."""
    inner = layer.layer if isinstance(layer, Flat | Raw) else layer
    kind = type(inner)

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return change(lambda rows: kind.forward(self, rows, *args, **kwargs), x)

    inner.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return layer


def upstream(folder: Path) -> dict[str, Callable[[int, int, Rng], nn.Module]]:
    """The libraries' own layers, of the files that are there."""
    actual: dict[str, Callable[[int, int, Rng], nn.Module]] = {}
    for file, name, args in UPSTREAM:
        path = folder / f"{file}.py"
        if path.exists():
            spec = importlib.util.spec_from_file_location(f"upstream_{file}", path)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules.get(spec.name) or importlib.util.module_from_spec(spec)
            if spec.name not in sys.modules:
                sys.modules[spec.name] = module
                spec.loader.exec_module(module)
            kind = getattr(module, name)
            actual[f"{file}.{name}{args or ''}"] = lambda n, m, rng, kind=kind, args=args: Flat(kind(n, m, *args))
    for package, name in PACKAGES:
        if importlib.util.find_spec(package):
            kind = getattr(importlib.import_module(package), name)
            actual[f"{package}.{name}"] = lambda n, m, rng, kind=kind: Flat(kind(n, m))
    return actual


def rows(rng: np.random.Generator, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Other rows than a plan has seen, by words for where they are."""
    x = rng.normal(size=(ROWS, *shape))
    for times in (1.0, 10.0, 1e3, 1e6):
        yield f"{times:g} times", times * x
    yield "one far", np.where(rng.random(x.shape) < 1 / max(3, x[0].size), 1e4 * x, x)
    yield "small", 1e-3 * x
    yield "one sign", np.abs(30 * x)
    for value in (np.nan, np.inf, -np.inf):
        yield f"{value}", np.where(rng.random(x.shape) < 1 / max(3, x[0].size), value, x)
    yield "all NaN", np.full((1, *shape), np.nan)


def reading(kan: Kan, form: str) -> Callable[..., torch.Tensor]:
    """A forward that evaluates a network in float64."""

    def forward(_: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        at = first_tensor(args, kwargs)
        supplied = args[at] if isinstance(at, int) else kwargs[at]
        y = torch.from_numpy(float64_reference.evaluate(kan, supplied.detach().numpy().reshape(-1, kan.n_inputs)).y)
        if form == capture.KEEP:
            return y.reshape(*supplied.shape[:-1], kan.n_outputs)
        return y if form == capture.FLAT else y[..., None]

    return forward


def difference(found: np.ndarray, expected: np.ndarray, moved: Callable[[], list[np.ndarray]]) -> str:
    """The difference between two outputs [B, N], row by row; empty if they agree, or if rounding explains the
    difference."""
    finite = np.isfinite(expected)
    with np.errstate(all="ignore"):
        apart = np.where(finite, np.abs(found - expected), 0).max(axis=1)
        scale = np.maximum(np.where(finite, np.abs(expected), 0).max(axis=1), 1e-300)
        same = (finite & np.isfinite(found)) | (np.isnan(found) & np.isnan(expected)) | (found == expected)
        bad = ~same.all(axis=1) | (apart > AGREED * scale)
        if not bad.any():
            return ""
        changes = np.array([np.where(np.isfinite(expected), other - expected, 0) for other in moved()])
        change = np.nan_to_num(np.abs(changes), nan=np.inf).max(axis=(0, 2))
        overflow = (np.where(finite, np.abs(expected), 0) > LARGE**8).any(axis=1)
        bad &= ~((apart <= AGREED * scale + EXCUSE * change) & same.all(axis=1)) & ~overflow & (change < np.inf)
    if not bad.any():
        return ""
    at = int(np.flatnonzero(bad)[0])
    return f"{found[at][:4]} for {expected[at][:4]}"


def check(plan: Plan, shape: tuple[int, ...], seed: int) -> str:
    """The silent error of a plan; empty if there is none."""
    oracle = plan.oracle
    by_name = {use.name: use for use in plan.uses if plan.readings[use.name].by is None}
    parts = [(plan.modules[name], reading(use.kan, use.form)) for name, use in by_name.items()]
    for where, x in rows(np.random.default_rng(seed), shape):
        words = check_sums(plan, x)
        if words:
            return f"{where}: {words}"
        expected = oracle.run(x)[0].reshape(len(x), -1)
        with replaced(parts):
            actual = oracle.run(x)[0].reshape(len(x), -1)

        def moved(x: np.ndarray = x) -> list[np.ndarray]:
            jitters = [Jitter(ROUNDING, draw) for draw in range(DRAWS)]
            # Truncated powers far from their knots, as flashkan has them, are what rounding the rows leaves of them.
            changed = [oracle.run(x, plan.modules, jitter)[0] for jitter in jitters[:3]]
            return [y.reshape(len(x), -1) for y in (*changed, *(oracle.run(one.shake(x))[0] for one in jitters))]

        words = difference(actual, expected, moved)
        if words:
            return f"{where}: {words}"
    return ""


def check_sums(plan: Plan, x: np.ndarray) -> str:
    """The error in the edges of layers that are known only from sampled outputs; empty if there is none."""
    kans = {use.name: use.kan for use in plan.uses if isinstance(plan.readings[use.name].by, Sampled)}
    _, calls = plan.oracle.run(x, {name: plan.modules[name] for name in kans})
    for call in calls:
        kan = kans[call.name]
        supplied, expected = call.x.reshape(-1, kan.n_inputs), call.y.reshape(-1, kan.n_outputs)
        moved = [float64_reference.evaluate(kan, Jitter(ROUNDING, draw).shake(supplied)).y for draw in range(3)]
        words = difference(float64_reference.evaluate(kan, supplied).y, expected, lambda moved=moved: moved)
        if words:
            return f"edges of {call.name} add up to {words}"
    return ""


def check_export(module: nn.Module, shape: tuple[int, ...], seed: int) -> str:
    """The silent error of an export; empty if there is none."""
    example = np.random.default_rng(seed + 1).normal(size=(8, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        result = convert(module, example, Target(repository=Path(folder), name="m"), options={})
        session = onnxruntime.InferenceSession(str(result.directory / "model.onnx"), providers=["CPUExecutionProvider"])
    reported = any("differs from PyTorch" in note for note in result.manifest.notes)
    tried = [(where, x.astype(np.float32)) for where, x in rows(np.random.default_rng(seed), shape)]
    with torch.no_grad():
        singly = [module(torch.from_numpy(x)).double().numpy().reshape(len(x), -1) for _, x in tried]
    whole = Whole(module)
    oracle = ReferenceModule(whole, torch.float64)
    modules = {name: part for name, part in whole.named_modules() if name and not list(part.children())}
    with lent(whole, torch.float64):
        for (where, x), single in zip(tried, singly, strict=True):
            actual = session.run(["y"], {"x": x})[0].astype(np.float64).reshape(len(x), -1)
            expected = oracle.run(x.astype(np.float64))[0].reshape(len(x), -1)
            jitters = [Jitter(2.0**-24, draw) for draw in range(3)]
            moved = [oracle.run(x.astype(np.float64), modules, one)[0].reshape(len(x), -1) for one in jitters]
            # Where float32 overflows, as the module itself does in it.
            own = single if in_float32(single, expected, moved) else expected
            words = in_float32(actual, expected, moved) and in_float32(actual, own, moved)
            if words and not (reported and where in ("nan", "inf", "-inf", "all NaN")):
                return f"{where}: {words}"
    return ""


def in_float32(found: np.ndarray, expected: np.ndarray, moved: list[np.ndarray]) -> str:
    """As `difference`, for a graph in float32."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(expected)
        scale = np.where(finite, np.abs(expected), 0).max()
        apart = np.where(finite, np.abs(found - expected), 0).max(axis=1)
        change = np.nan_to_num(np.abs(np.array(moved) - expected), nan=np.inf).max(axis=(0, 2), where=finite, initial=0)
        same = (finite & np.isfinite(found)) | (np.isnan(found) & np.isnan(expected)) | (found == expected)
        bad = (apart > IN_FLOAT32 * scale + EXCUSE * change) | ~same.all(axis=1)
        bad &= (np.where(finite, np.abs(expected), 0) < LARGE).all(axis=1)
    if not bad.any():
        return ""
    at = int(np.flatnonzero(bad)[0])
    return f"{found[at][:4]} for {expected[at][:4]}"


@dataclass
class Tally:
    """Counts of the modules so far, by outcome."""

    modules: int = 0
    refused: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    recognised: collections.Counter[str] = field(default_factory=collections.Counter)
    unread: collections.Counter[str] = field(default_factory=collections.Counter)  # layers that no look-alike is


def one(number: int, layers: dict[str, Callable[[int, int, Rng], nn.Module]], tally: Tally, *, export: bool) -> None:
    """Make a module, read it and hold it against itself."""
    torch.manual_seed(number)
    maker = Maker(Rng(number), layers)
    module, shape = maker.module()
    tally.modules += 1
    try:
        words = check_export(module.eval(), shape, number) if export else planned(module, shape, number, tally, maker)
    except ExportError as error:
        tally.refused[error.message[:60]] += 1
        return
    if words and (export or check_export(module, shape, number)):  # which sees and tells what planning does not
        tally.wrong.append(f"{number} ({'; '.join(maker.made)}): {words}")
        print("silently wrong:", tally.wrong[-1], flush=True)


def planned(module: nn.Module, shape: tuple[int, ...], number: int, tally: Tally, maker: Maker) -> str:
    x = np.random.default_rng(number + 1).normal(size=(8, *shape)).astype(np.float32).astype(np.float64)
    whole = Whole(module)
    oracle = ReferenceModule.of(whole, x)
    with lent(whole, oracle.dtype):
        plan = replacement_plan.make(oracle, x, {})
        read = collections.Counter(one.family for one in plan.readings.values() if one.family != "linear")
        tally.recognised.update(read)
        true = [name for name in maker.made if name in maker.layers]
        if len(true) > sum(read.values()):
            tally.unread.update(note.split(" looks like ")[-1][:90] for note in plan.notes if "looks like" in note)
        return check(plan, shape, number)


def main() -> None:
    """Run the modules and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--export", action="store_true", help="through torch.onnx too")
    parser.add_argument("--upstream", type=Path, help="a folder with the libraries' own files")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    layers = KANS | (upstream(args.upstream) if args.upstream else {})
    tally, begin = Tally(), time.monotonic()
    for number in range(args.first, args.first + args.count):
        one(number, layers, tally, export=args.export)
        if tally.modules % 500 == 0:
            print(f"{tally.modules} modules, {len(tally.wrong)} wrong, {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{tally.modules} modules in {time.monotonic() - begin:.0f} s: {len(tally.wrong)} silently wrong")
    print(f"refused: {sum(tally.refused.values())}", *tally.refused.most_common(), sep="\n  ")
    print("recognised:", dict(tally.recognised))
    print("left, in modules with a layer that is no look-alike:", *tally.unread.most_common(20), sep="\n  ")


if __name__ == "__main__":
    main()
