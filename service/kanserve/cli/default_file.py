"""The default version of a model in a repository folder: the file that all servers of the folder read at each scan."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from kanexport.shared import atomic, temp_dirs
from kanserve.cli import inventory
from kanserve.cli.options import InputError, option
from kanserve.client.control import VersionChoice
from kanserve.errors import LoadError
from kanserve.repository import layout
from kanserve.repository.layout import Candidate, DefaultFile


def add_repository_option(parser: argparse.ArgumentParser) -> None:
    """`--repository` of a command that changes one server otherwise."""
    text = "model repository; the command changes the default version of each server that reads it"
    option(parser, "--repository", "FOLDER", text, type=Path, shown="none, the command changes the server at --url")


def check_target(args: argparse.Namespace) -> None:
    """Raises InputError if both a folder and a server are passed, without waves."""
    if args.repository is not None and args.url_given and not getattr(args, "waves", ()):
        raise InputError(
            "--repository cannot be combined with --url",
            code="arguments-conflict",
            hint="remove --url to change the folder, or --repository to change the server",
        )


def promote(repository: Path, name: str, version: str) -> VersionChoice:
    """Write the default version; "": remove the file, so that the highest version is the default version. The same
    version again does not change the target of a rollback. Raises InputError, CommandError."""
    if version:
        inventory.version(repository, name, version)
    with _locked(repository, name) as (versions, path):
        before, default = _default(repository, versions)
        if not version:
            path.unlink(missing_ok=True)
            return VersionChoice(name, str(next(_usable(repository, versions), "")), str(default or ""))
        if before is not None and before.version == int(version):
            default = before.previous_version
        return _write(path, name, DefaultFile(int(version), default if default != int(version) else 0))


def rollback(repository: Path, name: str) -> VersionChoice:
    """Write the previous default version of the file, or else the valid version below the default version. Raises
    InputError, CommandError."""
    with _locked(repository, name) as (versions, path):
        file, default = _default(repository, versions)
        lower = (own for own in _usable(repository, versions) if own < default)
        target = (file.previous_version if file is not None else 0) or next(lower, 0)
        if not target:
            raise InputError(
                f"{repository}: {name} has no valid version below {default or 'the highest one'}",
                code="no-version-to-roll-back-to",
                hint="set a default version by its number: `kanserve promote NAME VERSION --repository FOLDER`",
            )
        inventory.version(repository, name, str(target))
        return _write(path, name, DefaultFile(target, default))


@contextlib.contextmanager
def _locked(repository: Path, name: str) -> Iterator[tuple[list[Candidate], Path]]:
    """Context in which no other command changes the model: its versions, and the path of the file. Raises InputError,
    and CommandError if the file cannot be written."""
    versions = inventory.candidates(repository, name)
    path = inventory.home(repository, versions[-1]) / layout.DEFAULT_FILE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is not a regular file", code="file-not-regular", hint="remove it")
    try:
        with temp_dirs.locked(path.parent):
            yield versions, path
    except OSError as error:
        raise inventory.not_written(path, error) from error


def _default(repository: Path, versions: list[Candidate]) -> tuple[DefaultFile | None, int]:
    """The default file and the default version. The file is None if it is missing or invalid, and the version is 0 if
    the repository has no default version. The command replaces an invalid file."""
    with contextlib.suppress(LoadError):
        if (file := layout.default_file(versions[-1])) is not None:
            return file, file.version
    return None, next(_usable(repository, versions), 0)


def _usable(repository: Path, versions: list[Candidate]) -> Iterator[int]:
    """The valid versions that a server may serve by default, the highest first. Edits without a release are not."""
    left_out = layout.left_out(versions)
    for candidate in reversed(versions):
        if candidate not in left_out and not layout.is_edit(candidate):
            try:
                inventory.version(repository, candidate.name, str(candidate.version))
            except InputError:  # a server rejects it
                continue
            yield candidate.version


def _write(path: Path, name: str, file: DefaultFile) -> VersionChoice:
    """Replace the file. Raises OSError."""
    atomic.write(path, file.text().encode())
    return VersionChoice(name, str(file.version), str(file.previous_version or ""))
