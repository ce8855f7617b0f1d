"""Which submodules are KAN layers: by the shapes of their tensors, never by their class.

A submodule is a candidate if a reader knows its tensors and leaves none over. What it
means is then read, if need be in several ways; the reading that computes what the
submodule computed is taken, and where none does, the submodule is left as it is and its
parts are tried.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import ExportError, InvalidKan
from kanexport.files.checkpoint import Checkpoint
from kanexport.form.ir import Kan
from kanexport.hybrid import facts, forms
from kanexport.hybrid.capture import Call
from kanexport.hybrid.facts import Facts
from kanexport.layers import stack
from kanexport.layers.linear import linear_layer
from kanexport.layers.parts import Part, storage_dtype
from kanexport.proof import evaluate
from kanexport.recognise import registry

LINEAR = "linear"
AGREEMENT = {"float64": 1e-6, "float32": 1e-4}  # relative; float64 agrees to 1e-14, a misread formula to 1e-2
COMPARED = 4096  # vectors of a call that are looked at
READINGS = 64  # ways in which one submodule is read
BEYOND = 4  # times what the example rows bring about

Tensors = dict[str, npt.NDArray[Any]]


class Whole(nn.Module):
    """The module as the child of another, so that it can be a KAN layer itself."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(x)


def shown(name: str) -> str:
    """A submodule's name as the user knows it."""
    return name.replace("._orig_mod", "").removeprefix("body").removeprefix(".") or "(itself)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A submodule whose tensors some families know, each with the tensors it reads."""

    module: nn.Module
    families: tuple[tuple[str, registry.Reader | None, Tensors], ...]  # None: a linear layer


@dataclass(frozen=True, slots=True)
class Reading:
    """A submodule as a network. `how`: what had to be assumed that nothing told."""

    family: str
    kan: Kan
    how: str


@dataclass
class Verdict:
    """What became of a candidate: a reading, or why there is none, and by how much the
    likeliest one differs. `hint`: what to do."""

    reading: Reading | None = None
    why: str = ""
    error: float = 0.0
    hint: str = ""
    family: str = ""
    asked: set[str] = field(default_factory=set)


def candidates(whole: nn.Module) -> dict[str, Candidate]:
    """By name, parents before children; a module with several names has the first."""
    found: dict[str, Candidate] = {}
    seen: set[int] = set()
    waiting = [("body", next(whole.children()))]
    while waiting:
        name, module = waiting.pop(0)
        if id(module) in seen:
            continue
        seen.add(id(module))
        waiting += [(f"{name}.{child}", part) for child, part in module.named_children()]
        families = tuple(_families(module))
        if families:
            found[name] = Candidate(module, families)
    return found


def judge(candidate: Candidate, calls: Sequence[Call], given: Mapping[str, str], precision: str) -> Verdict:
    """The reading of a candidate that computes what it gave in its calls, and for other
    vectors too."""
    tests = [*calls, *(probe for call in calls[:2] if (probe := _probe(call)) is not None)]
    verdict = Verdict()
    for family, read in itertools.islice(_readings(candidate, calls[0], given, verdict.asked), READINGS):
        try:
            with np.errstate(all="ignore"):
                reading = read()
        except ExportError as error:
            found = Verdict(why=f"cannot be read: {error.message}", hint=error.hint)
        else:
            found = _compare(tests, reading, precision)
            if found.reading is not None:
                return dataclasses.replace(found, asked=verdict.asked)
        if not verdict.why:
            verdict = dataclasses.replace(found, family=family, asked=verdict.asked)
    base = facts.unknown_base(candidate.module)
    if base and verdict.error:
        verdict.hint = f"its base function {base} is in no table"
    return verdict


def _families(module: nn.Module) -> Iterator[tuple[str, registry.Reader | None, Tensors]]:
    if isinstance(module, nn.Linear):
        # As attributes, because a parametrised weight is stored in pieces.
        own = {"weight": module.weight} | ({} if module.bias is None else {"bias": module.bias})
        yield LINEAR, None, facts.arrays(own)
        return
    state = {key: value for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    if not state:
        return
    tensors = facts.arrays(state)
    if len(tensors) < len(state):
        return
    unsaved = {name: value for name, value in module.named_buffers() if name not in state}
    plain = {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
    beside = facts.arrays(unsaved | plain)
    for family, reader in _all_readers().items():
        if isinstance(reader, registry.LayerReader):
            names = reader.keys.names()
            mine = {key: beside[key] for key in names if key in beside and key not in tensors} | tensors
            if _is_lone_layer(reader, mine):
                yield family, reader, mine
            continue
        for mine in (tensors, tensors | {key: beside[key] for key in unsaved}):
            if reader.matches(_checkpoint(module, mine)):
                yield family, reader, mine
            if not unsaved:
                break


def _is_lone_layer(reader: registry.LayerReader, tensors: Tensors) -> bool:
    """A layer with no tensor left over."""
    lone = set(tensors) <= set(reader.keys.names()) and stack.prefixes(tensors, reader.keys) == [""]
    return lone and reader.fits(Part(tensors, ""))


@functools.cache
def _all_readers() -> dict[str, registry.Reader]:
    return registry.readers()


def _checkpoint(module: nn.Module, tensors: Tensors) -> Checkpoint:
    return Checkpoint(Path(type(module).__name__), "", tensors, facts.pykan_config(module), ())


def _readings(
    candidate: Candidate, call: Call, given: Mapping[str, str], asked: set[str]
) -> Iterator[tuple[str, Callable[[], Reading]]]:
    """Every way in which a candidate may be meant, the likeliest first: as it tells; without
    the user's options, which may be for other layers; with every other value of a choice
    that was open; and as if it did not use some of its tensors."""
    told = facts.told(call)
    for family, reader, tensors in candidate.families:
        if reader is None:
            yield family, functools.partial(_linear, tensors)
            continue
        checkpoint = _checkpoint(candidate.module, tensors)
        choices: dict[str, tuple[str, ...]] = {}

        def attempt(
            source: Checkpoint,
            given: Mapping[str, str],
            tried: Mapping[str, str],
            how: str,
            family: str = family,
            reader: registry.Reader = reader,
            choices: dict[str, tuple[str, ...]] = choices,
        ) -> Callable[[], Reading]:
            def read() -> Reading:
                options = Facts(given, candidate.module, told, tried)
                try:
                    return Reading(family, reader.read(source, options), how)
                finally:
                    asked.update(options.asked)
                    choices.update(options.choices)

            return read

        yield family, attempt(checkpoint, given, {}, "")
        if given:
            yield family, attempt(checkpoint, {}, {}, "without the options given")
        for key, values in list(choices.items()):
            for value in values:
                yield family, attempt(checkpoint, {}, {key: value}, f"with {key}={value}")
        for names in _optional(reader, tensors):
            fewer = {key: value for key, value in tensors.items() if key not in names}
            yield family, attempt(_checkpoint(candidate.module, fewer), {}, {}, f"without {', '.join(names)}")


def _linear(tensors: Tensors) -> Reading:
    return Reading(LINEAR, stack.chain([linear_layer(Part(tensors, ""))], storage_dtype(list(tensors.values()))), "")


def _optional(reader: registry.Reader, tensors: Tensors) -> list[tuple[str, ...]]:
    """Tensors that a layer need not have, by the module inside of it that they belong to."""
    if not isinstance(reader, registry.LayerReader):
        return []
    groups: dict[str, tuple[str, ...]] = {}
    for name in reader.keys.optional:
        if name in tensors:
            first = name.partition(".")[0]
            groups[first] = (*groups.get(first, ()), name)
    return list(groups.values())


def _probe(call: Call) -> Call | None:
    """The same call with vectors beside and beyond what the example rows bring about."""
    finite = np.where(np.isfinite(call.x), call.x, 0)
    noise = np.random.default_rng(0).normal(0, finite.std() or 1.0, size=call.x.shape)
    return call.again((BEYOND * finite + noise).astype(np.float32).astype(np.float64))


def _compare(calls: Sequence[Call], reading: Reading, precision: str) -> Verdict:
    """The reading, if all calls computed it; else why not."""
    error = 0.0
    for call in calls:
        try:
            forms.form(call, reading.kan.n_inputs, reading.kan.n_outputs)
        except InvalidKan as refused:
            return Verdict(why=refused.message)
        error = max(error, _error(call, reading.kan))
    if error <= AGREEMENT[precision]:
        return Verdict(reading, family=reading.family)
    what = "differs from what its tensors tell" if np.isfinite(error) else "differs in what is not finite"
    return Verdict(why=what, error=error if np.isfinite(error) else 0.0)


def _error(call: Call, kan: Kan) -> float:
    """By how much a call differs from what we read, relative; infinite where one is not finite."""
    x, expected = call.x.reshape(-1, kan.n_inputs), call.y.reshape(-1, kan.n_outputs)
    if len(x) > COMPARED:
        chosen = np.random.default_rng(0).permutation(len(x))[:COMPARED]
        x, expected = x[chosen], expected[chosen]
    found = evaluate.evaluate(kan, x).y
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite):
        return np.inf
    scale = np.abs(expected[finite]).max(initial=0) or 1.0
    return float(np.abs(found - expected)[finite].max(initial=0) / scale)
