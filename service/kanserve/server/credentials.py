"""Certificates and the file of tokens are looked at again and again, and taken over where they have changed.

What is broken changes nothing: what was served goes on, with a line and a metric, until the files are good.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kanserve.auth import authenticator
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.token_file import Credentials
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.observability import logs
from kanserve.observability.metrics import Metrics
from kanserve.transport import endpoints
from kanserve.transport.endpoints import Tls
from kanserve.transport.factory import Transports

T = TypeVar("T")
CERTIFICATES, TOKENS = "certificates", "tokens"  # values of the metrics' label `credential`
GLANCES, SHORTEST = 20, 0.1  # checks of the token file's times per full check, and least seconds between them

log = logs.get_logger("credentials")


@dataclass(slots=True)
class Source(Generic[T]):
    """Something in files: `read` them (raises ConfigError), `take` what they say, which is `now` in effect. `reason`:
    why they could not be taken when they were looked at last."""

    what: str
    read: Callable[[], T | None]
    take: Callable[[T], Awaitable[None]]
    now: T
    reason: str = ""


class Renewal:
    """Reads certificates and tokens from their files again, every `credential_poll_seconds` and if `asked`. `run` is a
    task of the server.

    A revoked token must end soon, so a change of the token file's size or times starts a reading too. The server sees
    such a change within a twentieth of `credential_poll_seconds`."""

    def __init__(
        self, settings: Settings, gate: Authenticator | None, transports: Transports, metrics: Metrics
    ) -> None:
        self._settings, self._transports, self._metrics = settings, transports, metrics
        self._every = settings.credential_poll_seconds
        self._asked = asyncio.Event()
        self._certificates = self._tokens = None
        if transports.tls is not None:
            self._expires(transports.tls)
            self._certificates = Source(CERTIFICATES, lambda: endpoints.read(settings), self._show, transports.tls)
        if gate is not None:
            self._tokens = Source(TOKENS, lambda: authenticator.read(settings), self._admit, gate.credentials)
        self._gate = gate
        self._file = settings.tokens
        self._seen = self._facts()
        for what in (CERTIFICATES, TOKENS):
            self._refused(what, "")

    def asked(self, every: float) -> None:
        """Look soon, and then at intervals of so many seconds."""
        self._every = every
        self._asked.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        looked = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._pause())
            if not (self._asked.is_set() or time.monotonic() >= looked + self._every):
                if self._tokens is not None and await asyncio.to_thread(self._touched):
                    await self._look(self._tokens)
                continue
            self._asked.clear()
            looked = time.monotonic()
            if self._certificates is not None:
                await self._look(self._certificates)
            if self._tokens is not None:
                await self._look(self._tokens)

    def _pause(self) -> float:
        if self._tokens is None:
            return self._every
        return min(self._every, max(self._every / GLANCES, SHORTEST))

    def _touched(self) -> bool:
        """Whether the token file was replaced or written, or has another size, since the last check."""
        before, self._seen = self._seen, self._facts()
        return self._seen != before

    def _facts(self) -> tuple[float, ...]:
        if self._file is None:
            return ()
        try:
            found = os.stat(self._file)
        except OSError:
            return (math.inf,)
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode

    async def _look(self, source: Source[T]) -> None:
        reason = ""
        try:
            found = await asyncio.to_thread(source.read)
            if found is not None and found != source.now:
                await source.take(found)
                source.now = found
                self._metrics.number("kanserve_credential_reloads_total").labels(source.what).inc()
        except ConfigError as error:
            reason = str(error)
        if reason and reason != source.reason:
            log.error("credential_reload_failed", credential=source.what, reason=reason, in_effect="those before")
        source.reason = reason
        self._refused(source.what, reason)

    async def _show(self, found: Tls) -> None:
        await self._transports.renew(found)
        self._expires(found)
        endpoints.told(found, self._settings)

    async def _admit(self, found: Credentials) -> None:
        if self._gate is not None:
            self._gate.take(found)
            authenticator.log_loaded(found, self._settings)

    def _expires(self, found: Tls) -> None:
        self._metrics.number("kanserve_certificate_expiration_timestamp_seconds").labels().set(found.expires)

    def _refused(self, what: str, reason: str) -> None:
        self._metrics.number("kanserve_credential_reload_failed").labels(what).set(bool(reason))
        self._metrics.number("kanserve_credential_reloads_total").labels(what)
