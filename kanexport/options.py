"""Options of an export: facts that a checkpoint does not record. The user gives them, or they are assumed and
recorded."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kanexport.errors import OpenQuestion, OptionError, option_value_unknown
from kanexport.shared.cli.suggest import advice

# The keys of --symbolic and --function in `KnownFacts.explicit` begin with these: "symbolic 1,3,0", "function mine".
SYMBOLIC, FUNCTION = "symbolic ", "function "
MAX_INTEGER_CHARACTERS = 9  # of an integer; Python takes quadratic time over long ones
MAX_NAME_CHARACTERS = 100  # of a user's function; the name stands in messages and in the manifest
# The same fact under the names that two libraries have for it.
ALIASES = {"base_fun": "base_activation", "base_activation": "base_fun"}
LISTED = 12  # other values of an assumed fact that a note lists; if there are more, it adds their number
OWN_FORWARD = "as the code of the library computes it"
option_malformed = functools.partial(OptionError, code="option-malformed")
OTHERS = (
    f"{OWN_FORWARD}; a single tensor name does not identify the function; to select another function of the same "
    "coefficients, pass --family by-shape --option forward=chebyshev-of-tanh, legendre-of-x and so on; with "
    "--expected-outputs, the exporter compares them"
)
FORWARD = "forward"  # which library's forward: of all that is assumed, what can be wrong by most
EPSILONS = ("1e-5", "1e-3", "1e-6", "1e-8", "1e-12")  # of normalisations in published models, torch's first


@dataclass(frozen=True, slots=True)
class KnownFacts:
    """Facts that are known before a file is read.

    explicit  the pairs of `--option key=value`, and those of `--symbolic` and `--function`
    tried     values on behalf of recorded outputs, for what the user did not give
    width     of the rows that the trained model took, if its outputs are recorded
    outputs   numbers per row of these outputs
    shared    whether the pairs are for many files; this one may have no use for them
    """

    explicit: Mapping[str, str] = field(default_factory=dict)
    tried: Mapping[str, str] = field(default_factory=dict)
    width: int | None = None
    outputs: int | None = None
    shared: bool = False

    @classmethod
    def parse(
        cls,
        pairs: Sequence[str],
        *,
        symbolic: Sequence[str] = (),
        functions: Sequence[str] = (),
        shared: bool = False,
    ) -> KnownFacts:
        """Facts from "key=value", "layer,source,destination=name" and "name=expression" texts. Raises OptionError."""
        explicit: dict[str, str] = {}

        def put(key: str, value: str, shown: str) -> None:
            if key in explicit:
                raise OptionError(f"{shown} is given twice", code="option-repeated", hint="remove one of the two")
            explicit[key] = value

        for pair in pairs:
            key, equals, value = (part.strip() for part in pair.partition("="))
            if not equals or not key:
                raise option_malformed(
                    f"invalid option {pair[:80]!r}, expected KEY=VALUE", hint="write --option key=value"
                )
            put(key, value, f"option {key!r}")
        for text in symbolic:
            place, name = _symbolic(text)
            put(SYMBOLIC + place, name, f"--symbolic {place}")
        for text in functions:
            name, expression = _function(text)
            put(FUNCTION + name, expression, f"--function {name}")
        return cls(explicit, shared=shared)

    def functions(self) -> dict[str, str]:
        """All functions that the user defined, by name, as text. `function` returns one of them."""
        return {key.removeprefix(FUNCTION): value for key, value in self.explicit.items() if key.startswith(FUNCTION)}


class Options:
    """Facts of one export: a reader takes those that it needs, and the options record those that it assumes instead.

    facts     known before the file is read
    explicit  of these, the pairs of the user; after `finish`, those that apply to the file
    assumed   facts that the exporter assumes, because the user gave none, by key
    decided   facts that recorded outputs of the trained model decide
    open      for each assumed fact, the other values that the file would allow, as far as they can be listed
    words     texts on assumed facts
    numbers   of the assumed facts, those that may be any number
    single    whether only the name of one tensor identifies the library
    mixed     layers or files of several families: a forward that one does not know may be another's
    """

    def __init__(self, facts: KnownFacts) -> None:
        self.facts, self.explicit = facts, dict(facts.explicit)
        self.assumed: dict[str, str] = {}
        self.decided: dict[str, str] = {}
        self.open: dict[str, tuple[str, ...]] = {}
        self.words: dict[str, str] = {}
        self.numbers: dict[str, str] = {}
        self.single, self.mixed = False, facts.shared
        self._known: set[str] = set()
        self._forwards: dict[str, None] = {}  # all that the families know

    def function(self, name: str) -> str | None:
        """The function that the user defined with this name, as text."""
        return self.optional(FUNCTION + name)

    def symbolic(self, edge: tuple[int, int, int]) -> str | None:
        """The name of the function that the user gave for an edge (layer, source, destination)."""
        return self.optional(SYMBOLIC + ",".join(map(str, edge)))

    def optional(self, key: str) -> str | None:
        """The value if given, also under the name that another library uses for it."""
        alias = ALIASES.get(key)
        if alias is not None and key not in self.explicit and alias in self.explicit:
            key = alias  # `facts.tried` has the names that readers ask by
        self._known.add(key)
        return self.explicit.get(key, self.facts.tried.get(key))

    def assume(self, key: str, value: str, *, among: Iterable[str] = (), words: str = "") -> None:
        """Record an assumed fact. If layers differ, record each value once.

        among  all known values, for the alternatives
        words  the same for people
        """
        known = self.assumed.get(key)
        if not known or value not in known.split(", "):
            self.assumed[key] = f"{known}, {value}" if known else value
        if key == FORWARD:  # listed first
            self.assumed = {key: self.assumed[key], **self.assumed}
        others = tuple(other for other in among if other != value)
        if others:
            self.open[key] = tuple(dict.fromkeys((*self.open.get(key, ()), *others)))
        if words:
            self.words[key] = words

    def forward(self, own: str, rivals: Mapping[str, str]) -> str:
        """The forward variant, if several libraries write the same tensors and compute different functions. `own`,
        the variant of the original library, is assumed. `rivals` maps the value of the option to a description of
        the variant, such as "TimeKAN, which applies tanh twice". If families are `mixed`, the value may be several
        names with commas between them; each family takes its own. Raises OptionError."""
        others = "; ".join(f"{words} (--option {FORWARD}={name})" for name, words in rivals.items())
        names = (own, *rivals)
        self._forwards |= dict.fromkeys(names)
        said = self._forward_names() if self.mixed else []
        if not said:
            return self.choice(FORWARD, names, own, words=f"the same tensors also fit {others}")
        mine = [name for name in said if name in names]
        if not mine:
            self.assume(FORWARD, own, among=names)
        return mine[0] if mine else own

    def _forward_names(self) -> list[str]:
        return [name.strip().lower() for name in (self.optional(FORWARD) or "").split(",") if name.strip()]

    def text(self, key: str, default: str, stored: str | None = None, *, among: Iterable[str] = ()) -> str:
        """The value, or the value `stored` in the file, or the default, which is then recorded as assumed. `among`:
        other possible values, as far as they can be listed."""
        value = self.optional(key)
        if value is None and stored is not None:
            return stored
        if value is None:
            self.assume(key, default, among=among)
            return default
        return value

    def number(self, key: str, default: str, *, among: Iterable[str] = ()) -> float:
        """A finite number, or the default, which is then recorded as assumed. `among`: usual values. Raises
        OptionError."""
        text = self.text(key, default, among=among)
        if key in self.assumed:
            self.numbers[key] = text
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) and key not in self.explicit:
            raise OptionError(
                f"option {key} cannot be derived: the weights give {text}, expected a finite number",
                code="option-not-derivable",
                hint=f"pass the value with --option {key}=VALUE",
            )
        if not math.isfinite(value):
            raise OptionError(
                f"option {key} is {text[:80]!r}, expected a finite number",
                code="option-not-a-number",
                hint=f"write a number, such as --option {key}={default}",
            )
        return value

    def alternatives(self) -> dict[str, str]:
        """The other values that fit the file for each assumed fact, as text."""
        listed = {}
        for key, others in self.open.items():
            more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
            listed[key] = f"or {', '.join(others[:LISTED])}{more}"
        return {key: text for key, text in (listed | self.words).items() if key in self.assumed}

    def record_decisions(self, decided: Mapping[str, str], also: Mapping[str, Sequence[str]]) -> None:
        """Record the facts that outputs of the trained model have `decided`. For the facts in `also`, several values
        fit equally well."""
        self.decided = dict(decided)
        self.assumed = {
            key: value for key, value in (self.assumed | dict(self.facts.tried)).items() if key not in decided
        }
        self.words = {key: f"the expected outputs also fit {', '.join(values)}" for key, values in also.items()}
        self.open = {}

    def integer(self, key: str, *, at_least: int = 0) -> int | None:
        """One integer, if given. Raises OptionError."""
        numbers = self.integers(key)
        if numbers is None:
            return None
        if len(numbers) != 1 or numbers[0] < at_least:
            shown = ",".join(map(str, numbers))
            raise OptionError(
                f"option {key} is {shown[:80]!r}, expected one integer, at least {at_least}",
                code="option-not-an-integer",
                hint=f"pass --option {key}=N",
            )
        return numbers[0]

    def choice(self, key: str, known: Iterable[str], default: str, *, words: str = "") -> str:
        """One of a few names, or the default, which is then recorded as assumed. `words`: text about the
        alternatives. Raises OptionError."""
        names = tuple(known)
        value = self.text(key, default, among=names).lower()
        if value not in names:
            raise option_value_unknown(
                f"option {key} is {value[:80]!r}, expected one of {len(names)} names",
                hint=advice(value, names, what="available"),
            )
        if words and key in self.assumed:
            self.words[key] = words
        return value

    def must(self, key: str, known: Iterable[str], what: str) -> str:
        """One of a few names that the user, or recorded outputs of the trained model, must give, because no default
        is more likely than another. `what` describes the ambiguity. Raises OpenQuestion if the name is not given,
        and OptionError."""
        names = tuple(known)
        if self.optional(key) is None:
            raise OpenQuestion(what, key, names)
        return self.choice(key, names, names[0])

    def must_forward(self, names: Iterable[str], what: str) -> str:
        """The name of the forward variant, one of `names`, if the file does not decide it, as `must`. Raises
        OpenQuestion and OptionError."""
        names = tuple(names)
        self._forwards |= dict.fromkeys(names)
        return self.must(FORWARD, names, what)

    def integers(self, key: str) -> tuple[int, ...] | None:
        """Comma-separated non-negative integers, if given. Raises OptionError."""
        value = self.optional(key)
        if value is None:
            return None
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and len(part) <= MAX_INTEGER_CHARACTERS for part in parts):
            raise OptionError(
                f"option {key} is {value[:80]!r}, expected integers",
                code="option-not-an-integer",
                hint=f"write integers with commas between them, such as --option {key}=0,2",
            )
        return tuple(int(part) for part in parts)

    def finish(self, family: str) -> None:
        """Raises OptionError for an option that no reader used, and for a forward variant that no layer has. Those that
        are for many files are dropped instead. If the family has no known alternative forward, its own forward is
        recorded as assumed."""
        unknown, unused = self._unknown_forward(family), sorted(set(self.explicit) - self._known)
        if self.facts.shared:
            for key in {*unused, FORWARD} if unknown else unused:
                del self.explicit[key]
        elif unknown or unused:
            raise unknown or self._unused(unused[0], family)
        if self.optional(FORWARD) is None and FORWARD not in self.assumed | self.decided:
            self.assume(FORWARD, family, words=OTHERS if self.single else OWN_FORWARD)

    def _unknown_forward(self, family: str) -> OptionError | None:
        """The error for a forward variant that no layer has, if the user names one."""
        known = {**self._forwards, family: None, **dict.fromkeys(family.split("+"))}
        unknown = next((name for name in self._forward_names() if name not in known), None)
        if unknown is None:
            return None
        return option_value_unknown(
            f"option {FORWARD} is {unknown[:80]!r}, which no layer of library {family} has",
            hint=advice(unknown, known, what="available"),
        )

    def _unused(self, key: str, family: str) -> OptionError:
        if key.startswith(SYMBOLIC):
            return OptionError(
                f"--{key:.80}={self.explicit[key]:.80}: the model has no such symbolic edge",
                code="symbolic-edge-unknown",
                hint="check the layer, source and destination; they count from 0",
            )
        if key.startswith(FUNCTION):
            return OptionError(
                f"--{key:.80}: no symbolic edge of the model uses a function of that name",
                code="function-unused",
                hint="remove the function, or check its name",
            )
        known = sorted(name for name in self._known if " " not in name)
        return OptionError(
            f"unknown option {key[:80]!r}: library {family} does not use it",
            code="option-unknown",
            hint=advice(key, known, what="available") or f"remove --option {key[:80]}",
        )


def _symbolic(text: str) -> tuple[str, str]:
    """ "1,3,0=sin" as the edge's key "1,3,0" and the name. Raises OptionError."""
    place, equals, name = text.partition("=")
    parts = [part.strip() for part in place.split(",")]
    fits = len(parts) == 3 and all(part.isdecimal() and len(part) <= MAX_INTEGER_CHARACTERS for part in parts)
    if not equals or not fits or not name.strip():
        raise option_malformed(
            f"invalid --symbolic {text[:80]!r}", hint="write --symbolic LAYER,SOURCE,DESTINATION=NAME, counted from 0"
        )
    return ",".join(str(int(part)) for part in parts), name.strip()


def _function(text: str) -> tuple[str, str]:
    """ "xsinx=x*sin(x)" as name and expression. Raises OptionError."""
    name, equals, expression = (part.strip() for part in text.partition("="))
    if not equals or not name or not expression or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS:
        raise option_malformed(f"invalid --function {text[:80]!r}", hint='write --function NAME="EXPRESSION IN x"')
    return name, expression
