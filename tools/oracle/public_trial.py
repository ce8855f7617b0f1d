"""Steps for one configuration of `public_modules.py`: build, export and comparison, each in a separate process.

Each step writes its results to the configuration's folder: `weights.pt`, `rows.npz` and the factory
`configuration.py` for the export, `export.json`, `found.json`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import public_upstream
import torch
from torch import nn

from kanexport.cli import export_command
from kanexport.shared.ort import onnxruntime

Array = npt.NDArray[np.float64]

FACTORY = """import json, public_trial
def make():
    return public_trial.build(json.loads({text!r}))
"""
SEED = 2024
EXAMPLES, NUMBERS = 32, 2_000_000  # rows; numbers of the largest batch
BATCHES = (1, 2, 33, 300)
FACTORS = (3.0, 30.0, 1e3, 1e6)
AGREED, EXCUSE = 1e-4, 32.0  # relative to a row's largest answer; times what rounding changes
LARGE = 1e30  # what a float32 graph need not hold
HALF = 2.0**-24
RIGHTLY = {  # what an export may refuse, by what its error says
    "class C": ("edge class C", "single rows cannot be served"),
    "random": ("random at inference",),
}
ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def build(configuration: dict[str, Any]) -> nn.Module:
    """The module as its repository makes it."""
    clones = Path(configuration["clones"])
    sys.path[:0] = [str(clones / other) for other in configuration["paths"]]
    clone = clones / configuration["repository"]
    made: nn.Module = public_upstream.make(
        clone / configuration["root"],
        clone / configuration["file"],
        configuration["make"],
        definitions=configuration["definitions"],
        stand_ins=configuration["stand_ins"],
    )
    return made


@dataclass(frozen=True)
class Model:
    """A module and its inputs. `shapes`: the shape of a row of each input. `tokens`: for each input, the exclusive
    upper bound of its integers; 0 if it takes any number."""

    module: nn.Module
    shapes: Sequence[Sequence[int]]
    tokens: Sequence[int]

    def rows(self, count: int, seed: int, factor: float = 1.0) -> list[Array]:
        """Random rows for each input, [count, *shape]."""
        rng = np.random.default_rng(seed)
        drawn = []
        for shape, below in zip(self.shapes, self.tokens, strict=True):
            whole = rng.integers(0, max(below, 1), (count, *shape)).astype(np.float64)
            real = (factor * rng.normal(size=(count, *shape))).astype(np.float32).astype(np.float64)
            drawn.append(whole if below else real)
        return drawn

    def given(self, rows: Sequence[Array], dtype: Any) -> list[Any]:
        return [x.astype(np.int64 if below else dtype) for x, below in zip(rows, self.tokens, strict=True)]

    @torch.no_grad()
    def answers(self, module: nn.Module, rows: Sequence[Array], dtype: Any) -> Array:
        """A module's outputs, [rows, ...] flat, all its tensors one after another."""
        result = module(*map(torch.from_numpy, self.given(rows, dtype)))
        parts = [part.detach().double().numpy().reshape(len(part), -1) for part in tensors(result)]
        return np.concatenate(parts, axis=1)


def tensors(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    inner = found.values() if isinstance(found, dict) else found
    return [part for item in inner if item is not None for part in tensors(item)]


@dataclass
class Judge:
    """Comparison of the exported graph with the module itself."""

    model: Model
    session: Any
    outputs: list[str]
    told: bool  # that NaN and infinities are not as torch
    precise: nn.Module | None
    worst: float = 0.0
    excused: int = 0
    left_out: int = 0
    compared: int = 0
    failing: list[str] = dataclasses.field(default_factory=list)  # kinds of rows that the graph does not answer

    def graph(self, rows: Sequence[Array]) -> Array:
        names = [item.name for item in self.session.get_inputs()]
        result = self.session.run(self.outputs, dict(zip(names, self.model.given(rows, np.float32), strict=True)))
        return np.concatenate([part.astype(np.float64).reshape(len(part), -1) for part in result], axis=1)

    def reference(self, rows: Sequence[Array], single: Array) -> tuple[Array, Array]:
        """The correct outputs, and the change of each row's outputs by float32 rounding [rows]."""
        module = self.precise or self.model.module
        dtype: Any = np.float64 if self.precise else np.float32
        exact = self.model.answers(module, rows, dtype) if self.precise else single
        rng = np.random.default_rng(5)
        shaken = [single]
        for _ in range(3):
            moved = [
                x if below else x * (1 + HALF * rng.uniform(-1, 1, x.shape))
                for x, below in zip(rows, self.model.tokens, strict=True)
            ]
            shaken.append(self.model.answers(module, moved, dtype))
        with np.errstate(all="ignore"):
            change = np.nan_to_num(np.abs(np.array(shaken) - exact), nan=np.inf).max(axis=(0, 2))
        return exact, change

    def zone(self, name: str, rows: Sequence[Array]) -> str:
        """The error in the outputs for rows of one kind; empty if there is none."""
        result = self.graph(rows)
        single = self.model.answers(self.model.module, rows, np.float32)
        exact, change = self.reference(rows, single)
        if result.shape != exact.shape:
            return f"{name}: shape {result.shape}, expected {exact.shape}"
        with np.errstate(all="ignore"):
            keep: npt.NDArray[np.bool_] = np.all(np.abs(exact) < LARGE, axis=1) & np.isfinite(single).all(axis=1)
            scale = np.abs(exact).max(axis=1)
            apart = np.nan_to_num(np.abs(result - exact), nan=np.inf).max(axis=1)
        self.compared += len(keep)
        self.left_out += int((~keep).sum())
        bad = keep & (apart > AGREED * scale + EXCUSE * change)
        plain = keep & (apart <= AGREED * scale)
        self.excused += int((keep & ~plain & ~bad).sum())
        if plain.any():
            self.worst = max(self.worst, float((apart[plain] / np.maximum(scale[plain], 1e-300)).max()))
        if not bad.any():
            return ""
        at = int(np.flatnonzero(bad)[0])
        return f"{name}: row {at} of {len(bad)} is {apart[at]:.2e} off, its largest answer {scale[at]:.2e}"

    def odd(self, name: str, rows: Sequence[Array]) -> str:
        """As `zone`, for rows with NaN and infinities: the graph must have them in the same places as torch, unless a
        note reports a difference."""
        try:
            single = self.model.answers(self.model.module, rows, np.float32)
        except Exception:
            self.failing.append(f"{name}, as the module")
            return ""
        try:
            result = self.graph(rows)
        except Exception as error:  # whoever asks is told
            self.failing.append(f"{name}: {error}")
            return ""
        alike = np.isnan(result) == np.isnan(single)
        alike &= np.isinf(result) == np.isinf(single)
        return "" if self.told or alike.all() else f"{name}: {result[~alike][:3]} for {single[~alike][:3]}, untold"

    def every(self) -> Iterator[str]:
        size = sum(math.prod(shape) for shape in self.model.shapes)
        batches = [count for count in BATCHES if count == 1 or count * size <= NUMBERS] or [1]
        for count in batches:
            yield self.zone(f"{count} rows", self.model.rows(count, SEED + count))
        if all(self.model.tokens):
            return
        many = min(batches[-1], 33)
        for factor in (*FACTORS, 0.0):
            yield self.zone(f"{factor:g} times as far", self.model.rows(many, SEED + 1000, factor))
        alike = [
            x if below else np.broadcast_to(x.reshape(len(x), -1)[:, :1].reshape(-1, *[1] * (x.ndim - 1)), x.shape)
            for x, below in zip(self.model.rows(many, SEED + 1000), self.model.tokens, strict=True)
        ]
        yield self.zone("equal values", alike)
        for name, value in ODD.items():
            rows = self.model.rows(2, SEED + 2000)
            for x, below in zip(rows, self.model.tokens, strict=True):
                if not below:
                    x.reshape(len(x), -1)[:, 0] = value
            yield self.odd(name, rows)


def in_float64(model: Model) -> nn.Module | None:
    """The same module in float64, where it runs so."""
    with contextlib.suppress(Exception):
        precise = copy.deepcopy(model.module).double()
        near = model.rows(2, SEED)
        if np.isfinite(model.answers(precise, near, np.float64)).all():
            return precise
    return None


def prepare(configuration: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the module and its weights; leave what the export needs. Gives what became of it where it does not run."""
    try:
        model = made(configuration)
    except Exception as error:
        return {"outcome": "not run upstream", "why": f"{type(error).__name__}: {str(error)[:200]}"}
    torch.save(model.module.state_dict(), folder / "weights.pt")
    size = sum(math.prod(shape) for shape in model.shapes)
    rows = model.given(model.rows(max(2, min(EXAMPLES, NUMBERS // size)), SEED), np.float32)
    np.savez(folder / "rows.npz", *rows)
    (folder / "configuration.py").write_text(FACTORY.format(text=json.dumps(configuration)))
    return {"outcome": "runs upstream", "why": ""}


def made(configuration: dict[str, Any]) -> Model:
    """Build the same model each time. Raises the exceptions of the library's code."""
    torch.manual_seed(SEED)
    module = build(configuration)
    shapes = configuration["rows"]
    model = Model(module, shapes, configuration["tokens"] or [0] * len(shapes))
    near = model.rows(2, SEED)
    model.answers(module, near, np.float32)
    public_upstream.move(module, SEED)
    model.answers(module, near, np.float32)
    return model


def export(configuration: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Through `kanserve export --module`, as a user would. Gives the document it prints."""
    os.chdir(folder)
    arguments = ["--module", "configuration:make", "--checkpoint", "weights.pt", "--example", "rows.npz"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        export_command.main([*arguments, "--repository", "models", "--name", "m", "--json"])
    document: dict[str, Any] = json.loads(printed.getvalue())
    return document


def refused(document: dict[str, Any], expected: str = "", hint: str = "") -> dict[str, Any]:
    """The outcome of a configuration whose export failed: the code of the error, if it and words of the advice are
    expected."""
    words = document["error"]["message"]
    if expected == document["error"]["code"] and hint in document["error"]["hint"]:
        return {"outcome": expected, "why": words[:300]}
    outcome = next((name for name, signs in RIGHTLY.items() if any(sign in words for sign in signs)), "refused")
    return {"outcome": outcome, "why": words[:300]}


def compare(configuration: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The difference between the outputs of the graph and those of the module."""
    model = made(configuration)
    directory = folder / json.loads((folder / "export.json").read_text())["directory"]
    manifest = json.loads((directory / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    reported = any("differs from PyTorch" in note for note in manifest["notes"])
    outputs = [item["name"] for item in manifest["outputs"]]
    judge = Judge(model, session, outputs, reported, in_float64(model))
    wrong = list(itertools.islice(filter(None, judge.every()), 3))
    return {
        "outcome": "SILENT" if wrong else "right",
        "why": "; ".join(wrong),
        "edges": len(manifest["layers"]),
        "worst": judge.worst,
        "compared": judge.compared,
        "excused": judge.excused,
        "left_out": judge.left_out,
        "failing": judge.failing,
        "float64": judge.precise is not None,
    }
