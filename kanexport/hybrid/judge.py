"""What a candidate means: of the ways to read it, the one that computes what the module computed.

Its tensors, its attributes and its calls only propose. Where no reading agrees, the submodule
is left as it is, and its parts are tried.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from kanexport.errors import ExportError, InvalidKan
from kanexport.form.ir import Kan
from kanexport.hybrid import facts, forms
from kanexport.hybrid.capture import Call
from kanexport.hybrid.facts import Facts
from kanexport.hybrid.recognise import LINEAR, Candidate, Tensors, as_checkpoint
from kanexport.layers import stack
from kanexport.layers.linear import linear_layer
from kanexport.layers.parts import Part, storage_dtype
from kanexport.proof import evaluate
from kanexport.recognise import registry

AGREEMENT = {"float64": 1e-6, "float32": 1e-4}  # relative; float64 agrees to 1e-14, a misread formula to 1e-2
COMPARED = 4096  # vectors of a call that are looked at
READINGS = 64  # ways in which one submodule is read
PROBED = 2  # calls that are made again with other vectors
BEYOND = 4  # times what the example rows bring about


@dataclass(frozen=True, slots=True)
class Reading:
    """A submodule as a network. `how`: what had to be assumed that nothing said, such as
    "with denominator=signed"; empty where nothing was."""

    family: str
    kan: Kan
    how: str


@dataclass
class Verdict:
    """What became of a candidate: a reading, or why there is none, and by how much the
    likeliest one differs, relative. `hint`: what to do. `asked`: the options of use to it."""

    reading: Reading | None = None
    why: str = ""
    error: float = 0.0
    hint: str = ""
    family: str = ""
    asked: set[str] = field(default_factory=set)


def judge(candidate: Candidate, calls: Sequence[Call], given: Mapping[str, str], precision: str) -> Verdict:
    """The reading of a candidate that computes what it gave in its calls, and for other
    vectors too. `given`: the user's options; `precision`: what the module runs in."""
    tests = [*calls, *(probe for call in calls[:PROBED] if (probe := _probe(call)) is not None)]
    asked: set[str] = set()
    likeliest = Verdict(asked=asked)
    for family, read in itertools.islice(_readings(candidate, calls[0], given, asked), READINGS):
        verdict = dataclasses.replace(_try(read, tests, precision), family=family, asked=asked)
        if verdict.reading is not None:
            return verdict
        if not likeliest.why:
            likeliest = verdict
    base = facts.unknown_base(candidate.module)
    if base and likeliest.error:
        likeliest.hint = f"its base function {base} is in no table"
    return likeliest


def _try(read: Callable[[], Reading], tests: Sequence[Call], precision: str) -> Verdict:
    try:
        with np.errstate(all="ignore"):
            reading = read()
    except ExportError as error:
        return Verdict(why=f"cannot be read: {error.message}", hint=error.hint)
    return _compare(tests, reading, precision)


@dataclass(frozen=True, slots=True)
class _Attempts:
    """One family's reader on one submodule. `asked` and `choices` fill while it reads: the
    options it has a use for, and the names that some of them choose between."""

    family: str
    reader: registry.Reader
    module: nn.Module
    by_call: Mapping[str, str]
    asked: set[str]
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, tensors: Tensors, given: Mapping[str, str], tried: Mapping[str, str], how: str) -> Reading:
        options = Facts(given, self.module, self.by_call, tried)
        try:
            return Reading(self.family, self.reader.read(as_checkpoint(self.module, tensors), options), how)
        finally:
            self.asked.update(options.asked)
            self.choices.update(options.choices)


def _readings(
    candidate: Candidate, call: Call, given: Mapping[str, str], asked: set[str]
) -> Iterator[tuple[str, Callable[[], Reading]]]:
    """Every way in which a candidate may be meant, family by family, the likeliest first."""
    by_call = facts.by_call(call)
    for family, reader, tensors in candidate.families:
        if reader is None:
            yield family, functools.partial(_linear, tensors)
            continue
        attempts = _Attempts(family, reader, candidate.module, by_call, asked)
        for way in _ways(attempts, tensors, given):
            yield family, functools.partial(attempts.read, *way)


def _ways(
    attempts: _Attempts, tensors: Tensors, given: Mapping[str, str]
) -> Iterator[tuple[Tensors, Mapping[str, str], Mapping[str, str], str]]:
    """What `read` is given: as the module tells; without the user's options, which may be for
    other layers; with every other value of a choice that was open; and as if it did not use
    some of its tensors. Each is asked for after the one before was read."""
    yield tensors, given, {}, ""
    if given:
        yield tensors, {}, {}, "without the options given"
    for key, values in list(attempts.choices.items()):
        for value in values:
            yield tensors, {}, {key: value}, f"with {key}={value}"
    for names in _optional(attempts.reader, tensors):
        fewer = {key: value for key, value in tensors.items() if key not in names}
        yield fewer, {}, {}, f"without {', '.join(names)}"


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
    read = evaluate.evaluate(kan, x).y
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(read), finite):
        return np.inf
    scale = np.abs(expected[finite]).max(initial=0) or 1.0
    return float(np.abs(read - expected)[finite].max(initial=0) / scale)
