"""One version of a repository folder, for a command that needs its files and no server."""

from __future__ import annotations

from pathlib import Path

from kanexport.manifest import Manifest
from kanexport.shared.nearest import advice
from kanserve.console.common import InputError
from kanserve.console.inventory import FILE_BYTES
from kanserve.errors import ConfigError, LoadError
from kanserve.repository import layout
from kanserve.repository.check import check_manifest
from kanserve.repository.layout import Bundle, Candidate


def holds(repository: Path, name: str) -> bool:
    """Whether there is a model of this name in a folder that there is."""
    return repository.is_dir() and any(found.name == name for found in _scan(repository))


def version(repository: Path, name: str, wanted: str) -> tuple[Bundle, Manifest]:
    """The files of the version `wanted`, or of the highest, and what it says of itself, as the server would take them.
    Raises InputError."""
    found = _candidate(repository, name, wanted)
    try:
        bundle = layout.load(found, FILE_BYTES)
        if bundle.manifest is None:
            raise InputError(f"{repository}: the manifest of {name} went away while it was read")
        check_manifest(bundle.manifest)
    except LoadError as error:
        raise InputError(f"{repository}: {name} version {found.version}: {error}") from error
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
