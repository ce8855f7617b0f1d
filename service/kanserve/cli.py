"""The command line: which command, loaded when it is named, and what its end means.

Exit codes: 0 done, 2 the input or the command is wrong, 3 an export's own
verification failed, 1 anything else, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kanexport.shared.installing import how_to_install
from kanserve.console.common import FAILED, CommandError, print_json

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """A module with `configure(parser)` and `run(args) -> int`, and the extra it needs."""

    module: str
    summary: str
    extra: str = ""


COMMANDS = {
    "export": Command("kanexport.console.cli", "turn a trained checkpoint into a verified model", "export"),
    "serve": Command("kanserve.commands.serve", "serve a repository over gRPC", "serve"),
    "infer": Command("kanserve.commands.infer", "run rows through a served model"),
    "edges": Command("kanserve.commands.edges", "ask what every edge did with rows"),
    "formula": Command("kanserve.commands.formula", "print the closed form of a symbolic model"),
    "models": Command("kanserve.commands.models", "list what a server or a repository folder holds"),
    "health": Command("kanserve.commands.health", "ask a server whether it is healthy"),
}

EPILOG = """examples:
  kanserve export digits.pt --repository models --name digits
  kanserve serve models
  kanserve infer digits --input rows.npy
  kanserve edges digits --input rows.npy --layer 0 --output edges.npz

exit codes: 0 done, 2 the input or the command is wrong, 3 the export's own
verification failed, 1 anything else, 130 interrupted
"""


class _Version(argparse.Action):
    """Looks the version up when it is asked for, not at every start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"kanserve {importlib.metadata.version('kanserve')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; argparse exits by itself on usage errors."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _run(arguments: list[str]) -> int:
    """Find, load and run the command; its error becomes text and an exit code."""
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    try:
        module = _load(name) if name in COMMANDS else None
        args = _parser(name, module).parse_args(arguments)
        return int(module.run(args)) if module else _usage()
    except CommandError as error:
        print(f"kanserve {name}: {error}", file=sys.stderr)
        if "--json" in arguments:
            print_json({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code


def _parser(selected: str, module: types.ModuleType | None) -> argparse.ArgumentParser:
    """All commands by name; only the selected one with its options, so that the rest stays unloaded."""
    parser = argparse.ArgumentParser(
        prog="kanserve",
        description="Trained Kolmogorov-Arnold Networks, verified and served over gRPC.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary = command.summary
        description = summary[0].upper() + summary[1:] + "."
        # No abbreviations: a script that used one would break when an option is added.
        added = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
        if module is not None and name == selected:
            module.configure(added)
    return parser


def _load(name: str) -> types.ModuleType:
    """The module of one command. Raises CommandError naming the extra that is missing."""
    command = COMMANDS[name]
    try:
        return importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        if error.name and f"{command.module}.".startswith(f"{error.name}."):  # the module or a folder above it
            raise CommandError(
                "is not part of this installation (the server image leaves it out): "
                "use one where the checkpoints are; `make setup` in a checkout of kanserve makes it",
                exit_code=FAILED,
            ) from error
        missing = (error.name or "").partition(".")[0]
        if missing in ("kanserve", "kanexport", "") or not command.extra:
            raise
        raise CommandError(
            f"needs the Python package that provides {missing!r}, which is not installed: "
            f"{how_to_install(command.extra)}",
            exit_code=FAILED,
        ) from error


def _usage() -> int:
    raise AssertionError("argparse refuses unknown commands")
