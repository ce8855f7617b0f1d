"""`kanserve models [REPOSITORY]`: what a folder holds, or what a server serves."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from kanexport import manifest
from kanserve.commands import remote, tables
from kanserve.commands.common import CommandError, add_client_options, print_json
from kanserve.rpc.client import Client, ClientError, IndexEntry

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
    widths: tuple[int, ...] = ()
    edge_class: str = ""
    verified_error: float = math.nan  # largest relative error of the outputs, from the export
    size: int | None = None  # bytes; known for folders


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "repository",
        nargs="?",
        metavar="REPOSITORY",
        help="a folder; without it the server at --url is asked",
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or raises CommandError."""
    if args.repository is not None:
        source = args.repository
        rows = from_folder(Path(args.repository))
    else:
        source = args.url
        with remote.connection(args) as client:
            rows = from_server(client)
    if args.json:
        print_json({"source": source, "models": [asdict(row) for row in rows]})
    else:
        _print_table(source, rows)
    return 0


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
    return Row(
        name=entry.name,
        version=entry.version,
        state=entry.state,
        family=described.family,
        widths=described.widths,
        edge_class=described.edge_class,
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
    finite = [zone.outputs_max_rel for zone in found.verification.zones if zone.name != "nonfinite"]
    return Row(
        name=name,
        version=version,
        state=COMPLETE,
        family=found.source.family,
        widths=found.widths,
        edge_class=found.edge_class,
        verified_error=max(finite, default=math.nan),
        size=sum(entry.size for entry in found.files),
    )


def _print_table(source: str, rows: list[Row]) -> None:
    table = tables.make(
        f"models of {source}",
        ("name", "version", "state", "family", "widths", "class", "verified error", "size"),
        numbers=("version", "verified error", "size"),
    )
    for row in rows:
        table.add_row(
            row.name,
            row.version,
            f"{row.state}: {row.reason}" if row.reason else row.state,
            row.family,
            " → ".join(str(width) for width in row.widths),
            row.edge_class,
            "" if math.isnan(row.verified_error) else f"{row.verified_error:.1e}",
            "" if row.size is None else f"{row.size / 1024:,.0f} KiB",
        )
    tables.show(table)
