"""Command `kanserve copy NAME FROM TO`: copy of a model version under another number."""

from __future__ import annotations

import argparse
from pathlib import Path

from kanexport.contract.cli.console import Exit, print_json, say
from kanserve.cli import inventory
from kanserve.cli.options import add_json_option

TEXT = """Copy a version of a model in a repository folder under another number.

The manifest of the copy says the new number; every file is compared with its sha256. The copy appears whole or not at
all, next to a server that runs. A copy by hand (cp -r 1 2) keeps a manifest that says 1, and no server loads it.
"""
EXAMPLES = """examples:
  kanserve copy digits 1 2
  kanserve copy digits 1 2 --force               in the place of a version 2 that is there
  kanserve copy digits 1 2 --repository /srv/models
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    parser.add_argument("name", metavar="NAME", help="a model in the repository folder")
    parser.add_argument("source", metavar="FROM", help="the version that is copied")
    parser.add_argument("target", metavar="TO", help="the number of the copy")
    parser.add_argument("--repository", type=Path, default=Path("models"), metavar="DIR", help="the folder (models)")
    parser.add_argument("--force", action="store_true", help="replace the version TO that is there")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    manifest = inventory.copied(args.repository, args.name, args.source, args.target, force=args.force)
    if args.json:
        print_json(
            {
                "model": manifest.name,
                "version": str(manifest.version),
                "from": args.source,
                "files": len(manifest.files),
            }
        )
    else:
        say(f"{manifest.name}: version {manifest.version} is a copy of version {args.source}, compared with its hashes")
    return Exit.DONE
