"""Comparison of kanexport with KAN libraries that have polynomials or sines on their edges,
on random untrained models.

    pip install torch einops safetensors -e '.[export]'            # an environment of its own
    PYTHONPATH=folders/of/the/libraries python tools/oracle/against_polynomials.py --count 100

The program is not part of the suite, because no library is in a package registry. It imports
each file by its own name (`ChebyKANLayer.py`, `fftKAN.py`, ...), those of OrthogPolyKANs from
a folder `orthogpoly`, torch-conv-kan's kans/layers.py and kans/utils.py from `torch_conv_kan`.
It compares the library's float64 outputs and edge values with the float64 evaluation, NaN and
infinities included. Every model must export, which verifies the graphs in float32.

A family is one entry of `FAMILIES`: a function from a random source to layers, and how to read
them.
"""

from __future__ import annotations

import argparse
import collections
import copy
import importlib
import itertools
import math
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
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
OUTPUTS = 10.0  # times that for outputs: layers in a chain make rounding larger
DEGREES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12)
ACTIVATIONS = {"silu": torch.nn.SiLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}


@dataclass
class Made:
    """A sequence of layers. `weights(layer)`: views with the inputs first, and a bias or None.
    `norm`: the attribute of a layer that receives the sum of its edges, if there is one.
    `model`: the module to save; by default a module that has the layers."""

    layers: list[Any]
    weights: Callable[[Any], tuple[list[Any], Any]]
    options: tuple[str, ...] = ()
    norm: str = ""
    model: Any = None
    ranged: bool = False  # scaled by the range of the batch
    tolerance: float = TOLERANCE
    free: bool = True  # a LayerNorm may stand between two layers
    odd: bool = True  # NaN and infinities give what IEEE arithmetic says
    widths: list[int] = field(default_factory=list)


def make(rng: random.Random, family: str) -> Made:
    # A LayerNorm of two nodes gives -1 and 1, whatever the nodes are.
    least = 3 if family in NORMALISED else 1
    widths = [rng.randint(1, 6), *(rng.randint(least, 6) for _ in range(rng.choice([1, 1, 2, 3])))]
    if rng.random() < 0.2:
        widths = [rng.randint(max(2, least), 5)] * 3
    created = FAMILIES[family](rng, list(itertools.pairwise(widths)))
    created.widths = widths
    return created


def plain(module: str, name: str, coefficients: str, *arguments: Callable[[random.Random], dict[str, float]]) -> Any:
    """A library whose layer has (inputs, outputs, degree, ...) and coefficients [I, O, K]."""

    def build(rng: random.Random, sides: list[tuple[int, int]]) -> Made:
        kind, degree = getattr(importlib.import_module(module), name), rng.choice(DEGREES)
        options: dict[str, float] = arguments[0](rng) if arguments else {}
        layers = [kind(n, m, degree, *options.values()) for n, m in sides]
        result = tuple(f"{key}={value}" for key, value in options.items())
        if module == "orthogpoly.JacobiKANLayer":
            result += ("forward=orthogpolykans",)
        # Constant functions have their value for NaN there, and NaN here.
        return Made(layers, lambda layer: ([getattr(layer, coefficients)], None), result, odd=degree > 1)

    return build


def jacobi(rng: random.Random) -> dict[str, float]:
    return rng.choice([{"jacobi_a": a, "jacobi_b": b} for a, b in ((1.0, 1.0), (0.5, 2.0), (0.0, 0.0), (-0.5, 3.0))])


def alpha(name: str) -> Callable[[random.Random], dict[str, float]]:
    return lambda rng: {name: rng.choice([3.0, 1.0, 0.25, 2.5])}


def fourier(rng: random.Random, sides: list[tuple[int, int]]) -> Made:
    kind = importlib.import_module("fftKAN").NaiveFourierKANLayer
    count, bias = rng.choice([1, 2, 3, 8, 16, 17, 40]), rng.random() < 0.7
    layers = [kind(n, m, count, addbias=bias) for n, m in sides]

    def weights(layer: Any) -> tuple[list[Any], Any]:
        return [layer.fouriercoeffs.movedim(2, 0)], layer.bias if bias else None

    # High harmonics make the rounding of a first layer's sums large.
    return Made(layers, weights, tolerance=1e-11)


def sine(rng: random.Random, sides: list[tuple[int, int]]) -> Made:
    old = rng.random() < 0.2
    kind = importlib.import_module("old_sine_kan" if old else "sine_kan").SineKANLayer
    count, bias = rng.choice([1, 2, 5, 8]), rng.random() < 0.7
    extra = {} if old else {"norm_freq": rng.random() < 0.5}
    layers = [
        kind(n, m, device="cpu", grid_size=count, is_first=at == 0, add_bias=bias, **extra)
        for at, (n, m) in enumerate(sides)
    ]
    name = "base_fouriercoeffs" if old else "amplitudes"
    return Made(layers, lambda layer: ([getattr(layer, name).movedim(1, 0)], layer.bias if bias else None))


def torchkan(rng: random.Random, sides: list[tuple[int, int]]) -> Made:
    kind = importlib.import_module("torchkan").KAN
    widths = [sides[0][0], *(m for _, m in sides)]
    name, grid, k = rng.choice(list(ACTIVATIONS)), rng.choice([1, 3, 5, 12]), rng.choice([1, 2, 3, 5])
    span = rng.choice([(-1, 1), (-2, 1.5), (0, 3)])
    settings = {"grid_size": grid, "spline_order": k, "base_activation": ACTIVATIONS[name], "grid_range": span}
    model = kind(widths, **settings)
    return lists(model, [kind([n, m], **settings) for n, m in sides], "spline_weights", (f"base_activation={name}",))


def kal_net(rng: random.Random, sides: list[tuple[int, int]]) -> Made:
    polynomial = rng.choice(["legendre", "chebyshev"])
    module = importlib.import_module("KALnet" if polynomial == "legendre" else "KACnet")
    kind = module.KAL_Net if polynomial == "legendre" else module.KAC_Net
    widths, name = [sides[0][0], *(m for _, m in sides)], rng.choice(list(ACTIVATIONS))
    settings = {"polynomial_order": rng.choice(DEGREES), "base_activation": ACTIVATIONS[name]}
    layers = [kind([n, m], **settings) for n, m in sides]
    options = (f"base_activation={name}", f"polynomial={polynomial}")
    created = lists(kind(widths, **settings), layers, "poly_weights", options)
    created.ranged = True
    return created


def lists(model: Any, layers: list[Any], functions: str, options: tuple[str, ...]) -> Made:
    """A model in parallel lists, whose parameters become those of models of one layer each."""
    for at, layer in enumerate(layers):
        for name, value in layer.named_children():
            own = getattr(model, name)
            if isinstance(value, torch.nn.ParameterList | torch.nn.ModuleList):
                value[0] = own[at]

    def weights(layer: Any) -> tuple[list[Any], Any]:
        base, result = layer.base_weights[0], getattr(layer, functions)[0]
        return [base.T, result.reshape(*base.shape, -1).movedim(1, 0)], None

    return Made(layers, weights, options, norm="layer_norms.0", model=model, free=False)


def conv_kan(kind: str, base: str, functions: str, *, order: str = "") -> Any:
    """A layer of torch-conv-kan, with the axis of the sources first in its functions, or second."""

    def build(rng: random.Random, sides: list[tuple[int, int]]) -> Made:
        layer_kind = getattr(importlib.import_module("torch_conv_kan.layers"), kind)
        name, degree = rng.choice(list(ACTIVATIONS)), rng.choice(DEGREES[1:])
        options, settings = [f"base_activation={name}"], {}
        if kind == "KANLayer":
            k, span = rng.choice([1, 2, 3, 5]), rng.choice([(-1, 1), (-2.0, 1.5)])
            settings = {"grid_size": rng.choice([1, 3, 8]), "spline_order": k, "grid_range": span}
            options += [f"spline_order={k}", f"grid_min={span[0]}", f"grid_max={span[1]}"]
        else:
            settings = {"degree": degree}
        if kind == "JacobiKANLayer":
            settings |= (numbers := rng.choice([{"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 2.0}]))
            options += [f"jacobi_{key}={value}" for key, value in numbers.items()]
        activation = {"base_activation" if kind in ("KANLayer", "KALNLayer") else "act": ACTIVATIONS[name]}
        layers = [layer_kind(n, m, **settings, **activation) for n, m in sides]

        def weights(layer: Any) -> tuple[list[Any], Any]:
            own, result = getattr(layer, base), getattr(layer, functions)
            return [own.T, result.reshape(*own.shape, -1).movedim(1, 0) if order == "oi" else result], None

        norm = "layer_norm" if kind in ("KANLayer", "KALNLayer") else "norm"
        tolerance = 1e-5 if kind == "KANLayer" else TOLERANCE  # its knots are in no file, and rounded
        ranged = kind == "KALNLayer"
        return Made(layers, weights, tuple(options), norm=norm, ranged=ranged, tolerance=tolerance, free=False)

    return build


FAMILIES: dict[str, Callable[[random.Random, list[tuple[int, int]]], Made]] = {
    "chebykan": plain("ChebyKANLayer", "ChebyKANLayer", "cheby_coeffs"),
    "chebykan (unoptimised)": plain("ChebyKANLayer_unoptimized", "ChebyKANLayer", "cheby_coeffs"),
    "jacobikan": plain("JacobiKANLayer", "JacobiKANLayer", "jacobi_coeffs", jacobi),
    "jacobikan (OrthogPolyKANs)": plain("orthogpoly.JacobiKANLayer", "JacobiKANLayer", "jacobi_coeffs", jacobi),
    "besselkan": plain("orthogpoly.BesselKANLayer", "BesselKANLayer", "bessel_coeffs"),
    "cheby2kan": plain("orthogpoly.Cheby2KANLayer", "Cheby2KANLayer", "cheby2_coeffs"),
    "fibonaccikan": plain("orthogpoly.FibonacciKANLayer", "FibonacciKANLayer", "fib_coeffs"),
    "gegenbauerkan": plain(
        "orthogpoly.GegenbauerKANLayer", "GegenbauerKANLayer", "gegenbauer_coeffs", alpha("gegenbauer_alpha")
    ),
    "hermitekan": plain("orthogpoly.HermiteKANLayer", "HermiteKANLayer", "hermite_coeffs"),
    "laguerrekan": plain("orthogpoly.LaguerreKANLayer", "LaguerreKANLayer", "laguerre_coeffs", alpha("laguerre_alpha")),
    "legendrekan": plain("orthogpoly.LegendreKANLayer", "LegendreKANLayer", "legendre_coeffs"),
    "lucaskan": plain("orthogpoly.LucasKANLayer", "LucasKANLayer", "lucas_coeffs"),
    "fourierkan": fourier,
    "sinekan": sine,
    "torchkan": torchkan,
    "kal-net": kal_net,
    "kaln": conv_kan("KALNLayer", "base_weight", "poly_weight", order="oi"),
    "kagn": conv_kan("GRAMLayer", "base_weights", "grams_basis_weights"),
    "kajn": conv_kan("JacobiKANLayer", "base_weights", "jacobi_coeffs"),
    "kabn": conv_kan("BernsteinKANLayer", "base_weights", "bernstein_coeffs"),
    "torch-conv-kan": conv_kan("KANLayer", "base_weight", "spline_weight", order="oi"),
}


NORMALISED = ("torchkan", "kal-net", "kaln", "kagn", "kajn", "kabn", "torch-conv-kan")


@torch.no_grad()
def stages(built: Made, rng: random.Random) -> list[tuple[Any, Any]]:
    """Each layer and the normalisation after it, or None; weights disturbed, so that none is at rest."""
    between = built.free and len(built.layers) > 1 and rng.random() < 0.4
    norms: list[Any] = [torch.nn.LayerNorm(width) if between else None for width in built.widths[1:-1]]
    result = list(zip(built.layers, [*norms, None], strict=True))
    for module in [*built.layers, *filter(None, norms)]:
        for name, value in module.named_parameters():
            if "beta_weights" not in name:
                value += 0.3 * torch.randn_like(value)
    if built.model is None:
        modules: dict[str, Any] = {}
        named = rng.random() < 0.5
        for at, (layer, norm) in enumerate(result):
            modules[f"kan{at + 1}" if named else str(len(modules))] = layer
            if norm is not None:
                modules[f"ln{at + 1}" if named else str(len(modules))] = norm
        built.model = torch.nn.ModuleDict(modules)
    return result


def total(built: Made, layer: Any, x: Any) -> tuple[Any, Any]:
    """The sum of a layer's edges, and its output."""
    seen: list[Any] = []
    if built.norm:
        module = layer.get_submodule(built.norm)
        module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    y = layer(x)
    return (seen[0] if seen else y), y


@torch.no_grad()
def truth(
    built: Made, parts: list[tuple[Any, Any]], x: Any
) -> tuple[Any, list[Any], list[Any], list[tuple[float, float]]]:
    """Outputs, each layer's inputs, its edges [B, I, O], and its inputs' range, in float64."""
    inputs, edges, ranges = [], [], []
    for layer, norm in parts:
        inputs.append(x.numpy())
        finite = x[torch.isfinite(x)]
        ranges.append((float(finite.min()), float(finite.max())))
        columns = []
        for source in range(x.shape[1]):
            alone = copy.deepcopy(layer).double()
            views, bias = built.weights(alone)
            for view in views:
                view[torch.arange(len(view)) != source] = 0
            if bias is not None:
                bias.zero_()
            columns.append(total(built, alone, x)[0].numpy())
        edges.append(np.stack(columns, axis=1))
        x = copy.deepcopy(layer).double()(x)
        x = x if norm is None else copy.deepcopy(norm).double()(x)
    return x.numpy(), inputs, edges, ranges


def write(built: Made, folder: Path, rng: random.Random) -> Path:
    prefix = rng.choice(["", "", "module.", "model.kan."])
    state = {prefix + key: value.contiguous() for key, value in built.model.state_dict().items()}
    if rng.random() < 0.4:
        safetensors.torch.save_file(state, folder / "m.safetensors")
        return folder / "m.safetensors"
    torch.save(state, folder / "m.pt")
    return folder / "m.pt"


def difference(found: Any, expected: Any) -> float:
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
    created = make(rng, family)
    parts = stages(created, rng)
    path = write(created, folder, rng)
    torch.set_default_dtype(torch.float64)
    x = torch.cat([torch.randn(20, created.widths[0]) * size for size in (0.1, 1.0, 4.0)])
    created.odd &= not created.ranged  # one NaN spoils a range
    odd = torch.full((3 if created.odd else 0, created.widths[0]), 0.1)
    if created.odd:
        odd[0, 0], odd[1, -1], odd[2, 0] = float("nan"), float("inf"), -float("inf")
    x = torch.cat([x, odd]).float().double()
    y, inputs, edges, ranges = truth(created, parts, x)
    options = created.options
    if created.ranged:
        options += tuple(f"x_m{end}=" + ",".join(repr(r[at]) for r in ranges) for at, end in enumerate(("in", "ax")))
    try:
        loaded = checkpoint.load(path)
        reader, _ = detect.detect(loaded, None)
        if family.partition(" ")[0] != reader.FAMILY:
            return f"is read as {reader.FAMILY}", math.inf
        kan = detect.read(reader, loaded, Options(KnownFacts.parse(options)))
        errors = [difference(float64_reference.evaluate(kan, x.numpy()).y, y) / OUTPUTS]
        for layer, nodes, expected in zip(kan.layers, inputs, edges, strict=True):
            result = np.concatenate([values for _, values, _ in float64_reference.edges(layer, nodes)])
            ordinary = np.isfinite(nodes).all(axis=1)
            errors.append(difference(result[ordinary], expected[ordinary]))
        export(Request(path=path, repository=folder / "models", options=options))
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
