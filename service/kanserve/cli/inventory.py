"""Inventory of a server or a repository folder, as `kanserve models` prints it: one entry for each version.

The command checks a folder by the server's own rules. `repository.layout` checks names, files and their sha256, and
`repository.validation` checks the manifest. On request, and if a runtime is installed, `sandbox` checks the graph
and the reference rows. An entry says which of these checks were done.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kanexport.shared import atomic, safe_files, temp_dirs
from kanexport.shared import manifest as manifests
from kanexport.shared.cli import suggest
from kanexport.shared.cli.console import Exit
from kanexport.shared.cli.suggest import advice
from kanexport.shared.manifest import Manifest
from kanserve.cli.options import CommandError, InputError
from kanserve.client.errors import ClientError, TransientError
from kanserve.client.sync import Client
from kanserve.errors import ConfigError, LoadError, text_and_hint
from kanserve.repository import layout
from kanserve.repository.layout import Bundle, Candidate
from kanserve.repository.validation import check_config, check_manifest
from kanserve.types import Description

READY = "READY"  # of a server, which also reports other states
COMPLETE = "COMPLETE"  # names, files and manifest are valid; the graph was not loaded
LOADS = "LOADS"  # also, the graph loads on this machine's CPU and returns the reference outputs
INVALID = "INVALID"  # the server rejects it
PLAIN = "PLAIN"  # model.onnx without a manifest; served only with --plain-onnx, and not checked
IGNORED = "IGNORED"  # the server ignores it
USABLE = (COMPLETE, LOADS)
FILE_BYTES = 2**30  # the default of the server's max_file_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Inventory entry of one model version. Unknown facts are empty, NaN or None."""

    name: str
    version: str
    state: str
    reason: str = ""
    checked: tuple[str, ...] = ()  # of folders: the checks that passed
    family: str = ""
    widths: tuple[int, ...] = ()  # numbers of each of `shapes`
    shapes: tuple[tuple[int, ...], ...] = ()  # a row, the nodes of each layer, a row of the output
    edge_class: str = ""
    layer_classes: tuple[str, ...] = ()
    verified_error: float = math.nan  # largest relative error of the outputs, from the export
    size: int | None = None  # bytes; known for folders
    verification_basis: str = ""  # a key of `manifest.VERIFICATION_BASES`
    verified: str = ""  # the same in words
    assumed: dict[str, str] = field(default_factory=dict)  # assumed options by name, which the file leaves open
    serving: str = ""  # how a server runs it, in words
    unused: tuple[str, ...] = ()  # of folders: entries of config.pbtxt without effect
    out_of_range_policy: str = ""  # handling of rows out of range, a key of `shared.sections.OUT_OF_RANGE_POLICIES`
    intervals: str = ""  # prediction intervals in one sentence
    certificate: str = ""  # the certificate in one sentence
    error_bars: str = ""  # error bars in one sentence
    edited: str = ""  # the edit that made the version, in one sentence
    default_file: str = ""  # of folders: the file with the default version of the model, in one sentence


@dataclass(frozen=True, slots=True)
class Detail:
    """Inventory entry of one model version, with its description or manifest; None if it cannot be read."""

    entry: Entry
    model: Description | Manifest | None = None


def of_server(client: Client) -> list[Entry]:
    """Inventory entries of all versions in the server's index. Raises ClientError."""
    entries = []
    for indexed in client.index():
        entry = Entry(name=indexed.name, version=indexed.version, state=indexed.state)
        if indexed.state == READY:
            try:
                entry = described(client.describe(indexed.name, indexed.version)).entry
            except TransientError:
                raise
            except ClientError:
                pass  # a plain ONNX model has no description, and a server may not offer one
        entries.append(replace(entry, reason=indexed.reason))
    return entries


def of_folder(repository: Path, *, load: bool = False, hard_links: bool = False) -> list[Entry]:
    """Inventory entries of all versions in a folder. Raises InputError if there is no such folder, MissingPackage if
    no runtime is installed.

    load        load each version that may be served
    hard_links  as the server's setting
    """
    return [detail.entry for detail in details(repository, load=load, hard_links=hard_links)]


def details(repository: Path, *, load: bool = False, hard_links: bool = False) -> list[Detail]:
    """Inventory entries as `of_folder`, with the layers of the readable versions."""
    listed = _scan(repository, plain=False, hard_links=hard_links)
    left_out = layout.left_out(listed)
    plain = [own for own in _scan(repository, plain=True, hard_links=hard_links) if own not in listed]
    every = [_judged(candidate, left_out.get(candidate), load=load) for candidate in listed]
    every += [_bare(c.name, str(c.version), PLAIN, "served only with --plain-onnx") for c in plain]
    candidates = [*listed, *plain]
    words: dict[str, str] = {}
    for name, file in layout.default_files(candidates).items():
        if isinstance(file, LoadError):
            words[name] = f"servers ignore the file with the default version: {text_and_hint(file)}"
        elif (name, file.version) in {(candidate.name, candidate.version) for candidate in candidates}:
            words[name] = f"version {file.version} is the default version on each server of the folder"
        else:
            words[name] = f"the file {layout.DEFAULT_FILE} names version {file.version}, which is missing"
    every = [replace(own, entry=replace(own.entry, default_file=words.get(own.entry.name, ""))) for own in every]
    places = {candidate.steps for candidate in candidates}
    if all(len(steps) == 2 for steps in places):  # else the folder is itself one model
        every += _ignored(repository, places)
    return sorted(every, key=lambda detail: (detail.entry.name, detail.entry.version.rjust(20)))


def _ignored(repository: Path, known: set[tuple[str, ...]]) -> list[Detail]:
    """Folders with names of versions that the server ignores."""
    ignored = []
    for model in _folders(repository):
        for version in () if model.name.startswith(".") else _folders(model):
            if not version.name.isdigit() or (model.name, version.name) in known:
                continue
            if not layout.NAME.fullmatch(model.name):
                reason = "invalid model name, expected letters, digits, '.', '_' and '-'"
            elif not layout.VERSION.fullmatch(version.name):
                reason = "invalid version, expected a number from 1 without leading zeros"
            elif model.is_symlink() or version.is_symlink():
                reason = "symbolic link, expected a folder"
            else:
                reason = f"found neither {manifests.FILE_NAME} nor {manifests.MODEL_FILE}"
            ignored.append(_bare(model.name, version.name, IGNORED, reason))
    return ignored


def described(model: Description, serving: str = "") -> Detail:
    """A model as its server describes it; `serving`: how it is run there."""
    return _detail(
        model,
        name=model.name,
        version=model.version,
        state=READY,
        family=model.family,
        verified_error=model.verified_error,
        assumed=dict(model.options_assumed),
        serving=serving,
        out_of_range_policy=model.out_of_range_policy,
    )


def _detail(model: Description | Manifest, **facts: Any) -> Detail:
    """The inventory entry of a version with its layers. `facts`: what a description and a manifest have elsewhere."""
    entry = Entry(
        widths=tuple(map(math.prod, model.shapes)),
        shapes=model.shapes,
        edge_class=model.edge_class,
        layer_classes=tuple(layer.edge_class or model.edge_class for layer in model.layers),
        verification_basis=model.verification_basis,
        verified=model.claim,
        intervals=model.intervals.text,
        certificate=model.certificate.text,
        error_bars=model.error_bars.text,
        edited=model.edit.text,
        **facts,
    )
    return Detail(entry, model)


def _scan(repository: Path, *, plain: bool = False, hard_links: bool = False) -> list[Candidate]:
    if not repository.is_dir():
        raise InputError(
            f"{repository} is not a folder, expected a model repository with NAME/VERSION/model.onnx",
            code="repository-not-a-folder",
            hint="create one: `kanserve export CHECKPOINT --repository models --name NAME`",
        )
    try:
        return layout.scan(repository, plain_onnx=plain, hard_links=hard_links)
    except ConfigError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error


def _judged(candidate: Candidate, left_out: str | None, *, load: bool) -> Detail:
    """A version with a manifest, as the server would judge it. `left_out`: the version_policy, if by that."""
    name, version = candidate.name, str(candidate.version)
    if left_out is not None:
        return _bare(name, version, IGNORED, f"config.pbtxt has version_policy {left_out}")
    checked: list[str] = []
    try:
        bundle = layout.load(candidate, FILE_BYTES)
        manifest = bundle.manifest
        if manifest is None:
            return _bare(name, version, IGNORED, "its manifest was removed while kanserve read it")
        checked += ["names", "files"]
        check_manifest(manifest)
        checked.append("manifest")
        check_config(bundle.config, manifest.name, manifest.inputs, manifest.outputs, batched=True)
        if load:
            # A client installation lacks the server's packages.
            suggest.load("models --load", "kanserve.models.admission", "serve").load(candidate, bundle)
            checked += ["graph", *(["reference rows"] if manifest.reference.inputs else [])]
    except LoadError as error:
        refused = _bare(name, version, INVALID, text_and_hint(error))
        return replace(refused, entry=replace(refused.entry, checked=tuple(checked)))
    errors = [zone.outputs_max_rel for zone in manifest.verification.zones if zone.name != "nonfinite"]
    return _detail(
        manifest,
        name=name,
        version=version,
        state=LOADS if load else COMPLETE,
        checked=tuple(checked),
        family=manifest.source.family,
        verified_error=max(errors, default=math.nan),
        size=sum(file.size for file in manifest.files),
        assumed=manifest.source.options_assumed,
        unused=bundle.config.unused,
        out_of_range_policy=manifest.out_of_range,
    )


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except OSError:  # the server cannot list it either
        return []


def _bare(name: str, version: str, state: str, reason: str) -> Detail:
    return Detail(Entry(name=name, version=version, state=state, reason=reason))


FILE, FOLDER = 0o644, 0o755  # modes of a copy, before the umask


def holds(repository: Path, name: str) -> bool:
    """True if the folder exists and has a model of this name."""
    return repository.is_dir() and any(candidate.name == name for candidate in _scan(repository))


def version(repository: Path, name: str, requested: str) -> tuple[Bundle, Manifest]:
    """Files and manifest of the version `requested`, or of the highest, checked as by the server. Raises InputError."""
    return _loaded(repository, _candidate(repository, name, requested))


def copied(repository: Path, name: str, source: str, target: str, *, force: bool, release: bool = False) -> Manifest:
    """Copy the version `source` to the number `target`, completely or not at all. The manifest of the copy has the new
    number. The command reads the copy back and verifies it before the copy appears. `force`: replace an existing
    version. `release`: the copy of an edit can be the default version. Raises InputError if the source cannot be
    copied, CommandError if the target cannot be written."""
    candidate = _candidate(repository, name, source)
    if not layout.VERSION.fullmatch(target) or int(target) == candidate.version:
        raise InputError(
            f"invalid target version {target[:30]!r}, expected another number from 1",
            code="version-invalid",
            hint=f"pass a number other than {candidate.version}",
        )
    folder = home(repository, candidate)
    bundle, _ = _loaded(repository, candidate)
    try:
        manifest = replace(layout.manifest(candidate), version=int(target))  # its long lists stay in their own file
        if release and not manifest.edit:
            raise InputError(
                f"--release: version {source} of {manifest.name} is not an edit",
                code="version-not-an-edit",
                hint="copy it without --release: it can be the default version already",
            )
        if release:
            manifest = replace(manifest, edit=replace(manifest.edit, released=True))
        _check_free(folder, target, force=force)
        with temp_dirs.staging_path(folder) as staging:
            _write(staging, target, {**bundle.files, manifests.FILE_NAME: manifests.dumps(manifest)})
            _loaded(repository, Candidate(name, manifest.version, staging, (target,)))
            with temp_dirs.locked(candidate.root):
                _check_free(folder, target, force=force)
                new, old = staging / target, folder / target
                if not os.path.lexists(old):
                    os.rename(new, old)
                elif not atomic.exchange(new, old):
                    raise CommandError(
                        f"{old} cannot be replaced atomically: the file system does not support it",
                        code="exchange-not-supported",
                        hint=f"remove {old}, and copy again",
                        exit_code=Exit.FAILED,
                    )
    except (LoadError, manifests.ManifestError) as error:
        raise InputError(
            f"{repository}: {name} version {candidate.version} changed while kanserve read it: {error}",
            code="version-changed",
            hint="run the command again",
        ) from error
    except OSError as error:
        raise not_written(folder / target, error) from error
    return manifest


def home(repository: Path, candidate: Candidate) -> Path:
    """The folder of the versions of a model. Raises InputError if the repository is itself a version."""
    if not candidate.steps:
        raise InputError(
            f"{repository} is itself a model version, expected a folder of models",
            code="repository-is-a-version",
            hint="pass the repository, two folders above the version",
        )
    return candidate.root.joinpath(*candidate.steps[:-1])


def not_written(path: Path, error: OSError) -> CommandError:
    """The error for a file or folder of a repository that cannot be written."""
    return CommandError(
        f"{path} cannot be written: {error.strerror or error}",
        code="version-not-written",
        hint="check the free space and the permissions of the folder",
        exit_code=Exit.FAILED,
    )


def _write(staging: Path, target: str, files: Mapping[str, bytes]) -> None:
    """Write a folder `target` in a new one, and flush it to disk. Descriptors resolve each name only once. Raises
    OSError."""
    staging.mkdir(FOLDER)
    with temp_dirs.locked(staging, own=True) as inside:
        os.mkdir(target, FOLDER, dir_fd=inside)
        with safe_files.directory(target, within=inside) as version:
            for name, data in files.items():
                safe_files.create(name, [data], mode=FILE, within=version)
            os.fsync(version)


def _check_free(home: Path, target: str, *, force: bool) -> None:
    if os.path.lexists(home / target) and not force:
        taken = [int(name) for name in os.listdir(home) if layout.VERSION.fullmatch(name)]
        raise InputError(
            f"{home / target} exists",
            code="version-exists",
            hint=f"pass --force to replace it, or use the next free number, {max(taken, default=0) + 1}",
        )


def _loaded(repository: Path, candidate: Candidate) -> tuple[Bundle, Manifest]:
    """The files and the manifest of a version. Raises InputError with the reason."""
    try:
        bundle = layout.load(candidate, FILE_BYTES)
        if bundle.manifest is None:
            raise InputError(
                f"{repository}: the manifest of {candidate.name} was removed while kanserve read it",
                code="version-changed",
                hint="run the command again",
            )
        check_manifest(bundle.manifest)
    except LoadError as error:
        raise InputError(
            f"{repository}: {candidate.name} version {candidate.version}: {error}",
            code=error.code,
            hint=error.hint or "export the model again",
        ) from error
    return bundle, bundle.manifest


def candidates(repository: Path, name: str) -> list[Candidate]:
    """The versions of a model with a manifest, ascending. Raises InputError if there is none."""
    every = _scan(repository)
    known = [candidate for candidate in every if candidate.name == name]
    if not known:
        names = sorted({candidate.name for candidate in every})
        raise unknown_model(repository, name, names)
    return known


def _candidate(repository: Path, name: str, requested: str) -> Candidate:
    known = candidates(repository, name)
    matches = [candidate for candidate in known if requested in ("", str(candidate.version))]
    if not matches:
        raise unknown_version(repository, name, requested, [str(candidate.version) for candidate in known])
    return matches[-1]


def unknown_model(repository: Path, name: str, names: Sequence[str]) -> InputError:
    """The error for a model that the repository does not have."""
    return InputError(
        f"{repository}: unknown model {name!r}",
        code="model-unknown",
        hint=advice(name, names, what="models of the repository"),
    )


def unknown_version(repository: Path, name: str, requested: str, versions: Sequence[str]) -> InputError:
    """The error for a version that the model does not have."""
    return InputError(
        f"{repository}: unknown version {requested!r} of {name}",
        code="version-unknown",
        hint=f"pass one of its versions: {', '.join(versions)}",
    )
