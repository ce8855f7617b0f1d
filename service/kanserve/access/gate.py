"""Whether a call may pass: who calls, by token or certificate, and whether that is enough for what is called."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from kanserve.access.roles import NOBODY, Principal, require
from kanserve.access.table import ANYONE, NEEDS, Need
from kanserve.access.tokens import LONGEST, SHORTEST, Credentials, Entry
from kanserve.errors import Forbidden, TooOften, Unauthenticated

HEADER = "authorization"
SCHEME = "bearer "


class Shown(Protocol):
    """What a call shows of its caller: metadata, and the certificate of its connection as PEM ("": none)."""

    @property
    def metadata(self) -> Iterable[tuple[str, str | bytes]]: ...

    @property
    def certificate(self) -> str | bytes: ...


class Gate:
    """Asked once a call. `names`: those in a certificate. What it knows is swapped whole by `take`."""

    def __init__(self, credentials: Credentials, names: Callable[[str | bytes], frozenset[str]]) -> None:
        self._names = names
        self.take(credentials)

    def take(self, credentials: Credentials) -> None:
        """From now on. What was looked up before is forgotten."""
        self.credentials = credentials
        self._tokens = [(entry.mark.encode(), entry) for entry in credentials.tokens]
        self._certificates = {entry.mark: entry for entry in credentials.certificates}
        self._known: dict[bytes, tuple[Principal, Bucket | None]] = {}  # by digest; no more than there are tokens
        entries = (*credentials.tokens, *credentials.certificates)
        self._callers = {entry.principal.name: entry.principal for entry in entries}
        rates = {entry.principal.name: entry.rate for entry in entries if entry.rate is not None}
        self._buckets = {name: Bucket(name, rate) for name, rate in rates.items()}

    def admit(self, need: Need, shown: Shown) -> Principal:
        """Who calls. Raises Unauthenticated, Forbidden, TooOften."""
        if need is ANYONE:
            return self._lenient(shown)
        caller, bucket = self._caller(shown)
        require(caller, need)
        if bucket is not None:
            bucket.take()
        return caller

    def refuses(self, need: Need, shown: Shown) -> bool:
        """Whether `admit` would, for who calls, and not for how often."""
        if need is ANYONE:
            return False
        try:
            require(self._caller(shown)[0], need)
        except (Unauthenticated, Forbidden):
            return True
        return False

    def again(self, caller: Principal) -> None:
        """One more request on a stream of theirs. Raises TooOften, Unauthenticated."""
        if self._callers.get(caller.name) != caller:
            raise Unauthenticated(f"{caller.name} is not known here any more, or not as before: open another stream")
        _valid(caller)
        bucket = self._buckets.get(caller.name)
        if bucket is not None:
            bucket.take()

    def _lenient(self, shown: Shown) -> Principal:
        try:
            return self._caller(shown)[0]
        except Unauthenticated:
            return NOBODY

    def _caller(self, shown: Shown) -> tuple[Principal, Bucket | None]:
        given = [value for key, value in shown.metadata if key == HEADER]
        if not given:
            return self._certified(shown.certificate) if self._certificates else (NOBODY, None)
        value = given[0]
        if len(given) > 1 or not isinstance(value, str) or value[: len(SCHEME)].lower() != SCHEME:
            raise Unauthenticated("the authorization is to be one `Bearer TOKEN`")
        token = value[len(SCHEME) :].strip()
        if not SHORTEST <= len(token) <= LONGEST:
            raise Unauthenticated("the token is not known here")
        mark = hashlib.sha256(token.encode(errors="replace")).hexdigest().encode()
        found = self._known.get(mark) or self._look(mark)
        _valid(found[0])
        return found

    def _look(self, mark: bytes) -> tuple[Principal, Bucket | None]:
        """Each is compared, in a time that does not tell how much of it fits."""
        entry: Entry | None = None
        for known, one in self._tokens:
            if hmac.compare_digest(known, mark):
                entry = one
        if entry is None:
            raise Unauthenticated("the token is not known here")
        found = self._known[mark] = (entry.principal, self._buckets.get(entry.principal.name))
        return found

    def _certified(self, certificate: str | bytes) -> tuple[Principal, Bucket | None]:
        if certificate:
            for name in self._names(certificate):
                entry = self._certificates.get(name)
                if entry is not None:
                    return entry.principal, self._buckets.get(entry.principal.name)
        return NOBODY, None


class Bucket:
    """So many calls per second, and as many at once as one second has."""

    __slots__ = ("_left", "_name", "_rate", "_since")

    def __init__(self, name: str, rate: float) -> None:
        self._name, self._rate = name, rate
        self._left, self._since = max(1.0, rate), time.monotonic()

    def take(self) -> None:
        """One call. Raises TooOften."""
        now = time.monotonic()
        self._left = min(max(1.0, self._rate), self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            raise TooOften(self._name, self._rate, (1 - self._left) / self._rate)
        self._left -= 1


def unlisted(shown: Shown) -> Principal:
    """What stands before a method or route that the table does not have. Raises Forbidden."""
    raise Forbidden("nobody may call this: the server's table of access does not have it")


def admission(gate: Gate | None, name: str) -> Callable[[Shown], Principal] | None:
    """What a call of the method or route passes; None: nothing, on a server without credentials."""
    if name not in NEEDS:
        return unlisted
    if gate is None:
        return None
    need = NEEDS[name]
    return lambda shown: gate.admit(need, shown)


def stranger(gate: Gate | None, name: str) -> Callable[[Shown], bool] | None:
    """Asked before a request is read; None: there are no strangers here."""
    if gate is None or name not in NEEDS:
        return None
    need = NEEDS[name]
    return lambda shown: gate.refuses(need, shown)


def _valid(caller: Principal) -> None:
    if caller.expires is not None and time.time() >= caller.expires:
        raise Unauthenticated(f"the token of {caller.name} has expired")
