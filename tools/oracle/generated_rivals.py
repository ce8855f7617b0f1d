"""Check of the exporter with models that have a known library's tensors and another function.

    PYTHONPATH=$PWD:$PWD/tests python tools/oracle/generated_rivals.py [--seed 0] [--every 1] [--first 0]
    [--expected-outputs]

The program generates hundreds of models for every family of `rival_forwards.py`. Some have layers with another
function (clamps, other activations, another wavelet, tanh twice, ...). Some have other steps between the layers
(functions, residuals, orders, sums), or modules that share tensor names with another module (norms, PReLU, scales).
Others are the golden cases with a step before or after them.

Without outputs, the exporter must reject a model, or list the wrong option as assumed. With `--expected-outputs` it
must reproduce the mutated forward, or reject the model. If the export reports that it is verified against the trained
model, the program runs and compares its graph. The program prints counts and each failure.
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
from rival_forwards import FAMILIES, FUNCTIONS, Array, Family, Network, Tensors, even, sigmoid, softmax

from kanexport.detection import detect
from kanexport.errors import ExportError, VerificationFailed
from kanexport.formats import checkpoint
from kanexport.options import KnownFacts, Options
from kanexport.pipeline import Request, export
from kanexport.shared.manifest import EXPECTED_OUTPUTS
from kanexport.verify import float64_reference, graph_runner
from tests.support.golden_cases import cases

Forward = Callable[[Array], Array]
AGREE = 1e-4  # relative, of a float32 graph and the mutated forward in float64
LARGE = 1e30
DIFFERS = 1e-3  # relative, less is no mutation
NORM = ("architecture", "norm")


@dataclass(frozen=True)
class Rival:
    """One file and the function of its model. `keys`: option keys; the export must list one or more of them as
    assumed."""

    name: str
    tensors: Tensors | Path
    forward: Forward
    own: Forward | None  # what the file is exported as without outputs; None where it must be refused
    keys: tuple[str, ...]
    options: tuple[str, ...] = ()
    inputs: int = 4


# Changes of a layer to its inputs or its sums that no tensor shows.
LAYERWISE: dict[str, tuple[tuple[str, ...], Callable[[Forward], Forward]]] = {
    "clamped at 12 cells": (("forward",), lambda f: lambda x: f(np.clip(x, -4.8, 4.8))),
    "clamped at 50": (("forward",), lambda f: lambda x: f(np.clip(x, -50, 50))),
    "another answer beyond 20": (("forward",), lambda f: lambda x: f(np.where(np.abs(x) > 20, x / 2 + 0.1, x))),
    "twice the sources": (("forward",), lambda f: lambda x: f(2 * x)),
    "half the sums": (("forward",), lambda f: lambda x: f(x) / 2),
    "clamped sums": (("forward", "between"), lambda f: lambda x: np.clip(f(x), -1, 1)),
    "tanh before each layer": (("forward", "between", "before"), lambda f: lambda x: f(np.tanh(x))),
    "a norm before each layer": (("forward", "between", "before"), lambda f: lambda x: f(even(x))),
    "tanh after each layer": (("forward", "between", "after"), lambda f: lambda x: np.tanh(f(x))),
    "a mean, not a sum": (("forward",), lambda f: lambda x: f(x) / x.shape[1]),
}


def chain(*functions: Forward) -> Forward:
    def run(x: Array) -> Array:
        for function in functions:
            x = function(x)
        return x

    return run


def skip(f: Forward) -> Forward:
    return lambda x: x + f(x)


def joined(layers: list[Forward], between: Forward) -> Forward:
    return chain(layers[0], *(f for layer in layers[1:] for f in (between, layer)))


def layerwise(family: Family, widths: tuple[int, ...], seed: int) -> Iterator[Rival]:
    """Layers that compute something else, and constructors with other arguments."""
    network = Network(family, widths, seed)
    own = chain(*network.functions({}))
    base = dict(tensors=network.tensors(), own=own, options=family.options, inputs=widths[0])
    for what, keys, knobs in family.turns:
        yield Rival(f"{family.name}: {what}", forward=chain(*network.functions(knobs)), keys=keys, **base)
    for what, (keys, change) in LAYERWISE.items():
        changed = chain(*(change(f) for f in network.functions({})))
        yield Rival(f"{family.name}: {what}", forward=changed, keys=keys, **base)


def flows(family: Family, seed: int) -> Iterator[Rival]:
    """Square layers that flow in other ways."""
    network = Network(family, (4, 4, 4, 4), seed)
    layers = network.functions({})
    a, b, c = layers
    variants: dict[str, tuple[tuple[str, ...], Forward]] = {
        f"{name} between": (("between",), joined(layers, function))
        for name, function in FUNCTIONS.items()
        if name not in ("softmax", "log_softmax", "identity")
    }
    variants |= {f"{name} after": (("after",), chain(a, b, c, FUNCTIONS[name])) for name in AFTER}
    variants |= {f"{name} before": (("before",), chain(FUNCTIONS[name], a, b, c)) for name in BEFORE}
    variants |= {
        "residual": (("flow",), chain(*map(skip, layers))),
        "half residual": (("flow",), chain(*(lambda x, f=f: x / 2 + f(x) for f in layers))),
        "residual but for the first": (("flow",), chain(a, skip(b), skip(c))),
        "residual with tanh inside": (("flow",), chain(skip(a), *(skip(chain(np.tanh, f)) for f in (b, c)))),
        "tanh after residual": (("flow",), joined(list(map(skip, layers)), np.tanh)),
        "parallel": (("flow",), lambda x: a(x) + b(x) + c(x)),
        "mean of parallel": (("flow",), lambda x: (a(x) + b(x) + c(x)) / 3),
        "reversed": (("flow",), chain(c, b, a)),
        "the last two swapped": (("flow",), chain(a, c, b)),
        "repeated": (("flow",), chain(a, a, b, b, c, c)),
        "the whole twice": (("flow",), chain(a, b, c, a, b, c)),
        "all layers added up": (("flow",), lambda x: (y := a(x)) + (z := b(y)) + c(z)),
        "the last is not used": (("flow",), chain(a, b)),
        "the input added at the end": (("flow",), lambda x: x + c(b(a(x)))),
        "a gate": (("flow",), lambda x: (y := b(a(x))) * sigmoid(c(y))),
    }
    own = chain(*layers)
    for what, (keys, forward) in variants.items():
        yield Rival(f"{family.name}: {what}", network.tensors(), forward, own, keys, family.options)


BEFORE = ("tanh", "sigmoid", "layernorm", "clip1", "unit")
AFTER = ("sigmoid", "tanh", "relu", "softmax", "log_softmax", "layernorm")


def grouped(x: Array, groups: int) -> Array:
    return even(x.reshape(len(x) * groups, -1)).reshape(x.shape)


def rms(x: Array, epsilon: float = 1e-6) -> Array:
    return np.asarray(x / np.sqrt((x**2).mean(axis=1, keepdims=True) + epsilon))


def batch(x: Array) -> Array:
    return np.asarray((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5))


PAIRS: dict[str, Forward] = {
    "a LayerNorm": even,
    "a LayerNorm with epsilon 1e-1": lambda x: even(x, 0.1),
    "a LayerNorm with epsilon 1e-3": lambda x: even(x, 1e-3),
    "a scale and a shift": lambda x: x,
    "an RMS norm": rms,
    "a GroupNorm of 2": lambda x: grouped(x, 2),
    "a GroupNorm of 3": lambda x: grouped(x, 3),
    "a BatchNorm of the batch": batch,
    "a norm by the deviation": lambda x: np.asarray(
        (x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, ddof=1, keepdims=True) + 1e-6)
    ),
    "a softmax": softmax,
}
VECTORS: dict[str, Callable[[Array, Array], Array]] = {
    "an RMS norm": lambda x, w: rms(x) * w,
    "an RMS norm with torch's epsilon": lambda x, w: rms(x, float(np.finfo(np.float32).eps)) * w,
    "a LayerNorm": lambda x, w: even(x) * w,
    "a scale": lambda x, w: x * w,
    "PReLU": lambda x, w: np.where(x > 0, x, w * x),
    "Swish": lambda x, w: x * sigmoid(w * x),
    "a shift": lambda x, w: x + w,
    "a scale of tanh": lambda x, w: np.tanh(x) * w,
}
SCALARS = {what: VECTORS[what] for what in ("a scale", "PReLU", "Swish", "a shift", "a scale of tanh")}


def modules(family: Family, seed: int) -> Iterator[Rival]:
    """Modules between layers whose tensors also fit another module. If a name identifies a kind, the export assumes it;
    otherwise the export rejects the file."""
    rng = np.random.default_rng(seed)
    weight, bias = (np.asarray(rng.normal(1, 0.4, size=6), np.float32) for _ in range(2))
    number = np.array([0.3], np.float32)
    w, b, s = weight.astype(float), bias.astype(float), number.astype(float)
    pair = {f"{n}.{k}": v for n in ("NAME",) for k, v in (("weight", weight), ("bias", bias))}
    kinds: list[tuple[str, Tensors, dict[str, Forward], Forward | None, tuple[str, ...]]] = []
    pairs = {what: (lambda x, f=f: f(x) * w + b) for what, f in PAIRS.items()}
    vectors = {what: (lambda x, f=f: f(x, w)) for what, f in VECTORS.items()}
    scalars = {what: (lambda x, f=f: f(x, s)) for what, f in SCALARS.items()}
    for name in ("ln0", "layer_norm0", "norm0", "n0", "bn0", "gn0", "scale0"):
        tensors = {key.replace("NAME", name): value for key, value in pair.items()}
        reported = pairs["a LayerNorm"] if name in ("ln0", "layer_norm0") else None
        kinds.append((name, tensors, pairs, reported, ("norm", "layernorm_eps")))
    for name, reported in (("rms0", vectors["an RMS norm"]), ("act0", None), ("norm0", None)):
        kinds.append((name, {f"{name}.weight": weight}, vectors, reported, ("vector", "rmsnorm_eps")))
    for name, reported in (("prelu0", scalars["PReLU"]), ("act0", None), ("swish0", scalars["Swish"])):
        kinds.append((name, {f"{name}.weight": number}, scalars, reported, ("scalar",)))
    for name, extra, forwards, reported, keys in kinds:
        network = Network(family, (4, 6, 4), seed, prefix="kan", extra=extra)
        first, second = network.functions({})
        own = chain(first, reported, second) if reported else None
        for what, forward in forwards.items():
            label = f"{family.name}: {name} is {what}"
            yield Rival(label, network.tensors(), chain(first, forward, second), own, keys, family.options)
        if reported:
            yield Rival(
                f"{family.name}: tanh before {name}",
                network.tensors(),
                chain(first, np.tanh, reported, second),
                own,
                ("between",),
                family.options,
            )


def gaps(family: Family, seed: int) -> Iterator[Rival]:
    """Sequential(KAN, something without tensors, KAN)."""
    network = Network(family, (4, 4, 4), seed, prefix="net.", numbers=(0, 2))
    a, b = network.functions({})
    for name, function in FUNCTIONS.items():
        forward = chain(a, function, b)
        yield Rival(f"{family.name}: {name} in a gap", network.tensors(), forward, None, (), family.options)


def golden() -> Iterator[Rival]:
    """Every golden case with something before or after it that no file shows."""
    changes: dict[str, tuple[tuple[str, ...], Callable[[Forward], Forward]]] = {
        "twice the inputs": (("forward", "before"), lambda f: lambda x: f(2 * x)),
        "clamped inputs": (("forward", "before"), lambda f: lambda x: f(np.clip(x, -0.5, 0.5))),
        "tanh of the outputs": (("forward", "after"), lambda f: lambda x: np.tanh(f(x))),
        "half the outputs": (("forward", "after"), lambda f: lambda x: f(x) / 2),
    }
    for case in cases():
        loaded = checkpoint.load(case.path)
        kan = detect.read(detect.detect(loaded, None)[0], loaded, Options(KnownFacts.parse(case.options)))

        def own(x: Array, kan: Any = kan) -> Array:
            return float64_reference.evaluate(kan, x).y

        for what, (keys, change) in changes.items():
            yield Rival(f"golden {case.name}: {what}", case.path, change(own), own, keys, case.options, kan.n_inputs)


def rivals(seed: int) -> Iterator[Rival]:
    """All of them."""
    for at, family in enumerate(FAMILIES):
        yield from layerwise(family, ((5, 4, 3), (4, 4, 4), (6, 2))[at % 3], seed + at)
        yield from flows(family, seed + at)
    by_name = {family.name: family for family in FAMILIES}
    for name in ("chebykan", "fourierkan", "efficient-kan"):
        yield from modules(by_name[name], seed)
        yield from gaps(by_name[name], seed)
    yield from golden()


def rows(rival: Rival, count: int, seed: int) -> Array:
    """Ordinary rows, and some far out."""
    rng = np.random.default_rng(seed)
    near = rng.normal(0, 1.5, size=(count, rival.inputs))
    far = rng.normal(0, 1, size=(count // 4, rival.inputs)) * rng.choice([10, 60], size=(count // 4, 1))
    return np.concatenate([near, far]).astype(np.float32).astype(np.float64)


def apart(found: Array, expected: Array) -> float:
    """Relative; infinite where they are not finite in the same places. Rows that float32 need not hold are left
    out."""
    if found.shape != expected.shape:
        return float("inf")
    held = ~(np.isfinite(expected) & (np.abs(expected) > LARGE)).any(axis=1)
    found, expected = found[held], expected[held]
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite):
        return float("inf")
    scale = np.abs(expected[finite]).max(initial=0) or 1.0
    return float(np.abs(found[finite] - expected[finite]).max(initial=0) / scale)


@dataclass
class Trial:
    """Outcomes of the alternative interpretations: counts by outcome, and texts of failures."""

    folder: Path
    counts: collections.Counter[str]
    failures: list[str]

    def __post_init__(self) -> None:
        self.exports: dict[Any, Any] = {}
        self.number = itertools.count()

    def path(self, rival: Rival) -> Path:
        if isinstance(rival.tensors, Path):
            return rival.tensors
        path = self.folder / f"model{next(self.number)}.safetensors"
        path.write_bytes(safetensors.numpy.save({k: np.array(v, order="C") for k, v in rival.tensors.items()}))
        return path

    def without_outputs(self, rival: Rival) -> None:
        """The export must reject the file, or list the question."""
        key = (str(rival.tensors) if isinstance(rival.tensors, Path) else _key(rival.tensors), rival.options)
        if key not in self.exports:
            self.exports[key] = self.outcome(rival)
        result = self.exports[key]
        x = rows(rival, 64, 1)
        with np.errstate(all="ignore"):
            mutated = rival.own is None or not apart(rival.forward(x), rival.own(x)) < DIFFERS
        kind = "mutated" if mutated else "as the library"
        if isinstance(result, ExportError):
            self.counts[f"without outputs, {kind}: refused"] += 1
            return
        if rival.own is None:
            self.fail(f"{rival.name}: exported, should be refused")
        with np.errstate(all="ignore"):
            self.check(rival, result, rival.own, "without outputs: the export is not the library's own")
        assumed = result.manifest.source.options_assumed
        listed = [key for key in rival.keys if key in assumed]
        if mutated and not listed:
            self.fail(f"{rival.name}: none of {', '.join(rival.keys)} is listed ({', '.join(assumed)})")
        elif "not compared with the trained model" not in result.manifest.claim:
            self.fail(f"{rival.name}: claims {result.manifest.claim!r}")
        else:
            self.counts[f"without outputs, {kind}: " + ("listed" if listed else "exported")] += 1

    def outcome(self, rival: Rival, **more: Any) -> Any:
        """The result of an export, or its error."""
        models = self.folder / f"models{next(self.number)}"
        try:
            return export(Request(path=self.path(rival), repository=models, options=rival.options, **more))
        except ExportError as error:
            return error

    def with_outputs(self, rival: Rival) -> None:
        """The export must decide correctly, or reject the file with exit code 3 (2 if it could not read the file)."""
        x = rows(rival, 64, 2)
        with np.errstate(all="ignore"):
            y = rival.forward(x)
        file = self.folder / f"outputs{next(self.number)}.npz"
        np.savez(file, x=x, y=y)
        result = self.outcome(rival, expected_outputs=(file,))
        if isinstance(result, ExportError):
            kind = "exit 3" if isinstance(result, VerificationFailed) else f"exit 2 {type(result).__name__}"
            self.counts[f"with outputs: refused, {kind}"] += 1
            return
        if result.manifest.verification.basis != EXPECTED_OUTPUTS:
            self.fail(f"{rival.name}: with outputs, claims {result.manifest.claim!r}")
        decided = result.manifest.source.options_decided
        if self.check(rival, result, rival.forward, f"decided wrongly as {decided}"):
            self.counts["with outputs: decided rightly"] += 1

    def check(self, rival: Rival, result: Any, forward: Forward | None, what: str) -> bool:
        """The graph gives what the forward gives, for other rows."""
        if forward is None:
            return False
        x = rows(rival, 64, 3)
        session = graph_runner.session((result.directory / "model.onnx").read_bytes())
        actual = graph_runner.run(session, {"x": x.astype(np.float32)})["y"].astype(np.float64)
        with np.errstate(all="ignore"):
            error = apart(actual, forward(x))
        if error > AGREE:
            self.fail(f"{rival.name}: {what}, {error:.1e} apart")
        return error <= AGREE

    def fail(self, words: str) -> None:
        self.failures.append(words)
        self.counts["FAILED"] += 1


def _key(tensors: Tensors) -> Any:
    return tuple((name, value.tobytes()) for name, value in sorted(tensors.items()))


def run(
    folder: Path, *, seed: int = 0, first: int = 0, every: int = 1, outputs: bool = False, show: bool = False
) -> Trial:
    """Check every n-th alternative interpretation, from the `first` on."""
    trial = Trial(folder, collections.Counter(), [])
    for rival in itertools.islice(rivals(seed), first + seed % every, None, every):
        trial.counts["rivals"] += 1
        before = len(trial.failures)
        trial.without_outputs(rival)
        if outputs:
            trial.with_outputs(rival)
        if show:
            print(f"{rival.name}: {'; '.join(trial.failures[before:]) or 'as it should be'}", flush=True)
    return trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="leave out so many at the beginning")
    parser.add_argument("--every", type=int, default=1, help="try every N-th rival")
    parser.add_argument("--expected-outputs", action="store_true", help="let outputs of the mutated forwards decide")
    parser.add_argument("--list", action="store_true", help="name each rival")
    supplied = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = run(
            Path(folder),
            seed=supplied.seed,
            first=supplied.first,
            every=supplied.every,
            outputs=supplied.expected_outputs,
            show=supplied.list,
        )
    for words in trial.failures:
        print(words)
    for outcome, count in sorted(trial.counts.items()):
        print(f"{count:6} {outcome}")
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(main())
