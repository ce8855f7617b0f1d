"""Reload of certificates and of the token file while the server runs.

Invalid files change nothing: the server keeps the previous credentials, and reports the failure in the log and as a
metric.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kanserve.auth import authenticator
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.token_file import Credentials
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, log_facts
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
    """Credentials in files.

    what    name for logs and metrics
    read    reads the files; raises ConfigError
    take    applies new contents
    now     contents in effect
    reason  failure of the last reload, or ""
    """

    what: str
    read: Callable[[], T | None]
    take: Callable[[T], Awaitable[None]]
    now: T
    reason: str = ""


class Renewal:
    """Reloader of certificates and tokens. `run` is a task of the server, which reads the files every
    `credential_poll_seconds` and after `reschedule`.

    A revoked token must end soon, so a change of the token file's size or times also starts a reload. The server sees
    such a change within 5% of `credential_poll_seconds`.
    """

    def __init__(
        self, settings: Settings, gate: Authenticator | None, transports: Transports, metrics: Metrics
    ) -> None:
        self._settings, self._transports, self._metrics = settings, transports, metrics
        self._every = settings.credential_poll_seconds
        self._wake = asyncio.Event()
        self._sources: list[Source[Any]] = []
        self._tokens: Source[Credentials] | None = None
        if transports.tls is not None:
            self._expires(transports.tls)
            self._sources.append(Source(CERTIFICATES, lambda: endpoints.read(settings), self._show, transports.tls))
        if gate is not None:
            self._tokens = Source(TOKENS, lambda: authenticator.read(settings), self._admit, gate.credentials)
            self._sources.append(self._tokens)
        self._gate = gate
        self._file = settings.tokens
        self._seen = self._facts()
        for what in (CERTIFICATES, TOKENS):
            self._refused(what, "")

    def reschedule(self, every: float) -> None:
        """Reload soon, and then every `every` seconds."""
        self._every = every
        self._wake.set()

    async def run(self) -> None:
        """Reload until cancelled."""
        looked = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                often = self._every if self._tokens is None else max(self._every / GLANCES, SHORTEST)
                await asyncio.wait_for(self._wake.wait(), min(self._every, often))
            if self._wake.is_set() or time.monotonic() >= looked + self._every:
                self._wake.clear()
                looked = time.monotonic()
                for source in self._sources:
                    await self._reload(source)
            elif self._tokens is not None:
                before, self._seen = self._seen, await asyncio.to_thread(self._facts)
                if self._seen != before:
                    await self._reload(self._tokens)

    def _facts(self) -> tuple[float, ...]:
        """Facts of the token file, which differ if it was replaced or written, or has another size."""
        if self._file is None:
            return ()
        try:
            status = os.stat(self._file)
        except OSError:
            return (math.inf,)
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode

    async def _reload(self, source: Source[T]) -> None:
        reason, facts = "", {}
        try:
            content = await asyncio.to_thread(source.read)
            if content is not None and content != source.now:
                await source.take(content)
                source.now = content
                self._metrics.number("kanserve_credential_reloads_total").labels(source.what).inc()
        except ConfigError as error:
            reason, facts = str(error), log_facts(error)
        if reason and reason != source.reason:
            kept = "the previous credentials"
            log.error("credential_reload_failed", credential=source.what, reason=reason, in_effect=kept, **facts)
        source.reason = reason
        self._refused(source.what, reason)

    async def _show(self, tls: Tls) -> None:
        await self._transports.renew(tls)
        self._expires(tls)
        endpoints.log_certificate(tls, self._settings)

    async def _admit(self, credentials: Credentials) -> None:
        if self._gate is not None:
            self._gate.take(credentials)
            authenticator.log_loaded(credentials, self._settings)

    def _expires(self, tls: Tls) -> None:
        self._metrics.number("kanserve_tls_certificate_expiration_timestamp_seconds").labels().set(tls.expires)

    def _refused(self, what: str, reason: str) -> None:
        self._metrics.number("kanserve_credential_reload_failed").labels(what).set(bool(reason))
        self._metrics.number("kanserve_credential_reloads_total").labels(what)
