"""The module as what will be proved: its KAN layers, where they run, and what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import InvalidKan, OptionError
from kanexport.form.ir import Kan, Layer
from kanexport.hybrid import forms, recognise
from kanexport.hybrid.capture import Call, Oracle
from kanexport.hybrid.recognise import LINEAR, Candidate, Reading, Verdict, Whole, shown
from kanexport.proof import evaluate
from kanexport.proof.evaluate import Jitter, Trace

Array = npt.NDArray[np.float64]

FEW = 8  # rows that settle what a layer is
NUMBERS = 20_000_000  # of all calls of a module, kept at a time
VECTORS = 4096  # evaluated at a time
INDEPENDENT = {torch.float64: 1e-6, torch.float32: 1e-4}  # relative: what other rows of a batch may change in a row
NAMED = 5  # submodules in a note
FREEZE = "freeze batch statistics: BatchNorm with track_running_stats, fixed ranges instead of batch min/max"


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a recognised submodule. `form`: how it shapes its output. `axes`: as
    `forms.lead` says; None where its vectors have no place among the rows, so that its
    edges cannot be asked for."""

    name: str
    kan: Kan
    form: str
    axes: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The module, the networks found in it by name, and their calls in order."""

    oracle: Oracle
    modules: dict[str, nn.Module]
    readings: dict[str, Reading]
    uses: tuple[Use, ...]
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for use in self.uses if use.axes is not None for layer in use.kan.layers)

    def evaluate(self, x: Array, jitter: Jitter | None = None) -> Trace:
        """The module itself, and its layers' vectors [B, *positions, n]; while it is lent."""
        y, calls = self.oracle.run(x, self.modules, jitter)
        inputs = [
            forms.by_row(vectors, use.axes)
            for use, call in zip(self.uses, calls, strict=True)
            if use.axes is not None
            for vectors in _inputs(use.kan, call.x.reshape(-1, use.kan.n_inputs))
        ]
        return Trace(y, tuple(inputs), np.stack([_peak(values) for values in (x, y, *inputs)]).max(axis=0))


def make(whole: Whole, oracle: Oracle, x: Array, options: Mapping[str, str], few: int = FEW) -> Plan:
    """Find the KAN layers of a lent module and check each against what the module computes,
    for a few of the rows. Raises InvalidKan where a row's output depends on the other rows, and OptionError for an
    option that no layer has a use for."""
    found = recognise.candidates(whole)
    _require_fixed(oracle, _repeat(x, max(3, few)))
    _require_independent(whole, oracle, _repeat(x, 3))
    readings, notes = _settle(found, oracle, x[:few], options)
    modules = {name: found[name].module for name in readings}
    _, two = oracle.run(_repeat(x, 2), modules)
    _, three = oracle.run(_repeat(x, 3), modules)
    _, one = oracle.run(_repeat(x, 2)[1:], modules)
    if not [call.name for call in one] == [call.name for call in two] == [call.name for call in three]:
        raise InvalidKan(
            "the module runs other layers for other batch sizes, so it cannot become a graph",
            hint="a loop over the rows of a batch is not needed: layers take all rows at once",
        )
    uses, loose = [], []
    for single, first, second in zip(one, two, three, strict=True):
        kan = readings[first.name].kan
        axes = forms.lead(first, second, kan.n_inputs)
        if axes is None or not _same_row(single, first, axes, kan.n_inputs):
            axes = None
            loose.append(first.name)
        uses.append(Use(first.name, kan, forms.form(first, kan.n_inputs, kan.n_outputs), axes))
    if not uses:
        notes.append("no layer was recognised, so there are no edges to ask for")
    if loose:
        notes.append(f"{_some(loose)}: vectors do not belong to single rows, so that edges cannot be asked for")
    return Plan(oracle, modules, readings, tuple(uses), tuple(notes))


def affordable(whole: Whole, oracle: Oracle, x: Array, most: int) -> int:
    """How many rows of a lent module may be looked at at once, of `most`."""
    found = {name: one.module for name, one in recognise.candidates(whole).items()}
    y, calls = oracle.run(_repeat(x, 2), found, nested=True)  # a module may not take one row by itself
    numbers = (y.size + sum(call.x.size + call.y.size for call in calls)) // 2
    return max(1, min(most, NUMBERS // max(1, numbers)))


def _inputs(kan: Kan, x: Array) -> list[Array]:
    """The input vectors [rows, width] of every layer."""
    if len(kan.layers) == 1:
        return [x]
    pieces = [evaluate.evaluate(kan, x[at : at + VECTORS]).inputs for at in range(0, max(1, len(x)), VECTORS)]
    return [np.concatenate(piece) for piece in zip(*pieces, strict=True)]


def _settle(
    found: dict[str, Candidate], oracle: Oracle, x: Array, options: Mapping[str, str]
) -> tuple[dict[str, Reading], list[str]]:
    """Readings by name, outermost first, and notes about what was not read, or not as it tells."""
    _, calls = oracle.run(x, {name: one.module for name, one in found.items()}, nested=True)
    by_name: dict[str, list[Call]] = {}
    for call in calls:
        by_name.setdefault(call.name, []).append(call)
    readings: dict[str, Reading] = {}
    refused: dict[str, Verdict] = {}
    asked: set[str] = set()
    precision = "float64" if oracle.dtype == torch.float64 else "float32"
    for name in sorted(by_name, key=list(found).index):
        if any(parent in readings for parent in _parents(name)):
            continue
        verdict = recognise.judge(found[name], by_name[name], options, precision)
        asked |= verdict.asked
        if verdict.reading is not None:
            readings[name] = verdict.reading
        else:
            refused[name] = verdict
    _require_useful(options, asked)
    return readings, [*_hows(readings), *_whys(refused, readings)]


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _hows(readings: dict[str, Reading]) -> list[str]:
    by_how: dict[str, list[str]] = {}
    for name, reading in readings.items():
        if reading.how:
            by_how.setdefault(reading.how, []).append(name)
    return [f"{_some(names)}: read {how}, as the module computes it" for how, names in by_how.items()]


def _whys(refused: dict[str, Verdict], readings: dict[str, Reading]) -> list[str]:
    """What was left as it is; not what merely holds what was read, or was left for the same family."""
    inner = {
        (parent, family)
        for name, family in [
            *((name, reading.family) for name, reading in readings.items()),
            *((name, verdict.family) for name, verdict in refused.items()),
        ]
        for parent in _parents(name)
    }
    by_why: dict[tuple[str, str, str], list[str]] = {}
    for name, verdict in refused.items():
        if (name, verdict.family) not in inner:
            what = "a linear layer" if verdict.family == LINEAR else f"a layer of {verdict.family}"
            by_why.setdefault((what, verdict.why, verdict.hint), []).append(name)
    notes = []
    for (what, why, hint), names in by_why.items():
        error = max(refused[name].error for name in names)
        more = [f"by up to {error:.1e}"] * bool(error) + [hint] * bool(hint)
        advice = f" ({'; '.join(more)})" if more else ""
        notes.append(f"{_some(names)}: looks like {what}, but {why}{advice}; left as it is")
    return notes


def _some(names: Sequence[str]) -> str:
    unique = [shown(name) for name in dict.fromkeys(names)]
    more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
    return ", ".join(unique[:NAMED]) + more


def _require_useful(options: Mapping[str, str], asked: set[str]) -> None:
    unknown = sorted(set(options) - asked)
    if unknown:
        known = ", ".join(sorted(key for key in asked if " " not in key))
        what = f"--{unknown[0]}" if " " in unknown[0] else repr(unknown[0])
        raise OptionError(
            f"no KAN layer of the module has a use for {what}", hint=f"of use are: {known}" if known else ""
        )


def _require_fixed(oracle: Oracle, x: Array) -> None:
    """One row of output for each, and the same ones again."""
    first, second = (oracle.run(x)[0] for _ in range(2))
    if len(first) != len(x):
        raise InvalidKan(f"the module gives {len(first)} rows for {len(x)}; the first axis must be the batch")
    if first.shape != second.shape or not _close(second, first, INDEPENDENT[oracle.dtype]):
        raise InvalidKan(
            "the module gives different outputs for the same rows: something in it is random at inference",
            hint="for one, functional.dropout without training=self.training",
        )


def _require_independent(whole: Whole, oracle: Oracle, part: Array) -> None:
    """Edge class C is refused: nothing could be said about such a model row by row."""
    limit = INDEPENDENT[oracle.dtype]
    together, _ = oracle.run(part)
    try:
        rows = [oracle.run(part[at : at + 1])[0] for at in range(len(part))]
    except InvalidKan as error:
        raise InvalidKan(f"{error.message}; rows cannot be served one by one", hint=FREEZE) from error
    if any(row.shape != (1, *together.shape[1:]) for row in rows):
        raise InvalidKan(
            f"a row gives {list(rows[0].shape[1:])} by itself and {list(together.shape[1:])} among others",
            hint="a served model gives every row an output of the same shape",
        )
    if not _close(np.concatenate(rows), together, limit):
        culprit = _culprit(whole, oracle, part, limit)
        because = f", because of {culprit}" if culprit not in ("", shown("body")) else ""
        raise InvalidKan(
            f"the output of a row depends on the other rows of its batch (edge class C){because}; it cannot be served",
            hint=FREEZE,
        )


def _culprit(whole: Whole, oracle: Oracle, x: Array, limit: float) -> str:
    """The first submodule, innermost first, that gives a row something else among others."""
    modules = {name: module for name, module in whole.named_modules() if name}
    together, *alone = (
        oracle.run(rows, modules, nested=True)[1] for rows in (x, *(x[at : at + 1] for at in range(len(x))))
    )
    if any([call.name for call in calls] != [call.name for call in together] for calls in alone):
        return ""
    for many, *single in zip(together, *alone, strict=True):
        for at, one in enumerate(single):
            if many.x.size != one.x.size * len(x) or many.y.size != one.y.size * len(x):
                continue
            given, gave = (values.reshape(len(x), -1)[at] for values in (many.x, many.y))
            if _close(given, one.x.reshape(-1), limit) and not _close(gave, one.y.reshape(-1), limit):
                return shown(many.name)
    return ""


def _close(found: Array, expected: Array, limit: float) -> bool:
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0) or 1.0
    return bool(np.allclose(found, expected, rtol=0, atol=limit * scale, equal_nan=True))


def _same_row(single: Call, two: Call, axes: tuple[int, ...], n: int) -> bool:
    """Whether the vectors of the second of two rows are those of that row alone."""
    alone, both = (forms.by_row(call.x.reshape(-1, n), axes) for call in (single, two))
    return bool(np.allclose(alone[0], both[1], rtol=1e-5, atol=1e-6, equal_nan=True))


def _repeat(x: Array, count: int) -> Array:
    """So many rows, different ones where there are any."""
    return np.resize(x, (count, *x.shape[1:]))


def _peak(values: Array) -> Array:
    magnitude = np.where(np.isfinite(values), np.abs(values), 0)
    highest: Array = magnitude.reshape(len(values), -1).max(axis=1, initial=0)
    return highest
