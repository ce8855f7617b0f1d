"""Comparison of kanexport with pykan on models with repeated knots, from constant, discrete or nearly constant inputs.

    pip install pykan==0.2.8 scikit-learn matplotlib pandas tqdm sympy torch    # an environment of its own
    pip install -e '.[export]'
    python tools/oracle/degenerate_knots.py --count 200

The program is not part of the suite, because pykan has many dependencies. Some columns are constant, take
two or three values, or vary by less than float32 resolves. For them, pykan's own `update_grid_from_samples`
puts several knots on one spot, and `refine` even reverses some. The program saves both as they are. It
compares each model with the same model in float64, as in `against_pykan.py`: outputs and edge values, on
rows on every knot, next to it, between knots and far away. Every model must export, which verifies the
graphs. A rejection is correct only if pykan itself divides a number by zero, so that its spline reaches the
limit of float32.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kan import MultKAN
from kan.spline import B_batch

from kanexport.detection import detect
from kanexport.errors import ExportError, VerificationFailed
from kanexport.formats import checkpoint
from kanexport.options import Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference

ROWS = 200  # that a grid is updated with
TOLERANCE = 1e-9  # of two float64 evaluations, relative
HUGE = 1e30  # pykan's `nan_to_num` makes an infinity the largest number of its type


def column(kind: str, rng: random.Random) -> torch.Tensor:
    """[ROWS, 1]: values that collapse a grid, or nearly."""
    offset = float(torch.randn(1)) * 10 ** rng.randint(-3, 4)
    created = {
        "constant": lambda: torch.full((ROWS, 1), offset),
        "zero": lambda: torch.zeros(ROWS, 1),
        "binary": lambda: torch.randint(0, 2, (ROWS, 1)).float(),
        "rare": lambda: (torch.rand(ROWS, 1) < 0.05).float() + offset,
        "three": lambda: torch.randint(0, 3, (ROWS, 1)).float() * 0.5 - 1,
        "nearly constant": lambda: offset + 10.0 ** rng.randint(-8, -4) * torch.randn(ROWS, 1),
        "mostly zero": lambda: torch.randn(ROWS, 1) * (torch.rand(ROWS, 1) < 0.3),
        "ordinary": lambda: torch.randn(ROWS, 1),
    }
    return created[kind]()


def trained(seed: int) -> Any:
    """One model whose grids were updated with such columns, and perhaps refined; its coefficients are random."""
    rng = random.Random(seed)  # pykan seeds Python's own
    kinds = ["constant", "zero", "binary", "rare", "three", "nearly constant", "mostly zero", "ordinary"]
    width = [rng.randint(1, 3), rng.randint(1, 3), 1]
    x = torch.cat([column(rng.choice(kinds), rng) for _ in range(width[0])], dim=1)
    model: Any = MultKAN(
        width=width,
        grid=rng.choice([1, 2, 3, 5, 8, 12]),
        k=rng.choice([1, 2, 3, 3, 3, 4, 5]),
        grid_eps=rng.choice([0.0, 0.0, 0.02, 0.02, 0.5, 1.0]),
        seed=seed,
        auto_save=False,
        symbolic_enabled=rng.random() < 0.7,
    )
    model(x)
    model.update_grid_from_samples(x)
    if rng.random() < 0.4:
        model = model.refine(2 * model.act_fun[0].num)
    if rng.random() < 0.3:
        model(x)
        model.update_grid_from_samples(x[: ROWS // 2])
    for layer in model.act_fun:
        # Least squares leaves zeros where no row lies; any other number must do as well.
        layer.coef.data = torch.randn_like(layer.coef)
    return model


def exact(model: Any) -> Any:
    """The same model in float64: the numbers of its tensors, and pykan's own code."""
    torch.set_default_dtype(torch.float64)
    result = MultKAN(
        width=[list(pair) for pair in model.width],
        grid=model.act_fun[0].num,
        k=model.act_fun[0].k,
        symbolic_enabled=model.symbolic_enabled,
        auto_save=False,
    )
    for at, layer in enumerate(model.act_fun):
        result.act_fun[at].grid.data = torch.zeros_like(layer.grid).double()
        result.act_fun[at].coef.data = torch.zeros_like(layer.coef).double()
    result.load_state_dict({key: value.double() for key, value in model.state_dict().items()})
    return result


def rows(knots: np.ndarray) -> np.ndarray:
    """[B, n] from knots [n, T]: on each knot, at its float32 neighbors, between knots, near them and far away."""
    single = knots.astype(np.float32).T
    near = [np.nextafter(single, np.float32(side)) for side in (-np.inf, np.inf)]
    between = (single[1:].astype(np.float64) + single[:-1]) / 2  # where float32 has no number too
    beside = [single + step for step in (-1e-3, 1e-3, -0.3, 0.3, -5, 5, 1e4)]
    created = np.concatenate([single, *near, between, *beside]).astype(np.float64)
    shuffled = np.random.default_rng(0).permuted(created, axis=0)
    return np.concatenate([created, shuffled])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return float("inf")
    return float(np.abs(found - expected).max(initial=0.0)) / (np.abs(expected).max(initial=0.0) or 1.0)


def state(model: Any) -> str:
    """The order of the knots of all layers."""
    gaps = np.concatenate([np.diff(layer.grid.detach().numpy(), axis=1).reshape(-1) for layer in model.act_fun])
    return "decreasing" if (gaps < 0).any() else "repeated" if (gaps == 0).any() else "ordered"


def edges(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows on a layer's knots, and what pykan has on its edges there, [B, I, O]."""
    x = rows(layer.grid.detach().numpy())
    return x, layer(torch.from_numpy(x))[2].detach().numpy().transpose(0, 2, 1)


def infinite(layer: Any) -> bool:
    """Whether pykan's recursion leaves the numbers of its type, at any level."""
    x = torch.from_numpy(rows(layer.grid.detach().numpy()))
    return any(float(B_batch(x, layer.grid, k=p).max()) > HUGE for p in range(1, layer.k + 1))


def largest_difference(prefix: Path, reference: Any) -> float:
    """The largest relative error of outputs and edges in kanexport's interpretation, against pykan's float64."""
    loaded = checkpoint.load(prefix)
    kan = detect.detect(loaded, None)[0].read(loaded, Options({}))
    worst = 0.0
    for ours, theirs in zip(kan.layers, reference.act_fun, strict=True):
        x, expected = edges(theirs)
        actual = np.concatenate([values for _, values, _ in float64_reference.edges(ours, x)])
        worst = max(worst, difference(actual, expected))
    x = rows(reference.act_fun[0].grid.detach().numpy())
    y = reference(torch.from_numpy(x)).detach().numpy()
    return max(worst, difference(float64_reference.evaluate(kan, x).y, y))


def proved(prefix: Path) -> str:
    """The suffix " in float64" if the export passes verification only in float64: a spline is narrower than float32's
    rounding of the base function, or all outputs are too small for float32."""
    try:
        export(Request(path=prefix, repository=prefix.parent / "models"))
    except VerificationFailed:
        export(Request(path=prefix, repository=prefix.parent / "models", dtype="float64"))
        return " in float64"
    return ""


def compare(seed: int, folder: Path) -> str:
    """One model: "same", after what its knots do, or what is wrong."""
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float32)
    prefix = folder / "m"
    with contextlib.redirect_stdout(io.StringIO()):
        model = trained(seed)
        model.saveckpt(str(prefix))
    reference = exact(model)
    try:
        worst = largest_difference(prefix, reference)
        how = proved(prefix)
    except ExportError as error:
        if any(map(infinite, reference.act_fun)):
            return f"{state(model)}: refused, infinite in pykan"
        return f"{state(model)}: {type(error).__name__}: {error.message.replace(str(folder), '')[:200]}"
    return f"{state(model)}: same{how}" if worst <= TOLERANCE else f"{state(model)}: differs by {worst:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description="pykan models with degenerate knots through pykan and kanexport.")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    actual: collections.Counter[str] = collections.Counter()
    for seed in range(args.seed, args.seed + args.count):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            outcome = compare(seed, Path(folder))
        knots, _, rest = outcome.partition(": ")
        fine = rest in ("same", "same in float64", "refused, infinite in pykan")
        actual[outcome if fine else f"{knots}: wrong"] += 1
        if not fine:
            print(f"seed {seed}: {outcome}", flush=True)
    print(dict(sorted(actual.items())))
    return 1 if any(key.endswith("wrong") for key in actual) else 0


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    raise SystemExit(main())
