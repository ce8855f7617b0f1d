"""Comparison of kanexport's default and correct interpretations with the original code of spline and Gaussian
layers that share tensor names.

    PYTHONPATH=... python tools/oracle/rivals_splines.py FOLDER [--only WORD]

The program is not part of the suite. FOLDER has a checkout of each library under its name: fast-kan, faster-kan,
Vision-KAN, X-KANeRF, efficient-kan, BSRBF_KAN, FC_KAN, KAF, KANLib, trukan, dropkan, pykan. It also has older
commits under names such as fast-kan-b8f617f. The program skips and counts absent checkouts.

The program gives every module random float64 weights and compares it with the float64 evaluation of the interpretation:
near its grid, at 10 and 100 times that, at zeros, on one side, and with NaN and infinities. `assumed` is the largest
difference of the interpretation without options, relative to the largest value: the error that an export reports as an
assumption. `read` is the difference of the interpretation with its options, which must be rounding error.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from kanexport.detection import detect
from kanexport.errors import ExportError
from kanexport.formats import checkpoint
from kanexport.ir.model import Kan
from kanexport.options import KnownFacts, Options
from kanexport.verify import float64_reference

TOLERANCE = 1e-11
ROWS = 40


@dataclass
class Rival:
    """A module with its number of inputs, and the options for its correct interpretation."""

    name: str
    module: Any
    inputs: int
    given: tuple[str, ...] = ()
    forward: Callable[[Any, torch.Tensor], torch.Tensor] = lambda module, x: module(x)
    prefix: str = ""
    tolerance: float = TOLERANCE


class Folder:
    """The folder of library checkouts, with an importer of their files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, file: str, *, paths: tuple[str, ...] = (), package: str = "") -> Any:
        """A file as a module. `paths`: folders that it imports from; `package`: the folder is one, without its
        own __init__."""
        whole = self.path / file
        if not whole.is_file():
            raise FileNotFoundError(file)
        for extra in paths:
            sys.path.insert(0, str(self.path / extra))
        try:
            if package:
                for known in [name for name in sys.modules if name.split(".")[0] == package]:
                    del sys.modules[known]
                parent = types.ModuleType(package)
                parent.__path__ = [str(whole.parent)]
                sys.modules[package] = parent
                return importlib.import_module(f"{package}.{whole.stem}")
            spec = importlib.util.spec_from_file_location("rival_" + file.replace("/", "_").replace(".py", ""), whole)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            return module
        finally:
            for extra in paths:
                sys.path.remove(str(self.path / extra))


def gaussians(folder: Folder) -> Iterator[Callable[[], Rival]]:
    def fast(**more: Any) -> Any:
        return folder.load("fast-kan/fastkan/fastkan.py").FastKAN([3, 4, 2], -1.5, 2.0, 6, **more)

    yield lambda: Rival("FastKAN", fast(), 3)
    yield lambda: Rival("FastKAN without base", fast(use_base_update=False), 3)
    yield lambda: Rival("FastKAN with tanh", fast(base_activation=torch.tanh), 3, ("base_activation=tanh",))
    yield lambda: Rival(
        "FastKAN called without LayerNorm", folder.load("fast-kan/fastkan/fastkan.py").FastKANLayer(3, 2), 3,
        ("layernorm=unused",), lambda module, x: module(x, use_layernorm=False),
    )  # fmt: skip
    for commit, given in (("185dbbc", ("forward=grbf",)), ("b8f617f", ())):
        file = f"fast-kan-{commit}/fastkan/fastkan.py"
        yield lambda file=file, given=given, commit=commit: Rival(
            f"FastKAN at {commit}", folder.load(file).FastKAN([3, 4, 2], -1.5, 2.0, 6), 3, given
        )
    yield lambda: Rival(
        "X-KANeRF GRBF", folder.load("X-KANeRF/xKANeRF/xKAN/grbf_kan.py").GRBF_KAN([3, 4, 2], grid_size=6), 3,
        ("forward=grbf",),
    )  # fmt: skip
    yield lambda: Rival(
        "X-KANeRF RBF", folder.load("X-KANeRF/xKANeRF/xKAN/rbf_kan.py").RBF_KAN([3, 4, 2], grid_size=6), 3
    )
    for file in ("Vision-KAN/fasterkan.py", "visionkan/VisionKAN/fasterkan.py"):
        for given in ((), ("denominator=0.5",)):
            width = {"denominator": 0.5} if given else {}
            yield lambda file=file, given=given, width=width: Rival(
                f"first FasterKAN ({file.split('/')[0]}{', 0.5' * bool(given)})",
                folder.load(file).FasterKAN([3, 4, 2], **width), 3, ("forward=fasterkan", *given),
            )  # fmt: skip
    faster = "faster-kan/fasterkan/fasterkan_layers.py"
    yield lambda: Rival(
        "FasterKAN", folder.load(faster, paths=("faster-kan/fasterkan", "faster-kan")).FasterKANLayer(3, 2), 3
    )
    yield lambda: Rival("FasterKAN in CUDA, by its kernel's formula", _cuda(folder), 3, ("forward=fasterkan-cuda",))


def _cuda(folder: Folder) -> Any:
    """cu_fasterkan's layer with its kernel written out: no GPU is needed."""
    faster = folder.load("faster-kan/fasterkan/fasterkan_layers.py", paths=("faster-kan/fasterkan", "faster-kan"))
    layer = faster.FasterKANLayer(3, 2)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        apart = torch.tanh((x[None] - layer.rbf.grid[:, None, None]) * layer.rbf.inv_denominator)
        return (1 - apart * apart).permute(1, 0, 2).reshape(len(x), -1)

    layer.forward = lambda x: layer.spline_linear(kernel(layer.layernorm(x)))
    return layer


def splines(folder: Folder) -> Iterator[Callable[[], Rival]]:
    current = "efficient-kan/src/efficient_kan/kan.py"
    yield lambda: Rival("efficient-kan", folder.load(current).KAN([3, 4, 2]), 3)
    yield lambda: Rival(
        "efficient-kan with GELU, G=3, k=2",
        folder.load(current).KAN([3, 4, 2], 3, 2, base_activation=torch.nn.GELU), 3, ("base_activation=gelu",),
    )  # fmt: skip
    yield lambda: Rival(
        "efficient-kan at 8175cda", folder.load("efficient-kan-8175cda/src/efficient_kan/kan.py").KAN([3, 4, 2]), 3,
        ("spline_scaler=unused",),
    )  # fmt: skip
    yield lambda: Rival("Vision-KAN ekan", folder.load("Vision-KAN/ekan.py").KAN([3, 4, 2]), 3)
    yield lambda: Rival(
        "X-KANeRF BSpline", folder.load("X-KANeRF/xKANeRF/xKAN/bspine_kan.py").BSpline_KAN([3, 4, 2]), 3
    )
    for repository in ("BSRBF_KAN", "FC_KAN"):
        file = f"{repository}/models/efficient_kan.py"
        yield lambda file=file: Rival(file, folder.load(file).EfficientKAN([3, 4, 2]), 3)
        bsrbf = f"{repository}/models/bsrbf_kan.py"
        yield lambda file=bsrbf: Rival(file, folder.load(file).BSRBF_KAN([3, 4, 2], 4, 2), 3)
    for inner, given in (("tanh", "spline-of-tanh"), ("half", "spline-of-tanh-01"), ("clamp", "spline-clamped")):
        yield lambda inner=inner, given=given: Rival(
            f"efficient-kan, a copy with {inner}", _copy(folder.load(current).KANLinear(3, 2), inner), 3,
            (f"forward={given}",),
        )  # fmt: skip


def _copy(layer: Any, inner: str) -> Any:
    """A layer with a step of copies on GitHub before the splines; the base branch is unchanged."""
    of = {
        "tanh": torch.tanh,
        "half": lambda x: (torch.tanh(x) + 1) / 2,
        "clamp": lambda x: torch.minimum(torch.maximum(x, layer.grid[:, 3]), layer.grid[:, -4]),
    }[inner]

    def forward(x: torch.Tensor) -> torch.Tensor:
        base = torch.nn.functional.linear(layer.base_activation(x), layer.base_weight)
        return base + torch.einsum("bic,oic->bo", layer.b_splines(of(x)), layer.scaled_spline_weight)

    layer.forward = forward
    return layer


def combined(folder: Folder) -> Iterator[Callable[[], Rival]]:
    file = "FC_KAN/models/fc_kan.py"

    def make(functions: list[str], kind: str) -> Rival:
        kind_of = folder.load(file, package="models").FC_KAN
        supplied = (f"func_list={','.join(functions)}",) + ((f"combined_type={kind}",) if len(functions) > 1 else ())
        return Rival(
            f"FC-KAN {'+'.join(functions)} {kind}", kind_of([3, 4, 2], functions, combined_type=kind), 3, supplied
        )

    kinds = ("quadratic", "sum", "product", "sum_product", "quadratic2", "quadratic3", "cubic", "concat")
    for kind in (*kinds, "concat_linear", "mean"):
        yield lambda kind=kind: make(["bs", "dog"], kind)
    for functions in (["dog"], ["rbf"], ["dog", "rbf", "base"], ["sin", "arctan"], ["dog", "bs", "rbf", "base"]):
        yield lambda functions=functions: make(functions, "quadratic")


def others(folder: Folder) -> Iterator[Callable[[], Rival]]:
    for norm in (True, False):
        yield lambda norm=norm: Rival(
            f"KAF{'' if norm else ' without LayerNorm'}",
            folder.load("KAF/KAF.py").KAF([3, 4, 2], 5, use_layernorm=norm), 3,
        )  # fmt: skip
    for kind, more in (("bspline", {"grid_size": 4, "spline_order": 2}), ("grbf", {"grid_size": 4})):
        for weights in (True, False):
            yield lambda kind=kind, more=more, weights=weights: Rival(
                f"KANLib {kind}{'' if weights else ', spline alone'}", _kanlib(folder, kind, more, weights), 3
            )
    for degree, learnt in ((3, False), (3, True), (2, False), (1, True), (5, False)):
        given = ("knots_min=-2", "knots_max=1.5") if learnt else ()
        yield lambda degree=degree, learnt=learnt, given=given: Rival(
            f"TruKAN of degree {degree}{', learnt knots' * learnt}",
            folder.load("trukan/trukan_layer.py").TruKanLayer(
                3, 2, degree, 9, learnt, knots_range=(-2.0, 1.5)
            ), 3, given, tolerance=1e-9,
        )  # fmt: skip
    yield lambda: Rival(
        "TruKAN, 100 knots", folder.load("trukan/trukan_layer.py").TruKanLayer(3, 2, 3, 100), 3, tolerance=1e-9
    )
    for neuron, inputs in (("sum", None), ("mean", None), ("sum", "ln")):
        given = (*((f"neuron_fun={neuron}",) if neuron != "sum" else ()),)
        given += (f"input_preprocessing={inputs}",) if inputs else ()
        yield lambda neuron=neuron, inputs=inputs, given=given: Rival(
            f"DropKAN {neuron} {inputs or ''}", _dropkan(folder, neuron, inputs), 3, given
        )
    yield lambda: Rival(
        "pykan 0.2 KANLayer", folder.load("pykan/kan/KANLayer.py", package="kan").KANLayer(3, 2, 4, 2), 3, (),
        lambda module, x: module(x)[0],
    )  # fmt: skip
    yield lambda: Rival(
        "pykan 0.0.5 KANLayer", folder.load("pykan-v0.0.5/kan/KANLayer.py", package="kan").KANLayer(3, 2, 4, 2), 3,
        ("in_dim=3",), lambda module, x: module(x)[0],
    )  # fmt: skip


def _kanlib(folder: Folder, kind: str, more: dict[str, Any], weights: bool) -> Any:
    sys.path.insert(0, str(folder.path / "KANLib" / "src"))
    try:
        linear = importlib.import_module(f"kanlib.nn.{kind}").Linear
    finally:
        sys.path.pop(0)
    return linear(
        3, 2, **more, use_output_bias=weights, use_residual_branch=weights, use_spline_weight=weights,
        spline_range=torch.tensor([[-1.0, 1.0], [0.0, 2.0], [-3.0, 1.0]]),
    )  # fmt: skip


def _dropkan(folder: Folder, neuron: str, inputs: str | None) -> Any:
    kind = folder.load("dropkan/dropkan/DropKAN.py", package="dropkan").DropKAN
    model = kind([3, 4, 2], drop_rate=0.3, neuron_fun=neuron, input_preprocessing=inputs)
    torch.nn.Module.train(model, False)  # its own `train` is the training loop
    return model


GROUPS = {"gaussians": gaussians, "splines": splines, "combined": combined, "others": others}


def randomise(module: torch.nn.Module) -> None:
    """Draw weights with a visible effect on the outputs; grids and other tensors that are not weights stay."""
    for name, value in module.named_parameters():
        last = name.split(".")[-1]
        if value.is_floating_point() and last not in ("grid", "mask", "affine", "inv_denominator"):
            positive = last == "scale" or "scale_" in last
            drawn = torch.randn(value.shape, dtype=value.dtype)
            value.data = (drawn.abs() + 0.5) if positive else drawn


def rows(inputs: int) -> dict[str, np.ndarray]:
    """Inputs by kind."""
    rng = np.random.default_rng(3)
    near = rng.uniform(-1.5, 1.5, size=(ROWS, inputs))
    odd = np.tile(near[:3], (3, 1))
    for at, value in enumerate((np.nan, np.inf, -np.inf)):
        odd[3 * at + np.arange(3), np.arange(3) % inputs] = value
    return {
        "near": near, "10x": 10 * near, "100x": 100 * near, "zeros": np.zeros((2, inputs)),
        "one side": np.abs(near), "not finite": odd,
    }  # fmt: skip


def compare(kan: Kan, rival: Rival) -> tuple[float, int]:
    """The largest relative difference, and how many values differ in being finite, NaN or infinite."""
    largest, odd = 0.0, 0
    for kind, x in rows(rival.inputs).items():
        torch.set_default_dtype(torch.float64)  # some make their results in the default type
        try:
            with torch.no_grad():
                y = rival.forward(rival.module, torch.from_numpy(x)).numpy()
        finally:
            torch.set_default_dtype(torch.float32)
        with np.errstate(all="ignore"):
            result = float64_reference.evaluate(kan, x).y
        if result.shape != y.shape:
            return float("inf"), y.size
        finite = np.isfinite(y)
        same = np.where(finite, np.isfinite(result), (y == result) | (np.isnan(y) & np.isnan(result)))
        odd += int((~same).sum())
        both = finite & np.isfinite(result)
        if kind != "not finite" and both.any():
            largest = max(largest, float(np.abs(result - y)[both].max() / max(np.abs(y[both]).max(), 1e-9)))
    return largest, odd


def read(path: Path, given: tuple[str, ...]) -> tuple[Kan, str, Options]:
    loaded, options = checkpoint.load(path), Options(KnownFacts.parse(given))
    reader, _ = detect.detect(loaded, None)
    kan = detect.read(reader, loaded, options)
    options.finish(reader.FAMILY)
    return kan, reader.FAMILY, options


def attempt(rival: Rival) -> bool:
    """Prints one line; whether the reading with its options is right."""
    torch.manual_seed(1)
    randomise(rival.module)
    rival.module.double()
    if not rival.name.startswith("DropKAN"):
        rival.module.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        state = {key: value.detach().clone().contiguous() for key, value in rival.module.state_dict().items()}
        safetensors.torch.save_file(state, path)
        try:
            kan, family, options = read(path, ())
            assumed, facts = f"{compare(kan, rival)[0]:.1e}", " ".join(options.open)
        except ExportError as error:
            family, assumed, facts = "-", "refused", error.message[:60]
        try:
            right, odd = compare(read(path, rival.given)[0], rival)
        except ExportError as error:
            print(f"{rival.name:42} {family:16} assumed {assumed:8} read: {error.message}")
            return False
    good = right <= rival.tolerance and not odd
    print(
        f"{rival.name:42} {family:16} assumed {assumed:8} read {right:.1e}"
        f"{f', {odd} not finite otherwise' if odd else ''} [{' '.join(rival.given)}] open: {facts}"
        f"{'' if good else '   <-- WRONG'}"
    )
    return good


def main() -> int:
    """1 if a reading with its options is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="rivals with this word in their names")
    arguments = parser.parse_args()
    right = wrong = skipped = 0
    for group in GROUPS.values():
        for make in group(Folder(arguments.folder)):
            try:
                rival = make()
            except (ImportError, FileNotFoundError, SyntaxError) as error:
                skipped += 1
                print(f"skipped: {error}")
                continue
            if arguments.only.lower() not in rival.name.lower():
                continue
            good = attempt(rival)
            right, wrong = right + good, wrong + (not good)
    print(f"{right} right, {wrong} wrong, {skipped} skipped")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
