"""Command `kanserve copy NAME FROM TO`: copy of a model version under another number."""

from __future__ import annotations

import argparse
from pathlib import Path

from kanserve.cli import inventory
from kanserve.cli.options import add_json_option, flag, option, print_result

TEXT = """Copy a version of a model in a repository folder under another version number.

The manifest of the copy has the new number, and kanserve compares each file with its SHA-256. The copy appears
atomically, also while a server uses the repository. Do not copy with `cp -r 1 2`: the manifest then still has number
1, and the server rejects the version.

A version that `kanserve edit` wrote is never the default version by itself. With --release, its copy can be.
"""
EXAMPLES = """examples:
  kanserve copy digits 1 2
  kanserve copy digits 1 2 --force                                # replace version 2
  kanserve copy digits 1 3 --repository models
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("name", metavar="NAME", help="name of a model in the repository")
    parser.add_argument("source", metavar="FROM", help="version number to copy")
    parser.add_argument("target", metavar="TO", help="version number of the copy")
    option(parser, "--repository", "FOLDER", "model repository", Path("models"), type=Path, shown="models")
    parser.add_argument("--force", action="store_true", help="replace version TO if it exists (default: off)")
    flag(parser, "--release", "let a server serve the copy of an edit by default, without a promote")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    manifest = inventory.copied(
        args.repository, args.name, args.source, args.target, force=args.force, release=args.release
    )
    document = {
        "model": manifest.name,
        "version": str(manifest.version),
        "from": args.source,
        "files": len(manifest.files),
    }
    text = f"{manifest.name}: copied version {args.source} to version {manifest.version}; all hashes match"
    return print_result(args, document, text)
