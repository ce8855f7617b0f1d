"""What a server serves or a folder holds: one entry for every version of every model.

A folder is judged by the server's own rules: `repository.layout` for names, files and
their sha256, `repository.check` for the manifest, and, when it is asked for and a runtime
is installed, `models.trial` for the graph and the reference rows. An entry says which of
these were asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from kanexport import manifest as contract
from kanexport.manifest import LayerInfo, Manifest
from kanexport.shared import installing
from kanexport.shared.naming import UNNAMED, Names
from kanserve.client.answers import IndexEntry
from kanserve.client.connection import Client
from kanserve.client.description import Description
from kanserve.client.errors import ClientError, NoAnswer
from kanserve.console.common import InputError
from kanserve.errors import ConfigError, LoadError
from kanserve.repository import layout
from kanserve.repository.check import check_config, check_manifest
from kanserve.repository.layout import Bundle, Candidate

READY = "READY"  # of a server; its other states are its own words
COMPLETE = "COMPLETE"  # names, files and manifest are as the server demands; the graph was not tried
LOADS = "LOADS"  # and the graph loads and gives the reference answers, here, on the CPU
INVALID = "INVALID"  # the server refuses it
PLAIN = "PLAIN"  # model.onnx without a manifest; served with --plain-onnx only, not looked into
IGNORED = "IGNORED"  # the server passes over it
USABLE = (COMPLETE, LOADS)
FILE_BYTES = 2**30  # the default of the server's max_file_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model version. Unknown facts are empty, NaN or None."""

    name: str
    version: str
    state: str
    reason: str = ""
    checked: tuple[str, ...] = ()  # of folders: what was held against the server's rules
    family: str = ""
    widths: tuple[int, ...] = ()  # numbers of each of `shapes`
    shapes: tuple[tuple[int, ...], ...] = ()  # a row, the nodes of each layer, a row of the output
    edge_class: str = ""
    layer_classes: tuple[str, ...] = ()
    verified_error: float = math.nan  # largest relative error of the outputs, from the export
    size: int | None = None  # bytes; known for folders
    against: str = ""  # what it was verified against, a key of `manifest.AGAINST`
    verified: str = ""  # the same in words
    assumed: dict[str, str] = field(default_factory=dict)  # what its file did not tell, by name
    serving: str = ""  # how a server runs it, in words
    unused: tuple[str, ...] = ()  # of folders: what config.pbtxt says in vain
    outside: str = ""  # what becomes of rows outside, a key of `shared.outside.POLICIES`


@dataclass(frozen=True, slots=True)
class Detail:
    """One model version with its layers."""

    entry: Entry
    layers: tuple[LayerInfo, ...]
    notes: tuple[str, ...]
    names: Names = UNNAMED


def of_server(client: Client) -> list[Entry]:
    """One entry per version that the server's index names. Raises ClientError."""
    return [_served(client, indexed) for indexed in client.index()]


def of_folder(repository: Path, *, load: bool = False, hard_links: bool = False) -> list[Entry]:
    """One entry per version. With `load`, each that may be served is loaded; `hard_links` as of the server.
    Raises InputError if there is no such folder, MissingPackage if nothing is installed that could load."""
    return [detail.entry for detail in details(repository, load=load, hard_links=hard_links)]


def details(repository: Path, *, load: bool = False, hard_links: bool = False) -> list[Detail]:
    """As `of_folder`, with the layers of what reads."""
    found = _scan(repository, plain=False, hard_links=hard_links)
    left_out = layout.left_out(found)
    plain = [candidate for candidate in _scan(repository, plain=True, hard_links=hard_links) if candidate not in found]
    every = [_judged(one, left_out.get(one), load=load) for one in found]
    every += [_bare(c.name, str(c.version), PLAIN, "served with --plain-onnx only") for c in plain]
    places = {candidate.steps for candidate in (*found, *plain)}
    if all(len(steps) == 2 for steps in places):  # else the folder is itself one model
        every += _ignored(repository, places)
    return sorted(every, key=lambda detail: (detail.entry.name, detail.entry.version.rjust(20)))


def described(answer: Description, serving: str = "") -> Detail:
    """A model as its server describes it; `serving`: how it is run there."""
    entry = Entry(
        name=answer.name,
        version=answer.version,
        state=READY,
        family=answer.family,
        widths=tuple(map(math.prod, answer.shapes)),
        shapes=answer.shapes,
        edge_class=answer.edge_class,
        layer_classes=tuple(layer.edge_class for layer in answer.layers),
        verified_error=answer.verified_error,
        against=answer.against,
        verified=answer.claim,
        assumed=dict(answer.assumed),
        serving=serving,
        outside=answer.outside,
    )
    return Detail(entry, answer.layers, answer.notes, answer.names)


def _served(client: Client, indexed: IndexEntry) -> Entry:
    bare = Entry(name=indexed.name, version=indexed.version, state=indexed.state, reason=indexed.reason)
    if indexed.state != READY:
        return bare
    try:
        return described(client.describe(indexed.name, indexed.version)).entry
    except NoAnswer:
        raise
    except ClientError:
        return bare  # a plain ONNX model has no description, and a server may not offer one


def _scan(repository: Path, *, plain: bool, hard_links: bool) -> list[Candidate]:
    if not repository.is_dir():
        raise InputError(f"{repository} is not a folder; a folder of NAME/VERSION/model.onnx was expected")
    try:
        return layout.scan(repository, plain_onnx=plain, hard_links=hard_links)
    except ConfigError as error:
        raise InputError(str(error)) from error


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
            return _bare(name, version, IGNORED, "its manifest went away while it was read")
        checked += ["names", "files"]
        check_manifest(manifest)
        checked.append("manifest")
        check_config(bundle.config, manifest.name, manifest.inputs, manifest.outputs, batched=True)
        if load:
            _load(candidate, bundle)
            checked += ["graph", *(["reference rows"] if manifest.reference.inputs else [])]
    except LoadError as error:
        refused = _bare(name, version, INVALID, str(error))
        return replace(refused, entry=replace(refused.entry, checked=tuple(checked)))
    stored = _stored(candidate, manifest, LOADS if load else COMPLETE, tuple(checked))
    return replace(stored, entry=replace(stored.entry, unused=bundle.config.unused))


def _load(candidate: Candidate, bundle: Bundle) -> None:
    """By name: the client alone is installed without what the server needs to load."""
    installing.load("models --load", "kanserve.models.trial", "serve").load(candidate, bundle)


def _stored(candidate: Candidate, manifest: Manifest, state: str, checked: tuple[str, ...]) -> Detail:
    finite = [zone.outputs_max_rel for zone in manifest.verification.zones if zone.name != "nonfinite"]
    entry = Entry(
        name=candidate.name,
        version=str(candidate.version),
        state=state,
        checked=checked,
        family=manifest.source.family,
        widths=manifest.widths,
        shapes=manifest.shapes,
        edge_class=manifest.edge_class,
        layer_classes=tuple(layer.edge_class or manifest.edge_class for layer in manifest.layers),
        verified_error=max(finite, default=math.nan),
        size=sum(file.size for file in manifest.files),
        against=manifest.against,
        verified=manifest.claim,
        assumed=manifest.source.options_assumed,
        outside=manifest.outside,
    )
    return Detail(entry, manifest.layers, manifest.notes, manifest.names)


def _ignored(repository: Path, known: set[tuple[str, ...]]) -> list[Detail]:
    """Folders that look like versions and are none to the server."""
    return [
        _bare(model.name, version.name, IGNORED, _why_ignored(model, version.name))
        for model in _folders(repository)
        if not model.name.startswith(".")
        for version in _folders(model)
        if version.name.isdigit() and (model.name, version.name) not in known
    ]


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except OSError:  # what the machine does not list, the server does not see
        return []


def _why_ignored(model: Path, version: str) -> str:
    if not layout.NAME.fullmatch(model.name):
        return "the server takes no such name: letters, digits, '.', '_' and '-'"
    if not layout.VERSION.fullmatch(version):
        return "the server takes no such version: a number from 1, without leading zeros"
    if model.is_symlink() or (model / version).is_symlink():
        return "the server follows no link below the repository"
    return f"neither {contract.FILE_NAME} nor {contract.MODEL_FILE}"


def _bare(name: str, version: str, state: str, reason: str) -> Detail:
    return Detail(Entry(name=name, version=version, state=state, reason=reason), (), ())
