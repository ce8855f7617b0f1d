"""Facts a checkpoint does not hold: given by the user, or assumed and recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kanexport.errors import OptionError


class Options:
    """The `--option key=value` pairs of one export.

    A reader asks for what it needs; what it assumed instead, and what was given
    but never asked for, is known afterwards.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self.given = dict(given)
        self.assumed: dict[str, str] = {}
        self.beside: Mapping[str, Any] = {}  # what the file holds beside its tensors; may be anything
        self._known: set[str] = set()

    @classmethod
    def parse(cls, pairs: Sequence[str]) -> Options:
        """From "key=value" texts. Raises OptionError."""
        given: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key.strip():
                raise OptionError(f"option {pair[:80]!r} is malformed", hint="write --option key=value")
            if key.strip() in given:
                raise OptionError(f"option {key.strip()!r} is given twice")
            given[key.strip()] = value.strip()
        return cls(given)

    def optional(self, key: str) -> str | None:
        """The value if given."""
        self._known.add(key)
        return self.given.get(key)

    def text(self, key: str, default: str, told: str | None = None) -> str:
        """The value, or what the file itself told, or the default, which is then recorded as assumed."""
        value = self.optional(key)
        if value is None and told is not None:
            return told
        if value is None:
            self.assumed[key] = default
            return default
        return value

    def number(self, key: str, default: str) -> float:
        """A finite number, or the default, which is then recorded as assumed. Raises OptionError."""
        text = self.text(key, default)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise OptionError(f"option {key} is {text[:80]!r}, expected a number such as {key}={default}")
        return value

    def integer(self, key: str, *, at_least: int = 0) -> int | None:
        """One integer, if given. Raises OptionError."""
        found = self.integers(key)
        if found is None:
            return None
        if len(found) != 1 or found[0] < at_least:
            raise OptionError(f"option {key} is {self.given[key][:80]!r}, expected one integer, {at_least} or more")
        return found[0]

    def choice(self, key: str, known: Iterable[str], default: str) -> str:
        """One of a few names, or the default, which is then recorded as assumed. Raises OptionError."""
        names = tuple(known)
        value = self.text(key, default).lower()
        if value not in names:
            raise OptionError(f"option {key} is {value[:80]!r}", hint="known: " + ", ".join(names))
        return value

    def integers(self, key: str) -> tuple[int, ...] | None:
        """Comma-separated non-negative integers, if given."""
        value = self.optional(key)
        if value is None:
            return None
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and len(part) < 10 for part in parts):
            raise OptionError(f"option {key} is {value[:80]!r}, expected integers such as {key}=0,2")
        return tuple(int(part) for part in parts)

    def finish(self, family: str) -> None:
        """Raises OptionError if something was given that no reader asked for."""
        unknown = sorted(set(self.given) - self._known)
        if unknown:
            known = ", ".join(sorted(self._known)) or "none"
            raise OptionError(f"family {family} has no option {unknown[0]!r}", hint=f"it knows: {known}")
