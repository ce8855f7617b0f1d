"""Command `kanserve models`: the models of a server or a folder, or the layers of one model."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kanexport.contract.cli.console import Exit, note, print_json
from kanexport.contract.cli.suggest import advice
from kanexport.contract.cli.tables import Table
from kanexport.contract.manifest import VERIFICATION_BASES, arrows
from kanexport.contract.sections import AS_TRAINED, OUT_OF_RANGE_POLICIES
from kanserve.cli import inventory, session
from kanserve.cli.inventory import Detail, Entry
from kanserve.cli.options import CommandError, InputError, add_client_options
from kanserve.report import text_tables

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
    folder, name = _target(args)
    source = str(folder) if folder else args.url
    if name:
        detail = _of_folder(folder, name, args) if folder else _of_server(name, args)
        _show_detail(source, detail, as_json=args.json)
        return Exit.DONE
    if folder:
        entries = inventory.of_folder(folder, load=args.load)
    else:
        with session.connection(args) as client:
            entries = inventory.of_server(client)
    if args.json:
        print_json({"source": source, "models": [asdict(entry) for entry in entries]})
    else:
        table(source, entries).show()
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


def _target(args: argparse.Namespace) -> tuple[Path | None, str]:
    """The folder and the name. A single word is a folder if it is a path by the rule in `nearby`. Raises
    CommandError."""
    if args.where is not None and (args.name is not None or session.is_path_for(args, args.where)):
        if args.url_given:
            raise InputError("a REPOSITORY folder and --url are given: expected one of them")
        return Path(args.where), args.name or ""
    for option, value in (("--load", args.load), ("--allow-invalid", args.allow_invalid)):
        if value:
            hint = session.server_advice(args, args.where or "")
            raise CommandError(f"{option} is for a REPOSITORY folder; a server has loaded its models", hint=hint)
    return None, args.where or ""


def _of_server(name: str, args: argparse.Namespace) -> Detail:
    with session.connection(args, model=name) as client:
        described = client.describe(name, args.model_version)
        return inventory.described(described, client.model(name, described.version).serving)


def _of_folder(repository: Path, name: str, args: argparse.Namespace) -> Detail:
    """The version that was asked for, or the highest. Raises InputError."""
    every = inventory.details(repository, load=args.load)
    known = [detail for detail in every if detail.entry.name == name]
    if not known:
        names = [detail.entry.name for detail in every]
        raise InputError(f"{repository}: there is no {name}", hint=advice(name, names, what="there are"))
    matches = [detail for detail in known if args.model_version in ("", detail.entry.version)]
    if not matches:
        versions = ", ".join(detail.entry.version for detail in known)
        raise InputError(f"{repository}: {name} has the versions {versions}, not {args.model_version}")
    entry = matches[-1].entry
    if entry.state not in inventory.USABLE:
        raise InputError(f"{repository}: {name} version {entry.version} is {entry.state}: {entry.reason}")
    return matches[-1]


def _show_detail(source: str, detail: Detail, *, as_json: bool) -> None:
    if as_json:
        facts = {
            "layers": text_tables.layers_document(detail.layers),
            "notes": detail.notes,
            "names": asdict(detail.names),
        }
        print_json({"source": source, "model": {**asdict(detail.entry), **facts}})
        return
    table(source, [detail.entry], whole=True).show()
    text_tables.show_names(detail.names)
    text_tables.show(detail.layers, detail.notes, detail.entry.edge_class)


def table(source: str, entries: Sequence[Entry], *, whole: bool = False) -> Table:
    """Table with one row per version. `source` is the folder or the server's address. `whole`: with all facts of
    their verification."""
    checked = inventory.COMPLETE in {entry.state for entry in entries}
    versions = Table(
        f"models of {source}",
        ("name", "version", "state", "family", "widths", "class", "verified error", "against", "size"),
        numbers=("version", "verified error", "size"),
        caption=(
            *(_claims(entries) if whole else _kinds(entries)),
            *(
                f"{e.name} {e.version}: without effect in config.pbtxt: {', '.join(e.unused)}"
                for e in entries
                if e.unused
            ),
            *(("COMPLETE: names, files and manifest were checked; --load also tries the graph",) * checked),
        ),
    )
    for entry in entries:
        versions.add(
            entry.name,
            entry.version,
            f"{entry.state}: {entry.reason}" if entry.reason else entry.state,
            entry.family,
            arrows(entry.shapes),
            _classes(entry),
            "" if math.isnan(entry.verified_error) else f"{entry.verified_error:.1e}",
            entry.verification_basis,
            "" if entry.size is None else f"{entry.size / 1024:,.0f} KiB",
        )
    return versions


def _classes(entry: Entry) -> str:
    """The model's class, and the layers of another one."""
    others: dict[str, list[str]] = {}
    for at, own in enumerate(entry.layer_classes):
        if own != entry.edge_class:
            others.setdefault(own, []).append(str(at))
    return "; ".join([entry.edge_class, *(f"{own} in layer {', '.join(at)}" for own, at in others.items())])


def _kinds(entries: Sequence[Entry]) -> list[str]:
    """Legend of the column "against"."""
    kinds = {entry.verification_basis for entry in entries}
    return [f"{kind}: {words}" for kind, words in VERIFICATION_BASES.items() if kind in kinds]


def _claims(entries: Sequence[Entry]) -> list[str]:
    """Verification basis and assumed options of each version."""
    facts = [", ".join(f"{key}={value}" for key, value in entry.assumed.items()) for entry in entries]
    lines = (
        *(entry.verified for entry in entries if entry.verified),
        *(f"assumed, since the file does not tell: {text}" for text in facts if text),
        *(f"runs with {entry.serving}" for entry in entries if entry.serving),
        *filter(None, map(_outside, entries)),
    )
    return list(dict.fromkeys(lines))  # versions of one model share most lines


def _outside(entry: Entry) -> str:
    """The handling of rows out of range, unless it is the default."""
    return "" if entry.out_of_range_policy == AS_TRAINED else OUT_OF_RANGE_POLICIES.get(entry.out_of_range_policy, "")
