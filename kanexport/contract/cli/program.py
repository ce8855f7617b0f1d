"""Frame of a command: parses the command line and turns errors into exit codes. Standard library only."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from kanexport.contract.cli import console
from kanexport.contract.cli.console import Exit, Failure, print_json
from kanexport.contract.cli.suggest import closest


def run(program: str, arguments: Sequence[str], act: Callable[[], int]) -> int:
    """The exit code of `act`. If `act` raises a Failure, the function prints it and returns its exit code."""
    try:
        code = _answer(program, arguments, act)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader left. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    return code


def _answer(program: str, arguments: Sequence[str], act: Callable[[], int]) -> int:
    try:
        return act()
    except Failure as failure:
        if isinstance(failure, UsageError) and failure.usage:
            print(failure.usage, file=sys.stderr)
        print(console.text(program, failure), file=sys.stderr)
        if "--json" in arguments:
            print_json(console.document(failure))
        return int(failure.exit_code)


class UsageError(Failure):
    """Command line that argparse rejects. `usage` is the line that shows the right form."""

    code = "usage"

    def __init__(self, message: str, *, usage: str = "", code: str = "", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises UsageError, takes no abbreviations (a script that used one would break when an option
    is added) and keeps the line breaks of its texts."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of ending the process."""
        raise UsageError(message, usage=self.format_usage().rstrip())

    def actions(self) -> tuple[argparse.Action, ...]:
        """All arguments and options, for documentation and completion."""
        return tuple(self._actions)

    def flags(self) -> list[str]:
        """All options with two dashes."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


def parse(parser: Parser, arguments: Sequence[str], *, command: Parser | None = None) -> argparse.Namespace:
    """The parsed arguments. Raises UsageError, with help for a misspelt flag of `command`
    (default: of the parser itself)."""
    selected = command or parser
    try:
        parsed, unknown = parser.parse_known_args(arguments)
    except UsageError as error:
        if not error.hint:
            error.hint = _advice(selected, arguments) or _choice(selected, error.message) or _help(selected)
        raise
    if unknown:
        raise UsageError(
            f"unrecognized arguments: {' '.join(unknown)}",
            usage=selected.format_usage().rstrip(),
            code="argument-unknown",
            hint=_advice(selected, unknown) or _help(selected),
        )
    return parsed


def _help(parser: Parser) -> str:
    return f"run '{parser.prog} --help' to list the options"


def _choice(parser: Parser, message: str) -> str:
    """The choice that resembles an invalid one, if the message is about a choice, or ""."""
    wrong = re.search(r"^argument (\S+): invalid choice: '(.*)' \(", message)
    if wrong is None:
        return ""
    for action in parser.actions():
        if action.choices and wrong[1] in ("/".join(action.option_strings), action.metavar, action.dest):
            meant = closest(wrong[2], map(str, action.choices))
            return f"did you mean {meant!r}?" if meant else ""
    return ""


def _advice(parser: Parser, arguments: Sequence[str]) -> str:
    """The flag that resembles the first unknown one, or ""."""
    known = parser.flags()
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and len(flag) > 2 and flag not in known:
            meant = closest(flag, known)
            if meant:
                return f"{flag}: did you mean {meant}?"
    return ""
