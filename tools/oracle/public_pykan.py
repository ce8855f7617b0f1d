"""Comparison of kanexport with pykan on published checkpoints.

    pip install pykan==0.2.8 scikit-learn matplotlib pandas tqdm sympy torch    # an environment of its own
    pip install -e '.[export]'
    python tools/oracle/public_pykan.py FOLDER [--export]

The program is not part of the suite, because this repository contains no third-party files. It loads every
distinct pair `*_config.yml` and `*_state` below FOLDER as pykan's `loadckpt` does, and converts it to float64.
It compares outputs and every edge with the float64 evaluation of kanexport's interpretation. The rows are in
the grid of the first layer, around it and far outside. With `--export` it also builds and verifies the graphs. It
counts files that pykan itself fails to run by reason (weights that are not finite, custom functions, shapes
that do not fit the config). It prints files that pykan runs and kanexport rejects.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from against_pykan import TOLERANCE, difference
from kan import MultKAN
from kan.utils import SYMBOLIC_LIB

from kanexport.detection import detect
from kanexport.errors import ExportError
from kanexport.formats import checkpoint
from kanexport.options import KnownFacts, Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference

FUNCTIONS = "symbolic.funs_name."
# Config keys that pykan's loadckpt passes to the constructor; a config of an earlier version may lack some.
ARGUMENTS = {"width": "width", "grid": "grid", "k": "k", "mult_arity": "mult_arity", "base_fun_name": "base_fun"}
ARGUMENTS |= {name: name for name in ("symbolic_enabled", "affine_trainable", "grid_eps", "grid_range")}


class Config(yaml.SafeLoader):
    """A YAML loader for the few object types in published configs; as in pykan, other objects are an error."""


def _scalar(loader: Config, node: yaml.Node) -> Any:
    dtype, data = loader.construct_sequence(node, deep=True)
    return np.frombuffer(data, dtype)[0].item()


def _ordered(loader: Config, node: yaml.Node) -> Any:
    return dict(loader.construct_sequence(node, deep=True)[0])


PYTHON = "tag:yaml.org,2002:python/"
for module in ("core", "_core"):
    Config.add_constructor(f"{PYTHON}object/apply:numpy.{module}.multiarray.scalar", _scalar)
Config.add_constructor(
    f"{PYTHON}object/apply:numpy.dtype", lambda loader, node: loader.construct_mapping(node, deep=True)["args"][0]
)
Config.add_constructor(f"{PYTHON}tuple", lambda loader, node: loader.construct_sequence(node, deep=True))
Config.add_constructor(f"{PYTHON}object/apply:collections.OrderedDict", _ordered)
Config.add_constructor(f"{PYTHON}object:torch.nn.modules.activation.SiLU", lambda loader, node: torch.nn.SiLU())


class NotRun(Exception):
    """pykan itself fails to run the file."""


def pairs(folder: Path) -> Iterator[Path]:
    """The prefixes of files, each content once."""
    seen: set[str] = set()
    for config in sorted(folder.rglob("*_config.yml")):
        prefix = config.with_name(config.name.removesuffix("_config.yml"))
        state = Path(f"{prefix}_state")
        if state.is_file():
            digest = hashlib.sha256(config.read_bytes() + state.read_bytes()).hexdigest()
            if digest not in seen:
                seen.add(digest)
                yield prefix


def load(prefix: Path) -> Any:
    """The model in float64, as pykan has it. Raises NotRun."""
    try:
        config = yaml.load(Path(f"{prefix}_config.yml").read_text(), Config)
        state = torch.load(f"{prefix}_state", map_location="cpu", weights_only=True)
        supplied = {name: config[key] for key, name in ARGUMENTS.items() if key in config}
        model = MultKAN(**supplied, auto_save=False, first_init=False, device="cpu")
        model.load_state_dict({key: value.double() for key, value in state.items()})
    except Exception as error:
        raise NotRun(f"{type(error).__name__} while loading") from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise NotRun("weights that are not finite")
    _name_functions(model, config)
    return model


def _name_functions(model: Any, config: dict[str, Any]) -> None:
    for at, symbolic in enumerate(model.symbolic_fun):
        names = config[f"{FUNCTIONS}{at}"]
        for j in range(symbolic.out_dim):
            for i in range(symbolic.in_dim):
                if names[j][i] not in SYMBOLIC_LIB:
                    raise NotRun("functions that pykan does not know")
                symbolic.funs[j][i] = SYMBOLIC_LIB[names[j][i]][0]


def rows(model: Any, seed: int) -> torch.Tensor:
    """[B, I] in the grid of each source, around it and far away."""
    grid = model.act_fun[0].grid.detach()
    k = model.k
    low, high = grid[:, k], grid[:, -k - 1]
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(64, len(grid), generator=generator, dtype=torch.float64)
    inside, middle = low + unit * (high - low), (low + high) / 2
    return torch.cat([inside, middle + 2 * (inside - middle), middle + 10 * (inside - middle)]).float().double()


@torch.no_grad()
def compare(prefix: Path, graphs: bool) -> str:
    """Compare one file: "same", the reason why pykan does not run it or kanexport rejects it, or the size of the
    difference."""
    try:
        model = load(prefix)
        x = rows(model, 0)
        model(x)
    except NotRun as why:
        return f"not run by pykan: {why}"
    except Exception as error:
        return f"not run by pykan: {type(error).__name__}"
    try:
        loaded = checkpoint.load(prefix)
        kan = detect.read(detect.detect(loaded, None)[0], loaded, Options(KnownFacts()))
        trace = float64_reference.evaluate(kan, x.numpy())
        worst = difference(trace.y, model.acts[-1].numpy())
        for at, layer in enumerate(kan.layers):
            edges = np.concatenate([values for _, values, _ in float64_reference.edges(layer, model.acts[at].numpy())])
            worst = max(worst, difference(edges, model.spline_postacts[at].numpy().transpose(0, 2, 1)))
        if graphs:
            with tempfile.TemporaryDirectory() as folder:
                export(Request(path=prefix, repository=Path(folder), name="m"))
    except ExportError as error:
        return f"refused: {type(error).__name__}: {error.message[:160]}"
    return "same" if worst <= TOLERANCE else f"DIFFERS by {worst:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Published pykan checkpoints through pykan and through kanexport.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--export", action="store_true", help="make and prove graphs as well")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    counts: collections.Counter[str] = collections.Counter()
    for prefix in pairs(args.folder):
        with contextlib.redirect_stdout(io.StringIO()):
            outcome = compare(prefix, args.export)
        counts[outcome if outcome.startswith(("same", "not run")) else outcome.partition(" ")[0].strip(":")] += 1
        if outcome != "same":
            print(f"{prefix.relative_to(args.folder)}: {outcome}", flush=True)
    print(dict(counts))
    return 1 if counts["DIFFERS"] or counts["refused"] else 0


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    raise SystemExit(main())
