"""Search for the interpretation of a file that reproduces the outputs of the trained model, the most likely ones first.

A reading is a reader and values for what the file leaves open (`Options.open`). The search changes one fact, then
two, then three, until a round has readings that fit. A reading fits if rounding explains its errors. The search takes
the nearest of these readings, unless a likelier one is about as near, and compares it with all rows. If some rows rule
it out, they join the few rows, and the search begins again. Then the search changes each fact by itself. If another
value of a fact fits as well, the outputs do not decide this fact, and the decision lists that value.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.errors import USE_MODULE, ExportError, MissingFunctions, OpenQuestion, OutputsDiffer
from kanexport.ir.model import Kan
from kanexport.options import FORWARD, KnownFacts, Options
from kanexport.parity import compare
from kanexport.parity.compare import Match
from kanexport.parity.data import RecordedOutputs

FEW_ROWS = 48  # of the recorded rows, that every reading is tried on
JOINING = 16  # rows that join the few: those at which a reading that fits the few has its largest errors
SEARCHES = 3  # at most; each repetition adds such rows
READINGS = 1200  # readings that one search tries at most
AROUND = ("flow", "before", "between", "after")  # facts about the steps around the layers
AFTER = 120  # readings that the search tries in a round after the first one that fits
NUMBERS = 12  # readings that are tried with other numbers, those that were nearest
MISSING = 3  # readings without functions of symbolic edges, for which the search tries pykan's table
BESIDE = 1.01  # times a number that fits: whether the recorded outputs would notice
DISTINCT = 3  # numbers among the recorded outputs; with fewer, only the reading that would be assumed may fit
CHANGES = 3  # from what would be assumed
NEARER = 3.0  # factor by which a less likely reading must be nearer for the search to take it

Facts = Mapping[str, str]
Read = Callable[[Options], tuple[Kan, str]]


@dataclass(frozen=True, slots=True)
class Interpretation:
    """Interpretation of a file: the reason for it, as in the manifest, and the function that reads the file with
    options and returns the network and its family."""

    reason: str
    read: Read


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Network by the interpretation number `at`, with the facts that replace assumed ones."""

    at: int
    facts: Facts
    kan: Kan
    family: str
    options: Options
    match: Match


@dataclass(frozen=True, slots=True)
class Decision:
    """Interpretation that reproduces the recorded outputs.

    decided   the facts that the outputs decide, by name
    also      for each fact that they leave open, the other values that fit; the reading still assumes its own value
    families  the other families that fit
    notes     the reading's error beyond what rounding explains, if a tolerance allows it
    """

    reading: Reading
    decided: dict[str, str]
    also: dict[str, tuple[str, ...]]
    families: tuple[str, ...]
    notes: tuple[str, ...]


class InterpretationSearch:
    """Search over the interpretations of one file, on a few of its recorded outputs.

    facts      from the user, to which the search adds the facts to try
    tolerance  the user's
    advance    receives the number of readings tried so far, and their largest number
    """

    def __init__(
        self,
        interpretations: Sequence[Interpretation],
        recorded: RecordedOutputs,
        facts: KnownFacts,
        tolerance: float,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.interpretations, self.all, self.recorded = interpretations, recorded, recorded.some(FEW_ROWS)
        self.facts = dataclasses.replace(facts, width=recorded.x[0].size, outputs=recorded.y[0].size)
        self.advance = advance
        self.relaxed = compare.relaxation(recorded, tolerance)
        self.tried: dict[tuple[int, frozenset[tuple[str, str]]], Reading | None] = {}
        self.questions: dict[tuple[int, frozenset[tuple[str, str]]], dict[str, tuple[str, ...]]] = {}
        self.known: dict[tuple[int, str], dict[str, None]] = {}  # all values of a fact that were heard of
        self.first: ExportError | None = None  # why the likeliest interpretation failed
        self.missing: list[tuple[int, Facts, MissingFunctions]] = []  # readings that lack functions of symbolic edges
        self.lacking = 0  # the number of these for which the search tried functions
        self.nameless: MissingFunctions | None = None
        self.telling = compare.distinct(recorded) >= DISTINCT

    def decide(self) -> Decision:
        """Raises OutputsDiffer if no known interpretation fits, and the error of the reader if there is no
        interpretation."""
        for _ in range(SEARCHES):
            fitting = self._search()
            best = min(fitting, key=lambda reading: reading.match.excess)
            enough = NEARER * max(best.match.excess, 1 / NEARER**2)
            chosen = self._simpler(next(reading for reading in fitting if reading.match.excess <= enough))
            whole = compare.reading(chosen.kan, self.all, self.relaxed)
            if whole.fits or not whole.worst:
                break
            # The search starts again, with more rows.
            self.recorded = self.recorded.joined(self.all.at(whole.worst[:JOINING]))
            self.tried.clear()
            self.lacking = 0
        if not whole.fits:
            raise self._nearest([dataclasses.replace(chosen, match=whole)])
        decided, also = self._decided_facts(chosen)
        others = dict.fromkeys(reading.family for reading in fitting if reading.family != chosen.family)
        notes = compare.match_notes(whole, self.all, "the interpretation of the checkpoint")
        return Decision(chosen, decided, also, tuple(others), notes)

    def _simpler(self, reading: Reading) -> Reading:
        """The interpretation with the fewest changed facts that fits about equally well."""
        enough = NEARER * max(reading.match.excess, 1 / NEARER**2)
        for key in reading.facts:
            other = self._try(reading.at, {name: value for name, value in reading.facts.items() if name != key})
            if other is not None and other.match.fits and other.match.excess <= enough:
                return self._simpler(other)
        return reading

    def _search(self) -> list[Reading]:
        """All interpretations that fit, of the first round that has one, the most likely first, then their
        neighbors."""
        round_: list[tuple[int, Facts]] = [(at, {}) for at in range(len(self.interpretations))]
        for _ in range(CHANGES + 1):
            fitting = self._fitting(round_)
            if not self.telling:
                break
            if fitting:
                near = self._next([(reading.at, reading.facts) for reading in fitting])
                return fitting + self._fitting(near)
            if named := self._by_function():
                return named
            round_ = self._next(round_)
        readings = fitting if not self.telling else self._by_number()
        if not readings:
            raise self._refusal()
        return readings

    def _by_function(self) -> list[Reading]:
        """The interpretation that fits if symbolic edges without a function take one from the table of pykan, if there
        is one."""
        waiting, self.lacking = self.missing[: MISSING - self.lacking], min(MISSING, self.lacking + len(self.missing))
        self.nameless = self.nameless or next((error for _, _, error in self.missing), None)
        self.missing.clear()
        for at, facts, error in waiting:

            def unlike(names: Facts, at: int = at, facts: Facts = facts) -> tuple[float, bool]:
                reading = self._read(at, {**facts, **names})
                return (reading.match.unlike, reading.match.fits) if reading is not None else (float("inf"), False)

            names = fitting_functions(unlike, error.keys, error.among)
            if names is not None and (reading := self._try(at, {**facts, **names})) is not None:
                self._learn(at, dict.fromkeys(error.keys, error.among))
                return [reading]
        return []

    def _by_number(self) -> list[Reading]:
        """The interpretation that fits with a number that the file leaves open, if there is one."""
        nearest = sorted(filter(None, self.tried.values()), key=_unlike)
        for near in [near for near in nearest if len(near.facts) < CHANGES][:NUMBERS]:
            for key, text in near.options.numbers.items():

                def error(value: float, near: Reading = near, key: str = key) -> float:
                    reading = self._read(near.at, {**near.facts, key: repr(value)})
                    return reading.match.max_rel if reading is not None else float("inf")

                reading = self._try(near.at, {**near.facts, key: f"{likeliest(error, float(text)):.9g}"})
                if reading is not None and reading.match.fits:
                    return [reading]
        return []

    def _fitting(self, round_: Sequence[tuple[int, Facts]]) -> list[Reading]:
        """The interpretations of a round that fit. The round is in the order of likelihood. After the first one that
        fits, the search tests at most AFTER more, and at most READINGS in all."""
        fitting: list[Reading] = []
        left = max(0, READINGS - len(self.tried))
        for number, (at, facts) in enumerate(round_):
            if number >= left:
                break
            reading = self._try(at, facts)
            if reading is not None and reading.match.fits:
                fitting.append(reading)
                left = min(left, number + AFTER)
        return fitting

    def _next(self, round_: Sequence[tuple[int, Facts]]) -> list[tuple[int, Facts]]:
        """Every interpretation of a round with one more fact, the nearer ones first. Facts about the steps around
        the layers are last."""

        def unlike(candidate: tuple[int, Facts]) -> float:
            reading = self.tried.get((candidate[0], _key(candidate[1])))
            return reading.match.unlike if reading is not None else float("inf")

        changed = []
        for at, facts in sorted(round_, key=unlike):
            open_facts = self.questions.get((at, _key(facts)), {})
            for key in [key for key in open_facts if key not in facts]:
                changed += [(at, key, {**facts, key: value}) for value in open_facts[key]]
        return [(at, facts) for at, _, facts in sorted(changed, key=lambda candidate: candidate[1] in AROUND)]

    def _try(self, at: int, facts: Facts) -> Reading | None:
        """The network of one interpretation, compared with the recorded outputs; None if it cannot be read."""
        known = (at, _key(facts))
        if known not in self.tried:
            self.advance(min(len(self.tried), READINGS), READINGS)
            self.tried[known] = self._read(at, facts)
        return self.tried[known]

    def _read(self, at: int, facts: Facts) -> Reading | None:
        options = Options(dataclasses.replace(self.facts, tried=facts))
        try:
            kan, family = self.interpretations[at].read(options)
            result = compare.reading(kan, self.recorded, self.relaxed)
        except ExportError as error:
            self.first = self.first or error
            if isinstance(error, MissingFunctions) and not any(key in facts for key in error.keys):
                self.missing.append((at, dict(facts), error))
            question = {error.key: error.among} if isinstance(error, OpenQuestion) else {}
            self._ask(at, facts, options, question)
            return None
        self._ask(at, facts, options, {})
        return Reading(at, dict(facts), kan, family, options, result)

    def _ask(self, at: int, facts: Facts, options: Options, question: Mapping[str, tuple[str, ...]]) -> None:
        """Record the open questions after an interpretation, also after one that failed: another forward may accept
        the tensors. The `question` that stopped it is the first."""
        questions = self.questions.setdefault((at, _key(facts)), {})
        questions |= question
        questions |= {key: values for key, values in options.open.items() if key not in facts}
        open_values = options.open | dict.fromkeys(options.numbers, ())
        assumed = {key: (options.assumed[key], *open_values[key]) for key in open_values if key in options.assumed}
        self._learn(at, dict(question) | assumed)

    def _learn(self, at: int, values: Mapping[str, Sequence[str]]) -> None:
        """Record the values that facts may have, from an interpretation."""
        for key, some in values.items():
            self.known.setdefault((at, key), {}).update(dict.fromkeys(some))

    def _decided_facts(self, chosen: Reading) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """The facts of the chosen interpretation that the recorded outputs decide, and for the others the values
        that fit equally well."""
        taken = {**chosen.options.assumed, **chosen.facts}
        also: dict[str, tuple[str, ...]] = {}
        for key, value in taken.items():
            others = self._values(chosen, key, value)
            fitting = tuple(other for other in others if self._as_well(chosen, key, other))
            if fitting:
                also[key] = fitting
        own = {} if FORWARD in chosen.options.explicit or FORWARD in taken else {FORWARD: chosen.family}
        return own | {key: value for key, value in taken.items() if key not in also}, also

    def _values(self, chosen: Reading, key: str, taken: str) -> tuple[str, ...]:
        """The other values of a fact of the chosen interpretation; for an arbitrary number, one number near it."""
        others = tuple(value for value in self.known.get((chosen.at, key), ()) if value != taken)
        is_number = taken.replace(".", "", 1).replace("e-", "", 1).isdecimal()
        if key in chosen.options.numbers and not others and is_number:
            return (f"{float(taken) * BESIDE:.6g}",)
        return others

    def _as_well(self, chosen: Reading, key: str, value: str) -> bool:
        """Whether the chosen interpretation with another value of one fact fits the recorded outputs equally well."""
        assumed = key not in chosen.facts and chosen.options.assumed.get(key) == value
        other = chosen if assumed else self._try(chosen.at, {**chosen.facts, key: value})
        return other is not None and other.match.fits

    def _refusal(self) -> ExportError:
        readings = [reading for reading in self.tried.values() if reading is not None]
        if self.nameless is not None:
            return OutputsDiffer(
                f"{self.nameless.message}; no functions of the table of pykan reproduce the recorded outputs",
                code="expected-outputs-not-reproduced",
                hint=f"{self.nameless.hint}; or {USE_MODULE} --checkpoint FILE",
            )
        if not readings:
            assert self.first is not None
            return self.first
        compared = [reading for reading in readings if reading.match.enough]
        if not compared:
            return compare.too_few(readings[0].match, self.recorded)
        return self._nearest(compared)

    def _nearest(self, readings: Sequence[Reading]) -> OutputsDiffer:
        """The error if no interpretation fits. It names the nearest one: the one with the most similar shape of
        outputs."""
        nearest = min(readings, key=_unlike)
        facts = ", ".join(f"{key}={value}" for key, value in {**nearest.options.assumed, **nearest.facts}.items())
        result, count = nearest.match, max(1, sum(reading is not None for reading in self.tried.values()))
        more = "record outputs with more different values, which distinguish interpretations; or "
        return OutputsDiffer(
            f"none of {count} known interpretations of the file reproduces the recorded outputs; the nearest is "
            f"{nearest.family} ({facts or 'nothing assumed'}): off by {result.error:.2e} relative at "
            f"{result.where}; rounding explains {compare.EXPLAINED * result.explained:.1e}",
            code="expected-outputs-not-reproduced",
            hint=f"nothing was written; {'' if self.telling else more}{USE_MODULE} --checkpoint FILE",
        )


def _unlike(reading: Reading) -> tuple[float, float]:
    """The difference in shape between the outputs of an interpretation and the recorded ones, then its largest
    error."""
    return (reading.match.unlike, reading.match.max_rel)


def _key(facts: Facts) -> frozenset[tuple[str, str]]:
    return frozenset(facts.items())


SPAN = 16.0  # times the number that would be assumed, up and down
STEPS = 33  # of that span, on a logarithmic scale
PROMISING = 0.3  # times the error of what would be assumed: less than that is worth a closer look
HALVINGS = 40  # of the interval around the best step
DIGITS = 9  # of a number that its user may have written

Error = Callable[[float], float]


def likeliest(error: Error, assumed: float) -> float:
    """The number near `assumed` with the smallest error, with the fewest digits that give nearly the same error."""
    if assumed == 0 or not math.isfinite(assumed):
        return assumed
    grid = [float(assumed * factor) for factor in np.geomspace(1 / SPAN, SPAN, STEPS)]
    errors = [error(value) for value in grid]
    at = int(np.argmin(errors))
    if errors[at] > PROMISING * error(assumed):
        return assumed
    low, high = grid[max(at - 1, 0)], grid[min(at + 1, STEPS - 1)]
    value = _bisected(error, low, high)
    bound = 4 * error(value)  # a user wrote 0.8, not 0.80000012
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, DIGITS))
    return next((short for short in shorter if error(short) <= bound), value)


def _bisected(error: Error, low: float, high: float) -> float:
    """The minimum of a function with one minimum between two points, by the golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    errors = [error(value) for value in inner]
    for _ in range(HALVINGS):
        if errors[0] <= errors[1]:
            high, inner[1], errors[1] = inner[1], inner[0], errors[0]
            inner[0] = high - ratio * (high - low)
            errors[0] = error(inner[0])
        else:
            low, inner[0], errors[0] = inner[0], inner[1], errors[1]
            inner[1] = low + ratio * (high - low)
            errors[1] = error(inner[1])
    return (low + high) / 2


STARTS = ("x", "sin", "x^2", "exp")
SWEEPS = 4  # passes over all edges, at most
NAME_SETS_LIMIT = 4000  # readings that the search tries for one file, at most
PAIRED = 4  # the largest number of edges at which the search tries pairs of them

Names = Mapping[str, str]
Unlike = Callable[[Names], tuple[float, bool]]  # from names by edge: how unlike the outputs are, and whether they fit


class _SearchLimit(Exception):
    """The search has tested NAME_SETS_LIMIT interpretations."""


def fitting_functions(unlike: Unlike, keys: Sequence[str], table: Sequence[str]) -> Names | None:
    """The names from the table, by edge, with which the outputs fit. None if no names fit, or if the search would
    test more than NAME_SETS_LIMIT interpretations."""
    search = _Search(unlike, keys, table)
    try:
        for start in STARTS:
            if (names := search.descend(dict.fromkeys(keys, start))) is not None:
                return names
        return search.pairs()
    except _SearchLimit:
        return None


class _Search:
    def __init__(self, unlike: Unlike, keys: Sequence[str], table: Sequence[str]) -> None:
        self.unlike, self.keys, self.table = unlike, keys, table
        self.tried: dict[tuple[str, ...], tuple[float, bool]] = {}
        self.best: tuple[float, Names] = (math.inf, {})

    def descend(self, names: Names) -> Names | None:
        """Search from a start, one edge after the other."""
        score, fits = self._try(names)
        for _ in range(SWEEPS):
            before = score
            for key in self.keys:
                for name in self.table:
                    other = {**names, key: name}
                    new, fits = self._try(other)
                    if fits:
                        return other
                    if new < score:
                        names, score = other, new
            if score >= before:
                break
        return None

    def pairs(self) -> Names | None:
        """Test all pairs of edges together, with the best names so far for the other edges."""
        names = self.best[1]
        for pair in itertools.combinations(self.keys if len(self.keys) <= PAIRED else (), 2):
            for two in itertools.product(self.table, repeat=2):
                other = {**names, **dict(zip(pair, two, strict=True))}
                if self._try(other)[1]:
                    return other
        return None

    def _try(self, names: Names) -> tuple[float, bool]:
        known = tuple(names[key] for key in self.keys)
        if known not in self.tried:
            if len(self.tried) >= NAME_SETS_LIMIT:
                raise _SearchLimit
            self.tried[known] = self.unlike(names)
            self.best = min(self.best, (self.tried[known][0], names), key=lambda candidate: candidate[0])
        return self.tried[known]
