"""`kanserve models`: what a server serves or a folder holds; with a NAME, one model layer by layer."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from kanexport.shared.nearest import advice
from kanexport.shared.output import print_json
from kanexport.shared.voice import Exit
from kanserve.console import inventory, layers, model_table, remote
from kanserve.console.common import CommandError, InputError, add_client_options
from kanserve.console.inventory import Detail

TEXT = """List what a server serves or what a repository folder holds; with a NAME, one model layer
by layer.

The states of a folder's versions:
  COMPLETE  names, files (size, sha256, none unlisted) and manifest are as the server
            demands; the graph was not tried
  LOADS     with --load: also the graph loads on this machine's CPU and gives the
            reference answers
  INVALID   the server refuses it, for the reason shown
  PLAIN     model.onnx without a manifest; served with --plain-onnx only, not looked into
  IGNORED   the server passes over it
"""
EXAMPLES = """examples:
  kanserve models                    of the server at --url
  kanserve models repository --load  of a folder, each version loaded once
  kanserve models digits             one model, layer by layer
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    parser.add_argument(
        "where",
        nargs="?",
        metavar="REPOSITORY",
        help="a folder; without it the server at --url is asked",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="one model, layer by layer; also without a REPOSITORY")
    parser.add_argument("--model-version", default="", metavar="N", help="of NAME; default: the highest")
    parser.add_argument("--load", action="store_true", help="of a REPOSITORY: load each version as the server would")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    folder, name = _meant(args.where, args.name)
    if args.load and folder is None:
        raise CommandError("--load is for a REPOSITORY folder; a server has loaded its models")
    source = str(folder) if folder else args.url
    if name:
        detail = _of_folder(folder, name, args) if folder else _of_server(name, args)
        _show_detail(source, detail, as_json=args.json)
        return Exit.DONE
    if folder:
        entries = inventory.of_folder(folder, load=args.load)
    else:
        with remote.connection(args) as client:
            entries = inventory.of_server(client)
    if args.json:
        print_json({"source": source, "models": [asdict(entry) for entry in entries]})
    else:
        model_table.table(source, entries).show()
    return Exit.DONE


def _meant(where: str | None, name: str | None) -> tuple[Path | None, str]:
    """The folder, and the name. One word alone is a folder if there is one of that name
    or if it could be no model's name."""
    if where is None:
        return None, ""
    if name is None and not Path(where).is_dir() and os.sep not in where and where not in (".", ".."):
        return None, where
    return Path(where), name or ""


def _of_server(name: str, args: argparse.Namespace) -> Detail:
    try:
        with remote.connection(args, model=name) as client:
            described = client.describe(name, args.model_version)
            return inventory.described(described, client.model(name, described.version).serving)
    except CommandError as error:
        raise CommandError(
            f"{name} is not a folder here, and as a model: {error.message}",
            hint=error.hint,
            kind=error.kind,
            exit_code=error.exit_code,
        ) from error


def _of_folder(repository: Path, name: str, args: argparse.Namespace) -> Detail:
    """The version that was asked for, or the highest. Raises InputError."""
    every = inventory.details(repository, load=args.load)
    known = [detail for detail in every if detail.entry.name == name]
    if not known:
        names = [detail.entry.name for detail in every]
        raise InputError(f"{repository}: there is no {name}", hint=advice(name, names, what="there are"))
    asked = [detail for detail in known if args.model_version in ("", detail.entry.version)]
    if not asked:
        versions = ", ".join(detail.entry.version for detail in known)
        raise InputError(f"{repository}: {name} has the versions {versions}, not {args.model_version}")
    entry = asked[-1].entry
    if entry.state not in inventory.USABLE:
        raise InputError(f"{repository}: {name} version {entry.version} is {entry.state}: {entry.reason}")
    return asked[-1]


def _show_detail(source: str, detail: Detail, *, as_json: bool) -> None:
    if as_json:
        facts = {"layers": layers.document(detail.layers), "notes": detail.notes, "names": asdict(detail.names)}
        print_json({"source": source, "model": {**asdict(detail.entry), **facts}})
        return
    model_table.table(source, [detail.entry], whole=True).show()
    layers.show_names(detail.names)
    layers.show(detail.layers, detail.notes, detail.entry.edge_class)
