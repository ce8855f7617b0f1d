"""Comparison of kanexport with pykan, on random untrained models with unusual settings.

    pip install pykan==0.2.8 scikit-learn matplotlib pandas tqdm sympy torch    # an environment of its own
    pip install -e '.[export]'
    python tools/oracle/against_pykan.py --count 200

The program is not part of the suite, because pykan has many dependencies. Every model has
random widths, multiplication nodes, degree, grid, base function, masks, affine parameters
and symbolic edges, some of them with both branches on. The program compares pykan's float64
outputs and edge values with the float64 evaluation, NaN and infinite inputs included. Every
model must export, which verifies the graphs.
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
from kan.utils import SYMBOLIC_LIB

from kanexport.detection import detect
from kanexport.errors import ExportError
from kanexport.formats import checkpoint
from kanexport.options import KnownFacts, Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference

FUNCTIONS = [name for name in SYMBOLIC_LIB if name != "0"]
BASES = ["silu", "silu", "identity", "zero", torch.tanh, torch.nn.Tanh(), torch.nn.GELU()]
TOLERANCE = 1e-6  # of two float64 evaluations; poles and chaotic functions cost digits


def arguments(rng: random.Random) -> dict[str, Any]:
    """Constructor arguments of one random model."""
    depth = rng.choice([1, 2, 2, 3])
    as_list = rng.random() < 0.5
    width: list[Any] = [rng.randint(1, 4)]
    arity: list[list[int]] = [[]]
    for level in range(depth):
        sums = rng.randint(1, 2) if level == depth - 1 else rng.randint(0, 4)
        products = rng.choice([0, 0, 1, 2])
        width.append([sums or int(products == 0), products])
        arity.append([rng.choice([2, 3, 4]) for _ in range(products)])
    return {
        "width": width,
        "grid": rng.choice([1, 2, 3, 5, 10, 20]),
        "k": rng.choice([1, 2, 3, 3, 3, 4, 5]),
        "mult_arity": arity if as_list else rng.choice([2, 3]),
        "base_fun": rng.choice(BASES),
        "symbolic_enabled": rng.random() < 0.85,
        "affine_trainable": True,
        "auto_save": False,
    }


@torch.no_grad()
def disturb(model: Any, rng: random.Random) -> None:
    """Set random masks, symbolic edges and affine parameters that training does not produce."""
    for at in range(model.depth):
        layer = model.act_fun[at]
        if rng.random() < 0.5:
            layer.mask.data *= torch.rand_like(layer.mask) > 0.3
        if rng.random() < 0.2:
            layer.mask.data *= torch.rand_like(layer.mask)
        for i in range(layer.in_dim):
            for j in range(layer.out_dim):
                if rng.random() < 0.25:
                    _symbolic(model, at, i, j, rng)
        for name in ("node_bias", "node_scale", "subnode_bias", "subnode_scale"):
            if rng.random() < 0.5:
                values = getattr(model, f"{name}_{at}")
                values.data = values.data + 0.3 * torch.randn_like(values)


def _symbolic(model: Any, at: int, i: int, j: int, rng: random.Random) -> None:
    model.fix_symbolic(at, i, j, rng.choice(FUNCTIONS), fit_params_bool=False, verbose=False, log_history=False)
    model.symbolic_fun[at].affine.data[j, i] = torch.randn(4) * torch.tensor([1, 0.3, 1, 0.3])
    if rng.random() < 0.3:
        model.act_fun[at].mask.data[i, j] = rng.random()  # both branches
    if rng.random() < 0.1:
        model.symbolic_fun[at].mask.data[j, i] = rng.choice([0.0, 0.5])


def build(seed: int, prefix: str) -> tuple[np.ndarray, Any]:
    """Save one model under `prefix`; return rows and the same model in float64, run on them."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    supplied = arguments(rng)
    torch.set_default_dtype(torch.float64 if rng.random() < 0.15 else torch.float32)
    model = MultKAN(seed=seed, **supplied)
    inside = torch.rand(200, model.width_in[0]) * 2 - 1
    if rng.random() < 0.7:
        model(inside)
        model.update_grid_from_samples(inside * rng.choice([0.5, 1, 3]))
    disturb(model, rng)
    model.saveckpt(prefix)
    odd = torch.full((3, model.width_in[0]), 0.1)
    odd[0, 0], odd[1, -1], odd[2, 0] = float("nan"), float("inf"), -float("inf")
    rows = torch.cat([inside[:20], inside[:10] * 2, inside[:10] * 6, odd.to(inside)]).float()
    torch.set_default_dtype(torch.float64)
    exact = MultKAN(seed=seed, **{**supplied, "width": [list(pair) for pair in model.width]})
    exact.load_state_dict({key: value.double() for key, value in model.state_dict().items()})
    for ours, theirs in zip(exact.symbolic_fun, model.symbolic_fun, strict=True):
        ours.funs = theirs.funs
    exact(rows.double())
    torch.set_default_dtype(torch.float32)
    return rows.numpy().astype(np.float64), exact


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite):
        return float("inf")
    scale = np.abs(expected[finite]).max(initial=0.0) or 1.0
    return float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) / scale


def compare(seed: int, folder: Path) -> str:
    """One model: "same", or what is wrong with it."""
    with contextlib.redirect_stdout(io.StringIO()):
        rows, exact = build(seed, str(folder / "m"))
    try:
        loaded = checkpoint.load(folder / "m")
        kan = detect.detect(loaded, None)[0].read(loaded, Options(KnownFacts()))
        trace = float64_reference.evaluate(kan, rows)
        worst = difference(trace.y, exact.acts[-1].detach().numpy())
        for at, layer in enumerate(kan.layers):
            nodes = exact.acts[at].detach().numpy()
            edges = np.concatenate([values for _, values, _ in float64_reference.edges(layer, nodes)])
            worst = max(worst, difference(edges, exact.spline_postacts[at].numpy().transpose(0, 2, 1)))
        export(Request(path=folder / "m", repository=folder / "models"))
    except ExportError as error:
        return f"{type(error).__name__}: {error.message.replace(str(folder), '')[:160]}"
    return "same" if worst <= TOLERANCE else f"differs by {worst:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Random pykan models through pykan and through kanexport.")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    result: collections.Counter[str] = collections.Counter()
    for seed in range(args.seed, args.seed + args.count):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            outcome = compare(seed, Path(folder))
        result[outcome.partition(":")[0] if outcome != "same" else outcome] += 1
        if outcome != "same":
            print(f"seed {seed}: {outcome}", flush=True)
    print(dict(result))
    return 0 if result["same"] == args.count else 1


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    raise SystemExit(main())
