"""Lifecycle events of versions: one log line per change, the history of the web UI, and metrics.

`models/reconciler.py` reports each change here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from kanserve.errors import KanserveError, LoadError, LoadReason, log_facts, text_and_hint
from kanserve.models.model import Model
from kanserve.observability import logs
from kanserve.observability.metrics import Metrics
from kanserve.repository.pbtxt import VersionPolicy
from kanserve.repository.snapshot import Key

EVERY = 5.0  # seconds between two lines about a load in progress

log = logs.get_logger("models")


class Progress:
    """Progress of the loads of several versions. `log_every` logs it every few seconds."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began: dict[Key, float] = {}

    @contextlib.contextmanager
    def of(self, key: Key) -> Iterator[None]:
        """Context of the load of this version."""
        self._began[key] = time.monotonic()
        try:
            yield
        finally:
            del self._began[key]
            self._done += 1

    async def log_every(self) -> None:
        """Log the progress, with the load that takes longest, until the task is cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            for (name, version), began in list(self._began.items())[:1]:
                seconds = round(time.monotonic() - began, 1)
                log.info("model_loading", model=name, version=version, seconds=seconds, done=self._done, of=self._total)


class ModelEvents:
    """Recorder of lifecycle events, which records each change only once."""

    def __init__(self, metrics: Metrics, max_request_bytes: int, history: History) -> None:
        self._metrics, self._max_request_bytes, self._history = metrics, max_request_bytes, history
        self._defaults: dict[str, int | None] = {}
        self._refused: dict[Key, LoadReason] = {}
        self._left_out: set[Key] = set()
        self._bad_defaults: dict[str, str] = {}
        self._warned: set[tuple[str, tuple[str, ...]]] = set()

    def loaded(self, model: Model, seconds: float, size: int, instead_of: str) -> None:
        """Record that a version of `size` bytes serves. `instead_of`: digest of the content that served before under
        this version, or ""."""
        info = model.info
        key = (info.name, info.version)
        self._refused.pop(key, None)
        self._metrics.record_load(info.name, str(info.version), info.digest, seconds)
        facts = {} if info.manifest is None else {"verification_basis": info.manifest.verification_basis}
        if instead_of:
            facts["instead_of"] = instead_of[:12]
        what = "reloaded with another graph" if instead_of else "loaded"
        self._history.add(what, *key, f"graph {info.digest[:12]}, in {seconds:.2f} s")
        plan = asdict(model.serving.plan)
        log.info("model_loaded", model=key[0], version=key[1], seconds=round(seconds, 3), bytes=size, **plan, **facts)
        unused = model.serving.unused
        if unused and (info.name, unused) not in self._warned:
            self._warned.add((info.name, unused))
            log.warning("config_fields_ignored", model=info.name, fields=list(unused))
        needed, most = info.max_batch_size * sum(tensor.row_bytes for tensor in info.inputs), self._max_request_bytes
        if needed > most:
            log.warning("request_limit_too_small", model=info.name, batch_bytes=needed, max_request_bytes=most)

    def recovered(self, key: Key) -> None:
        """Record that the rejected files were removed, and that the files of the serving version are present again."""
        self._refused.pop(key, None)
        self._metrics.mark_rejected(key[0], str(key[1]), refused=False)
        self._history.add("files match again", *key)
        log.info("model_rejection_cleared", model=key[0], version=key[1])

    def rejected(self, key: Key, error: LoadError, *, changed: bool, serves: bool) -> None:
        """Record that the server rejected the files of a version. `changed`: since the last attempt; `serves`: another
        content keeps serving."""
        reason = error.reason
        self._metrics.mark_rejected(key[0], str(key[1]), refused=True)
        if not changed and self._refused.get(key) == reason:
            return
        self._refused[key] = reason
        self._metrics.number("kanserve_model_load_failures_total").labels(reason).inc()
        facts = {"serves": "the version loaded before"} if serves else {}
        also = "; the version loaded before keeps serving" if serves else ""
        self._history.add("rejected", *key, f"{reason}: {text_and_hint(error)}{also}")
        facts |= log_facts(error)
        log.error("model_load_failed", model=key[0], version=key[1], kind=reason, reason=str(error), **facts)

    def missed(self, key: Key, *, gone: bool) -> None:
        """Record that the files of a serving version are missing, or are present again."""
        self._metrics.mark_missing(key[0], str(key[1]), missing=gone)
        self._history.add("files missing" if gone else "files restored", *key)
        if gone:
            log.warning("model_files_missing", model=key[0], version=key[1])
        else:
            log.info("model_files_restored", model=key[0], version=key[1])

    def chosen(self, name: str, version: int | None, ready: Collection[int]) -> None:
        """Record the default version among the `ready` ones."""
        for candidate in ready:
            self._metrics.number("kanserve_model_default").labels(name, str(candidate)).set(candidate == version)
        before = self._defaults.get(name)
        if version != before:
            self._defaults[name] = version
            text = f"before: version {before}" if before is not None else ""
            if version is not None:
                self._history.add("default version", name, version, text)

    def default_files(self, errors: Mapping[str, LoadError]) -> None:
        """Record the models whose file `default` is invalid. An error is logged once."""
        for name, error in sorted(errors.items()):
            if self._bad_defaults.get(name) != str(error):
                log.error("default_file_rejected", model=name, reason=str(error), **log_facts(error))
        self._bad_defaults = {name: str(error) for name, error in errors.items()}

    def left_out(self, policies: Mapping[Key, VersionPolicy]) -> None:
        """Record the versions that their version policies exclude."""
        for key in sorted(policies.keys() - self._left_out):
            log.info("model_excluded", model=key[0], version=key[1], version_policy=str(policies[key]))
        self._left_out = set(policies)

    def forgotten(self, key: Key, seconds: float | None = None) -> None:
        """Record that a version is removed. `seconds`: duration of its unload; None if it never served."""
        self._refused.pop(key, None)
        self._metrics.forget(key[0], str(key[1]))
        self._history.add("removed" if seconds is None else "unloaded", *key)
        if seconds is None:
            log.info("model_removed", model=key[0], version=key[1])
        else:
            log.info("model_unloaded", model=key[0], version=key[1], seconds=round(seconds, 3))

    def unreadable(self, error: KanserveError) -> None:
        """Record that the repository cannot be read. Only the first time is logged."""
        readable = self._metrics.number("kanserve_repository_readable").labels()
        if readable.value:
            facts = log_facts(error)
            if error.code == "repository-not-readable":
                facts["help"] = "restore the volume before you restart the server"
            log.error("repository_unreadable", reason=str(error), **facts)
        readable.set(0)

    def readable(self) -> None:
        """Record that the repository can be read. Only a change is logged."""
        readable = self._metrics.number("kanserve_repository_readable").labels()
        if not readable.value:
            log.info("repository_readable")
        readable.set(1)


KEPT = 200
LONG = 300  # characters of a reason


@dataclass(frozen=True, slots=True)
class Event:
    """Lifecycle event of a version."""

    at: float  # time, in seconds since the epoch
    what: str  # kind of the event
    model: str
    version: int
    text: str  # details


class History:
    """History of the last `KEPT` events."""

    def __init__(self) -> None:
        self._all: deque[Event] = deque(maxlen=KEPT)

    def add(self, what: str, model: str, version: int, text: str = "") -> None:
        """Record an event with the current time."""
        self._all.append(Event(time.time(), what, model, version, text[:LONG]))

    def latest(self) -> Sequence[Event]:
        """The newest first."""
        return list(reversed(self._all))
