"""Main program: the table of commands. It imports a command when the user names it.

`kanexport.contract` defines exit codes and error texts, as for `python -m kanexport`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import types
from argparse import Action, ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kanexport.contract.cli import program, suggest
from kanexport.contract.cli.console import EXIT_CODES
from kanexport.contract.cli.suggest import MissingPackage, advice

PROGRAM = "kanserve"


@dataclass(frozen=True, slots=True)
class Command:
    """Entry of the command table: a module with `configure(parser)` and `run(args) -> int`, and the extra that it
    needs."""

    module: str
    summary: str
    group: str
    extra: str = ""


MAKE, RUN, ASK, OTHER = "make a model", "run it", "ask it", "around it"
COMMANDS = {
    "export": Command(
        "kanexport.cli.export_command", "turn a trained checkpoint into a model to serve", MAKE, "export"
    ),
    "copy": Command("kanserve.cli.copy", "copy a version of a model under another number", MAKE, "serve"),
    "serve": Command("kanserve.cli.serve", "serve a repository over gRPC", RUN, "serve"),
    "doctor": Command(
        "kanserve.cli.doctor.command", "say what is wrong with machine, models and settings", RUN, "serve"
    ),
    "bench": Command("kanserve.cli.bench", "time a model on this machine, beside others", RUN, "serve"),
    "view": Command("kanserve.cli.view", "look into a repository, or a checkpoint, in the browser", RUN, "serve"),
    "open": Command("kanserve.cli.open", "open the observatory page of a served model", ASK),
    "infer": Command("kanserve.cli.infer", "run rows through a served model", ASK),
    "edges": Command("kanserve.cli.edges", "ask what every edge did with rows", ASK),
    "explain": Command("kanserve.cli.explain", "say what each input has to do with an answer", ASK),
    "scores": Command("kanserve.cli.scores", "say which inputs and edges matter over rows", ASK),
    "plot": Command("kanserve.cli.plot", "draw the network, or one edge", ASK),
    "report": Command("kanserve.cli.report", "write what a model is, and how it looks inside, as one file", ASK),
    "drift": Command("kanserve.cli.drift", "say whether data are still what they were", ASK),
    "stats": Command("kanserve.cli.stats", "say what a model is asked, and what becomes of it inside", ASK),
    "coverage": Command("kanserve.cli.coverage", "say whether rows lie where a model was made for", ASK),
    "curves": Command("kanserve.cli.curves", "show the functions on the edges", ASK),
    "formula": Command("kanserve.cli.formula", "print the closed form of a symbolic model", ASK),
    "models": Command("kanserve.cli.models", "list what a server or a repository folder holds", ASK),
    "health": Command("kanserve.cli.health", "ask a server whether it is healthy", ASK),
    "promote": Command("kanserve.cli.promote", "choose the version of a model that answers", ASK),
    "rollback": Command("kanserve.cli.rollback", "have the version answer that did before", ASK),
    "shadow": Command("kanserve.cli.shadow", "try a version on a copy of the traffic", ASK),
    "token": Command("kanserve.cli.token", "say who may call a server, and with which roles", OTHER),
    "completion": Command("kanserve.cli.completion", "print completion for bash, zsh or fish", OTHER),
}

EPILOG = f"""examples:
  kanserve export digits.pt --repository models --name digits
  kanserve serve models
  kanserve infer digits --input rows.npy

`kanserve COMMAND --help` shows a command's options. Every command takes --json.

{EXIT_CODES}
"""


class _Version(Action):
    """Argparse action of `--version`. It looks the version up on use, not at every start."""

    def __call__(self, parser: ArgumentParser, *_: Any) -> None:
        print(f"{PROGRAM} {importlib.metadata.version('kanserve')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code, also of usage errors. --help and --version exit by themselves."""
    # gRPC core writes lines of its own, with a peer's bytes in them as they came; what matters is in our words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    return program.run(f"{PROGRAM} {name}" if name in COMMANDS else PROGRAM, arguments, lambda: _run(name, arguments))


def _run(name: str, arguments: list[str]) -> int:
    """Find, load and run the command."""
    if name and name not in COMMANDS:
        raise program.UsageError(
            f"there is no command {name[:80]!r}",
            usage=_build({})[0].format_usage().rstrip(),
            hint=advice(name, COMMANDS, what="commands"),
        )
    modules = {name: load(name)} if name else {}
    whole, parsers = _build(modules)
    args = program.parse(whole, arguments, command=parsers.get(name))
    return int(modules[name].run(args))


def every_parser() -> dict[str, program.Parser]:
    """The parsers of all commands by name, with their options as far as their packages are installed."""
    modules = {}
    for name in COMMANDS:
        with contextlib.suppress(MissingPackage):
            modules[name] = load(name)
    return _build(modules)[1]


def _build(modules: dict[str, types.ModuleType]) -> tuple[program.Parser, dict[str, program.Parser]]:
    """The parser of the program, and those of the commands by name: the ones in `modules` with
    their options, so that the rest stays unloaded."""
    whole = program.Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [options]",
        description=f"Trained Kolmogorov-Arnold Networks, served over gRPC.\n\n{_groups()}",
        epilog=EPILOG,
    )
    whole.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    whole.set_defaults(every_parser=every_parser)
    commands = whole.add_subparsers(
        dest="command", prog=PROGRAM, metavar="COMMAND", required=True, help="one of those above"
    )
    parsers = {}
    for name, command in COMMANDS.items():
        summary = command.summary
        parsers[name] = commands.add_parser(name, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in modules:
            modules[name].configure(parsers[name])
    return whole, parsers


def _groups() -> str:
    """The commands in the order of a model's life."""
    lines = []
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines.append(f"{group}:")
        lines += [f"    {name:<12}{c.summary}" for name, c in COMMANDS.items() if c.group == group]
    return "\n".join(lines)


def load(name: str) -> types.ModuleType:
    """The module of one command. Raises MissingPackage naming the extra that is missing."""
    command = COMMANDS[name]
    return suggest.load(name, command.module, command.extra)
