"""`kanserve models`: what a server serves or a folder holds; with a NAME, one model layer by layer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kanexport.shared.nearest import advice
from kanexport.shared.output import note, print_json
from kanexport.shared.voice import Exit
from kanserve.console import inventory, layers, model_table, nearby, remote
from kanserve.console.common import CommandError, InputError, add_client_options
from kanserve.console.inventory import Detail, Entry

TEXT = """List what a server serves or what a repository folder holds; with a NAME, one model layer
by layer.

The states of a folder's versions:
  COMPLETE  names, files (size, sha256, none unlisted) and manifest are as the server
            demands; the graph was not tried
  LOADS     with --load: also the graph loads on this machine's CPU and gives the
            reference answers
  INVALID   the server refuses it, for the reason shown; the exit code is 2
  PLAIN     model.onnx without a manifest; served with --plain-onnx only, not looked into
  IGNORED   the server passes over it
"""
EXAMPLES = """examples:
  kanserve models                    of the server at --url
  kanserve models ./models --load    of a folder, each version loaded once
  kanserve models ./models digits    one model of a folder
  kanserve models digits             one model of the server, layer by layer
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    parser.add_argument(
        "where",
        nargs="?",
        metavar="REPOSITORY",
        help="a folder, with a / in it (./models); without it the server at --url is asked",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="one model, layer by layer; without a REPOSITORY, of the server"
    )
    parser.set_defaults(files=False, folders=True)
    parser.add_argument("--model-version", default="", metavar="N", help="of NAME; default: the highest")
    parser.add_argument("--load", action="store_true", help="of a REPOSITORY: load each version as the server would")
    parser.add_argument(
        "--allow-invalid", action="store_true", help="of a REPOSITORY: exit code 0 although a version is INVALID"
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 2 if a version of a folder is INVALID. Raises CommandError."""
    folder, name = _meant(args)
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
    return _judged(entries, args)


def _judged(entries: Sequence[Entry], args: argparse.Namespace) -> int:
    """The exit code of a list: WRONG if a server rejects a version of the folder."""
    refused = [entry for entry in entries if entry.state == inventory.INVALID]
    if not refused or args.allow_invalid:
        return Exit.DONE
    first = f"{refused[0].name} version {refused[0].version}"
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    note(f"{first}{more}: INVALID, so that a server refuses it; with --allow-invalid the exit code is 0")
    return Exit.WRONG


def _meant(args: argparse.Namespace) -> tuple[Path | None, str]:
    """The folder and the name. A single word is a folder if it is a path by the rule in `nearby`. Raises
    CommandError."""
    if args.where is not None and (args.name is not None or nearby.is_path_for(args, args.where)):
        if args.url_given:
            raise InputError("a REPOSITORY folder and --url are given: expected one of them")
        return Path(args.where), args.name or ""
    for option, given in (("--load", args.load), ("--allow-invalid", args.allow_invalid)):
        if given:
            hint = nearby.advice(args, args.where or "")
            raise CommandError(f"{option} is for a REPOSITORY folder; a server has loaded its models", hint=hint)
    return None, args.where or ""


def _of_server(name: str, args: argparse.Namespace) -> Detail:
    with remote.connection(args, model=name) as client:
        described = client.describe(name, args.model_version)
        return inventory.described(described, client.model(name, described.version).serving)


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
