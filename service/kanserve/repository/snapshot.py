"""Snapshot of a repository: its versions, and facts that reveal a change without reading files.

The facts of a version's files (names, sizes, inodes, times) make a `Fingerprint`. Replacing, rewriting or touching a
file changes it. The server reads and hashes files only if the fingerprint changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kanexport.shared import manifest as manifests
from kanexport.shared import temp_dirs
from kanserve.errors import LoadError
from kanserve.repository import layout, pbtxt
from kanserve.repository.layout import Candidate, DefaultFile
from kanserve.repository.pbtxt import ALL, VersionPolicy

Key = tuple[str, int]  # a model's name and a version

TICK = 50_000_000  # nanoseconds; two writes within a tick of the file system's clock may have the same time
QUIET = 1_000_000_000  # nanoseconds without a write, after which a graph without a manifest counts as complete
SYNCHRONIZED = ".synchronized"  # file at the root, which a synchronization writes when it succeeds
BREATH, EVERY = 0.0005, 64  # seconds of a pause per so many versions, so that requests run during a long scan


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Fingerprint of a version's files and of those next to its versions."""

    facts: bytes  # hash of the file facts
    size: int = 0  # bytes of the version's files
    fresh: bool = False  # True if a file was written so recently that the next write may not show
    growing: bool = False  # True if the manifest is missing and a file is new: the copy may be incomplete


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Contents of a repository at one time."""

    candidates: Mapping[Key, Candidate]
    prints: Mapping[Key, Fingerprint]
    policies: Mapping[str, VersionPolicy]  # by model, the policy of its config.pbtxt, or the server's
    synchronized: float = 0.0  # Unix time at which the file SYNCHRONIZED was written; 0 without it
    # By model, its file `default`, or the error of an invalid one.
    defaults: Mapping[str, DefaultFile | LoadError] = field(default_factory=dict)

    def only(self, names: Collection[str] | None) -> Snapshot:
        """Snapshot of these models; None: of all."""
        if names is None:
            return self
        prints = {key: fingerprint for key, fingerprint in self.prints.items() if key[0] in names}
        return replace(self, prints=prints)


class Scanner:
    """Scanner of one repository. It blocks, so use it on a thread.

    policy      policy of models without one in config.pbtxt
    model_name  name under which the only model is served; empty: the names in the repository
    """

    def __init__(
        self,
        repository: Path,
        *,
        plain_onnx: bool = False,
        hard_links: bool = False,
        policy: VersionPolicy = ALL,
        model_name: str = "",
    ) -> None:
        self._repository, self._plain_onnx, self._hard_links, self._policy = repository, plain_onnx, hard_links, policy
        self._model_name = model_name
        self._policies: dict[str, tuple[bytes, VersionPolicy]] = {}  # by model: its config's facts and its policy
        self._edits: dict[Key, tuple[bytes, bool]] = {}  # of policies that count: facts, and whether it is an edit
        self._names: dict[tuple[str, ...], tuple[str, int]] = {}  # of a folder that is a model, the last heading

    def scan(self) -> Snapshot:
        """Current snapshot. Raises ConfigError if the repository is not a readable directory, or if it has several
        models and all have to have one name."""
        scanned = layout.scan(self._repository, plain_onnx=self._plain_onnx, hard_links=self._hard_links)
        candidates = list(map(self._named, scanned))
        if self._model_name:
            candidates = layout.served_as(candidates, self._model_name)
        entries: dict[Key, Candidate] = {}
        prints: dict[Key, Fingerprint] = {}
        policies: dict[str, VersionPolicy] = {}
        configs: dict[str, bytes] = {}
        for at, candidate in enumerate(candidates, 1):
            name = candidate.name
            if name not in configs:
                configs[name] = _config_facts(candidate)
                policies[name] = self._policy_of(candidate, configs[name])
            key = (name, candidate.version)
            with contextlib.suppress(OSError):  # it was removed meanwhile
                prints[key] = _print(_folder(candidate), configs[name])
                entries[key] = candidate
            if at % EVERY == 0:
                time.sleep(BREATH)
        self._policies = {name: cached for name, cached in self._policies.items() if name in policies}
        # Name the edits in the policies that count versions. A manifest is read again only if its fingerprint changed.
        before, self._edits = self._edits, {}
        for (name, version), fingerprint in prints.items():
            if not policies[name].latest:
                continue
            known = before.get((name, version))
            if known is None or known[0] != fingerprint.facts:
                known = fingerprint.facts, layout.is_edit(entries[name, version])
            self._edits[name, version] = known
            if known[1]:
                policies[name] = replace(policies[name], edits=policies[name].edits | {version})
        defaults = layout.default_files(candidates)
        for name, default in defaults.items():
            if isinstance(default, DefaultFile):
                policies[name] = replace(policies[name], default=default.version)
        synchronized = 0.0
        with contextlib.suppress(OSError):
            synchronized = (self._repository / SYNCHRONIZED).stat().st_mtime
        return Snapshot(entries, prints, policies, synchronized, defaults)

    def fingerprint(self, candidate: Candidate) -> Fingerprint | None:
        """Current fingerprint of one version; None if its files are missing."""
        try:
            return _print(_folder(candidate), _config_facts(candidate))
        except OSError:
            return None

    def _named(self, candidate: Candidate) -> Candidate:
        """The candidate with its name. A folder that is a model has its name from its manifest, or the last known name
        while the manifest cannot be read."""
        steps = candidate.steps
        if len(steps) > 1:
            return candidate
        if layout.heading(candidate) != ("", 0):
            self._names[steps] = (candidate.name, candidate.version)
        name, version = self._names.get(steps, (candidate.name, candidate.version))
        return replace(candidate, name=name, version=version)

    def _policy_of(self, candidate: Candidate, facts: bytes) -> VersionPolicy:
        """The policy of a model, read again only if the facts of its file changed. An unreadable file excludes no
        version, because each load fails for it."""
        if not facts:
            return self._policy
        cached = self._policies.get(candidate.name)
        if cached is None or cached[0] != facts:
            policy = ALL
            with contextlib.suppress(LoadError, OSError):
                policy = layout.config(candidate).versions
            cached = self._policies[candidate.name] = (facts, policy)
        return self._policy if cached[1] == ALL else cached[1]


def _folder(candidate: Candidate) -> str:
    return os.path.join(candidate.root, *candidate.steps)


def _print(folder: str, config: bytes) -> Fingerprint:
    """The fingerprint of a folder. Raises OSError if the folder is missing."""
    lines, size, newest = [config], 0, 0
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            about = entry.stat(follow_symlinks=False)
            lines.append(f"{entry.name}/{_facts(about)}".encode(errors="surrogateescape"))
            names.add(entry.name)
            size += about.st_size
            newest = max(newest, about.st_mtime_ns, about.st_ctime_ns)
    age = time.time_ns() - newest
    lines[1:] = sorted(lines[1:])
    digest = hashlib.blake2b(b"\n".join(lines), digest_size=16).digest()
    growing = manifests.FILE_NAME not in names and 0 <= age < QUIET
    return Fingerprint(digest, size, fresh=0 <= age < TICK, growing=growing)


def _config_facts(candidate: Candidate) -> bytes:
    """Facts of config.pbtxt and of the files that it may name, which are next to the versions; empty if there is
    none."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError), os.scandir(os.path.join(candidate.root, *candidate.steps[:-1])) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") or entry.name == layout.DEFAULT_FILE  # no reason to read versions again
            if not hidden and not entry.is_dir(follow_symlinks=False):
                facts[entry.name] = _facts(entry.stat(follow_symlinks=False))
    return repr(sorted(facts.items())).encode() if pbtxt.FILE_NAME in facts else b""


def _facts(about: os.stat_result) -> str:
    return f"{about.st_mode} {about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"


SHARE = 10  # scans take at most one such part of the time


def pause(poll: float, took: float) -> float | None:
    """Seconds until the next scan, after one that took `took` seconds; None if `poll` is 0: only on request."""
    return max(poll, SHARE * took) if poll > 0 else None


async def due(requested: asyncio.Event, seconds: float | None) -> bool:
    """Wait `seconds`, or until `requested`, and clear the event. Returns whether it was set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(requested.wait(), seconds)
    was_requested = requested.is_set()
    requested.clear()
    return was_requested


def remove_stale_exports(repository: Path) -> list[str]:
    """Remove the remains of interrupted exports in a repository and its folders, and return their names. Blocks.
    Files of a running export stay, and so does everything in a read-only repository."""
    try:
        folders = [path for path in sorted(repository.iterdir()) if not path.name.startswith(".") and path.is_dir()]
    except OSError:  # the next scan reports it
        return []
    return [name for folder in (repository, *folders) if not folder.is_symlink() for name in temp_dirs.sweep(folder)]
