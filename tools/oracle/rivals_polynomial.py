"""Comparison of kanexport's interpretations with the original code of polynomial, sine and wavelet layers that
share tensor names.

    PYTHONPATH=$PWD python tools/oracle/rivals_polynomial.py FOLDER [--count 3] [--export] [--only NAME]

The program is not part of the suite, because no library is in a package registry. FOLDER has their
repositories, cloned as OWNER+NAME (such as `lif314+X-KANeRF`). The program names and skips absent ones.

Every case is a class of a library, with random float64 weights. For some cases the program replaces a
text in the source before it runs, to imitate copies of the layer. Inputs: the range of the weights (1),
10 and 100 times it, zeros, all of one sign, NaN and both infinities. Each case has three figures:

    default    difference of the interpretation without options, relative to the largest output
    reading    difference of the interpretation with the case's options; infinite if one is not finite
    decided    number of the possible interpretations that fit, and whether the correct one does; the
               program tries one option at a time, and two for a number that depends on another option

A case is right if `reading` is within TOLERANCE, and if the export lists a wrong default as assumed.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from rivals_polynomial_cases import GROUPS, Case

from kanexport.detection import detect
from kanexport.errors import ExportError, InvalidKan
from kanexport.formats import checkpoint
from kanexport.options import KnownFacts, Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference

TOLERANCE = 1e-10
FITS = 1e-6  # a reading that differs by less cannot be told from the right one by answers in float32
SHAPES = ((3, 2), (2, 4), (4, 4), (1, 3))


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
    whole = case.kind.lower().endswith("_kan") or case.kind == "GottliebKAN"
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
    supplied = Options(KnownFacts.parse(options))
    loaded = checkpoint.load(path)
    reader, _ = detect.detect(loaded, None)
    kan = detect.read(reader, loaded, supplied)
    if kan.n_inputs != x.shape[1]:
        raise InvalidKan(f"the reading has {kan.n_inputs} inputs")
    with np.errstate(all="ignore"):
        return float64_reference.evaluate(kan, x.numpy()).y, supplied


def readings(path: Path, x: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every reading that differs from the default in one assumed fact, or in two where the second only
    comes up with the first."""
    first = Options(KnownFacts.parse(()))
    try:
        y, first = read(path, (), x)
        yield (), y
    except ExportError:
        first = _open(path)
    for key, values in first.open.items():
        for value in values:
            item = (f"{key}={value}",)
            try:
                y, second = read(path, item, x)
            except ExportError:
                continue
            yield item, y
            for other in set(second.open) - set(first.open):
                for also in second.open[other]:
                    try:
                        yield (*item, f"{other}={also}"), read(path, (*item, f"{other}={also}"), x)[0]
                    except ExportError:
                        continue


def _open(path: Path) -> Options:
    """The options that a file leaves open, independent of its inputs."""
    options, loaded = Options(KnownFacts.parse(())), checkpoint.load(path)
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
        options = Options(KnownFacts.parse(()))
        try:
            result, options = read(path, (), x)
            before = difference(result, expected)
        except ExportError:
            before = np.inf  # refused
        try:
            result, _ = read(path, case.options, x)
        except ExportError as error:
            return f"refused: {error.message[:120]}", before, np.inf, ""
        after = difference(result, expected)
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
