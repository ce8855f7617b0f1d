"""Layers that `rivals_polynomial.py` compares, with class, arguments and correct interpretation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

XKANERF, EASYTSF = "lif314+X-KANeRF/xKANeRF/xKAN", "2448845600+EasyTSF/easytsf/layer/kanlayer.py"
BASIS, IKAN = "seydi1370+Basis_Functions", "lgy112112+ikan/ikan"
ORTHOG = "Boris-73-TA+OrthogPolyKANs"
CONV = "IvanDrokin+torch-conv-kan/kans/layers.py"


@dataclass(frozen=True)
class Case:
    """One layer: class `kind` of a file, called with (inputs, outputs, *arguments). `options`: the correct
    interpretation. `replace`: replacements in its source. `wrap`: function to compare instead of the bare layer."""

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
    """Variants of a layer in copies of its code: another squash, other axes."""
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
    for kind, whose, text in (("Fibonacci", "x-kanerf", "fib"), ("Lucas", "first-version", "lucas")):
        older = ((f"#{text} = torch.tanh({text})", f"{text} = torch.tanh({text})"),)
        options = (f"forward={whose}",)
        yield Case(f"{kind}, first version", named(kind), f"{kind}KANLayer", (4,), options=options, replace=older)
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


def whole_cases() -> Iterator[Case]:
    """X-KANeRF's networks, with a norm in the block of each layer."""
    supplied = {
        "chebyshev": ("forward=x-kanerf",),
        "fibonacci": ("forward=x-kanerf",),
        "laguerre": ("laguerre_alpha=-0.5",),
    }
    kinds = ("chebyshev", "chebyshev2", "bessel", "lucas", "legendre", "gegenbauer", "fibonacci", "hermite", "jacobi")
    for kind in (*kinds, "laguerre", "fourier"):
        name = "Legendre_kan" if kind == "legendre" else f"{kind.title()}_KAN"
        yield Case(f"X-KANeRF {name}", f"{XKANERF}/{kind}_kan.py", name, options=supplied.get(kind, ()))


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
    first = (("th.arange(1,self.gridsize+1", "th.arange(0,self.gridsize"),)
    yield Case(
        "FourierKAN, first version",
        "GistNoesis+FourierKAN/fftKAN.py",
        "NaiveFourierKANLayer",
        (5,),
        options=("forward=first-version",),
        replace=first,
    )
    for at_start in (True, False):
        yield Case(f"SineKAN, first {at_start}", "ereinha+SineKAN/sine_kan.py", "SineKANLayer", ("cpu", 5, at_start))
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


GROUPS = (cheby_cases, jacobi_cases, orthog_cases, whole_cases, basis_cases, series_cases, wavelet_cases, ikan_cases)
