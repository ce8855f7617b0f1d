"""Layers with polynomials, sines and wavelets that share their tensors, each through its own code and
through kanexport in every reading.

    PYTHONPATH=$PWD python tests/oracle/rivals_polynomial.py FOLDER [--count 3] [--export] [--only NAME]

Not part of the suite: no library is in a package registry. FOLDER holds their repositories, checked
out by hand as OWNER+NAME (such as `lif314+X-KANeRF`); those that are missing are skipped, and said.

Every case is a class of theirs, with random weights, in float64. Some are mutated: their source has
a text replaced before it runs, as copies of such a layer do. Inputs: the range of the weights' own
(1), 10 and 100 times it, zeros, all of one sign, NaN and both infinities. Three figures a case:

    default    by how much the reading without options differs, relative to the largest output
    reading    by how much the reading with the case's options differs; infinite where one is not finite
    decided    of the readings that the file leaves open, tried one option at a time and two for a
               number that only comes up with another, how many fit, and whether the right one does

A case is right where `reading` is within TOLERANCE, and where a default that differs is listed as assumed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import itertools
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from kanexport.errors import ExportError, InvalidKan
from kanexport.files import checkpoint
from kanexport.options import Options
from kanexport.pipeline import Request, export
from kanexport.proof import evaluate
from kanexport.recognise import detect

TOLERANCE = 1e-10
FITS = 1e-6  # a reading that differs by less cannot be told from the right one by answers in float32
SHAPES = ((3, 2), (2, 4), (4, 4), (1, 3))
XKANERF, EASYTSF = "lif314+X-KANeRF/xKANeRF/xKAN", "2448845600+EasyTSF/easytsf/layer/kanlayer.py"
BASIS, IKAN = "seydi1370+Basis_Functions", "lgy112112+ikan/ikan"
ORTHOG = "Boris-73-TA+OrthogPolyKANs"
CONV = "IvanDrokin+torch-conv-kan/kans/layers.py"


@dataclass(frozen=True)
class Case:
    """A class `kind` of a file, called with (inputs, outputs, *arguments). `options`: the reading that is
    right. `replace`: texts of its source. `wrap`: what is compared in the place of a bare layer."""

    name: str
    file: str
    kind: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    replace: tuple[tuple[str, str], ...] = ()
    wrap: Callable[[Any, Any], Any] | None = None


def cheby(name: str, file: str, *options: str, kind: str = "ChebyKANLayer", **more: Any) -> Case:
    return Case(name, file, kind, (4,), options=options, **more)


TANH = "x = torch.tanh(x)"
SYNODIC, UNOPTIMISED = "SynodicMonth+ChebyKAN/ChebyKANLayer.py", "SynodicMonth+ChebyKAN/ChebyKANLayer_unoptimized.py"
JACOBI = "SpaceLearner+JacobiKAN/JacobiKANLayer.py"
COPIES = {"raw": "pass", "clip": "x = torch.clamp(x, -1.0, 1.0)", "tanh-twice": "x = torch.tanh(torch.tanh(x))"}


def named(kind: str) -> str:
    return f"{ORTHOG}/{kind}KAN/{kind}KANLayer.py"


def copies(
    name: str, file: str, kind: str, arguments: tuple[Any, ...], options: tuple[str, ...] = ()
) -> Iterator[Case]:
    """What copies of a layer do: another squash, other axes."""
    for way, text in COPIES.items():
        whose = "timekan" if (name, way) == ("ChebyKAN", "tanh-twice") else way
        options_ = (f"forward={whose}", *options)
        yield Case(f"{name}, {way}", file, kind, arguments, options=options_, replace=((TANH, text),))
    yield Case(
        f"{name}, oid",
        file,
        kind,
        arguments,
        options=("forward=oid", *options),
        replace=(("torch.empty(input_dim, output_dim,", "torch.empty(output_dim, input_dim,"), ("iod->bo", "oid->bo")),
    )


def cheby_cases() -> Iterator[Case]:
    yield cheby("ChebyKAN", SYNODIC)
    yield cheby("ChebyKAN, unoptimised", UNOPTIMISED)
    yield cheby("ChebyKAN of SpaceLearner", "SpaceLearner+JacobiKAN/ChebyKANLayer.py")
    yield cheby("ChebyKAN of KAN4TSF", EASYTSF)
    yield cheby("ChebyKAN of torch-conv-kan", CONV)
    timekan = "huangst21+TimeKAN/layers/ChebyKANLayer.py"
    yield cheby("TimeKAN", timekan, "forward=timekan", kind="ChebyKANLinear")
    yield cheby("X-KANeRF Chebyshev", f"{XKANERF}/chebyshev_kan.py", "forward=x-kanerf")
    yield cheby(
        "Chebyshev-KAN",
        "Vishnu2690+Chebyshev-KAN/ChebyshevKANLayer.py",
        "forward=chebyshev-kan",
        kind="ChebyshevKANLayer",
        replace=((TANH, "x = x - x.min(dim=1, keepdim=True)[0]; x = 2 * x / x.max(dim=1, keepdim=True)[0] - 1"),),
    )
    for scale in (2, 5):
        yield cheby(
            f"pinns ChebyKAN, scale {scale}",
            "DaniilLaptev+pinns/pinns/models/kans/chebykan.py",
            "forward=pinns",
            f"cheby_scale={scale}",
            wrap=lambda layer, x, scale=scale: layer(x / scale) * scale,
        )
    epsilon = (("self.epsilon = 1e-6", "self.epsilon = 1e-7"),)
    yield cheby(
        "X-KANeRF, epsilon 1e-7",
        f"{XKANERF}/chebyshev_kan.py",
        "forward=x-kanerf",
        "cheby_epsilon=1e-7",
        replace=epsilon,
    )
    mean = (("y = y.view(-1, self.outdim)", "y = y.view(-1, self.outdim) / self.inputdim"),)
    yield cheby("ChebyKAN, mean", SYNODIC, "forward=mean", replace=mean)
    yield cheby(
        "ChebyKAN, second kind",
        UNOPTIMISED,
        "forward=second-kind",
        replace=(("cheby[:, :, 1] = x", "cheby[:, :, 1] = 2 * x"),),
    )
    scaled = (
        ("def forward(self, x):", "def forward(self, x):\n        x = x * self.tanh_scale + self.tanh_bias"),
        (
            "self.degree = degree",
            "self.degree = degree\n        self.tanh_scale = torch.nn.Parameter(torch.tensor(1.5))"
            "\n        self.tanh_bias = torch.nn.Parameter(torch.tensor(0.2))",
        ),
    )
    yield cheby("ChebyKAN, trained scale", UNOPTIMISED, replace=scaled)
    yield from copies("ChebyKAN", UNOPTIMISED, "ChebyKANLayer", (5,))


def jacobi_cases() -> Iterator[Case]:
    for a, b in ((1.0, 1.0), (0.0, 0.0), (0.5, 2.0), (-0.5, -0.5)):
        pair = (f"jacobi_a={a}", f"jacobi_b={b}")
        yield Case(f"JacobiKAN {a} {b}", JACOBI, "JacobiKANLayer", (4, a, b), options=pair)
    yield Case("JacobiKAN of X-KANeRF", f"{XKANERF}/jacobi_kan.py", "JacobiKANLayer", (4,))
    yield Case("JacobiKAN of KAN4TSF", EASYTSF, "JacobiKANLayer", (5,))
    for a, b in ((3, 3), (1, 0.5)):
        options = ("forward=orthogpolykans", f"jacobi_a={a}", f"jacobi_b={b}")
        yield Case(f"OrthogPolyKANs Jacobi {a} {b}", named("Jacobi"), "JacobiKANLayer", (4, a, b), options=options)
    yield from copies("JacobiKAN", JACOBI, "JacobiKANLayer", (4,))


def orthog_cases() -> Iterator[Case]:
    alphas = {"Gegenbauer": "gegenbauer_alpha", "Laguerre": "laguerre_alpha"}
    for kind in ("Bessel", "Cheby2", "Fibonacci", "Gegenbauer", "Hermite", "Laguerre", "Legendre", "Lucas"):
        layer, more = f"{kind}KANLayer", (3,) if kind in alphas else ()
        yield Case(f"OrthogPolyKANs {kind}", named(kind), layer, (5, *more))
        if kind in alphas:
            for alpha in (0.5, -0.5, 1.0):
                options = (f"{alphas[kind]}={alpha}",)
                yield Case(f"OrthogPolyKANs {kind} {alpha}", named(kind), layer, (4, alpha), options=options)
        yield from copies(kind, named(kind), layer, (4, *more))
    names = {"Bessel": "bessel", "Cheby2": "chebyshev2", "Gegenbauer": "gegenbauer", "Hermite": "hermite"}
    for kind, file in (names | {"Legendre": "legendre", "Lucas": "lucas"}).items():
        more = (3.0,) if kind in alphas else ()
        yield Case(f"X-KANeRF {kind}", f"{XKANERF}/{file}_kan.py", f"{kind}KANLayer", (4, *more))
    for kind, more in (("Fibonacci", ()), ("Laguerre", (-0.5,))):
        file = f"{XKANERF}/{kind.lower()}_kan.py"
        options = ("laguerre_alpha=-0.5",) if more else ("forward=x-kanerf",)
        yield Case(f"X-KANeRF {kind}", file, f"{kind}KANLayer", (4, *more), options=options)
    hermite = """
        f = torch.tanh(x) * ((2 * self.degree + 1) ** 0.5 + 1)
        h = [3.141592653589793 ** -0.25 * torch.exp(-f ** 2 / 2)]
        h.append(2 ** 0.5 * f * h[0])
        for i in range(2, self.degree + 1):
            h.append((2 / i) ** 0.5 * f * h[-1] - ((i - 1) / i) ** 0.5 * h[-2])
        return torch.einsum('bid,iod->bo', torch.stack(h, dim=-1)[..., : self.degree + 1], self.hermite_coeffs)
"""
    swap = (("def forward(self, x):", "def forward(self, x):" + hermite),)
    yield Case(
        "Hermite functions",
        named("Hermite"),
        "HermiteKANLayer",
        (5,),
        options=("forward=hermite-functions",),
        replace=swap,
    )


def basis_cases() -> Iterator[Case]:
    kinds = ("AlSalamCarlitz", "AskeyWilson", "BannaiIto", "BoasBuck", "Boubaker", "Fermat", "Gottlieb", "Heptanacci")
    kinds += ("Hexanacci", "MeixnerPollaczek", "Narayana", "Octanacci", "Pado", "Pentanacci", "Tetranacci", "Tribo")
    for kind, degree in itertools.product((*kinds, "VietaPell"), (0, 1, 3, 9)):
        yield Case(f"{kind} of degree {degree}", f"{BASIS}/{kind}.py", f"{kind}KANLayer", (degree,))
    torch_too = (("import torch.nn as nn", "import torch\nimport torch.nn as nn"),)
    for a in (1.0, 2.0):
        yield Case(
            f"Charlier, a {a}",
            f"{BASIS}/Charlier.py",
            "CharlierKANLayer",
            (4, a),
            options=(f"charlier_a={a}",),
            replace=torch_too,
        )
    for repository in ("hoangthangta+BSRBF_KAN", "hoangthangta+FC_KAN"):
        file = f"{repository}/models/gottlieb_kan.py"
        yield Case(f"Gottlieb of {repository}", file, "GottliebKAN", (), wrap=None)


def series_cases() -> Iterator[Case]:
    yield Case("TaylorKAN of KAN4TSF", EASYTSF, "TaylorKANLayer", (4,))
    yield Case("TaylorKAN of KAN4TSF, no bias", EASYTSF, "TaylorKANLayer", (3, False))
    yield Case("KAE", "SciYu+KAE/DenseLayerPack/KAE.py", "KAELayer", (3,))
    relu = (("return y", "return torch.relu(y)"),)
    yield Case(
        "KAE with relu",
        "SciYu+KAE/DenseLayerPack/KAE.py",
        "KAELayer",
        (3,),
        options=("output_activation=relu",),
        replace=relu,
    )
    yield Case("FourierKAN", "GistNoesis+FourierKAN/fftKAN.py", "NaiveFourierKANLayer", (5,))
    yield Case("FourierKAN of X-KANeRF", f"{XKANERF}/fourier_kan.py", "FourierKANLayer", (5, False))
    yield Case("FourierKAN of KAN4TSF", EASYTSF, "NaiveFourierKANLayer", (5,))
    yield Case("FourierKAN of KAE", "SciYu+KAE/DenseLayerPack/FourierKAN.py", "NaiveFourierKANLayer", (5,))
    for step, text in ((6.283185307179586, "6.283185307179586 * k*xrshp"), (0.5, "0.5 * k*xrshp")):
        yield Case(
            f"FourierKAN, step {step:.3g}",
            "GistNoesis+FourierKAN/fftKAN.py",
            "NaiveFourierKANLayer",
            (5,),
            options=(f"fourier_step={step!r}",),
            replace=(("k*xrshp", text),),
        )
    for first in (True, False):
        yield Case(f"SineKAN, first {first}", "ereinha+SineKAN/sine_kan.py", "SineKANLayer", ("cpu", 5, first))
    phase = (("self.register_buffer('phase', phase)", "self.phase = torch.nn.Parameter(phase)"),)
    yield Case("SineKAN, trained phase", "ereinha+SineKAN/sine_kan.py", "SineKANLayer", ("cpu", 5), replace=phase)


WAVES = ("mexican_hat", "morlet", "dog", "meyer", "shannon")


def wavelet_cases() -> Iterator[Case]:
    wav = "zavareh1+Wav-KAN/KAN.py"
    for wave in WAVES:
        options = (f"wavelet_type={wave}",)
        yield Case(f"Wav-KAN {wave}", wav, "KANLinear", (wave,), options=options)
        yield Case(f"torch-conv-kan {wave}", CONV, "WavKANLayer", (wave,), options=(*options, "base_branch=added"))
        yield Case(f"X-KANeRF {wave}", f"{XKANERF}/wav_kan.py", "WavKANLinear", (wave,), options=options)
        yield Case(f"KAN4TSF {wave}", EASYTSF, "WaveKANLayer", (wave, False, "cpu"), options=options)
        yield Case(f"ikan {wave}", f"{IKAN}/WaveletKAN.py", "WaveletKANLinear", (wave,), options=options)
    yield Case("KAN4TSF with BN", EASYTSF, "WaveKANLayer", ("mexican_hat", True, "cpu"))
    yield Case(
        "FC_KAN's Wav-KAN", "hoangthangta+FC_KAN/models/wav_kan.py", "KANLinear", (), options=("wavelet_type=dog",)
    )
    added = (("combined_output =  wavelet_output #+ base_output", "combined_output = wavelet_output + base_output"),)
    yield Case(
        "Wav-KAN, linear branch",
        wav,
        "KANLinear",
        ("dog",),
        options=("wavelet_type=dog", "base_branch=linear"),
        replace=added,
    )
    ricker = (("term1 = ((x_scaled ** 2)-1)", "term1 = (1 - (x_scaled ** 2))"),)
    yield Case("Wav-KAN, ricker", wav, "KANLinear", ("mexican_hat",), options=("wavelet_type=ricker",), replace=ricker)
    root = (("dog = -x_scaled", "dog = -x_scaled / scale_expanded.sqrt()"),)
    yield Case(
        "Wav-KAN, 1 / sqrt(s)",
        wav,
        "KANLinear",
        ("dog",),
        options=("wavelet_type=dog", "wavelet_factor=inverse-sqrt"),
        replace=root,
    )


def ikan_cases() -> Iterator[Case]:
    yield Case("ikan Cheby", f"{IKAN}/ChebyKAN.py", "ChebyKANLinear", (4,))
    older = (("torch.tanh(x.clamp(-1,1))", "torch.tanh(x)"),)
    yield Case(
        "ikan Cheby 0.x", f"{IKAN}/ChebyKAN.py", "ChebyKANLinear", (4,), options=("forward=tanh",), replace=older
    )
    for a, b in ((1.0, 1.0), (0.5, 2.0)):
        pair = (f"jacobi_a={a}", f"jacobi_b={b}")
        yield Case(f"ikan Jacobi {a} {b}", f"{IKAN}/JacobiKAN.py", "JacobiKANLinear", (4, a, b), options=pair)
    ahead = (("k = n - 1", "k = n"),)
    yield Case(
        "ikan Jacobi, first", f"{IKAN}/JacobiKAN.py", "JacobiKANLinear", (4,), options=("forward=ahead",), replace=ahead
    )
    yield Case("ikan Taylor", f"{IKAN}/TaylorKAN.py", "TaylorKANLinear", (3,))
    yield Case("ikan Fourier", f"{IKAN}/FourierKAN.py", "FourierKANLinear", (4,))
    yield Case(
        "ikan Fourier, tanh, no bias",
        f"{IKAN}/FourierKAN.py",
        "FourierKANLinear",
        (4,),
        {"base_activation": torch.nn.Tanh, "use_bias": False},
        options=("base_activation=tanh",),
    )


GROUPS = (cheby_cases, jacobi_cases, orthog_cases, basis_cases, series_cases, wavelet_cases, ikan_cases)


def load(folder: Path, case: Case) -> Any:
    """The class, from its file with its texts replaced. Raises FileNotFoundError; LookupError for a text
    that is not there."""
    path = folder / case.file
    text = path.read_text()
    for old, new in case.replace:
        if old not in text:
            raise LookupError(f"{case.file} has no {old!r}")
        text = text.replace(old, new)
    text = re.sub(r"^(import|from) (torchvision|torchinfo|tqdm|pandas)\b.*$", "", text, flags=re.MULTILINE)
    module = types.ModuleType("rival")
    module.__file__ = str(path)
    if "from .utils" in text:  # torch-conv-kan
        package = path.parent
        spec = importlib.util.spec_from_file_location("rivals.utils", package / "utils.py")
        assert spec is not None
        assert spec.loader is not None
        utils = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(utils)
        sys.modules["rivals"], sys.modules["rivals.utils"] = types.ModuleType("rivals"), utils
        module.__package__ = "rivals"
    exec(compile(text, str(path), "exec"), module.__dict__)
    return getattr(module, case.kind)


@torch.no_grad()
def build(folder: Path, case: Case, seed: int) -> tuple[Any, Any]:
    """A layer with no weight at rest, and rows of every kind."""
    torch.manual_seed(seed)
    n, m = SHAPES[seed % len(SHAPES)]
    kind = load(folder, case)
    whole = case.kind.endswith("_KAN") or case.kind == "GottliebKAN"
    layer = kind([n, 3, m], *case.arguments, **case.keywords) if whole else kind(n, m, *case.arguments, **case.keywords)
    for name, value in layer.named_parameters():
        if name.endswith("scale"):
            value.uniform_(0.4, 1.6)
        else:
            value.copy_(torch.randn_like(value))
    for name, value in layer.named_buffers():
        if "running" in name:
            value.copy_(torch.rand_like(value) + 0.3)
    rows = [torch.randn(12, n) * size for size in (1.0, 10.0, 100.0)]
    rows += [torch.zeros(1, n), torch.randn(4, n).abs(), -torch.randn(4, n).abs()]
    odd = torch.full((3 * n, n), 0.3)
    for at, number in itertools.product(range(n), range(3)):
        odd[3 * at + number, at] = (float("nan"), float("inf"), -float("inf"))[number]
    if "degree 0" in case.name or (
        "nacci" in case.name.lower() + "nacci" * ("Tribo" in case.name) and "degree 1" in case.name
    ):
        odd = odd[~torch.isnan(odd).any(dim=1)]  # constants: theirs have their value for NaN, ours are NaN
    x = torch.cat([*rows, odd]).double()
    return layer.double().eval(), x


def answers(case: Case, layer: Any, x: Any) -> Any:
    with torch.no_grad():
        return (case.wrap(layer, x) if case.wrap else layer(x.clone())).reshape(len(x), -1).numpy()


def difference(found: Any, expected: Any) -> float:
    """Relative to the largest finite output of the row's own kind; infinite where one is not finite."""
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite):
        return np.inf
    whole = finite.all(axis=1)
    scale = np.maximum(1e-300, np.abs(np.where(finite, expected, 0)).max(axis=1, keepdims=True))
    # Rows of one size are of one scale: a sum may cancel.
    blocks = np.split(np.arange(len(expected)), [12, 24, 36, 45])
    for block in blocks:
        scale[block] = scale[block].max()
    same = np.where(np.isfinite(found), 0.0, (found != expected) & ~(np.isnan(found) & np.isnan(expected)))
    if same.any():
        return np.inf
    change = np.where(finite, np.abs(np.where(finite, found, 0) - np.where(finite, expected, 0)) / scale, 0)
    return float(change.max(initial=0.0)) if whole.any() else 0.0


def read(path: Path, options: tuple[str, ...], x: Any) -> tuple[Any, Options]:
    given = Options.parse(options)
    loaded = checkpoint.load(path)
    reader, _ = detect.detect(loaded, None)
    kan = detect.read(reader, loaded, given)
    if kan.n_inputs != x.shape[1]:
        raise InvalidKan(f"the reading has {kan.n_inputs} inputs")
    with np.errstate(all="ignore"):
        return evaluate.evaluate(kan, x.numpy()).y, given


def readings(path: Path, x: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every reading that differs from the default in one assumed fact, or in two where the second only
    comes up with the first."""
    first = Options.parse(())
    try:
        y, first = read(path, (), x)
        yield (), y
    except ExportError:
        first = _open(path)
    for key, values in first.open.items():
        for value in values:
            one = (f"{key}={value}",)
            try:
                y, second = read(path, one, x)
            except ExportError:
                continue
            yield one, y
            for other in set(second.open) - set(first.open):
                for also in second.open[other]:
                    try:
                        yield (*one, f"{other}={also}"), read(path, (*one, f"{other}={also}"), x)[0]
                    except ExportError:
                        continue


def _open(path: Path) -> Options:
    """What a file leaves open, whatever its inputs."""
    options, loaded = Options.parse(()), checkpoint.load(path)
    with contextlib.suppress(ExportError):
        detect.read(detect.detect(loaded, None)[0], loaded, options)
    return options


def compare(folder: Path, case: Case, seed: int, proved: bool) -> tuple[str, float, float, str]:
    """The outcome; by how much the default and the right reading differ; what fits."""
    layer, x = build(folder, case, seed)
    expected = answers(case, layer, x)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.safetensors"
        state = {key: value.contiguous() for key, value in layer.state_dict().items()}
        safetensors.torch.save_file(state, path)
        options = Options.parse(())
        try:
            found, options = read(path, (), x)
            before = difference(found, expected)
        except ExportError:
            before = np.inf  # refused
        try:
            found, _ = read(path, case.options, x)
        except ExportError as error:
            return f"refused: {error.message[:120]}", before, np.inf, ""
        after = difference(found, expected)
        if proved:
            try:
                export(Request(path=path, repository=Path(place) / "models", options=case.options))
            except ExportError as error:
                return f"not proved: {error.message[:120]}", before, after, ""
        fitting = [way for way, y in readings(path, x) if difference(y, expected) < FITS]
    if after > TOLERANCE:
        return f"differs by {after:.1e}", before, after, ""
    keys = {option.partition("=")[0] for option in case.options}
    if FITS < before < np.inf and not keys & set(options.assumed):
        return "wrong, and not listed as assumed", before, after, ""
    return "right", before, after, " | ".join(" ".join(way) or "default" for way in fitting) or "none of one change"


def main() -> int:
    parser = argparse.ArgumentParser(description="Rival layers through their own code and through kanexport.")
    parser.add_argument("folder", type=Path, help="the checked out repositories")
    parser.add_argument("--count", type=int, default=3, help="seeds of each case")
    parser.add_argument("--export", action="store_true", help="export each, which proves its graphs in float32")
    parser.add_argument("--only", default="", help="cases with this text in their name")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    counts: collections.Counter[str] = collections.Counter()
    worst = 0.0
    for case in itertools.chain.from_iterable(group() for group in GROUPS):
        if args.only.lower() not in case.name.lower():
            continue
        before, after, fitting, outcomes = 0.0, 0.0, "", []
        try:
            for seed in range(args.count):
                outcome, default, right, fitting = compare(args.folder, case, seed, args.export)
                before, after = max(before, default), max(after, right)
                outcomes.append(outcome)
        except (FileNotFoundError, ImportError) as missing:
            print(f"{case.name}: skipped, {missing}")
            counts["skipped"] += 1
            continue
        counts.update(outcome.partition(" by")[0].partition(":")[0] for outcome in outcomes)
        wrong = [outcome for outcome in outcomes if outcome != "right"]
        worst = max(worst, after)
        print(
            f"{case.name}: default {before:.1e}, reading {after:.1e}; fits: {fitting}", *wrong, sep="\n    ", flush=True
        )
    print(f"{dict(counts)}, largest difference of a right reading {worst:.1e}")
    return 0 if set(counts) <= {"right", "skipped"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
