"""Reads or copies one version of a repository folder, for a command that needs its files and no server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kanexport import manifest as contract
from kanexport.manifest import Manifest
from kanexport.shared import atomic, disk, leftovers
from kanexport.shared.nearest import advice
from kanexport.shared.voice import Exit
from kanserve.console.common import CommandError, InputError
from kanserve.console.inventory import FILE_BYTES
from kanserve.errors import ConfigError, LoadError
from kanserve.repository import layout
from kanserve.repository.check import check_manifest
from kanserve.repository.layout import Bundle, Candidate

FILE, FOLDER = 0o644, 0o755  # modes of a copy, before the umask


def holds(repository: Path, name: str) -> bool:
    """Whether there is a model of this name in a folder that there is."""
    return repository.is_dir() and any(found.name == name for found in _scan(repository))


def version(repository: Path, name: str, wanted: str) -> tuple[Bundle, Manifest]:
    """The files of the version `wanted`, or of the highest, and what it says of itself, as the server would take them.
    Raises InputError."""
    return _loaded(repository, _candidate(repository, name, wanted))


def copied(repository: Path, name: str, source: str, target: str, *, force: bool) -> Manifest:
    """Copy the version `source` to the number `target`, completely or not at all. The manifest of the copy has the new
    number. The command reads the copy back and verifies it before the copy appears. `force`: replace an existing
    version. Raises InputError if the source cannot be copied, CommandError if the target cannot be written."""
    found = _candidate(repository, name, source)
    if not layout.VERSION.fullmatch(target) or int(target) == found.version:
        raise InputError(f"version {target[:30]} is not usable: another number from 1 was expected")
    if not found.steps:
        raise InputError(f"{repository} is itself one version, expected a folder of versions")
    home = found.root.joinpath(*found.steps[:-1])
    bundle, _ = _loaded(repository, found)
    try:
        made = replace(layout.manifest(found), version=int(target))  # its long lists stay in their own file
        _check_free(home, target, force=force)
        with leftovers.place(home) as staging:
            _write(staging, target, {**bundle.files, contract.FILE_NAME: contract.dumps(made)})
            _loaded(repository, Candidate(name, made.version, staging, (target,)))
            with leftovers.held(found.root):
                _check_free(home, target, force=force)
                _place(staging / target, home / target)
    except (LoadError, contract.ManifestError) as error:
        raise InputError(f"{repository}: {name} version {found.version} changed while it was read: {error}") from error
    except OSError as error:
        why = error.strerror or error
        raise CommandError(f"{home / target} cannot be written: {why}", exit_code=Exit.FAILED) from error
    return made


def _write(staging: Path, target: str, files: Mapping[str, bytes]) -> None:
    """Write a folder `target` in a new one, and flush it to disk. Descriptors resolve each name only once. Raises
    OSError."""
    staging.mkdir(FOLDER)
    with leftovers.held(staging, own=True) as inside:
        os.mkdir(target, FOLDER, dir_fd=inside)
        with disk.directory(target, within=inside) as version:
            for name, data in files.items():
                disk.create(name, [data], mode=FILE, within=version)
            os.fsync(version)


def _place(new: Path, target: Path) -> None:
    """Move `new` to `target` by one rename or exchange. Raises CommandError if the file system has no exchange,
    OSError."""
    if not os.path.lexists(target):
        os.rename(new, target)
    elif not atomic.exchange(new, target):
        raise CommandError(
            f"{target} cannot be replaced in one step: this file system has no exchange of two names",
            hint=f"remove {target}, then copy again",
            exit_code=Exit.FAILED,
        )


def _check_free(home: Path, target: str, *, force: bool) -> None:
    if os.path.lexists(home / target) and not force:
        taken = [int(name) for name in os.listdir(home) if layout.VERSION.fullmatch(name)]
        raise InputError(
            f"{home / target} exists already",
            hint=f"--force replaces it; the next number that is free is {max(taken, default=0) + 1}",
        )


def _loaded(repository: Path, found: Candidate) -> tuple[Bundle, Manifest]:
    """The files and the manifest of a version. Raises InputError with the reason."""
    try:
        bundle = layout.load(found, FILE_BYTES)
        if bundle.manifest is None:
            raise InputError(f"{repository}: the manifest of {found.name} went away while it was read")
        check_manifest(bundle.manifest)
    except LoadError as error:
        raise InputError(f"{repository}: {found.name} version {found.version}: {error}") from error
    return bundle, bundle.manifest


def _candidate(repository: Path, name: str, wanted: str) -> Candidate:
    every = _scan(repository)
    known = [found for found in every if found.name == name]
    if not known:
        names = sorted({found.name for found in every})
        raise InputError(f"{repository}: there is no {name}", hint=advice(name, names, what="there are"))
    asked = [found for found in known if wanted in ("", str(found.version))]
    if not asked:
        versions = ", ".join(str(found.version) for found in known)
        raise InputError(f"{repository}: {name} has the versions {versions}, not {wanted}")
    return asked[-1]


def _scan(repository: Path) -> list[Candidate]:
    if not repository.is_dir():
        raise InputError(
            f"{repository} is not a folder; a folder of NAME/VERSION/model.onnx was expected",
            hint="--repository names it; `kanserve export FILE --repository models` makes one",
        )
    try:
        return layout.scan(repository, plain_onnx=False)
    except ConfigError as error:
        raise InputError(str(error)) from error
