"""Comparison of kanexport with many KAN libraries, on random untrained models.

    pip install torch safetensors -e '.[export]'                   # an environment of its own
    PYTHONPATH=folders/of/the/libraries python tools/oracle/against_libraries.py --count 100

The program is not part of the suite, because most of the dozen libraries are in no package
registry. It imports each library by its own name, and names and skips absent ones. It compares
the library's float64 outputs and edge values with the float64 evaluation, NaN and infinities
included. Every model must export, which verifies the graphs.

A family is one function below. From a random source it returns a model, its layers and the
export options that its file lacks. It also returns a function that silences all inputs of a
layer except one.
"""

from __future__ import annotations

import argparse
import collections
import copy
import itertools
import math
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from kanexport.detection import detect
from kanexport.errors import ExportError
from kanexport.formats import checkpoint
from kanexport.options import KnownFacts, Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference

TOLERANCE = 1e-12
RANGES = [(-1.0, 1.0), (-2.0, 2.0), (-1.2, 0.2), (0.0, 1.0), (-3.3, 1.7), (-0.1, 10.0)]
ACTIVATIONS = {"silu": torch.nn.SiLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU, "identity": torch.nn.Identity}


@dataclass
class Made:
    """A random model to save. `silence(layer, source, sources)` keeps only that input of a layer, without bias."""

    model: torch.nn.Module
    layers: list[Any]
    widths: list[int]
    silence: Callable[[Any, Any, int], None]
    options: tuple[str, ...] = ()
    symbolic: tuple[str, ...] = ()  # as --symbolic
    save: Callable[[Path], object] | None = None
    fixed: tuple[str, ...] = ("grid",)  # parts of the names of tensors that training leaves alone
    axes: int = 2  # of the library's inputs
    reach: float = 2.0  # of the ordinary rows
    nan: bool = True  # False: the library crashes
    tolerance: float = TOLERANCE


def sizes(rng: random.Random, least: int = 1) -> list[int]:
    depth = rng.choice([1, 1, 2, 3])
    if rng.random() < 0.25:
        return [rng.randint(max(least, 2), 5)] * (depth + 1)  # square
    return [rng.randint(least, 6) for _ in range(depth)] + [rng.randint(1, 6)]


def zero(others: Any, *views: Any) -> None:
    """Views with the sources first."""
    for view in views:
        view[others] = 0


def fastkan(rng: random.Random) -> Made:
    from fastkan import FastKANLayer

    norm, base = rng.random() < 0.6, rng.random() < 0.7
    widths, (low, high), count = sizes(rng, least=2 if norm else 1), rng.choice(RANGES), rng.choice([1, 2, 5, 8, 13])
    name, wide = rng.choice(list(ACTIVATIONS)), count == 1 or rng.random() < 0.3
    layers = []
    for n, m in itertools.pairwise(widths):
        layer = FastKANLayer(n, m, low, high, max(count, 2), base, norm and n > 1, ACTIVATIONS[name]())
        if count == 1:  # the constructor would divide by zero
            layer.rbf.grid.data = layer.rbf.grid.data[:1]
            layer.spline_linear.weight.data = layer.spline_linear.weight.data[:, :n]
        layer.rbf.denominator = 0.8 if wide else layer.rbf.denominator
        layers.append(layer)
    options = (*(("denominator=0.8",) if wide else ()), *((f"base_activation={name}",) if base else ()))

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.spline_linear.weight.unflatten(1, (n, -1)).movedim(1, 0))
        if base:
            zero(others, layer.base_linear.weight.T)
            layer.base_linear.bias.zero_()

    return Made(torch.nn.Sequential(*layers), layers, widths, silence, options)


def fasterkan(rng: random.Random) -> Made:
    from fasterkan import FasterKAN

    widths, (low, high) = sizes(rng), rng.choice(RANGES)
    model = FasterKAN(widths, low, high, rng.choice([1, 2, 5, 8, 13]), inv_denominator=rng.choice([0.5, 3.0]))

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.spline_linear.weight.unflatten(1, (n, -1)).movedim(1, 0))

    return Made(model, list(model.layers), widths, silence)


def rbf_kan(rng: random.Random) -> Made:
    from Fast_RBF_KAN import RBFKAN

    widths, (low, high), base = sizes(rng), rng.choice(RANGES), rng.random() < 0.8
    name = rng.choice(list(ACTIVATIONS))
    model = RBFKAN(widths, low, high, rng.choice([2, 5, 8, 13]), base, ACTIVATIONS[name]())

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.rbf_linear.spline_weight.unflatten(0, (n, -1)))
        if base:
            zero(others, layer.base_linear.weight.T)
            layer.base_linear.bias.zero_()

    return Made(model, list(model.layers), widths, silence, (f"base_activation={name}",) if base else ())


def relu_kan(rng: random.Random) -> Made:
    from torch_relu_kan import ReLUKAN

    widths, grid, k = sizes(rng), rng.choice([1, 2, 5, 10]), rng.choice([0, 1, 2, 3, 5])
    model = ReLUKAN(widths, grid, k)

    def silence(layer: Any, others: Any, n: int) -> None:
        layer.phase_height[others] = layer.phase_low[others]  # the kernel's axes are not the sources
        layer.equal_size_conv.bias.zero_()

    options = rng.choice([(f"grid={grid}", f"k={k}"), (f"grid={grid}",), (f"k={k}",)])
    return Made(model, list(model.rk_layers), widths, silence, options, axes=3)


def inkan(rng: random.Random) -> Made:
    from inkan import KANLayer

    widths, name, grid = sizes(rng), rng.choice(list(ACTIVATIONS)), rng.choice([1, 2, 5, 8, 40])
    span, way = rng.choice(RANGES), rng.choice(["dense", "direct", "auto"])
    layers = [
        KANLayer(n, m, grid, 3, 1, ACTIVATIONS[name], span, compile_basis=False, contraction=way)
        for n, m in itertools.pairwise(widths)
    ]

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.spline_weight.movedim(1, 0), layer.base_weight.T)

    return Made(torch.nn.Sequential(*layers), layers, widths, silence, (f"base_activation={name}",))


def flashkan(rng: random.Random) -> Made:
    import flashkan.layer

    flashkan.layer.bspline_basis = flashkan.basis.bspline_basis_eager
    widths, name, grid = sizes(rng), rng.choice(["silu", "gelu"]), rng.choice([1, 2, 5, 8, 20])
    layers = [
        flashkan.layer.KANLayer(n, m, grid, 3, ACTIVATIONS[name], rng.choice(RANGES))
        for n, m in itertools.pairwise(widths)
    ]

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.spline_weight.movedim(1, 0), layer.base_weight.T)

    # Truncated powers cancel, in float64 too.
    options = (f"base_activation={name}",)
    return Made(torch.nn.Sequential(*layers), layers, widths, silence, options, tolerance=1e-7)


def kanditioned(rng: random.Random) -> Made:
    from KANditioned.kan_layer import KANLayer

    widths, width, variant = sizes(rng), rng.choice([4.0, 1.0, 7.3]), rng.choice(["B-spline", "parallel_scan"])
    points, way = rng.choice([2, 3, 8, 32]), rng.choice(["embedding_bag", "embedding"])
    layers = [KANLayer(n, m, "random_normal", points, width, variant, way) for n, m in itertools.pairwise(widths)]

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, *layer.parameters())

    options = (f"w={width}",) if width != 4.0 else ()
    return Made(torch.nn.Sequential(*layers), layers, widths, silence, options, nan=False)


def kanx(rng: random.Random) -> Made:
    from kanx.torch import KAN

    widths, names = sizes(rng), list(ACTIVATIONS)
    common = {"grid_size": rng.choice([1, 2, 5, 8, 20]), "spline_order": rng.choice([1, 2, 3, 3, 5])}
    common |= {"grid_range": rng.choice(RANGES), "base_activation": rng.choice(names)}
    spec: Any = widths
    if rng.random() < 0.3:
        sides = itertools.pairwise(widths)
        spec = [{"in_features": n, "out_features": m, "base_activation": rng.choice(names)} for n, m in sides]
    model = KAN(spec, **common)
    if rng.random() < 0.5 and torch.get_default_dtype() == torch.float32:
        whole = rng.random() < 0.5  # few values, and a grid of nothing but them: knots repeat
        for layer in model:
            layer.grid_eps = 1.0 if whole else 0.7
        model.update_grid_from_samples(torch.randint(0, 4, (60, widths[0])) / 3 if whole else torch.rand(60, widths[0]))

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.spline_weight, layer.base_weight)

    bare = spec is widths and rng.random() < 0.3
    options = (f"base_activation={common['base_activation']}",) if bare else ()
    return Made(model, list(model), widths, silence, options, save=None if bare else model.save)


def efficient_kan(rng: random.Random) -> Made:
    from efficient_kan import KANLinear

    widths, name, scaler = sizes(rng), rng.choice(list(ACTIVATIONS)), rng.random() < 0.6
    sizes_ = {"grid_size": rng.choice([1, 2, 5, 8, 20]), "spline_order": rng.choice([1, 2, 3, 3, 5])}
    settings = {"enable_standalone_scale_spline": scaler, "base_activation": ACTIVATIONS[name]}
    settings |= {"grid_range": rng.choice(RANGES)}
    layers = [KANLinear(n, m, **sizes_, **settings) for n, m in itertools.pairwise(widths)]

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.spline_weight.movedim(1, 0), layer.base_weight.T)

    return Made(torch.nn.Sequential(*layers), layers, widths, silence, (f"base_activation={name}",))


def wav_kan(rng: random.Random) -> Made:
    from KAN import KAN  # Wav-KAN's file; it imports torchvision and tqdm without need

    widths, name = sizes(rng), rng.choice(["mexican_hat", "morlet", "dog", "meyer", "shannon"])
    model = KAN(widths, name).eval()
    for layer in model.layers:
        layer.scale.data = (0.2 + 2 * torch.rand_like(layer.scale)) * torch.randn_like(layer.scale).sign()
        layer.bn.running_mean.normal_()
        layer.bn.running_var.uniform_(0.1, 4)

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.wavelet_weights.T)
        layer.bn = torch.nn.Identity()  # edges are before it

    return Made(model, list(model.layers), widths, silence, (f"wavelet_type={name}",), fixed=("scale",))


def torch_wavelet_kan(rng: random.Random) -> Made:
    from torch_wavelet_kan import WaveletKANLayer

    widths, epsilon = sizes(rng), rng.choice([1e-5, 0.1])
    layers = [WaveletKANLayer(n, m, rng.randint(1, 6), epsilon) for n, m in itertools.pairwise(widths)]

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.base_weight.T, layer.wavelet_weights.movedim(1, 0))

    model = torch.nn.Sequential(*layers)
    return Made(model, layers, widths, silence, (f"epsilon={epsilon}",), fixed=("scale",))


class Rational(torch.nn.Module):
    """A KAT_Group and the Linear after it. `kernel`: the Triton code, on the CPU with
    TRITON_INTERPRET=1; otherwise the pure-torch fallback, whose denominator has signs."""

    def __init__(self, n: int, m: int, groups: int, mode: str, *, kernel: bool) -> None:
        from kat_rational.kat_1dgroup_torch import KAT_Group_Torch
        from kat_rational.rational_triton import rational_fwd_triton

        super().__init__()
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # the library makes no other
        self.act = KAT_Group_Torch(groups, mode).to(default)
        torch.set_default_dtype(default)
        self.fc = torch.nn.Linear(n, m)
        self.compute = rational_fwd_triton if kernel else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.compute is None:
            return self.fc(self.act(x[:, None])[:, 0])
        above = self.act.weight_numerator.repeat(self.act.num_groups, 1)
        result = self.compute(x.contiguous(), above, self.act.weight_denominator.contiguous(), self.act.num_groups)
        return self.fc(result)


def gr_kan(rng: random.Random) -> Made:
    groups, kernel = rng.choice([1, 2, 4]), rng.random() < 0.5
    widths = [groups * rng.randint(1, 3) for _ in range(rng.choice([1, 2, 3]))] + [rng.randint(1, 5)]
    modes = ["identity", "gelu", "swish", "tanh"]
    layers = [Rational(n, m, groups, rng.choice(modes), kernel=kernel) for n, m in itertools.pairwise(widths)]

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.fc.weight.T)
        layer.fc.bias.zero_()

    options = (f"denominator={'abs' if kernel else 'signed'}",)
    # Without the kernel's |x| there are poles.
    return Made(torch.nn.Sequential(*layers), layers, widths, silence, options, tolerance=1e-12 if kernel else 1e-7)


class EarlyPykan(torch.nn.Module):
    """One layer of pykan 0.0 with its symbolic functions and its bias."""

    def __init__(self, model: Any, at: int) -> None:
        super().__init__()
        self.act, self.symbols, self.bias = model.act_fun[at], model.symbolic_fun[at], model.biases[at]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x)[0] + self.symbols(x)[0] + self.bias.weight


def pykan_0_0(rng: random.Random) -> Made:
    import kan

    if hasattr(kan, "MultKAN"):
        raise ImportError("the kan that is installed is not pykan 0.0")
    # Finite everywhere: a silenced edge is multiplied by zero, and 0 * NaN is NaN.
    names = ["x", "x^2", "x^3", "abs", "sin", "tanh", "sigmoid", "sgn", "arctan", "gaussian"]
    widths, default = sizes(rng), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # the library makes no other
    grid, k = rng.choice([1, 3, 5, 10]), rng.choice([1, 2, 3, 3, 5])
    model = kan.KAN(widths, grid, k, grid_eps=rng.choice([0.02, 0.5, 1.0]))
    model.update_grid_from_samples(torch.rand(80, widths[0]) * 4 - 2)
    symbolic = []
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        if rng.random() < 0.5:  # knots of their own for every edge
            model.act_fun[at].grid.data += torch.rand(n * m, 1)
        for i, j in np.ndindex(n, m):
            if rng.random() < 0.25:
                name = rng.choice(names)
                model.fix_symbolic(at, i, j, name, fit_params_bool=False, verbose=False)
                model.act_fun[at].mask.data[j * n + i] = rng.choice([0.0, 0.0, 0.5])
                symbolic.append(f"{at},{i},{j}={name}")

    torch.set_default_dtype(default)
    model.to(default)

    def silence(layer: Any, others: Any, n: int) -> None:
        zero(others, layer.act.mask.view(-1, n).T, layer.symbols.mask.T)
        layer.bias.weight.zero_()

    layers = [EarlyPykan(model, at) for at in range(model.depth)]
    save = lambda path: torch.save(model.state_dict(), path)  # noqa: E731 - a name would say no more
    return Made(model, layers, widths, silence, symbolic=tuple(symbolic), save=save, fixed=("grid", "mask"))


FAMILIES: dict[str, Callable[[random.Random], Made]] = {
    "fastkan": fastkan,
    "fasterkan": fasterkan,
    "rbf-kan": rbf_kan,
    "relu-kan": relu_kan,
    "inkan": inkan,
    "flashkan": flashkan,
    "kanditioned": kanditioned,
    "kanx": kanx,
    "efficient-kan": efficient_kan,
    "wav-kan": wav_kan,
    "torch-wavelet-kan": torch_wavelet_kan,
    "gr-kan": gr_kan,
    "pykan-0.0": pykan_0_0,
}


@torch.no_grad()
def disturb(built: Made, rng: random.Random) -> None:
    for name, value in built.model.named_parameters():
        if not any(part in name for part in built.fixed):
            size = 0.02 if "phase" in name else 0.4
            value += size * torch.randn_like(value)


def write(built: Made, folder: Path, rng: random.Random) -> Path:
    state = {key: value.contiguous() for key, value in built.model.state_dict().items()}
    prefix = rng.choice(["", "", "module.", "model.kan."]) if built.save is None else ""
    if built.save is None and len(built.layers) == 1 and rng.random() < 0.5:
        state = {key.removeprefix("layers.").removeprefix("rk_layers.")[2:]: value for key, value in state.items()}
    state = {prefix + key: value for key, value in state.items()}
    if built.save is None and rng.random() < 0.3:
        safetensors.torch.save_file(state, folder / "m.safetensors")
        return folder / "m.safetensors"
    if built.save is not None:
        built.save(folder / "m.pt")
    else:
        torch.save(state, folder / "m.pt")
    return folder / "m.pt"


def rows(built: Made) -> torch.Tensor:
    n = built.widths[0]
    inside = (torch.rand(30, n) * 2 - 1) * built.reach
    odd = torch.full((3 if built.nan else 0, n), 0.1)
    if built.nan:
        odd[0, 0], odd[1, -1], odd[2, 0] = float("nan"), float("inf"), -float("inf")
    return torch.cat([inside, inside[:8] * 2, inside[:4] * 6, odd]).float().double()


@torch.no_grad()
def truth(built: Made, x: torch.Tensor) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Outputs, each layer's inputs, and each layer's edges [B, I, O], by the library in float64."""
    inputs, edges = [], []
    for layer, n in zip(copy.deepcopy(built.layers), built.widths, strict=False):
        exact = layer.double()
        shaped = x[:, :, None] if built.axes == 3 else x
        inputs.append(x.numpy())
        columns = []
        for source in range(n):
            alone = copy.deepcopy(exact)
            built.silence(alone, torch.arange(n) != source, n)
            columns.append(alone(shaped).reshape(len(x), -1).numpy())
        edges.append(np.stack(columns, axis=1))
        x = exact(shaped).reshape(len(x), -1)
    return x.numpy(), inputs, edges


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite):
        return math.inf
    scale = np.abs(expected[finite]).max(initial=0.0) or 1.0
    return float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) / scale


def compare(family: str, seed: int, folder: Path) -> tuple[str, float]:
    """One model: "same", or what is wrong with it; and the largest relative difference."""
    rng = random.Random(f"{family} {seed}")
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64 if rng.random() < 0.15 else torch.float32)
    created = FAMILIES[family](rng)
    disturb(created, rng)
    path = write(created, folder, rng)
    torch.set_default_dtype(torch.float32)
    x = rows(created)
    y, inputs, edges = truth(created, x)
    try:
        loaded = checkpoint.load(path)
        reader, _ = detect.detect(loaded, None)
        if family != reader.FAMILY:
            return f"is read as {reader.FAMILY}", math.inf
        kan = detect.read(reader, loaded, Options(KnownFacts.parse(created.options, symbolic=created.symbolic)))
        trace = float64_reference.evaluate(kan, x.numpy())
        ordinary = slice(0, len(x) - 3 if created.nan else None)
        errors = [difference(trace.y, y)]
        for layer, nodes, expected in zip(kan.layers, inputs, edges, strict=True):
            result = np.concatenate([values for _, values, _ in float64_reference.edges(layer, nodes)])
            errors.append(difference(result[ordinary], expected[ordinary]))
        export(Request(path=path, repository=folder / "models", options=created.options, symbolic=created.symbolic))
    except ExportError as error:
        return f"{type(error).__name__}: {error.message.replace(str(folder), '')[:200]}", math.inf
    return ("same" if max(errors) <= created.tolerance else f"differs by {max(errors):.1e}"), max(errors)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random models through their libraries and through kanexport.")
    parser.add_argument("--count", type=int, default=50, help="models of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", action="append", choices=list(FAMILIES))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    bad = 0
    for family in args.family or FAMILIES:
        outcomes: collections.Counter[str] = collections.Counter()
        worst = 0.0
        for seed in range(args.seed, args.seed + args.count):
            try:
                with tempfile.TemporaryDirectory() as folder:
                    outcome, error = compare(family, seed, Path(folder))
            except ImportError as missing:
                print(f"{family}: skipped, {missing}")
                break
            outcomes[outcome.partition(":")[0]] += 1
            worst = max(worst, error)
            if outcome != "same":
                print(f"{family}, seed {seed}: {outcome}", flush=True)
        bad += outcomes.total() - outcomes["same"]
        print(f"{family}: {dict(outcomes)}, largest difference {worst:.1e}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
