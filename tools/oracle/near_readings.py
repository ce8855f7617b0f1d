"""The export must reject an interpretation that is nearly right if rounding does not explain its error.


    PYTHONPATH=$PWD:$PWD/tests python tools/oracle/near_readings.py [--seed 0] [--count 500] [--search 25] [--files 300]

Each case has a file, the function of its model, and an interpretation of the file that is nearly this function. The
interpretations have clamps with an epsilon, another tanh, another epsilon in a norm, weights in float16, variants of
silu and gelu, or widths and scales that are a little off. The model computes in float32, in the natural order of its
operations. The program compares an accepted interpretation with the model in float64, on new rows, relative to each
row's own largest output. The interpretation is wrong if its error exceeds 6 times the change by float32 in the model or
in the interpretation. The program prints the error as a multiple of the change in the model. The export must accept the
model's own interpretation. For each `--search`-th case the program searches all interpretations of the file, as
`--expected-outputs` does.

The second part writes files with ambiguous tensor names and exports them without recorded outputs. If an export is
wrong, it must list an alternative. If the export rejects a file, the error must report that the file is ambiguous, or
name the missing option. The program prints counts and each failure.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from kanexport.detection import detect
from kanexport.errors import ExportError, OpenQuestion, OutputsDiffer
from kanexport.formats import checkpoint
from kanexport.ir.model import Kan
from kanexport.options import KnownFacts, Options
from kanexport.parity import compare, data
from kanexport.parity.resolve import Interpretation, InterpretationSearch
from kanexport.verify import float64_reference
from kanexport.verify.tolerances import in_float32

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, Array]
Forward = Callable[[Array], Array]  # in the type of its rows

TIMES = 6.0  # times the change by rounding in the model; the export accepts 5 times what it measures
FEW, NEW = 160, 1500  # recorded rows, and new rows of the comparison
AGREE = 1e-5  # relative error of a right export without recorded outputs


@dataclass(frozen=True)
class Case:
    """One model. `near`: options of an interpretation near the model; `own`: options of the model's own, if any."""

    name: str
    tensors: Tensors
    forward: Forward
    inputs: int
    near: tuple[str, ...]
    own: tuple[str, ...] | None


def recurrence(u: Array, first: Array, following: Callable[[int, Array, Array], Array], count: int) -> Array:
    values = [np.ones_like(u), first]
    for at in range(count - 2):
        values.append(following(at + 1, values[-1], values[-2]))
    return np.stack(values[:count], axis=-1)


def chebyshev(u: Array, count: int) -> Array:
    return recurrence(u, u, lambda n, a, b: 2 * u * a - b, count)


def legendre(u: Array, count: int) -> Array:
    return recurrence(u, u, lambda n, a, b: ((2 * n + 1) * u * a - n * b) / (n + 1), count)


def powers(u: Array, count: int) -> Array:
    return recurrence(u, u, lambda n, a, b: u * a, count)


def hermite(u: Array, count: int) -> Array:
    return recurrence(u, 2 * u, lambda n, a, b: 2 * u * a - 2 * n * b, count)


def summed(values: Array, coef: Array) -> Array:
    """[B, I, K] and [I, O, K] -> [B, O], as one matrix product in the type of the values."""
    n, m, k = coef.shape
    weights = coef.transpose(0, 2, 1).reshape(n * k, m).astype(values.dtype)
    return values.reshape(len(values), n * k) @ weights


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def erf(x: Array) -> Array:
    from math import erf as one

    return np.vectorize(one, otypes=[np.float64])(x).astype(x.dtype)


def gelu(x: Array) -> Array:
    return x * (1 + erf(x * np.float32(0.70710678))) / 2


def gelu_tanh(x: Array) -> Array:
    return x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3))) / 2


# Variants of each function, by the name that an interpretation may give.
ACTS: dict[str, dict[str, Forward]] = {
    "silu": {
        "silu(1.001 x)": lambda x: x * sigmoid(np.float32(1.001) * x),
        "silu(1.00003 x)": lambda x: x * sigmoid(np.float32(1.00003) * x),
        "hard swish": lambda x: x * np.clip(x / 6 + np.float32(0.5), 0, 1),
        "mish": lambda x: x * np.tanh(np.logaddexp(np.float32(0), x)),
        "silu plus 1e-6": lambda x: silu(x) + np.float32(1e-6) * x,
    },
    "gelu": {
        "gelu by tanh": gelu_tanh,
        "quick gelu": lambda x: x * sigmoid(np.float32(1.702) * x),
        "gelu of 1.00001 x": lambda x: gelu(np.float32(1.00001) * x),
    },
    "gelu_tanh": {
        "gelu by erf": gelu,
        "with 0.0447": lambda x: x * (1 + np.tanh(np.float32(0.797885) * (x + np.float32(0.0447) * x**3))) / 2,
    },
    "tanh": {
        "tanh by Pade": lambda x: np.clip(x * (27 + x**2) / (27 + 9 * x**2), -1, 1),
        "tanh(1.0001 x)": lambda x: np.tanh(np.float32(1.0001) * x),
        "hard tanh": lambda x: np.clip(x, -1, 1),
        "tanh plus 1e-6": lambda x: np.tanh(x) + np.float32(1e-6) * x,
    },
}
ACT: dict[str, Forward] = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh, "tanh": np.tanh}
POLYNOMIALS = {"cheby_coeffs": chebyshev, "legendre_coeffs": legendre, "hermite_coeffs": hermite}
OWN = {"cheby_coeffs": "chebykan", "legendre_coeffs": "legendrekan", "hermite_coeffs": "hermitekan"}
EPSILONS = (1e-7, 3e-7, 1e-6, 1e-5, 1e-4, 1e-3)


def single(value: float) -> Any:
    return np.float32(value)


def polynomial_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Clamps with an epsilon, interpreted as without and vice versa; other tanhs."""
    for key, basis in POLYNOMIALS.items():
        n, m, k = int(rng.integers(2, 6)), int(rng.integers(1, 5)), int(rng.integers(4, 10))
        coef = (rng.normal(size=(n, m, k)) / k).astype(np.float32)
        created = dict(tensors={key: coef}, inputs=n)

        def of(squash: Forward, coef: Array = coef, basis: Any = basis, k: int = k) -> Forward:
            return lambda x: summed(basis(squash(x), k), coef)

        for epsilon in EPSILONS:
            end, written = 1 - single(epsilon), f"squash_eps={epsilon:g}"
            clamp = of(lambda x, end=end: np.clip(x, -end, end))
            short = of(lambda x, end=end: np.clip(np.tanh(x), -end, end))
            cut, kept = ("forward=clip-eps", written), ("forward=tanh-eps", written)
            kept = ("forward=x-kanerf", f"cheby_epsilon={epsilon:g}") if key == "cheby_coeffs" else kept
            yield Case(f"{key}: clamp({epsilon:g}) as clip", forward=clamp, near=("forward=clip",), own=cut, **created)
            yield Case(f"{key}: tanh-eps({epsilon:g}) as tanh", forward=short, near=(), own=kept, **created)
            clip = of(lambda x: np.clip(x, -1, 1))
            yield Case(f"{key}: clip as clamp({epsilon:g})", forward=clip, near=cut, own=("forward=clip",), **created)
        for what, other in ACTS["tanh"].items():
            yield Case(f"{key}: {what} as tanh", forward=of(other), near=(), own=None, **created)


def norm(x: Array, epsilon: float, scale: Array, shift: Array) -> Array:
    apart = x - x.mean(axis=1, keepdims=True)
    return apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + single(epsilon)) * scale + shift


def norm_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Another epsilon in the LayerNorm of FastKAN's layers, and another width of its Gaussians."""
    n, m, k = 6, 3, 8
    grid = np.linspace(-2, 2, k).astype(np.float32)
    tensors: Tensors = {
        "layernorm.weight": rng.normal(1, 0.2, n).astype(np.float32),
        "layernorm.bias": rng.normal(0, 0.2, n).astype(np.float32),
        "rbf.grid": grid,
        "spline_linear.weight": rng.normal(0, 0.3, (m, n * k)).astype(np.float32),
        "base_linear.weight": rng.normal(0, 0.3, (m, n)).astype(np.float32),
        "base_linear.bias": rng.normal(0, 0.3, m).astype(np.float32),
    }

    def model(epsilon: float = 1e-5, width: float = 4 / 7, act: Forward = silu) -> Forward:
        def forward(x: Array) -> Array:
            t = {key: value.astype(x.dtype) for key, value in tensors.items()}
            h = norm(x, epsilon, t["layernorm.weight"], t["layernorm.bias"])
            bells = np.exp(-(((h[:, :, None] - t["rbf.grid"]) / single(width)) ** 2)).reshape(len(x), -1)
            return bells @ t["spline_linear.weight"].T + act(x) @ t["base_linear.weight"].T + t["base_linear.bias"]

        return forward

    created: dict[str, Any] = dict(tensors=tensors, inputs=n)
    for epsilon, other in itertools.permutations((1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-12), 2):
        own, near = (f"layernorm_eps={epsilon:g}",), (f"layernorm_eps={other:g}",)
        yield Case(f"fastkan: eps {epsilon:g} as {other:g}", forward=model(epsilon), near=near, own=own, **created)
    for off in (1e-2, 1e-3, 1e-4, 1e-5, 3e-6, 1e-6):
        width = 4 / 7 * (1 + off)
        own = (f"denominator={width!r}",)
        yield Case(f"fastkan: width off by {off:g}", forward=model(width=width), near=(), own=own, **created)
    for act, others in ACTS.items():
        for what, other in others.items():
            near = (f"base_activation={act}",)
            yield Case(f"fastkan: {what} as {act}", forward=model(act=other), near=near, own=None, **created)


def spline_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Layers of efficient-kan with other activations, weights at reduced precision, or slightly different scales."""
    n, m, k, degree = int(rng.integers(2, 6)), int(rng.integers(1, 4)), 8, 3
    knots = ((np.arange(k + degree + 1) - degree) * 0.4 - 1).astype(np.float32)
    full: Tensors = {
        "base_weight": rng.normal(size=(m, n)).astype(np.float32),
        "spline_weight": rng.normal(0, 0.5, (m, n, k)).astype(np.float32),
        "grid": np.tile(knots, (n, 1)),
    }

    def splines(x: Array, t: Array) -> Array:
        x = x[:, :, None]
        values = ((x >= t[:, :-1]) & (x < t[:, 1:])).astype(x.dtype)
        for p in range(1, degree + 1):
            values = (x - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1]) * values[..., :-1] + (t[:, p + 1 :] - x) / (
                t[:, p + 1 :] - t[:, 1:-p]
            ) * values[..., 1:]
        return values

    def model(act: Forward = silu, scale: float = 1.0) -> Forward:
        def forward(x: Array) -> Array:
            t = {key: value.astype(x.dtype) for key, value in full.items()}
            whole = splines(x, t["grid"]).reshape(len(x), -1) @ t["spline_weight"].reshape(m, -1).T
            return (act(x) @ t["base_weight"].T + whole) * single(scale)

        return forward

    for act, others in ACTS.items():
        own = (f"base_activation={act}",)
        for what, other in others.items():
            yield Case(f"efficient-kan: {what} as {act}", full, model(other), n, own, None)
        for other in sorted(set(ACT) - {act}):
            near = (f"base_activation={other}",)
            yield Case(f"efficient-kan: {act} as {other}", full, model(ACT[act]), n, near, own)
    for scale in (1 + 1e-2, 1 + 1e-3, 1 + 1e-4, 1 + 1e-5, 1 + 4e-6):
        yield Case(f"efficient-kan: outputs times {scale:g}", full, model(scale=scale), n, (), None)
    for what, rounded in fewer_bits(full).items():
        yield Case(f"efficient-kan: weights in {what}", rounded, model(), n, (), None)


def fewer_bits(full: Tensors) -> dict[str, Tensors]:
    """Files of efficient-kan's layers with weights at reduced precision."""

    def rounded(*keys: str) -> Tensors:
        halves = {key: full[key].astype(np.float16).astype(np.float32) for key in keys}
        return {**full, **halves}

    item = full["spline_weight"].copy()
    item[0, 0, 3] = np.float16(item[0, 0, 3])
    shortened = (full["spline_weight"].view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return {
        "float16": rounded("base_weight", "spline_weight"),
        "float16, of the base": rounded("base_weight"),
        "float16, of the splines": rounded("spline_weight"),
        "float16, one of them": {**full, "spline_weight": item},
        "bfloat16": {**full, "spline_weight": shortened},
    }


def shape_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Layers with ambiguous tensor names."""
    n, m, k = 3, 2, int(rng.integers(4, 8))
    coef = (rng.normal(size=(m, n, k)) / 2).astype(np.float32)
    turned = coef.transpose(1, 0, 2)
    centres = (2 * rng.normal(size=(n, k))).astype(np.float32)
    widths = np.exp(rng.normal(0, 0.3, (n, k))).astype(np.float32)
    end = 1 - single(1e-6)
    forwards: dict[str, tuple[Forward, str]] = {
        "clamp(1e-6) as clip": (lambda x: summed(chebyshev(np.clip(x, -end, end), k), turned), "chebyshev-of-clip"),
        "tanh(1.0001 x) as tanh": (
            lambda x: summed(chebyshev(np.tanh(single(1.0001) * x), k), turned),
            "chebyshev-of-tanh",
        ),
        "arctan times 0.6366 as 2 / pi": (
            lambda x: summed(legendre(single(0.6366) * np.arctan(x), k), turned),
            "legendre-of-arctan",
        ),
        "powers of 1.00001 x": (lambda x: summed(powers(single(1.00001) * x, k), turned), "monomials-of-x"),
    }
    for what, (forward, name) in forwards.items():
        options = (f"forward={name}", "roles=coeffs:oik")
        yield Case(f"coeffs: {what}", {"coeffs": coef}, forward, n, options, None)

    def bells(x: Array, power: float = 2.0, plus: float = 0.0) -> Array:
        apart = (x[:, :, None] - centres.astype(x.dtype)) / (widths.astype(x.dtype) + single(plus))
        return summed(np.exp(-(np.abs(apart) ** single(power))), turned)

    tensors = {"w": coef, "mu": centres, "sigma": widths}
    own = ("forward=gaussian-width-of-x", "roles=w:oik, mu:points, sigma:widths")
    for plus in (1e-3, 1e-4, 1e-5, 1e-6):
        yield Case(f"Gaussians: widths plus {plus:g}", tensors, lambda x, p=plus: bells(x, plus=p), n, own, None)
    for power in (2.01, 2.001, 2.0001, 2.00001):
        yield Case(f"Gaussians: power {power:g}", tensors, lambda x, p=power: bells(x, p), n, own, None)
    yield Case("Gaussians: themselves", tensors, bells, n, ("forward=gaussian-sigma-of-x", own[1]), own)


def cases(seed: int) -> Iterator[Case]:
    """An endless sequence of cases of all kinds."""
    for number in itertools.count():
        rng = np.random.default_rng((seed, number))
        for kind in (polynomial_cases, norm_cases, spline_cases, shape_cases):
            yield from kind(rng)


def far_and_near(count: int, inputs: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, inputs)) * rng.choice([0.5, 1.5, 4.0], size=(count, 1))).astype(np.float32)


def relative(found: Array, expected: Array) -> float:
    """The largest error of a row, relative to its own largest output."""
    scale = np.abs(expected).max(axis=1, keepdims=True)
    return float((np.abs(found - expected) / np.where(scale > 0, scale, 1)).max())


def read(path: Path, options: Options, family: str | None = None) -> tuple[Kan, str]:
    loaded = checkpoint.load(path)
    reader, _ = detect.detect(loaded, family)
    return detect.read(reader, loaded, options), reader.FAMILY


@dataclass
class Trial:
    """Outcomes of the cases: counts by outcome, and texts of failures."""

    folder: Path
    counts: collections.Counter[str]
    failures: list[str]
    worst: float = 0.0  # largest error of an accepted one, as a multiple of the change by rounding in the model

    def fail(self, words: str) -> None:
        self.failures.append(words)
        self.counts["FAILED"] += 1

    def near(self, case: Case, *, search: bool) -> None:
        """Check that the near interpretation is rejected or within rounding, and that the model's own is accepted."""
        x = far_and_near(FEW, case.inputs, 1)
        y = case.forward(x)
        assert y.dtype == np.float32, case.name
        np.savez(self.folder / "outputs.npz", x=x, y=y)
        recorded = data.load([self.folder / "outputs.npz"]).of_network()
        path = self.folder / "model.safetensors"
        path.write_bytes(safetensors.numpy.save({k: np.array(v, order="C") for k, v in case.tensors.items()}))
        self.counts["near readings"] += 1
        kan, _ = read(path, Options(KnownFacts.parse(case.near)))
        self.judge(case, "near", kan, accepted=compare.reading(kan, recorded, 0.0).fits)
        if case.own is not None:
            own, _ = read(path, Options(KnownFacts.parse(case.own)))
            fits = compare.reading(own, recorded, 0.0).fits
            self.counts["own readings: " + ("accepted" if fits else "refused")] += 1
            if not fits:
                self.fail(f"{case.name}: the model's own reading is refused")
        if search:
            self.search(case, path, recorded)

    def judge(self, case: Case, what: str, kan: Kan, *, accepted: bool) -> None:
        if not accepted:
            self.counts[f"{what}: refused"] += 1
            return
        x = far_and_near(NEW, case.inputs, 2)
        exact = case.forward(x.astype(np.float64))
        supplied = float64_reference.evaluate(kan, x.astype(np.float64)).y
        model = relative(case.forward(x).astype(np.float64), exact)
        rounding = max(model, relative(in_float32(kan, x.astype(np.float64)), supplied))
        error = relative(supplied, exact)
        times, self.worst = error / rounding, max(self.worst, error / model)
        self.counts[f"{what}: accepted, as rounding explains it"] += times <= TIMES
        if times > TIMES:
            self.fail(f"{case.name}: {what}, accepted at {times:.1f} times what rounding changes ({rounding:.1e})")

    def search(self, case: Case, path: Path, recorded: data.RecordedOutputs) -> None:
        """Search all interpretations, as `--expected-outputs` does."""
        loaded = checkpoint.load(path)

        def way(reader: Any) -> Interpretation:
            return Interpretation("", lambda options: (detect.read(reader, loaded, options), reader.FAMILY))

        ways = [way(reader) for reader, _ in detect.readings(loaded, None)]
        try:
            result = InterpretationSearch(ways, recorded, KnownFacts(), 1e-5).decide()
        except OutputsDiffer:
            self.counts["searched: refused"] += 1
            if case.own is not None:
                self.fail(f"{case.name}: the model's own reading is not found")
            return
        self.judge(case, "searched", result.reading.kan, accepted=True)


NAMES = (
    *(
        "coeffs",
        "coef",
        "coefficients",
        "weight",
        "weights",
        "w",
        "theta",
        "cheb_coeffs",
        "poly_weights",
        "spline_weight",
    ),
    *("cheby_coeffs", "legendre_coeffs", "hermite_coeffs", "jacobi_coeffs", "cheby2_coeffs", "laguerre_coeffs"),
    *("boubaker_coeffs", "fermat_coeffs", "taylor_coeffs", "gegenbauer_coeffs", "charlier_coeffs", "pado_coeffs"),
)
SQUASHES: dict[str, Forward] = {
    "tanh": np.tanh,
    "x": lambda x: x,
    "clip": lambda x: np.clip(x, -1, 1),
    "sigmoid": sigmoid,
    "arctan": lambda x: 2 / np.pi * np.arctan(x),
}
BASES = {"chebyshev": chebyshev, "legendre": legendre, "powers": powers, "hermite": hermite}


def files(seed: int) -> Iterator[tuple[str, Tensors, Forward, int]]:
    """An endless sequence of files with ambiguous tensor names or names of another library."""
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        name = NAMES[number % len(NAMES)]
        basis, squash = (str(rng.choice(list(some))) for some in (BASES, SQUASHES))
        n, m, k = (int(value) for value in rng.integers(2, 7, size=3))
        coef = (rng.normal(size=(n, m, k)) / k).astype(np.float32)
        turned, bias = bool(rng.integers(2)), rng.normal(size=m).astype(np.float32)
        tensors: Tensors = {name: coef.transpose(1, 0, 2) if turned else coef}
        if rng.integers(2):
            tensors["bias"] = bias

        def forward(x: Array, coef: Array = coef, tensors: Tensors = tensors, b: str = basis, s: str = squash) -> Array:
            return summed(BASES[b](SQUASHES[s](x), coef.shape[2]), coef) + tensors.get("bias", np.zeros(1))

        prefix = str(rng.choice(["", "layers.0.", "net.kan."]))
        under = {prefix + key: value for key, value in tensors.items()}
        yield f"{prefix}{name}: {basis} of {squash}{', turned' * turned}", under, forward, n


def alone(trial: Trial, what: str, tensors: Tensors, forward: Forward, inputs: int) -> None:
    """A file without recorded outputs is rejected as ambiguous, or right, or an alternative is listed."""
    path = trial.folder / "alone.safetensors"
    path.write_bytes(safetensors.numpy.save({k: np.array(v, order="C") for k, v in tensors.items()}))
    trial.counts["files alone"] += 1
    options = Options(KnownFacts())
    try:
        kan, family = read(path, options)
        options.finish(family)
    except ExportError as error:
        ambiguous = isinstance(error, OpenQuestion) and "ambiguous" in error.message
        trial.counts["alone: refused" + (" as ambiguous" if ambiguous else "")] += 1
        return
    x = far_and_near(60, inputs, 3).astype(np.float64)
    right = kan.n_inputs == inputs
    if right:
        result, expected = float64_reference.evaluate(kan, x).y, forward(x)
        right = result.shape == expected.shape and relative(result, expected) < AGREE
    named = "--" in options.alternatives().get("forward", "")
    trial.counts["alone: exported, " + ("right" if right else "wrong" + ", alternatives named" * named)] += 1
    if not right and not named:
        trial.fail(f"{what}: exported wrongly as {family}, and no alternative is named")


def run(folder: Path, *, seed: int = 0, count: int = 500, search: int = 25, number: int = 300) -> Trial:
    """Run so many cases, search every `search`-th (0: none), and export so many files without outputs."""
    trial = Trial(folder, collections.Counter(), [])
    with np.errstate(all="ignore"):
        for at, case in enumerate(itertools.islice(cases(seed), count)):
            trial.near(case, search=search > 0 and at % search == 0)
        for item in itertools.islice(files(seed), number):
            alone(trial, *item)
    return trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500, help="near readings")
    parser.add_argument("--search", type=int, default=25, help="search all readings of every N-th file; 0: of none")
    parser.add_argument("--files", type=int, default=300, help="files that are read alone")
    supplied = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = run(
            Path(folder), seed=supplied.seed, count=supplied.count, search=supplied.search, number=supplied.files
        )
    for words in trial.failures:
        print(words)
    for outcome, count in sorted(trial.counts.items()):
        print(f"{count:6} {outcome}")
    print(f"largest error of an accepted reading: {trial.worst:.2f} times what rounding changes in its model")
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(main())
