"""Check of published KAN convolutions in kanexport: whether a layer has edges, and whether their sum is correct.

    PYTHONPATH=.:service:tests python tools/oracle/convolutions.py --upstream FOLDER
    ... --only FastKAN            # configurations whose names hold that
    ... --export                  # graphs too, which takes some seconds each

FOLDER holds the checkouts torch-conv-kan, convkan, KA-Conv and Convolutional-KANs. The program runs their own code,
which imports einops and torch. It is not part of the suite, which has its own layers with the same tensors
(tests/kanexport/torch_export/test_conv_detect.py).

Each configuration is a network of one published layer, a maximum over the picture and a Linear. The program plans it as
an export does. Then the sum of the layer's edges must equal the sum in the layer's own module: the input of its norm,
or its output. The program checks new rows, and rows 30 and 1000 times as far from 0. It prints one line per
configuration, and counts those with edges, those without (exported as they are) and those that the exporter rejects.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kanexport.bundle.publish import Target
from kanexport.errors import ExportError
from kanexport.torch_export import plan as planning
from kanexport.torch_export.borrowed_module import lent
from kanexport.torch_export.capture import ReferenceModule
from kanexport.torch_export.conv_layer import Convolved
from kanexport.torch_export.convert import convert
from kanexport.torch_export.kan_candidates import Whole
from kanexport.torch_export.plan import Plan
from kanexport.verify import float64_reference

AGREED = 1e-9  # relative
PICTURES = {1: (9,), 2: (6, 7), 3: (5, 5, 5)}
ROWS = 5


@dataclass(frozen=True)
class Case:
    """One configuration. `norms`: the attribute whose modules receive the sums; "" if the layer returns them."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    norms: str = ""


class Network(nn.Module):
    """A layer, a maximum over the picture (a mean of normalized values would be 0) and a Linear."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(channels, 3)

    def forward(self, x: Any) -> Any:
        return self.out(self.layer(x).flatten(2).amax(2))


def load(folder: Path, package: str, *inner: str) -> types.ModuleType:
    """An upstream package without what its own __init__ imports, with the names of some modules inside."""
    module = types.ModuleType(package)
    module.__path__ = [str(folder / package)]
    sys.modules[package] = module
    for name in inner:
        part = importlib.import_module(f"{package}.{name}")
        vars(module).update({key: value for key, value in vars(part).items() if not key.startswith("__")})
    return module


SETTINGS: tuple[dict[str, Any], ...] = (
    {"padding": 1},
    {"stride": 2},
    {"padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 1},
)


def torch_conv_kan(folder: Path) -> Iterator[Case]:
    """Every convolution of torch-conv-kan in one, two and three dimensions."""
    sys.path.insert(0, str(folder))
    load(folder, "utils", "regularization", "normalization")
    load(folder, "kans", "utils", "layers")
    load(folder, "kan_convs")
    kinds = {
        "kan_conv": "KAN",
        "fast_kan_conv": "FastKAN",
        "kaln_conv": "KALN",
        "kacn_conv": "KACN",
        "kagn_conv": "KAGN",
        "kabn_conv": "KABN",
        "kajn_conv": "KAJN",
        "relukan_conv": "ReLUKAN",
        "wav_kan": "WavKAN",
        "kagn_bottleneck_conv": "BottleNeckKAGN",
        "relukan_bottleneck_conv": "BottleNeckReLUKAN",
    }
    for file, kind in kinds.items():
        module = importlib.import_module(f"kan_convs.{file}")
        for axes in PICTURES:
            layer = getattr(module, f"{kind}Conv{axes}DLayer")
            norms = "" if kind == "FastKAN" else "layer_norm"  # which begins with its norms
            for settings in (*SETTINGS, {"padding": 1, "norm_layer": _norm(axes)}):
                yield _of(f"torch-conv-kan {kind} {axes}-d", layer, axes, settings, norms)
    wavelets = importlib.import_module("kan_convs.wav_kan")
    for way in ("base", "fast", "fast_plus_one"):
        for wavelet in ("mexican_hat", "morlet", "dog", "meyer", "shannon"):
            settings = {"padding": 1, "wav_version": way, "wavelet_type": wavelet}
            yield _of("torch-conv-kan WavKAN 2-d", wavelets.WavKANConv2DLayer, 2, settings, "layer_norm")
    second = importlib.import_module("kan_convs.kagn_conv_v2")
    for settings in SETTINGS:
        yield _of("torch-conv-kan KAGN v2 2-d", second.KAGNConv2DLayerV2, 2, settings, "layer_norm")


def _norm(axes: int) -> type[nn.Module]:
    return {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]


def _of(name: str, layer: Any, axes: int, settings: dict[str, Any], norms: str = "") -> Case:
    supplied = {"kernel_size": 3} | settings
    words = ", ".join(f"{key}={getattr(value, '__name__', value)}" for key, value in settings.items())
    return Case(f"{name} {words}", lambda: Network(layer(4, 6, **supplied), 6), (4, *PICTURES[axes]), norms)


def ka_conv(folder: Path) -> Iterator[Case]:
    """Every basis of KA-Conv."""
    sys.path.insert(0, str(folder / "kaconv"))
    layer = importlib.import_module("kaconv.fastkanconv").FastKANConvLayer
    for kind in ("RBF", "Fourier", "Poly", "Chebyshev", "BSpline"):
        for settings in (*SETTINGS, {"padding": 1, "padding_mode": "reflect"}, {"use_base_update": False}):
            yield _of(f"KA-Conv {kind}", layer, 2, {"kan_type": kind} | settings)


def convkan(folder: Path) -> Iterator[Case]:
    """convkan's one layer."""
    sys.path.insert(0, str(folder))
    layer = importlib.import_module("convkan.convkan_layer").ConvKAN
    more: tuple[dict[str, Any], ...] = (
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same"},
        {"spline_order": 2},
    )
    for settings in (*SETTINGS, *more):
        yield _of("convkan", layer, 2, settings)


def convolutional_kans(folder: Path) -> Iterator[Case]:
    """A small KAN for each pair of channels."""
    sys.path.insert(0, str(folder / "kan_convolutional"))
    layer = importlib.import_module("KANConv").KAN_Convolutional_Layer
    for settings in ({}, {"padding": (1, 1)}, {"stride": (2, 2)}, {"padding": (2, 2), "dilation": (2, 2)}):
        given = {"kernel_size": (3, 3)} | settings
        name = f"Convolutional-KANs {settings}"
        yield Case(name, lambda given=given: Network(layer(4, 6, **given), 6), (4, *PICTURES[2]))


LIBRARIES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "torch-conv-kan": torch_conv_kan,
    "KA-Conv": ka_conv,
    "convkan": convkan,
    "Convolutional-KANs": convolutional_kans,
}


def look(case: Case, *, export: bool) -> tuple[str, str]:
    """The outcome of a configuration (`edges`, `none`, `refused` or `wrong`), and a short text."""
    torch.manual_seed(0)
    network = case.make().eval()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, *case.shape)).astype(np.float32).astype(np.float64)
    whole = Whole(network)
    try:
        if export:
            with tempfile.TemporaryDirectory() as folder:
                target = Target(repository=Path(folder), name="m")
                layers = convert(network, x.astype(np.float32), target, options={}).manifest.layers
                if len(layers) < 2:
                    return "none", ""
        oracle = ReferenceModule.of(whole, x)
        with lent(whole, oracle.dtype):
            plan = planning.make(whole, oracle, x, {})
            if not any(use.name.startswith("body.layer") and use.axes is not None for use in plan.uses):
                return "none", "; ".join(note for note in plan.notes if "layer" in note)
            for scale in (1.0, 30.0, 1e3):
                apart = differ(plan, network, case, rng.normal(scale=scale, size=(ROWS, *case.shape)))
                if not apart < AGREED:
                    return "wrong", f"edges differ by {apart:.1e} at {scale:g} times the rows"
    except ExportError as error:
        return "refused", error.message
    return "edges", ", ".join(f"{layer.sources}x{layer.destinations}" for layer in plan.layers[:-1][:4])


def differ(plan: Plan, network: Any, case: Case, x: np.ndarray) -> float:
    """By how much the sums of edges differ from what the layer adds up, relative."""
    expected = sums(network, case, x)
    totals: dict[tuple[int, ...], Any] = {}
    inputs = iter(zip(plan.layers, plan.evaluate(x).inputs, strict=True))
    for use in plan.uses:
        for at, _ in enumerate(use.kan.layers):
            total = edge_sums(*next(inputs))
            if use.name.startswith("body.layer"):
                which = results(use, at, len(totals))
                totals[which] = totals.get(which, 0) + total
    result = np.concatenate([totals[which] for which in sorted(totals)], axis=-1)
    if result.shape[-1] != expected.shape[-1]:  # one channel of the picture at a time, as Convolutional-KANs do
        result = result.reshape(*result.shape[:-1], expected.shape[-1], -1).sum(axis=-1)
    return float(np.abs(result.reshape(expected.shape) - expected).max() / np.abs(expected).max())


def results(use: Any, at: int, count: int) -> tuple[int, ...]:
    """The output indices of a layer; layers with the same indices are added."""
    return tuple(use.kan.parts[at].results.tolist()) if isinstance(use.kan, Convolved) else (count,)


def edge_sums(layer: Any, vectors: np.ndarray) -> np.ndarray:
    flat = vectors.reshape(-1, vectors.shape[-1])
    total = np.concatenate([edges.sum(axis=1) for _, edges, _ in float64_reference.edges(layer, flat)]) + layer.bias
    return total.reshape(*vectors.shape[:-1], -1)


def sums(network: Any, case: Case, x: np.ndarray) -> np.ndarray:
    """The sums that the layer computes, [B, *positions, m]."""
    seen: list[Any] = []
    norms = getattr(network.layer, case.norms) if case.norms else []
    norms = list(norms) if isinstance(norms, nn.ModuleList) else [norms] if case.norms else []
    hooks = [norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone())) for norm in norms]
    with torch.no_grad():
        y = network.layer(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    return np.moveaxis((torch.cat(seen, dim=1) if seen else y).numpy(), 1, -1)


def main() -> int:
    """1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", type=Path, required=True, help="a folder with the checkouts")
    parser.add_argument("--only", default="", help="configurations whose names hold that")
    parser.add_argument("--export", action="store_true", help="make the graphs too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: dict[str, collections.Counter[str]] = {}
    for library, cases in LIBRARIES.items():
        if not (arguments.upstream / library).is_dir():
            print(f"{library}: not in {arguments.upstream}")
            continue
        for case in cases(arguments.upstream / library):
            if arguments.only not in case.name:
                continue
            start = time.perf_counter()
            what, words = look(case, export=arguments.export)
            counts.setdefault(library, collections.Counter())[what] += 1
            print(f"{what:8} {case.name}: {words} ({time.perf_counter() - start:.1f} s)", flush=True)
    for library, result in counts.items():
        print(f"{library}: {result['edges']} of {result.total()} have edges; {dict(result)}")
    return 1 if any(result["wrong"] for result in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
