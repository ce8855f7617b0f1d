"""Main program: the table of commands. It imports a command when the user names it.

`kanexport.shared` defines exit codes and error texts, as for `python -m kanexport`.
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

from kanexport.shared.cli import program, suggest
from kanexport.shared.cli.console import EXIT_CODES
from kanexport.shared.cli.suggest import MissingPackage, advice

PROGRAM = "kanserve"


@dataclass(frozen=True, slots=True)
class Command:
    """Entry of the command table: a module with `configure(parser)`, `run(args) -> int` and the texts of its help
    (TEXT, EXAMPLES, EXITS), and the extra that it needs."""

    module: str
    summary: str
    group: str
    extra: str = ""


EXPORT, SERVE, QUERY, OPERATE, OTHER = "Export", "Serve", "Query and explain", "Operate", "Other"
COMMANDS = {
    "export": Command(
        "kanexport.cli.export_command",
        "export a KAN to ONNX, verified against float64, in a repository",
        EXPORT,
        "export",
    ),
    "certify": Command(
        "kanserve.cli.certify",
        "certify output ranges and directions of a model over a box",
        EXPORT,
    ),
    "edit": Command(
        "kanserve.cli.edit",
        "edit single edges of an exported model, as a new version",
        EXPORT,
        "export",
    ),
    "symbolify": Command(
        "kanserve.cli.symbolify",
        "replace edges by functions, as a formula and a new version",
        EXPORT,
        "export",
    ),
    "copy": Command("kanserve.cli.copy", "copy a model version under another version number", EXPORT, "serve"),
    "serve": Command("kanserve.cli.serve", "serve a model repository over gRPC and REST", SERVE, "serve"),
    "view": Command("kanserve.cli.view", "open the web UI for a local repository or checkpoint", SERVE, "serve"),
    "score": Command("kanserve.cli.score", "score tables with a model, without a server", QUERY, "serve"),
    "infer": Command("kanserve.cli.infer", "send rows to a served model", QUERY),
    "explain": Command("kanserve.cli.explain", "show feature contributions for a prediction", QUERY),
    "edges": Command("kanserve.cli.edges", "query per-edge activations", QUERY),
    "importance": Command("kanserve.cli.importance", "rank inputs and edges by importance", QUERY),
    "curves": Command("kanserve.cli.curves", "plot the learned edge functions", QUERY),
    "formula": Command("kanserve.cli.formula", "print the closed form of a symbolic model", QUERY),
    "plot": Command("kanserve.cli.plot", "draw the network or one edge", QUERY),
    "report": Command("kanserve.cli.report", "write an HTML model card", QUERY),
    "coverage": Command("kanserve.cli.coverage", "check rows against the training domain of a model", QUERY),
    "drift": Command("kanserve.cli.drift", "detect data drift", QUERY),
    "stats": Command("kanserve.cli.stats", "show traffic statistics", QUERY),
    "open": Command("kanserve.cli.open", "open the web UI page of a served model", QUERY),
    "models": Command("kanserve.cli.models", "list the models of a server or a repository", OPERATE),
    "health": Command("kanserve.cli.health", "check whether a server is ready", OPERATE),
    "promote": Command("kanserve.cli.promote", "set the default version of a model", OPERATE),
    "rollback": Command("kanserve.cli.rollback", "restore the previous default version of a model", OPERATE),
    "shadow": Command("kanserve.cli.shadow", "mirror traffic to another version of a model", OPERATE),
    "doctor": Command("kanserve.cli.doctor.command", "diagnose the host, models and settings", OPERATE, "serve"),
    "bench": Command("kanserve.contrib.bench.command", "benchmark a model on this machine", OPERATE, "serve"),
    "plan": Command(
        "kanserve.contrib.capacity.command", "measure a model and plan replicas for a rate", OPERATE, "serve"
    ),
    "token": Command("kanserve.cli.token", "manage access tokens", OPERATE),
    "completion": Command("kanserve.cli.completion", "generate a shell completion script", OTHER),
}
RENAMED = {"scores": "importance"}  # earlier names of commands, which may resemble another command more

EPILOG = f"""examples:
  kanserve export tests/golden/checkpoints/pykan-hello-adapted/model --repository models --name hello
  kanserve serve models
  kanserve explain hello --input examples/hello.csv --row 0

`kanserve COMMAND --help` shows the options of a command. Every command accepts --json.

{EXIT_CODES}
"""


class _Version(Action):
    """Argparse action of `--version`. It looks the version up on use, not at every start."""

    def __call__(self, parser: ArgumentParser, *_: Any) -> None:
        print(f"{PROGRAM} {importlib.metadata.version('kanserve')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code, also of usage errors. --help and --version exit by themselves."""
    # The log lines of gRPC core contain bytes of a peer without escapes. kanserve logs these events itself.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    return program.run(f"{PROGRAM} {name}" if name in COMMANDS else PROGRAM, arguments, lambda: _run(name, arguments))


def _run(name: str, arguments: list[str]) -> int:
    """Find, load and run the command."""
    if name and name not in COMMANDS:
        raise program.UsageError(
            f"unknown command {name[:80]!r}",
            code="command-unknown",
            hint=advice(RENAMED.get(name, name), COMMANDS, what="commands"),
            usage=_build({})[0].format_usage().rstrip(),
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
    """The parser of the program, and those of the commands by name. Only the commands in `modules` have their options,
    because the others are not imported."""
    groups = []
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        groups.append(f"{group}:")
        groups += [f"    {name:<12}{c.summary}" for name, c in COMMANDS.items() if c.group == group]
    listing = "\n".join(groups)
    whole = program.Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [options]",
        description=f"Export, serve and explain Kolmogorov-Arnold networks.\n\n{listing}",
        epilog=EPILOG,
    )
    whole.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    whole.set_defaults(every_parser=every_parser)
    commands = whole.add_subparsers(
        dest="command", prog=PROGRAM, metavar="COMMAND", required=True, help="one of the commands above"
    )
    parsers = {}
    for name, command in COMMANDS.items():
        summary = command.summary
        parser = parsers[name] = commands.add_parser(name, description=f"{summary[0].upper()}{summary[1:]}.")
        if module := modules.get(name):
            parser.description = getattr(module, "TEXT", parser.description)
            parser.epilog = "\n".join(getattr(module, part) for part in ("EXAMPLES", "EXITS") if hasattr(module, part))
            module.configure(parser)
    return whole, parsers


def load(name: str) -> types.ModuleType:
    """The module of one command. Raises MissingPackage if its extra is not installed."""
    command = COMMANDS[name]
    return suggest.load(name, command.module, command.extra)
