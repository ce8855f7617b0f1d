"""Command `kanserve models`: the models of a server or a folder, or the layers of one model."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from kanexport.shared.cli import certificates
from kanexport.shared.cli.console import Exit, exit_codes_of, note, print_json, say
from kanexport.shared.cli.tables import Table
from kanexport.shared.manifest import READING, VERIFICATION_BASES, arrows
from kanexport.shared.sections import AS_TRAINED, OUT_OF_RANGE_POLICIES
from kanserve.cli import inventory, session
from kanserve.cli.inventory import Detail, Entry
from kanserve.cli.options import CommandError, InputError, add_client_options, flag, option
from kanserve.report import descriptions

TEXT = """List the models of a server or of a repository folder. With NAME, show one model layer by layer.

States of the versions in a folder:
  COMPLETE  names, files (size, SHA-256, no others) and manifest are valid; the graph was not loaded
  LOADS     with --load: the graph also loads on this machine's CPU and returns the reference outputs
  INVALID   a server rejects the version, for the reason shown; the exit code is 2
  PLAIN     model.onnx without a manifest; served only with --plain-onnx, and not checked
  IGNORED   a server ignores the version
"""
EXAMPLES = """examples:
  kanserve models                                                 # models of the server
  kanserve models digits                                          # one model of the server, layer by layer
  kanserve models ./models --load                                 # models of a folder; load each version once
  kanserve models ./models digits                                 # one model of a folder
"""
EXITS = exit_codes_of(WRONG="invalid input or command line, or a version of the folder is INVALID")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "where",
        nargs="?",
        metavar="REPOSITORY",
        help="model repository, a path with a / (./models) (default: the server at --url)",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="name of one model to show layer by layer (default: list all models)"
    )
    parser.set_defaults(files=False, folders=True)
    shown = "the server's default version, or the highest version of a REPOSITORY"
    option(parser, "--model-version", "N", "version of NAME", "", shown=shown)
    flag(parser, "--load", "load each version of a REPOSITORY, as the server does")
    flag(parser, "--allow-invalid", "exit with code 0 although a version of the REPOSITORY is INVALID")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 2 if a version of a folder is INVALID. Raises CommandError."""
    # A single word is a folder if it is a path by the rule in `session`.
    if args.where is not None and (args.name is not None or session.is_path_for(args, args.where)):
        if args.url_given:
            raise InputError(
                "REPOSITORY cannot be combined with --url",
                code="arguments-conflict",
                hint="remove --url to list the folder, or REPOSITORY to list the server",
            )
        return _run_in_folder(args, Path(args.where))
    for argument, value in (("--load", args.load), ("--allow-invalid", args.allow_invalid)):
        if value:
            raise CommandError(
                f"{argument} needs a REPOSITORY: a server has loaded its models",
                code="repository-missing",
                hint=session.server_advice(args, args.where or "") or "pass the folder, such as ./models",
            )
    if not args.where:
        with session.connection(args) as client:
            _show(args.url, inventory.of_server(client), as_json=args.json)
    else:
        with session.connection(args, model=args.where) as client:
            described = client.describe(args.where, args.model_version)
            if described.certificate and not described.certificate.lipschitz:
                # Its many effects are in another response.
                full = client.certificates(args.where, described.version)[0]
                described = replace(described, certificate=full)
            detail = inventory.described(described, client.model(args.where, described.version).serving)
        _show_detail(args.url, detail, as_json=args.json)
    return Exit.DONE


def _run_in_folder(args: argparse.Namespace, folder: Path) -> int:
    """Print the models of a folder, or one of them; the exit code, WRONG if a server rejects a version of the list.
    Raises CommandError."""
    if args.name:
        _show_detail(str(folder), _of_folder(folder, args.name, args), as_json=args.json)
        return Exit.DONE
    entries = inventory.of_folder(folder, load=args.load)
    _show(str(folder), entries, as_json=args.json)
    invalid = [entry for entry in entries if entry.state == inventory.INVALID]
    if not invalid or args.allow_invalid:
        return Exit.DONE
    first = f"{invalid[0].name} version {invalid[0].version}"
    more = f" and {len(invalid) - 1} more" if len(invalid) > 1 else ""
    note(f"{first}{more}: INVALID, a server rejects it; pass --allow-invalid for exit code 0")
    return Exit.WRONG


def _show(source: str, entries: Sequence[Entry], *, as_json: bool) -> None:
    if as_json:
        print_json({"source": source, "models": [asdict(entry) for entry in entries]})
    else:
        table(source, entries).show()


def _of_folder(repository: Path, name: str, args: argparse.Namespace) -> Detail:
    """The requested version, or the highest. Raises InputError."""
    every = inventory.details(repository, load=args.load)
    known = [detail for detail in every if detail.entry.name == name]
    if not known:
        raise inventory.unknown_model(repository, name, [detail.entry.name for detail in every])
    matches = [detail for detail in known if args.model_version in ("", detail.entry.version)]
    if not matches:
        versions = [detail.entry.version for detail in known]
        raise inventory.unknown_version(repository, name, args.model_version, versions)
    entry = matches[-1].entry
    if entry.state not in inventory.USABLE:
        raise InputError(
            f"{repository}: {name} version {entry.version} is {entry.state}: {entry.reason}",
            code="version-not-usable",
            hint="export the model again, or pass another version with --model-version N",
        )
    return matches[-1]


def _show_detail(source: str, detail: Detail, *, as_json: bool) -> None:
    model = detail.model
    assert model is not None  # the version is usable
    if as_json:
        facts = {
            "layers": descriptions.layers_document(model.layers),
            "notes": model.notes,
            "names": asdict(model.names),
            "scalers": asdict(model.scalers),
            "certified": certificates.document(model.certificate, model.names) if model.certificate else None,
            "edit": asdict(model.edit) if model.edit else None,
        }
        print_json({"source": source, "model": {**asdict(detail.entry), **facts}})
        return
    table(source, [detail.entry], whole=True).show()
    if model.names.description:
        say(model.names.description)
    for what, text in (*descriptions.name_lines(model.names), *descriptions.scaler_lines(model.scalers, model.names)):
        say(f"{what}: {text}")
    if model.certificate:
        certificates.show_brief(model.certificate, model.names)
    for what, text in descriptions.edit_lines(model.edit):
        say(f"{what}: {text}")
    descriptions.show(model.layers, model.notes, detail.entry.edge_class)


def table(source: str, entries: Sequence[Entry], *, whole: bool = False) -> Table:
    """Table with one row per version. `source` is the folder or the server's address. `whole`: with all facts of
    their verification."""
    versions = Table(
        f"models of {source}",
        ("name", "version", "state", "library", "widths", "class", "error", "verified against", "size"),
        numbers=("version", "error", "size"),
        caption=tuple(_caption(entries, whole=whole)),
    )
    for entry in entries:
        others: dict[str, list[str]] = {}
        for at, own in enumerate(entry.layer_classes):
            if own != entry.edge_class:
                others.setdefault(own, []).append(str(at))
        versions.add(
            entry.name,
            entry.version,
            f"{entry.state}: {entry.reason}" if entry.reason else entry.state,
            entry.family,
            arrows(entry.shapes),
            "; ".join([entry.edge_class, *(f"{own} in layer {', '.join(at)}" for own, at in others.items())]),
            "" if math.isnan(entry.verified_error) else f"{entry.verified_error:.1e}",
            _level(entry.verification_basis),
            "" if entry.size is None else f"{entry.size / 1024:,.0f} KiB",
        )
    return versions


def _level(basis: str) -> str:
    """The level of a verification, as users see it. The manifest and `--json` have its key."""
    return "checkpoint" if basis == READING else basis


def _caption(entries: Sequence[Entry], *, whole: bool) -> Iterator[str]:
    if whole:
        yield from _claims(entries)
    else:
        kinds = {entry.verification_basis for entry in entries}
        yield from (f"{_level(kind)}: {words}" for kind, words in VERIFICATION_BASES.items() if kind in kinds)
    yield from dict.fromkeys(f"{entry.name}: {entry.default_file}" for entry in entries if entry.default_file)
    for entry in entries:
        effect = f"entries of config.pbtxt without effect: {', '.join(entry.unused)}" if entry.unused else ""
        for text in filter(None, (effect, entry.edited)):
            yield f"{entry.name} version {entry.version}: {text}"
    if inventory.COMPLETE in {entry.state for entry in entries}:
        yield "COMPLETE: names, files and manifest are valid; pass --load to check the graph too"


def _claims(entries: Sequence[Entry]) -> list[str]:
    """Verification basis, assumed options and handling of rows out of range of each version."""
    facts = [", ".join(f"{key}={value}" for key, value in entry.assumed.items()) for entry in entries]
    policies = {**OUT_OF_RANGE_POLICIES, AS_TRAINED: ""}
    lines = (
        *(entry.verified for entry in entries),
        *(f"assumed, because the checkpoint does not store it: {text}" for text in facts if text),
        *(f"executed with {entry.serving}" for entry in entries if entry.serving),
        *(policies.get(entry.out_of_range_policy, "") for entry in entries),
    )
    return list(dict.fromkeys(filter(None, lines)))  # versions of one model share most lines
