"""`kanserve models`: what a server serves or a folder holds; with a NAME, one model layer by layer."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from kanexport import manifest
from kanexport.manifest import LayerInfo, Manifest
from kanserve.client.connection import Client, ClientError, IndexEntry
from kanserve.client.description import Description
from kanserve.console import layers, remote, tables
from kanserve.console.common import FAILED, WRONG, CommandError, add_client_options, print_json

READY = "READY"
COMPLETE = "COMPLETE"  # in a folder: the manifest reads, and every listed file is there in its size
INVALID = "INVALID"
PLAIN = "PLAIN"  # model.onnx without a manifest; served with --plain-onnx only


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model version. Unknown facts are empty, NaN or None."""

    name: str
    version: str
    state: str
    reason: str = ""
    family: str = ""
    widths: tuple[int, ...] = ()  # numbers of each of `shapes`
    shapes: tuple[tuple[int, ...], ...] = ()  # a row, the nodes of each layer, a row of the output
    edge_class: str = ""
    layer_classes: tuple[str, ...] = ()
    verified_error: float = math.nan  # largest relative error of the outputs, from the export
    size: int | None = None  # bytes; known for folders


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "where",
        nargs="?",
        metavar="REPOSITORY",
        help="a folder; without it the server at --url is asked",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="one model, layer by layer; also without a REPOSITORY")
    parser.add_argument("--model-version", default="", metavar="N", help="of NAME; default: the highest")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or raises CommandError."""
    folder, name = _meant(args.where, args.name)
    if name:
        source, detail = (
            (str(folder), _detail_of_folder(folder, name, args.model_version))
            if folder
            else (args.url, _detail_of_server(args, name))
        )
        _show_detail(source, detail, as_json=args.json)
        return 0
    if folder:
        source = str(folder)
        rows = from_folder(folder)
    else:
        source = args.url
        with remote.connection(args) as client:
            rows = from_server(client)
    if args.json:
        print_json({"source": source, "models": [asdict(row) for row in rows]})
    else:
        _print_table(source, rows)
    return 0


def _meant(where: str | None, name: str | None) -> tuple[Path | None, str]:
    """The folder, and the name. One word alone is a folder if there is one of that name
    or if it could be no model's name."""
    if where is None:
        return None, ""
    if name is None and not Path(where).is_dir() and os.sep not in where and where not in (".", ".."):
        return None, where
    return Path(where), name or ""


def from_server(client: Client) -> list[Row]:
    """One row per version that the server's index names."""
    return [_served(client, entry) for entry in client.index()]


def _served(client: Client, entry: IndexEntry) -> Row:
    bare = Row(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
    if entry.state != READY:
        return bare
    try:
        described = client.describe(entry.name, entry.version)
    except ClientError as error:
        if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            raise
        return bare  # a plain ONNX model has no description, and a server may not offer one
    return _ready(described)


def _ready(described: Description) -> Row:
    return Row(
        name=described.name,
        version=described.version,
        state=READY,
        family=described.family,
        widths=tuple(map(math.prod, described.shapes)),
        shapes=described.shapes,
        edge_class=described.edge_class,
        layer_classes=tuple(layer.edge_class for layer in described.layers),
        verified_error=described.verified_error,
    )


def from_folder(repository: Path) -> list[Row]:
    """One row per NAME/VERSION folder. Raises CommandError if there is no such folder."""
    if not repository.is_dir():
        raise CommandError(f"{repository} is not a folder; a folder of NAME/VERSION/model.onnx was expected")
    rows = []
    for model in sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith(".")):
        numbers = [path.name for path in model.iterdir() if path.name.isdigit() and path.is_dir()]
        rows += [_stored(model.name, model / number) for number in sorted(numbers, key=int)]
    return rows


def _stored(name: str, folder: Path) -> Row:
    version = folder.name
    if not (folder / manifest.FILE_NAME).is_file():
        plain = (folder / manifest.MODEL_FILE).is_file()
        reason = "" if plain else f"neither {manifest.FILE_NAME} nor {manifest.MODEL_FILE}"
        return Row(name=name, version=version, state=PLAIN if plain else INVALID, reason=reason)
    try:
        found = manifest.load(folder)
        for entry in found.files:
            size = (folder / entry.path).stat().st_size
            if size != entry.size:
                reason = f"{entry.path} has {size} bytes, the manifest says {entry.size}"
                return Row(name=name, version=version, state=INVALID, reason=reason)
    except manifest.ManifestError as error:
        return Row(name=name, version=version, state=INVALID, reason=str(error))
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        return Row(name=name, version=version, state=INVALID, reason=reason)
    return _complete(name, version, found)


def _complete(name: str, version: str, found: Manifest) -> Row:
    finite = [zone.outputs_max_rel for zone in found.verification.zones if zone.name != "nonfinite"]
    return Row(
        name=name,
        version=version,
        state=COMPLETE,
        family=found.source.family,
        widths=found.widths,
        shapes=found.shapes,
        edge_class=found.edge_class,
        layer_classes=tuple(layer.edge_class or found.edge_class for layer in found.layers),
        verified_error=max(finite, default=math.nan),
        size=sum(entry.size for entry in found.files),
    )


@dataclass(frozen=True, slots=True)
class Detail:
    """One model with its layers."""

    row: Row
    layers: tuple[LayerInfo, ...]
    notes: tuple[str, ...]


def _detail_of_server(args: argparse.Namespace, name: str) -> Detail:
    with remote.connection(args) as client:
        try:
            described = client.describe(name, args.model_version)
        except ClientError as error:
            wrong = WRONG if error.input_is_wrong else FAILED
            raise CommandError(f"{name} is not a folder here, and as a model: {error}", exit_code=wrong) from error
    return Detail(_ready(described), described.layers, described.notes)


def _detail_of_folder(repository: Path, name: str, version: str) -> Detail:
    known = [row for row in from_folder(repository) if row.name == name]
    rows = [row for row in known if version in ("", row.version)]
    if not rows:
        there = ", ".join(row.version for row in known)
        found = f"{name} has the versions {there}" if known else f"there is no {name}"
        raise CommandError(f"{repository}: {found}; `kanserve models {repository}` lists what there is")
    row = rows[-1]
    if row.state != COMPLETE:
        raise CommandError(f"{repository}: {name} version {row.version} is {row.state} {row.reason}".rstrip())
    found_manifest = manifest.load(repository / name / row.version)
    return Detail(row, found_manifest.layers, found_manifest.notes)


def _show_detail(source: str, detail: Detail, *, as_json: bool) -> None:
    if as_json:
        facts = {"layers": layers.document(detail.layers), "notes": detail.notes}
        print_json({"source": source, "model": {**asdict(detail.row), **facts}})
        return
    _print_table(source, [detail.row])
    layers.show(detail.layers, detail.notes, detail.row.edge_class)


def _print_table(source: str, rows: list[Row]) -> None:
    table = tables.make(
        f"models of {source}",
        ("name", "version", "state", "family", "widths", "class", "verified error", "size"),
        numbers=("version", "verified error", "size"),
    )
    for row in rows:
        tables.add(
            table,
            row.name,
            row.version,
            f"{row.state}: {row.reason}" if row.reason else row.state,
            row.family,
            manifest.arrows(row.shapes),
            _classes(row),
            "" if math.isnan(row.verified_error) else f"{row.verified_error:.1e}",
            "" if row.size is None else f"{row.size / 1024:,.0f} KiB",
        )
    tables.show(table)


def _classes(row: Row) -> str:
    """The model's class, and the layers of another one."""
    others: dict[str, list[str]] = {}
    for at, own in enumerate(row.layer_classes):
        if own != row.edge_class:
            others.setdefault(own, []).append(str(at))
    return "; ".join([row.edge_class, *(f"{own} in layer {', '.join(at)}" for own, at in others.items())])
