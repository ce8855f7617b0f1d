"""Matching of a candidate with its possible interpretations: the one that computes the outputs of the module.

Its tensors, its attributes and its calls only propose. Where no reading agrees, the submodule
is left as it is, and its parts are tried.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from kanexport.detection import registry
from kanexport.errors import ExportError, InvalidKan
from kanexport.ir.model import Kan
from kanexport.readers.common import chain
from kanexport.readers.common.layer_tensors import Part, linear_layer, storage_dtype
from kanexport.torch_export import capture, kan_candidates
from kanexport.torch_export.capture import Call, rounded
from kanexport.torch_export.kan_candidates import LINEAR, Candidate, Facts, Tensors, as_checkpoint, grouped
from kanexport.verify import float64_reference, test_points
from kanexport.verify.float64_reference import Jitter
from kanexport.verify.graph_runner import FLOAT, Port
from kanexport.verify.tolerances import CONDITION, OVERFLOW, magnitude

Array = npt.NDArray[np.float64]

AGREEMENT = {"float64": 1e-6, "float32": 1e-4}  # relative; float64 agrees to 1e-14, a misread formula to 1e-2
COMPARED = 4096  # vectors of a call that are looked at
EDGES = 6_000_000  # edges of a call that the exporter compares, if edges take long
READINGS = 64  # ways in which one submodule is read
DRAWS = 2  # of rounding
PROBED = 2  # calls that are made again with other vectors
BEYOND = 4  # times what the example rows bring about
FLOOR = 1e-3  # of the largest output of a group of rows: smaller ones are compared as if they were that large
PEAKS = {"float64": 1e300, "float32": OVERFLOW}  # beyond it, one side may overflow where the other does not
TENSORS, EDGES_SUM = "the interpretation of its tensors", "the sum of its edges"


@dataclass(frozen=True, slots=True)
class Reading:
    """A submodule as a network.

    how         assumption that nothing confirms, such as "with denominator=signed"; empty if there is none
    by          object that computes the layer, if its functions are not ours
    edges_only  whether the module computes itself, and its reading only gives the edges
    """

    family: str
    kan: Kan
    how: str
    by: Any = None
    edges_only: bool = False


@dataclass
class Verdict:
    """Outcome of the matching of a candidate: a reading, or the reason why there is none.

    error      relative error of the likeliest reading
    agreed     number of groups of rows that it computed as the module
    hint       advice for the user
    consulted  options of use to the candidate
    """

    reading: Reading | None = None
    why: str = ""
    error: float = 0.0
    agreed: int = 0
    hint: str = ""
    family: str = ""
    consulted: set[str] = field(default_factory=set)


def judge(
    candidate: Candidate,
    calls: Sequence[Call],
    user_options: Mapping[str, str],
    precision: str,
    further: Sequence[Call] = (),
) -> Verdict:
    """The reading of a candidate that computes its outputs in its calls, and for other vectors, too.

    user_options  the user's options
    precision     type that the module runs in
    further       calls for rows far from the example's, or with NaN
    """
    tests = _Tests.of(calls, further, precision)
    consulted: set[str] = set()
    likeliest = Verdict(consulted=consulted, agreed=-1)
    for family, read in itertools.islice(_readings(candidate, calls[0], user_options, consulted), READINGS):
        try:
            with np.errstate(all="ignore"):
                reading = read()
        except ExportError as error:
            verdict = Verdict(why=f"cannot be read: {error.message}", hint=error.hint)
        else:
            verdict = _compare(tests, reading)
        verdict.family, verdict.consulted = family, consulted
        if verdict.reading is not None:
            return verdict
        if verdict.agreed > likeliest.agreed:
            likeliest = verdict
    base = kan_candidates.unknown_base(candidate.module)
    if base and likeliest.error:
        likeliest.hint = f"its base function {base} is not in the table"
    return likeliest


def verify_reading(reading: Reading, calls: Sequence[Call], further: Sequence[Call], precision: str) -> Verdict:
    """Whether a submodule computes a reading, as in `judge`."""
    return _compare(_Tests.of(calls, further, precision), reading)


@dataclass(frozen=True, slots=True)
class _Tests:
    """Calls with which a reading is compared: near the example rows, far from them, and repeated with vectors for
    this reading."""

    near: Sequence[Call]
    far: Sequence[Call]
    reruns: Sequence[Call]
    precision: str

    @classmethod
    def of(cls, calls: Sequence[Call], further: Sequence[Call], precision: str) -> _Tests:
        reruns = calls[:PROBED]
        probes = [call.rerun(rounded(beyond(call.x))) for call in reruns]
        return cls([*calls, *(probe for probe in probes if probe is not None)], further, reruns, precision)


@dataclass(frozen=True, slots=True)
class _Attempts:
    """Attempts to read one submodule with the reader of one family.

    consulted  options that the reader has a use for; reading fills it
    choices    by option, the names to choose between; reading fills it
    """

    family: str
    reader: registry.Reader
    module: nn.Module
    by_call: Mapping[str, str]
    consulted: set[str]
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, tensors: Tensors, user_options: Mapping[str, str], tried: Mapping[str, str], how: str) -> Reading:
        options = Facts(user_options, self.module, self.by_call, tried)
        try:
            return Reading(self.family, self.reader.read(as_checkpoint(self.module, tensors), options), how)
        finally:
            self.consulted.update(options.consulted)
            self.choices.update(options.choices)

    def readings(self, tensors: Tensors, user_options: Mapping[str, str]) -> Iterator[Callable[[], Reading]]:
        """Ways to read the submodule: as it is; without the options of the user, which may be for other layers; with
        every other value of an open choice; and without some unused tensors. Each is generated after the previous one
        was read."""
        yield functools.partial(self.read, tensors, user_options, {}, "")
        if user_options:
            yield functools.partial(self.read, tensors, {}, {}, "without the given options")
        for key, values in list(self.choices.items()):
            for value in values:
                yield functools.partial(self.read, tensors, {}, {key: value}, f"with {key}={value}")
        if not isinstance(self.reader, registry.LayerReader):
            return
        # Optional tensors, by the inner module to which they belong.
        optional = grouped((name.partition(".")[0], name) for name in self.reader.keys.optional if name in tensors)
        for names in optional.values():
            fewer = {key: value for key, value in tensors.items() if key not in names}
            yield functools.partial(self.read, fewer, {}, {}, f"without {', '.join(names)}")


def _readings(
    candidate: Candidate, call: Call, user_options: Mapping[str, str], consulted: set[str]
) -> Iterator[tuple[str, Callable[[], Reading]]]:
    """All interpretations of a candidate, family by family, the most likely first."""
    by_call = kan_candidates.by_call(call)
    for family, reader, tensors in candidate.families:
        if reader is None:
            yield family, functools.partial(_linear, tensors)
            continue
        attempts = _Attempts(family, reader, candidate.module, by_call, consulted)
        yield from ((family, read) for read in attempts.readings(tensors, user_options))


def _linear(tensors: Tensors) -> Reading:
    return Reading(LINEAR, chain.chain([linear_layer(Part(tensors, ""))], storage_dtype(list(tensors.values()))), "")


def beyond(x: Array) -> Array:
    """Vectors near those of the example, which may not be finite, and beyond their range."""
    finite = np.where(np.isfinite(x), x, 0)
    return BEYOND * finite + np.random.default_rng(0).normal(0, finite.std() or 1.0, size=x.shape)


def _compare(tests: _Tests, reading: Reading) -> Verdict:
    """The reading, if all calls match it; otherwise the reason."""
    kan, limit = reading.kan, AGREEMENT[tests.precision]
    for call in (*tests.near, *tests.far):
        try:
            capture.form(call, kan.n_inputs, kan.n_outputs)
        except InvalidKan as refused:
            return Verdict(why=refused.message)
    error = max((_error(call, kan) for call in tests.near), default=0.0)
    if error > limit:
        return _differing("", error, 0)
    for agreed, (where, call) in enumerate(_far_calls(tests, kan), 1):
        error = _error_by_row(call, kan, tests.precision)
        if error > limit:
            return _differing(where, error, agreed)
    return Verdict(reading, family=reading.family)


def _differing(where: str, error: float, agreed: int) -> Verdict:
    what = f"differs from {TENSORS}" if np.isfinite(error) else "differs in values that are not finite"
    return Verdict(why=f"{what} {where}".rstrip(), error=error if np.isfinite(error) else 0.0, agreed=agreed)


def _far_calls(tests: _Tests, kan: Kan) -> Iterator[tuple[str, Call]]:
    """Calls far from the example rows, each with a text for the place."""
    yield from (("on rows far from the example", call) for call in tests.far)
    pieces = _at_once(kan)
    for call in tests.reruns:
        for where, rows in groups(call, kan):
            for at in range(0, len(rows), pieces):
                yield from ((where, repeated) for repeated in calls(call, rows[at : at + pieces]))


def _vectors(call: Call, kan: Kan) -> tuple[Array, Array]:
    """The inputs [N, n] and outputs [N, m] of a call; a selection if there are very many vectors. It is smaller for a
    sampled layer: each of its vectors needs one run per source."""
    x, y = call.x.reshape(-1, kan.n_inputs), call.y.reshape(-1, kan.n_outputs)
    most = COMPARED
    if max(test_points.edge_count(layer) // layer.mask.size for layer in kan.layers) != 1:
        most = int(np.clip(EDGES // sum(map(test_points.edge_count, kan.layers)), 2, COMPARED))
    if len(x) > most:
        chosen = np.random.default_rng(0).permutation(len(x))[:most]
        x, y = x[chosen], y[chosen]
    return x, y


def _error(call: Call, kan: Kan) -> float:
    """The relative difference of a call from the reading; infinite if only one side is finite."""
    x, expected = _vectors(call, kan)
    read = float64_reference.evaluate(kan, x).y
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(read), finite):
        return np.inf
    return float(np.abs(read - expected)[finite].max(initial=0) / (magnitude(expected) or 1.0))


def _error_by_row(call: Call, kan: Kan, precision: str) -> float:
    """The same for rows that differ by orders of magnitude: relative to the output of each row, minus the effect of
    rounding; infinite for different non-finite values."""
    x, expected = _vectors(call, kan)
    trace = float64_reference.evaluate(kan, x)
    keep = trace.peak < PEAKS[precision]
    x, expected, read = x[keep], expected[keep], trace.y[keep]
    finite = np.isfinite(expected)
    if not np.array_equal(read[~finite], expected[~finite], equal_nan=True) or not np.isfinite(read[finite]).all():
        return np.inf
    with np.errstate(invalid="ignore"):
        errors = np.where(finite, np.abs(read - expected), 0).max(axis=1, initial=0)
    heights = np.where(finite, np.abs(expected), 0).max(axis=1, initial=0)
    scale = np.maximum(heights, FLOOR * heights.max(initial=0))
    scale[scale == 0] = 1.0
    jitters = [Jitter(float(np.finfo(precision).eps) / 2, seed) for seed in range(DRAWS)]
    for rounding in (_reading_sensitivity, _module_sensitivity):
        if (errors / scale).max(initial=0) <= AGREEMENT[precision]:
            break
        changes = np.max([rounding(call, kan, x, jitter) for jitter in jitters], axis=0)
        errors = np.maximum(errors - CONDITION * changes, 0)
    return float((errors / scale).max(initial=0))


def _reading_sensitivity(call: Call, kan: Kan, x: Array, jitter: Jitter) -> Array:
    """[N]: the change of each row by rounding of nodes and weights."""
    return _change(float64_reference.evaluate(kan, x).y, float64_reference.evaluate(kan, x, jitter=jitter).y)


def _module_sensitivity(call: Call, kan: Kan, x: Array, jitter: Jitter) -> Array:
    """[N]: the change of the outputs of the module by rounding of its input; zero if the module does not accept the
    rows. Some formulas, such as truncated powers, lose all digits far from the grid."""
    before, after = (
        np.concatenate(
            [np.zeros((0, kan.n_outputs)), *(again.y.reshape(-1, kan.n_outputs) for again in calls(call, rows))]
        )
        for rows in (x, jitter.shake(x))
    )
    return _change(before[: len(x)], after[: len(x)]) if len(before) == len(after) >= len(x) else np.zeros(len(x))


def _change(before: Array, after: Array) -> Array:
    with np.errstate(invalid="ignore"):
        change = np.abs(after - before).max(axis=1, initial=0, where=np.isfinite(before))
    return np.asarray(np.nan_to_num(change, nan=np.inf, posinf=np.inf))


TIMES = (1.0, 10.0, 1e3, 1e6)  # of a range
SIGNED, SIDED = 3, 2  # rows at each of these with all signs, and with one
SOURCES = 16  # at most that are set apart one at a time
NUMBERS = 4_000_000  # basis values held at a time
LARGEST = 1e30  # no input is that large


def groups(call: Call, kan: Kan) -> Iterator[tuple[str, Array]]:
    """Vectors [N, n] by group, each with a text for its place: at multiples of the range of the layer and of the
    range of the example, with all signs and with one, zeros, single sources far out, NaN and both infinities. All
    are representable in float32."""
    rng, n = np.random.default_rng(0), kan.n_inputs
    centre, own = _own_range(kan)
    seen = np.full(n, magnitude(call.x) or 1.0)
    for times in TIMES:
        around = [_spread(rng, centre, own * times), _spread(rng, np.zeros_like(centre), seen * times)]
        yield f"at {times:g} times its range", _narrowed(np.concatenate(around))
    yield "at zero", np.zeros((1, n))
    ordinary = _narrowed(centre + own * rng.uniform(-1, 1, size=n))
    count = int(np.clip(_at_once(kan) // 4, 2, SOURCES))
    places = np.unique(np.linspace(0, n - 1, count).round().astype(int))
    for times in TIMES[1:]:
        rows = np.repeat(ordinary[None], 2 * len(places), axis=0)
        rows[np.arange(len(rows)), np.repeat(places, 2)] = np.outer((own * times)[places], (-1, 1)).reshape(-1)
        yield f"with one source at {times:g} times its range", _narrowed(rows)
    for value in VALUES:
        # The value in one place at a time, in every second place, and in all.
        rows = np.repeat(ordinary[None], len(places) + 2, axis=0)
        rows[np.arange(len(places)), places] = value
        rows[-2, ::2], rows[-1] = value, value
        yield f"with a source that is {value:g}", rows


def calls(call: Call, rows: Array) -> Iterator[Call]:
    """The call repeated with vectors [N, n]: with more rows or, if the module does not accept them, with the same
    number of rows. Empty if it accepts neither."""
    n, size = rows.shape[1], call.x.size
    each, vectors = divmod(size, n)[0], max(1, len(rows))
    if not each or size % n:
        return
    if call.x.ndim >= 2 and call.x.shape[-1] == n:
        inner = each // call.x.shape[0]
        first = -(-vectors // inner)
        repeated = call.rerun(np.resize(rows, (first, *call.x.shape[1:])))
        if repeated is not None and repeated.y.size * each == call.y.size * first * inner:
            yield repeated
            return
    for at in range(0, vectors, each):
        repeated = call.rerun(np.resize(rows[at : at + each], call.x.shape))
        if repeated is not None:
            yield repeated


def _at_once(kan: Kan) -> int:
    """The number of vectors that are evaluated at a time."""
    return max(1, NUMBERS // max(max(test_points.basis_size(layer), layer.mask.size) for layer in kan.layers))


def _own_range(kan: Kan) -> tuple[Array, Array]:
    """Middle and half of the range of the functions of the first layer, for every input."""
    first = kan.layers[0]
    with np.errstate(all="ignore"):
        low, high = (np.nan_to_num(end, posinf=LARGEST, neginf=-LARGEST) for end in first.support().core)
    if len(low) != kan.n_inputs:  # columns are selected
        low, high = np.full(kan.n_inputs, low.min()), np.full(kan.n_inputs, high.max())
    half = np.clip((high - low) / 2, 1e-6, LARGEST)
    return np.clip((low + high) / 2, -LARGEST, LARGEST), half


def _spread(rng: np.random.Generator, centre: Array, half: Array) -> Array:
    """Rows around a center [n]: to both sides, then to one, then to the other."""
    n = len(centre)
    sides = [rng.uniform(-1, 1, size=(SIGNED, n)), rng.uniform(0, 1, size=(SIDED, n))]
    return np.asarray(centre + half * np.concatenate([*sides, -rng.uniform(0, 1, size=(SIDED, n))]))


def _narrowed(rows: Array) -> Array:
    return rounded(np.clip(rows, -LARGEST, LARGEST))


Places = npt.NDArray[np.bool_]

FAR = (10.0, 1e3)  # times an example row
VALUES = (np.nan, np.inf, -np.inf)


def floating(ports: Sequence[Port], x: Array) -> Places:
    """A mask of the floating-point numbers of a row [N], flat: other ids of tokens may be invalid."""
    if len(ports) == 1:
        return np.full(x[0].size, ports[0].kind == FLOAT)
    return np.concatenate([np.full(port.size, port.kind == FLOAT) for port in ports])


def far(x: Array, places: Places) -> Array:
    """A few rows [B, ...] like the example, and their negatives, far away. `places`: as `floating` returns."""
    few = x[:2].reshape(len(x[:2]), -1)
    rows = np.concatenate([np.where(places, sign * times * few, few) for times in FAR for sign in (1, -1)])
    return rounded(rows.reshape(-1, *x.shape[1:]))


def nonfinite(x: Array, places: Places) -> dict[str, Array]:
    """Rows [1, ...] with NaN or an infinity in one place or all, by texts such as "NaN in the middle"."""
    every = np.flatnonzero(places)
    size, spots = len(every), {}
    if size > 1:
        spots["in the middle"] = every[size // 2 : size // 2 + 1]
    if size:
        spots["in every place"] = every
    if size > 2:
        spots |= {"in the first place": every[:1], "in the last place": every[-1:]}
    rows = {}
    for words, spoilt in spots.items():
        for value in VALUES:
            row = x[:1].copy()
            row.reshape(-1)[spoilt] = value
            rows[f"{number_text(value)} {words}"] = row
    return rows


def number_text(value: float) -> str:
    """A number as text."""
    if np.isnan(value):
        return "NaN"
    return f"{value:.3g}" if np.isfinite(value) else "infinity" if value > 0 else "-infinity"
