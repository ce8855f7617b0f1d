"""Authentication and authorization of calls, by token or client certificate."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import importlib.util
import re
import time
from collections.abc import Callable, Collection, Iterable, MutableMapping
from typing import Any, NamedTuple

from kanexport.shared.cli.suggest import how_to_install
from kanserve.auth import token_file
from kanserve.auth.permissions import ANYONE, NEEDS, NOBODY, Need, Principal, Role
from kanserve.auth.token_file import LONGEST, SHORTEST, Credentials, Entry
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, Forbidden, RateLimited, Unauthenticated
from kanserve.observability import logs

HEADER = "authorization"
AUTHORIZATION_HINT = "send the metadata or header `authorization: Bearer TOKEN`"
SCHEME = "bearer "
TOKEN = re.compile(f"[!-~]{{{SHORTEST},{LONGEST}}}")  # the gate does not strip its end
GLANCE = 0.25  # seconds between two checks of the expiry times of open streams


def require(caller: Principal, role: Role) -> None:
    """Raises Unauthenticated if the caller presented no credential, Forbidden if the caller lacks the role."""
    if role in caller.roles:
        return
    if not caller.known:
        raise Unauthenticated(
            f"this call needs the role {role}, but has no credential",
            code="credential-missing",
            hint=AUTHORIZATION_HINT,
        )
    raise Forbidden(
        f"this call needs the role {role}, which {caller.name} does not have",
        code="role-missing",
        hint=f"use a token with the role {role}, or add the role to {caller.name} in the token file",
    )


class RequestMetadata(NamedTuple):
    """Data about a call that a transport passes on.

    metadata     names and values; at least those of `grpc_api.interceptor.HEADERS`
    remaining    seconds until the deadline; None without one
    certificate  verified certificate of the client, as PEM; "" if it presented none
    """

    metadata: Iterable[tuple[str, str | bytes]]
    remaining: float | None
    certificate: str | bytes = ""


class Authenticator:
    """Access decision for calls, once per call. `names` returns the names in a certificate. `take` replaces all
    credentials at once.

    A stream outlives the check of its call, so each open stream holds a `Permit`.
    """

    def __init__(self, credentials: Credentials, names: Callable[[str | bytes], Collection[str]]) -> None:
        self._names = names
        self.caches: list[dict[Any, Any]] = []  # of callers; new credentials clear them
        self.permits: set[Permit] = set()  # of open streams
        self._timer: asyncio.TimerHandle | None = None
        self.take(credentials)

    def take(self, credentials: Credentials) -> None:
        """Use these credentials from now on, and forget earlier lookups. The gate ends the open streams of a caller if
        its credential is removed or changed."""
        self.credentials = credentials
        self._tokens = [(entry.mark.encode(), entry) for entry in credentials.tokens]
        self._certificates = {entry.mark: (at, entry) for at, entry in enumerate(credentials.certificates)}
        self._known: dict[bytes, tuple[Principal, Bucket | None]] = {}  # by digest; no more than there are tokens
        entries = (*credentials.tokens, *credentials.certificates)
        self._callers = {entry.principal.name: entry.principal for entry in entries}
        rates = {entry.principal.name: entry.rate for entry in entries if entry.rate is not None}
        self._buckets = {name: Bucket(name, rate) for name, rate in rates.items()}
        for cache in self.caches:
            cache.clear()
        for permit in tuple(self.permits):
            permit.check()

    def resolve(self, need: Need, credentials: RequestMetadata) -> tuple[Principal, Bucket | None]:
        """The caller of an allowed call, and its rate limit. Raises Unauthenticated, Forbidden."""
        if need is ANYONE:
            return self.known(credentials), None
        caller, bucket = self._caller(credentials)
        require(caller, need)
        return caller, bucket

    def admit(self, need: Need, credentials: RequestMetadata) -> Principal:
        """Authenticated caller of an allowed call. Raises Unauthenticated, Forbidden, RateLimited."""
        caller, bucket = self.resolve(need, credentials)
        if bucket is not None:
            bucket.take()
        return caller

    def admit_next(self, caller: Principal) -> None:
        """Admit one more message of a caller's stream. Raises RateLimited, Unauthenticated."""
        self.still(caller)
        bucket = self._buckets.get(caller.name)
        if bucket is not None:
            bucket.take()

    def give_back(self, caller: Principal) -> None:
        """Return a call to the rate limit of its caller, because it will be admitted again."""
        bucket = self._buckets.get(caller.name)
        if bucket is not None:
            bucket.give_back()

    def still(self, caller: Principal) -> None:
        """Raises Unauthenticated if the credential of an admitted caller was revoked, changed or has expired."""
        if self._callers.get(caller.name) != caller:
            raise Unauthenticated(
                f"the credential of {caller.name} was revoked or changed",
                code="credential-revoked",
                hint="open a new stream with a valid credential",
            )
        _valid(caller)

    def permit(self, caller: Principal) -> Permit:
        """The permit of an admitted stream that opens now. The method needs a running event loop."""
        permit = Permit(self, caller)
        self.permits.add(permit)
        if caller.expires is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GLANCE, self._glance)
        return permit

    def _glance(self) -> None:
        """Check every open stream whose caller has an expiry time. The timer repeats while such streams are open. The
        wall clock may jump, so one timer for the expiry time is not enough."""
        self._timer = None
        ending = [permit for permit in self.permits if permit.caller.expires is not None]
        for permit in ending:
            permit.check()
        if ending:
            self._timer = asyncio.get_running_loop().call_later(GLANCE, self._glance)

    def known(self, credentials: RequestMetadata) -> Principal:
        """The caller, or `NOBODY` if the gate does not know the credential. Raises nothing."""
        try:
            return self._caller(credentials)[0]
        except Unauthenticated:
            return NOBODY

    def _caller(self, credentials: RequestMetadata) -> tuple[Principal, Bucket | None]:
        headers = [value for key, value in credentials.metadata if key == HEADER]
        if not headers:
            names = self._names(credentials.certificate) if credentials.certificate and self._certificates else ()
            entries = [self._certificates[name] for name in names if name in self._certificates]
            if not entries:
                return NOBODY, None
            _, entry = min(entries, key=lambda ranked: ranked[0])  # the first one in the file
            return entry.principal, self._buckets.get(entry.principal.name)
        value = headers[0]
        if len(headers) > 1 or not isinstance(value, str) or value[: len(SCHEME)].lower() != SCHEME:
            raise Unauthenticated(
                "invalid authorization: expected one `Bearer TOKEN`",
                code="authorization-invalid",
                hint=AUTHORIZATION_HINT,
            )
        token = value[len(SCHEME) :].lstrip(" ")
        if not TOKEN.fullmatch(token):
            raise _unknown_token()
        mark = hashlib.sha256(token.encode()).hexdigest().encode()
        caller = self._known.get(mark) or self._lookup(mark)
        _valid(caller[0])
        return caller

    def _lookup(self, mark: bytes) -> tuple[Principal, Bucket | None]:
        """Entry of a token. Every comparison takes constant time."""
        entry: Entry | None = None
        for known, candidate in self._tokens:
            if hmac.compare_digest(known, mark):
                entry = candidate
        if entry is None:
            raise _unknown_token()
        caller = self._known[mark] = (entry.principal, self._buckets.get(entry.principal.name))
        return caller


class Permit:
    """Permission of one stream: a context around each wait of the stream for its next message, on the event loop.

    Entering it raises Unauthenticated if the credential was revoked, changed or has expired. If that happens inside the
    context, the permit cancels the wait at once and raises Unauthenticated. An idle stream therefore ends too. A stream
    that is sending ends after that message. Call `close` last.
    """

    __slots__ = ("_before", "_gate", "_inside", "_reason", "_task", "caller")

    def __init__(self, gate: Authenticator, caller: Principal) -> None:
        self._gate, self.caller = gate, caller
        self._task: asyncio.Task[object] | None = None  # the task that waited last
        self._inside, self._before = False, 0
        self._reason: Unauthenticated | None = None

    def __enter__(self) -> Permit:
        if self._reason is not None:
            raise _copy(self._reason)
        self._gate.still(self.caller)
        self._task = task = asyncio.current_task()
        assert task is not None
        self._inside, self._before = True, task.cancelling()
        return self

    def __exit__(self, *raised: object) -> None:
        self._inside = False
        if self._reason is None:
            return
        assert self._task is not None
        if self._task.uncancel() <= self._before:  # otherwise another cancellation takes precedence
            raise _copy(self._reason)

    def check(self) -> None:
        """End the stream if its credential is no longer valid."""
        if self._reason is not None:
            return
        try:
            self._gate.still(self.caller)
        except Unauthenticated as error:
            self._reason = _copy(error)
            if self._task is not None and self._inside:
                self._task.cancel()

    def close(self) -> None:
        """The stream has ended."""
        self._gate.permits.discard(self)


class Bucket:
    """Token bucket of one caller: a number of calls per second, and a burst of one second's calls."""

    __slots__ = ("_left", "_name", "_rate", "_since")

    def __init__(self, name: str, rate: float) -> None:
        self._name, self._rate = name, rate
        self._left, self._since = max(1.0, rate), time.monotonic()

    def take(self) -> None:
        """Take one call from the bucket. Raises RateLimited."""
        now = time.monotonic()
        self._left = min(max(1.0, self._rate), self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            raise RateLimited(self._name, self._rate, (1 - self._left) / self._rate)
        self._left -= 1

    def give_back(self) -> None:
        """Return a call to the bucket, which will be taken again."""
        self._left += 1


def unlisted(credentials: RequestMetadata) -> Principal:
    """Check before a method or route that the table of permissions does not have. Raises Forbidden."""
    raise Forbidden("permission denied: this method has no access rule on this server", code="access-rule-missing")


def admission(gate: Authenticator | None, name: str) -> Callable[[RequestMetadata], Principal] | None:
    """Check that a call of the method or route passes; None on a server without credentials."""
    if name not in NEEDS:
        return unlisted
    if gate is None:
        return None
    need = NEEDS[name]
    return lambda credentials: gate.admit(need, credentials)


def credential_check(gate: Authenticator | None, name: str) -> Callable[[RequestMetadata], bool] | None:
    """Check before the server reads the request: True if `admit` would reject the caller, rate limits aside. None: no
    check."""
    need = NEEDS.get(name, ANYONE)
    if gate is None or need is ANYONE:
        return None

    def rejects(credentials: RequestMetadata) -> bool:
        try:
            gate.resolve(need, credentials)
        except (Unauthenticated, Forbidden):
            return True
        return False

    return rejects


def _unknown_token() -> Unauthenticated:
    return Unauthenticated(
        "invalid token: the server does not know it",
        code="token-unknown",
        hint="pass a token of this server; `kanserve token new` creates one",
    )


def _copy(error: Unauthenticated) -> Unauthenticated:
    """A new error with the same reason, because an error that was raised before keeps its traceback."""
    return Unauthenticated(str(error), code=error.code, hint=error.hint)


def _valid(caller: Principal) -> None:
    if caller.expires is not None and time.time() >= caller.expires:
        raise Unauthenticated(
            f"the token of {caller.name} has expired",
            code="token-expired",
            hint="pass a new token; `kanserve token new` creates one",
        )


log = logs.get_logger("access")


def build(settings: Settings) -> Authenticator | None:
    """The gate of the settings; None without a token file, so that every call is allowed. Raises ConfigError."""
    credentials = read(settings)
    if credentials is None:
        return None
    log_loaded(credentials, settings)
    return Authenticator(credentials, certificate_names)


def read(settings: Settings) -> Credentials | None:
    """Contents of the token file; None if the settings name none. Raises ConfigError, also for certificates that the
    server cannot identify."""
    if settings.tokens is None:
        return None
    credentials = token_file.load(settings.tokens)
    if not credentials.certificates:
        return credentials
    if settings.tls_client_ca is None:
        raise ConfigError(
            f"the token file {settings.tokens} has [[certificate]] entries, but tls_client_ca is not set",
            code="certificates-without-client-ca",
            hint="set tls_client_ca, so that clients present a certificate, or remove the entries",
        )
    if missing := missing_name():
        raise ConfigError(
            f"the token file {settings.tokens} has [[certificate]] entries, which need the package {missing}",
            code="package-not-installed",
            hint=how_to_install("certificates"),
        )
    return credentials


def log_loaded(credentials: Credentials, settings: Settings) -> None:
    """Log the token file that is in effect from now on."""
    counts = {"tokens": len(credentials.tokens), "certificates": len(credentials.certificates)}
    log.info("token_file_loaded", file=str(settings.tokens), **counts)


MOST = 1024  # certificates whose names are remembered


def missing_name() -> str:
    """Name of the package that reading certificates needs, or ""."""
    return "" if importlib.util.find_spec("cryptography") else "cryptography"


def presented(scope: MutableMapping[str, Any]) -> str:
    """The certificate that came with an ASGI request, verified by the server, as PEM; or "". Source: the ASGI
    specification, "TLS Extension"."""
    tls = scope.get("extensions", {}).get("tls")
    chain = tls["client_cert_chain"] if tls else ()
    return str(chain[0]) if chain else ""


@functools.lru_cache(MOST)
def certificate_names(certificate: str | bytes) -> frozenset[str]:
    """The URIs, DNS names, addresses and mail addresses of a PEM certificate; nothing for one that cannot be read."""
    from cryptography import x509

    data = certificate.encode() if isinstance(certificate, str) else certificate
    try:
        extension = x509.load_pem_x509_certificate(data).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return frozenset()
    names = extension.value
    uris = {uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if ":" in uri}
    others = {*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.RFC822Name)}
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    # Each kind has a distinct form: a DNS name with a colon in it must not pass for a URI.
    return frozenset(uris | addresses | {name for name in others if ":" not in name})
