"""Fuzzer of the exporter with mutated checkpoints, which accepts only success or a typed error.

The fuzzer has six kinds of damage: to the bytes of a file, to its tensors, to pykan's config, to
the texts of options and functions, and to an architecture file (`--architecture`). It lowers each
checkpoint that the exporter still reads, and verifies one in `--verify` of them. You choose the
duration; the test suite runs a few thousand of the same cases:

    python tools/fuzz_checkpoints.py --seconds 600 --seed 7
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import faulthandler
import io
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import safetensors.numpy
import yaml

from kanexport.detection import architecture_file, detect, registry
from kanexport.errors import ExportError
from kanexport.formats import checkpoint
from kanexport.formats.checkpoint import Checkpoint
from kanexport.formats.yaml_config import Tagged
from kanexport.lowering import lower
from kanexport.options import KnownFacts, Options
from kanexport.readers.common import chain
from kanexport.verify import verify
from tests.support.golden_cases import cases
from tests.support.hostile_checkpoints import mutate

SIZE_LIMIT = 200_000  # bytes; larger files only make it slower
SLOW = 2.0  # seconds of processor time for one case that count as a finding
_NORM = {"norm.weight": (2,), "norm.bias": (2,)}
_LAYER_NORM = {"layer_norm.weight": (2,), "layer_norm.bias": (2,)}
_BASE = {"base_weights": (2, 3)}
_IKAN = {"base_weight": (2, 3), "bias": (2,)}
Shapes = dict[str, tuple[int, ...]]
# Families without a golden file: the tensors of one layer of 3 sources and 2 destinations.
FORCED = {"taylorkan": "taylorkan"}  # families with ambiguous tensor names
MADE_UP: dict[str, tuple[Shapes, tuple[str, ...]]] = {
    f"{name}kan": ({f"{key}_coeffs": (3, 2, 5)}, ())
    for name, key in {
        **{name: name for name in ("bessel", "cheby2", "gegenbauer", "hermite", "laguerre", "legendre", "lucas")},
        "fibonacci": "fib",
    }.items()
} | {
    **{
        f"{name}kan": ({f"{key}_coeffs": (3, 2, 5), **dict.fromkeys(more, (1,))}, ())
        for name, key, more in (
            ("gottlieb", "gottlieb", ("alpha",)),
            *((name, name, ()) for name in ("boubaker", "charlier", "fermat", "narayana", "pado", "tribo")),
            *((name, name, ()) for name in ("tetranacci", "pentanacci", "hexanacci", "heptanacci", "octanacci")),
            ("vietapell", "vp", ()),
            ("alsalamcarlitz", "al_salam_carlitz", "aq"),
            ("bannaiito", "bannai_ito", "abc"),
            ("meixnerpollaczek", "meixner_pollaczek", ("lambda_", "phi")),
            ("askeywilson", "askey_wilson", "abcdq"),
        )
    },
    "boasbuckkan": ({"boas_buck_coeffs": (3, 2, 5), "a": (5,), "b": (5,)}, ()),
    "taylorkan": ({"coeffs": (2, 3, 4), "bias": (1, 2)}, ()),
    "by-shape": ({"magic": (3, 2, 5)}, ("forward=chebyshev-of-tanh",)),
    **{
        f"ikan-{name}": ({f"{name}_coeffs": shape, **_IKAN}, ())
        for name, shape in {
            "cheby": (2, 3, 5),
            "jacobi": (2, 3, 5),
            "taylor": (2, 3, 5),
            "fourier": (2, 2, 3, 4),
        }.items()
    },
    "ikan-wavelet": ({**dict.fromkeys(("wavelet_weights", "scale", "translation"), (2, 3)), **_IKAN}, ()),
    "kanditioned": ({"kan_weight": (3, 8, 2), "local_bias": (1, 8, 1), "feature_offset": (1, 3)}, ()),
    "kaln": ({"poly_weight": (2, 12), "base_weight": (2, 3), **_LAYER_NORM}, ("x_min=-1", "x_max=1")),
    "kal-net": (
        {"base_weights.0": (2, 3), "poly_weights.0": (2, 12), "layer_norms.0.weight": (2,), "layer_norms.0.bias": (2,)},
        ("x_min=-1", "x_max=1"),
    ),
    "kagn": ({"grams_basis_weights": (3, 2, 4), "beta_weights": (4,), **_BASE, **_NORM}, ()),
    "kajn": ({"jacobi_coeffs": (3, 2, 4), **_BASE, **_NORM}, ()),
    "kabn": ({"bernstein_coeffs": (3, 2, 4), **_BASE, **_NORM}, ()),
    "torch-conv-kan": (
        {"spline_weight": (2, 3, 8), "base_weight": (2, 3), "prelu.weight": (1,), **_LAYER_NORM},
        ("spline_order=3",),
    ),
}
_BEFORE = {"layernorm.weight": (3,), "layernorm.bias": (3,)}
_BSRBF = {"base_weight": (2, 3), "spline_weight": (2, 18), "rbf.grid": (6,), "grid": (3, 9), **_BEFORE}
_PYKAN = {"coef": (3, 2, 6), "grid": (3, 9), "scale_base": (3, 2), "scale_sp": (3, 2)}
MADE_UP |= {
    "chebykan-norm": ({"cheby_coeffs": (3, 2, 4), "layer_norm.weight": (3,), "layer_norm.bias": (3,)}, ()),
    "first-fastkan": ({"rbf.grid": (4,), "spline_weight": (2, 3, 4), "base_linear.weight": (2, 3), **_BEFORE}, ()),
    "efficient-kan-row": ({"base_weight": (2, 3), "spline_weight": (2, 3, 6), "grid": (9,)}, ()),
    "bsrbf-kan": (_BSRBF, ()),
    "fc-kan": (
        {f"layers.0.{name}": shape for name, shape in {**_BSRBF, "scale": (2, 3), "translation": (2, 3)}.items()}
        | {"concat_weight": (2, 4)},
        (),
    ),
    "kaf": (
        {
            **{"base_scale": (), "spline_scale": (), "final_linear.weight": (2, 3), **_BEFORE},
            **{"feature_transform.weight": (3, 4), "feature_transform.bias": (4,)},
            "feature_transform.combination.weight": (3, 8),
        },
        (),
    ),
    "kanlib": ({"coefficients": (2, 3, 6), "basis.grid": (3, 9), "weight_residual": (2, 3)}, ()),
    "trukan": ({"coeffs": (3, 2, 9), "bias_out": (2,), "fixed_knots": (3, 5)}, ()),
    "dropkan": (
        {f"act_fun.0.{name}": shape for name, shape in _PYKAN.items()}
        | {"act_fun.0.neuron_train": (1,), "biases.0.weight": (1, 2), "symbolic_fun.0.mask": (2, 3)},
        (),
    ),
    "pykan-layer": ({**_PYKAN, "mask": (3, 2)}, ()),
    "pykan-0.0-layer": ({"coef": (6, 6), "grid": (6, 5), "scale_base": (6,), "scale_sp": (6,)}, ("in_dim=3",)),
}
HANG = 60  # seconds after which a case is broken off
MEMORY = 2 * 2**30  # bytes of address space
MESSAGE = 3000  # characters
INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"R",
    b"c",
    b"\x93",
    b"Q",
    b"(",
    b"t",
    b"*a",
    b"&a ",
    b"!!python/",
    b"[",
)
NUMBERS = (0, 1, -1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 1_000_000)
TEXTS = (
    "",
    "0",
    "1",
    "-1",
    "nan",
    "inf",
    "1e308",
    "1e-308",
    "999999999",
    "0,1",
    "0,0",
    "x" * 999,
    "٣",
    "1_0",
    "\x1b[2J",
)
TEXTS += ("silu", "tanh", "mexican_hat", "yes", "avoid", "layers.0.", ".", "1.5", "3", "8", "100000", "None", "²")
VALUES: tuple[Any, ...] = (
    0,
    -1,
    1.5,
    10**9,
    2**70,
    "",
    "text",
    None,
    True,
    [],
    [[]],
    {},
    [0, 1],
    float("nan"),
    Tagged("x:y.z", []),
)
STEPS = ('layer="{}"', 'linear="{}"', 'layernorm="{}"', 'batchnorm="{}"', 'prelu="{}"')
MORE_STEPS = ('function="tanh"', "dropout=0.1", "affine=true\nscale=[2.0]\nbias=[1.0]", "select=true\ninputs=[0]")
SETTINGS = ('family="{}"', "epsilon=0.0", "epsilon=1e300", "x=1", "inputs=[0,1]", "scale=[nan]", "bias=[]")


@dataclass(frozen=True)
class Seed:
    """One golden checkpoint to mutate: its files by suffix, its options, and its parsed content."""

    name: str
    family: str
    files: dict[str, bytes]
    options: tuple[str, ...]
    loaded: Checkpoint
    known: tuple[str, ...]  # the options its reader asks for
    steps: tuple[str, ...]  # key prefixes of its layers


@dataclass(frozen=True)
class Finding:
    """A mutated input for which the exporter raises an untyped error or takes too long."""

    number: int
    seed: Seed
    what: str
    text: str
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)


def seeds(folder: Path) -> list[Seed]:
    """The golden checkpoints, the small ones, and one made up for each family without."""
    result = []
    for case in cases():
        if not case.name.startswith("hybrid"):
            paths = [case.path] if case.path.is_file() else [Path(f"{case.path}{e}") for e in ("_state", "_config.yml")]
            files = {path.name.removeprefix("model"): path.read_bytes() for path in paths}
            if sum(map(len, files.values())) < SIZE_LIMIT:
                result.append(_seed(case.name, case.path, files, case.options))
    keras = Path(__file__).parents[1] / "tests" / "golden" / "keras" / "chain.keras"
    result.append(_seed("keras", keras, {".keras": keras.read_bytes()}, ()))
    for family, (shapes, options) in MADE_UP.items():
        rng = np.random.default_rng(0)
        tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        knots = [name for name in tensors if name.endswith(("grid", "knots"))]
        tensors |= {name: np.sort(tensors[name], axis=-1) for name in knots}  # they increase
        path = folder / f"{family}.safetensors"
        path.write_bytes(safetensors.numpy.save(tensors))
        result.append(_seed(family, path, {".safetensors": path.read_bytes()}, options))
    return result


def _seed(name: str, path: Path, files: dict[str, bytes], given: tuple[str, ...]) -> Seed:
    loaded, options = checkpoint.load(path), Options(KnownFacts.parse(given))
    reader, _ = detect.detect(loaded, FORCED.get(name))
    detect.read(reader, loaded, options)
    steps = {key.rpartition(".")[0] for key in loaded.tensors}
    if isinstance(reader, registry.LayerReader):
        steps = {prefix.removesuffix(".") for prefix in chain.prefixes(loaded.tensors, reader.keys)}
    return Seed(name, reader.FAMILY, files, given, loaded, tuple(sorted(options._known)), tuple(sorted(steps)))


def scramble(rng: random.Random, data: bytes) -> bytes:
    """A few random edits: bits, bytes, numbers, cuts, repeats, moves."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        length = rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 1] = rng.choice(INTERESTING)
        elif kind == 2:
            changed[at : at + 4] = struct.pack("<q", rng.choice(NUMBERS))[:4]
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 1, 50))
        elif kind == 5:
            source = rng.randrange(len(changed))
            changed[at : at + length] = changed[source : source + length]
        elif rng.random() < 0.1:
            del changed[at:]
    return bytes(changed)


def scramble_inside(rng: random.Random, data: bytes) -> bytes:
    """Edit one entry of an archive of torch or Keras and write it whole again: the checksum fits, so
    the change reaches the pickle or the weights."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(target, "w") as after:
        names = before.namelist()
        pickled = next(name for name in names if name.endswith(("data.pkl", ".h5")))
        chosen = pickled if rng.random() < 0.8 else rng.choice(names)
        for name in names:
            content = before.read(name)
            after.writestr(name, scramble(rng, content) if name == chosen else content)
    return target.getvalue()


@dataclass(frozen=True)
class Case:
    """One mutated input. `files` replace the seed's files; otherwise `loaded` is the mutated parsed checkpoint."""

    what: str
    files: dict[str, bytes] | None = None
    loaded: Checkpoint | None = None
    options: tuple[str, ...] | None = None
    functions: tuple[str, ...] = ()
    steps: bytes | None = None


def damage(rng: random.Random, seed: Seed) -> Case:
    """A mutation of one of the five kinds."""
    kind = rng.random()
    if kind < 0.45:
        chosen = rng.choice(sorted(seed.files))
        data = seed.files[chosen]
        inside = data.startswith(b"PK") and rng.random() < 0.7
        changed = scramble_inside(rng, data) if inside else scramble(rng, data)
        return Case(f"bytes of {chosen}", files={**seed.files, chosen: changed})
    if kind < 0.8:
        what, tensors = mutate(rng, seed.loaded.tensors)
        return Case(what, loaded=dataclasses.replace(seed.loaded, tensors=tensors))
    if kind < 0.85 and seed.loaded.config is not None:
        config = dict(seed.loaded.config)
        key = rng.choice(sorted(config))
        config[key] = rng.choice(VALUES)
        return Case(f"config {key}={config[key]!r}", loaded=dataclasses.replace(seed.loaded, config=config))
    if kind < 0.92:
        supplied = tuple(_option(rng, seed) for _ in range(rng.choice((1, 1, 2))))
        return Case(f"options {supplied}", loaded=seed.loaded, options=supplied)
    if kind < 0.95 and seed.family.startswith("pykan"):
        function = "mine=" + _expression(rng, 4)
        if rng.random() < 0.3:
            function = scramble(rng, function.encode()).decode(errors="replace")
        supplied = (*seed.options, "base_fun=mine")
        return Case(f"function {function!r:.300}", loaded=seed.loaded, options=supplied, functions=(function,))
    text = _steps(rng, seed)
    return Case(f"steps {text[:300]!r}", loaded=seed.loaded, steps=text)


def _expression(rng: random.Random, depth: int) -> str:
    """A random text of the grammar of --function, or nearly."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(
            ("x", "x", "x", "pi", "e", "2", "-1", "0", "1e308", "0.5", "y", "1j", "'x'", "x.real", "10**99")
        )
    inner = _expression(rng, depth - 1)
    form = rng.choice(
        ("({})", "{}+{}", "{}*{}", "{}/{}", "{}-{}", "{}**{}", "{}**2", "-{}", "{}({})", "{}({}, {})", "[{}]")
    )
    name = rng.choice(
        ("sin", "exp", "log", "sqrt", "tan", "abs", "gaussian", "sgn", "arccos", "eval", "__import__", "x")
    )
    if form.startswith("{}("):
        return form.format(name, inner, inner)
    return form.format(inner, _expression(rng, depth - 1))


def _option(rng: random.Random, seed: Seed) -> str:
    key = rng.choice((*seed.known, "prefix", "x", ""))
    text = f"{key}={rng.choice(TEXTS)}"
    return scramble(rng, text.encode()).decode(errors="replace") if rng.random() < 0.2 else text


def _steps(rng: random.Random, seed: Seed) -> bytes:
    """The seed's layers as an architecture file, spoilt in one of several ways."""
    names = list(seed.steps)
    entries = [STEPS[0].format(name) for name in names]
    for _ in range(rng.choice((0, 1, 2, 3))):
        kind = rng.choice((*STEPS, *MORE_STEPS)).format(rng.choice((*names, "", "nowhere")))
        entries.insert(rng.randrange(len(entries) + 1), kind)
    if rng.random() < 0.5:
        at = rng.randrange(len(entries))
        entries[at] += "\n" + rng.choice(SETTINGS).format(rng.choice((seed.name, "pykan", "efficient-kan", "")))
    text = "".join(f"[[step]]\n{entry}\n" for entry in entries).encode()
    return scramble(rng, text) if rng.random() < 0.5 else text


def attempt(folder: Path, seed: Seed, case: Case, *, prove: bool) -> str:
    """Read and lower as export does; "exported", "lowered", or the kind of the typed error."""
    try:
        loaded = case.loaded
        if case.files is not None:
            for end, data in case.files.items():
                (folder / f"model{end}").write_bytes(data)
            end = next((end for end in case.files if end.startswith(".")), "")
            loaded = checkpoint.load(folder / f"model{end}")
        assert loaded is not None
        supplied = Options(
            KnownFacts.parse(seed.options if case.options is None else case.options, functions=case.functions)
        )
        if case.steps is not None:
            (folder / "steps.toml").write_bytes(case.steps)
            kan, family = architecture_file.assemble(loaded, architecture_file.load(folder / "steps.toml"), supplied)
        else:
            reader, _ = detect.detect(loaded, None)
            kan, family = detect.read(reader, loaded, supplied), reader.FAMILY
        supplied.finish(family)
        lowered = lower.lower(kan, "float32")
        if prove:
            verify.verify(kan, lowered, "float32")
    except ExportError as error:
        if not error.message or len(error.message) + len(error.hint) > MESSAGE:
            raise
        return type(error).__name__
    return "proved" if prove else "lowered"


def fuzz(
    rng: random.Random, folder: Path, count: int, seconds: float, *, verify_every: int = 0
) -> Iterator[str | Finding]:
    """Outcomes of `count` mutations, or of as many as fit into the time."""
    known, end = seeds(folder), time.monotonic() + seconds
    for number in range(count):
        if time.monotonic() > end:
            return
        seed = rng.choice(known)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = damage(rng, seed)
        started = time.process_time()
        files = case.files or ({"steps.toml": case.steps} if case.steps else {})
        try:
            with warnings.catch_warnings(), _watched():
                warnings.simplefilter("error")
                outcome = attempt(folder, seed, case, prove=verify_every > 0 and number % verify_every == 0)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            yield Finding(number, seed, case.what, traceback.format_exc(), files)
            continue
        taken = time.process_time() - started
        yield Finding(number, seed, case.what, f"took {taken:.1f} s", files) if taken > SLOW else outcome


class Hanging(BaseException):
    """A case exceeds its time limit."""


class _watched:
    """A guard that interrupts a hung case, if the case runs Python code."""

    def __enter__(self) -> None:
        def stop(number: int, frame: Any) -> None:
            raise Hanging(f"after {HANG} s")

        self.before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(HANG)

    def __exit__(self, *exception: object) -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self.before)


def _keep(folder: Path, name: str, finding: Finding) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    reported = {"seed": finding.seed.name, "what": finding.what, "text": finding.text}
    (folder / f"{name}.yml").write_text(yaml.safe_dump(reported))
    for end, data in finding.files.items():
        (folder / f"{name}{end}").write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10**9, help="mutations to try (default: until the time is up)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time to spend (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="start of the random sequence (default: 0)")
    parser.add_argument("--verify", type=int, default=200, help="prove one in so many (default: 200; 0: none)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    args = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    outcomes: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        result = fuzz(random.Random(args.seed), Path(folder), args.count, args.seconds, verify_every=args.verify)
        for outcome in result:
            outcomes["finding" if isinstance(outcome, Finding) else outcome] += 1
            if isinstance(outcome, Finding):
                print(
                    f"finding {outcome.number} from {outcome.seed.name}, {outcome.what}:\n{outcome.text}",
                    file=sys.stderr,
                    flush=True,
                )
                if args.keep:
                    _keep(args.keep, f"{args.seed}-{outcome.number}", outcome)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    reported = {"tried": outcomes.total(), "outcomes": dict(outcomes.most_common()), "peak_memory_mib": memory}
    print(json.dumps(reported))
    return 1 if outcomes["finding"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
