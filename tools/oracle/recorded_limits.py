"""Calibration of the limit that decides whether an interpretation reproduces recorded outputs.

    PYTHONPATH=$PWD:$PWD/service python -m tools.oracle.recorded_limits [--seeds 50] [--family chebykan]

For each family and seed, the program makes layers with the formula of the library, in torch and float32, and records
their outputs with `kanexport.record_outputs`. The right reading of their file must fit, and near readings must not:
another epsilon, a clamp at 0.99, another activation. The program prints the largest ratio of error to limit of right
readings, and the smallest of near readings. It exits with 1 if a right reading is rejected, or if a near one is
accepted whose largest error exceeds 6 times that of the right one.

Near readings with another epsilon of a LayerNorm need three nodes: of two nodes, a norm returns two constants.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

import kanexport
from kanexport.detection import detect
from kanexport.formats import checkpoint
from kanexport.options import KnownFacts, Options
from kanexport.parity import compare, data
from tests.support.modules_unusual import GroupRational
from tests.support.torch_modules import FastKANLayer, KANLinear
from tools.oracle.near_readings import TIMES
from tools.oracle.random_modules import Chebyshev, Fourier

Tensor = torch.Tensor
EPSILON = ("layernorm_eps=1e-3", "layernorm_eps=1e-4")
CHEBY_CLAMP = tuple(f"forward=x-kanerf cheby_epsilon={size}" for size in ("1e-2", "1e-3", "1e-4"))
CLAMP = tuple(f"forward=tanh-eps squash_eps={size}" for size in ("1e-2", "1e-3", "1e-4"))
ACTIVATION = ("base_activation=gelu", "base_activation=gelu_tanh")


class Layer(nn.Module):
    """A layer of any tensors: `function` takes the rows and the layer."""

    def __init__(self, function: Callable[[Tensor, Any], Tensor], **tensors: Tensor | nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, value in tensors.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self)


def _splines(x: Tensor, t: Tensor, degree: int) -> Tensor:
    """[B, I, K]: Cox and de Boor, as pykan computes it."""
    x = x[..., None]
    b = ((x >= t[:, :-1]) & (x < t[:, 1:])).to(x.dtype)
    for p in range(1, degree + 1):
        left = (x - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1]) * b[..., :-1]
        b = left + (t[:, p + 1 :] - x) / (t[:, p + 1 :] - t[:, 1:-p]) * b[..., 1:]
    return torch.nan_to_num(b)


def pykan_layer(n: int, m: int) -> Layer:
    """A KANLayer of pykan with knots that training has moved. Edges are added one by one."""

    def forward(x: Tensor, at: Any) -> Tensor:
        y = torch.einsum("ijk,jlk->ijl", _splines(x, at.grid, 3), at.coef)
        y = at.mask[None] * (at.scale_base[None] * functional.silu(x)[..., None] + at.scale_sp[None] * y)
        return y.sum(dim=1)

    coef = torch.randn(n, m, 8) * 0.5
    grid = torch.cumsum(torch.rand(n, 12) * 0.4 + 0.2, dim=1) - 2.5
    return Layer(
        forward,
        grid=grid,
        coef=coef,
        mask=torch.ones(n, m),
        scale_base=torch.randn(n, m) * 0.5,
        scale_sp=torch.ones(n, m),
    )


def _recurrence(u: Tensor, first: Tensor, step: Callable[[int, Tensor, Tensor], Tensor], degree: int) -> Tensor:
    values = [torch.ones_like(u), first]
    for at in range(2, degree + 1):
        values.append(step(at, values[-1], values[-2]))
    return torch.stack(values[: degree + 1], dim=-1)


def jacobi(n: int, m: int, degree: int) -> Layer:
    """JacobiKANLayer of the library with a = b = 1."""

    def forward(x: Tensor, at: Any) -> Tensor:
        u = torch.tanh(x)

        def step(i: int, p: Tensor, before: Tensor) -> Tensor:
            a = b = 1.0
            first = (2 * i + a + b) * (2 * i + a + b - 1) / (2 * i * (i + a + b))
            last = (i + a - 1) * (i + b - 1) * (2 * i + a + b) / (i * (i + a + b) * (2 * i + a + b - 2))
            return first * u * p - last * before

        return torch.einsum("bid,iod->bo", _recurrence(u, 2 * u, step, degree), at.jacobi_coeffs)

    return Layer(forward, jacobi_coeffs=torch.randn(n, m, degree + 1) * 0.3)


def gram(n: int, m: int, degree: int) -> Layer:
    """GRAMLayer of torch-conv-kan."""

    def forward(x: Tensor, at: Any) -> Tensor:
        u = torch.tanh(x)

        def step(i: int, p: Tensor, before: Tensor) -> Tensor:
            k, j = i - 1, i
            beta = ((j + k) * (j - k) * k**2) / (j**2 / (4.0 * k**2 - 1.0)) * at.beta_weights[i - 1]
            return u * p - beta * before

        basis = functional.silu(_recurrence(u, u, step, degree))
        base = functional.linear(functional.silu(x), at.base_weights)
        return functional.silu(at.norm(torch.einsum("bid,iod->bo", basis, at.grams_basis_weights) + base))

    weights = torch.randn(n, m, degree + 1) * 0.3
    beta = torch.randn(degree + 1) * 0.1
    return Layer(
        forward, grams_basis_weights=weights, beta_weights=beta, base_weights=torch.randn(m, n) * 0.5, norm=_norm(m)
    )


def conv_spline(n: int, m: int) -> Layer:
    """KANLayer of torch-conv-kan."""
    grid = torch.linspace(-1 - 0.4 * 3, 1 + 0.4 * 3, 12).expand(n, 12)

    def forward(x: Tensor, at: Any) -> Tensor:
        base = functional.linear(functional.gelu(x), at.base_weight)
        spline = functional.linear(_splines(x, grid, 3).reshape(len(x), -1), at.spline_weight.reshape(m, -1))
        return at.prelu(at.layer_norm(base + spline))

    return Layer(
        forward,
        base_weight=torch.randn(m, n) * 0.5,
        spline_weight=torch.randn(m, n, 8) * 0.5,
        layer_norm=_norm(m),
        prelu=nn.PReLU(),
    )


def fasterkan(n: int, m: int) -> Layer:
    """FasterKANLayer, which does not use `inv_denominator`."""

    def forward(x: Tensor, at: Any) -> Tensor:
        h = at.layernorm(x)[..., None] - at.rbf.grid
        return at.spline_linear((1 - torch.tanh(h) ** 2).flatten(-2))

    rbf = Layer(lambda x, at: x, grid=torch.linspace(-1.2, 0.2, 8), inv_denominator=torch.tensor(2.0))
    return Layer(forward, layernorm=_norm(n), rbf=rbf, spline_linear=nn.Linear(8 * n, m, bias=False))


def sinekan(n: int, m: int, count: int) -> Layer:
    """SineKANLayer."""
    freq, phase = torch.arange(1, count + 1).float().reshape(1, 1, 1, -1), torch.rand(1, 1, n, count) * math.pi

    def forward(x: Tensor, at: Any) -> Tensor:
        s = torch.sin(x.reshape(len(x), 1, n, 1) * at.freq + at.phase)
        return torch.einsum("ijkl,jkl->ij", s.expand(-1, m, -1, -1), at.amplitudes) + at.bias

    return Layer(
        forward, amplitudes=torch.randn(m, n, count) * 0.3, freq=freq, phase=phase, bias=torch.randn(1, m) * 0.1
    )


def wav_kan(n: int, m: int) -> Layer:
    """Wav-KAN with the Mexican hat and its BatchNorm."""

    def forward(x: Tensor, at: Any) -> Tensor:
        s = (x[:, None] - at.translation) / at.scale
        hat = 2 / (math.sqrt(3) * math.pi**0.25) * (s**2 - 1) * torch.exp(-0.5 * s**2)
        return at.bn((hat * at.wavelet_weights).sum(dim=2))

    bn = nn.BatchNorm1d(m).eval()
    bn.running_mean = torch.randn(m) * 0.3
    bn.running_var = torch.rand(m) * 1.7 + 0.3
    scale = 0.5 + torch.rand(m, n)
    return Layer(forward, wavelet_weights=torch.randn(m, n), scale=scale, translation=torch.randn(m, n) * 0.3, bn=bn)


def _norm(width: int) -> nn.LayerNorm:
    """A LayerNorm as after training."""
    norm = nn.LayerNorm(width)
    norm.weight.data.normal_(1, 0.2)
    norm.bias.data.normal_(0, 0.2)
    return norm


def fastkan(n: int, m: int, count: int) -> FastKANLayer:
    layer = FastKANLayer(n, m, count)
    layer.layernorm = _norm(n)
    return layer


NORMED = "base_activation=silu layernorm_eps=1e-5"
AROUND = ("flow=chain", "between=nothing", "before=nothing", "after=nothing")


@dataclass(frozen=True)
class Family:
    """How to make a layer from its widths and a degree; options of the right reading, and of near ones. `names`: of
    the layers in the file; a LayerNorm is between layers with the name kan."""

    layer: Callable[[int, int, int], nn.Module]
    own: str
    near: Sequence[str]
    names: str = "layers.{}."


FAMILIES: dict[str, Family] = {
    "chebykan": Family(Chebyshev, "forward=chebykan", (*CHEBY_CLAMP, "forward=timekan")),
    "chebykan, LayerNorm": Family(Chebyshev, "forward=chebykan layernorm_eps=1e-5", (*EPSILON, *CHEBY_CLAMP), "kan{}."),
    "jacobikan": Family(jacobi, "forward=jacobikan", (*CLAMP, "forward=tanh-twice")),
    "efficient-kan": Family(lambda n, m, d: KANLinear(n, m), "base_activation=silu", ACTIVATION),
    "fastkan": Family(fastkan, NORMED, (*ACTIVATION, *EPSILON)),
    "fasterkan": Family(lambda n, m, d: fasterkan(n, m), "layernorm_eps=1e-5", EPSILON),
    "fourierkan": Family(Fourier, "forward=fourierkan", ("forward=first-version",)),
    "sinekan": Family(sinekan, "", ()),
    "gr-kan": Family(
        lambda n, m, d: GroupRational(n, 4, m),
        "denominator=signed order=act1,fc1,act2,fc2",
        ("denominator=abs", "denominator=outer"),
        "",
    ),
    "pykan layer": Family(lambda n, m, d: pykan_layer(n, m), "base_fun=silu", ("base_fun=gelu", "base_fun=gelu_tanh")),
    "torch-conv-kan, Gram": Family(gram, NORMED, (*ACTIVATION, *EPSILON)),
    "torch-conv-kan, spline": Family(
        lambda n, m, d: conv_spline(n, m),
        "base_activation=gelu layernorm_eps=1e-5",
        ("base_activation=gelu_tanh", *EPSILON),
    ),
    "wav-kan": Family(
        lambda n, m, d: wav_kan(n, m), "wavelet_type=mexican_hat", ("batchnorm_eps=1e-3", "wavelet_type=dog")
    ),
}


def model(family: Family, seed: int) -> tuple[dict[str, Tensor], nn.Module, int]:
    """The tensors of the file, the module, and its number of inputs."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4)) if family.names else 1
    widths = [2 * int(rng.integers(1, 6)) for _ in range(count)] + [int(rng.integers(2, 8))]
    tensors: dict[str, Tensor] = {}
    parts: list[nn.Module] = []
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        parts.append(family.layer(n, m, int(rng.integers(3, 9))).eval())
        tensors |= {family.names.format(at) + key: value for key, value in parts[-1].state_dict().items()}
        if family.names == "kan{}." and at + 1 < count:
            parts.append(_norm(m))
            tensors |= {f"ln{at}.{key}": value for key, value in parts[-1].state_dict().items()}
    return {key: value.contiguous() for key, value in tensors.items()}, nn.Sequential(*parts), widths[0]


def matches(family: Family, seed: int, folder: Path) -> Iterator[tuple[str, compare.Match]]:
    """The comparison of each reading of one model: the right one, named "", and the near ones."""
    tensors, module, inputs = model(family, seed)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    rng = np.random.default_rng((seed, 1))
    rows = rng.normal(0, rng.choice([0.5, 1.0, 2.0]), (int(rng.choice([24, 100, 300])), inputs)).astype(np.float32)
    recorded = data.load([kanexport.record_outputs(module, rows, folder / "outputs.npz")]).of_network()
    loaded = checkpoint.load(folder / "model.safetensors")
    norms = [part.normalized_shape[0] for part in module.modules() if isinstance(part, nn.LayerNorm)]
    for near in ("", *family.near):
        if near in EPSILON and min(norms, default=0) < 3:
            continue
        texts = (*(AROUND if family.names else ()), *family.own.split(), *near.split())
        facts = dict(text.split("=", 1) for text in texts)
        options = Options(KnownFacts.parse([f"{key}={value}" for key, value in facts.items()]))
        kan = detect.read(detect.detect(loaded, None)[0], loaded, options)
        yield near, compare.reading(kan, recorded, 0.0, every_draw=not near)


@dataclass
class Trial:
    """Ratios of error to limit by family, of right and near readings, and what was decided wrongly."""

    right: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    near: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, seed: int, folder: Path) -> None:
        rounding = 0.0
        for near, match in matches(FAMILIES[name], seed, folder):
            (self.near if near else self.right)[name].append(match.excess)
            rounding = rounding if near else match.max_rel
            if match.fits and near:
                print(f"{name}, seed {seed}, {near}: accepted at {match.max_rel / rounding:.2f} times the rounding")
            if match.fits and match.max_rel > TIMES * rounding if near else not match.fits:
                self.failures.append(f"{name}, seed {seed}, {near or 'right'}: {match.excess:.2f}, {match.where}")


def run(folder: Path, cases: Iterable[tuple[str, int]]) -> Trial:
    """The ratios of the families and seeds."""
    trial = Trial()
    with torch.no_grad():
        for name, seed in cases:
            trial.add(name, seed, folder)
    return trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--family", choices=[*FAMILIES], action="append")
    supplied = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = run(Path(folder), itertools.product(supplied.family or FAMILIES, range(supplied.seeds)))
    print("| family | right readings, largest | near readings, smallest |\n|---|---|---|")
    for name, ratios in trial.right.items():
        near = trial.near[name]
        smallest = f"{min(near):.3g} of {len(near)}" if near else "none"
        print(f"| {name} | {max(ratios):.2f} of {len(ratios)} | {smallest} |")
    print("\n".join(trial.failures))
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(main())
