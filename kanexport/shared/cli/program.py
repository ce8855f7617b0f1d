"""Frame of a command: parses the command line and turns errors into exit codes. Standard library only."""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from kanexport.shared.cli import console
from kanexport.shared.cli.console import Exit, Failure, print_json
from kanexport.shared.cli.suggest import advice, closest


def run(program: str, arguments: Sequence[str], act: Callable[[], int]) -> int:
    """The exit code of `act`, or of the Failure that ended it, which is printed."""
    try:
        code = _exit_code(program, arguments, act)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe. Python would report it again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    return code


def _exit_code(program: str, arguments: Sequence[str], act: Callable[[], int]) -> int:
    try:
        return act()
    except (Failure, MemoryError) as error:
        failure = error if isinstance(error, Failure) else NO_MEMORY
        if isinstance(failure, UsageError) and failure.usage:
            print(failure.usage, file=sys.stderr)
        print(console.text(program, failure), file=sys.stderr)
        if "--json" in arguments:
            print_json(console.document(failure))
        return int(failure.exit_code)


# The text for a MemoryError that no part of a command turns into its own error.
NO_MEMORY = Failure(
    "the command needs more memory than this process may have",
    code="memory-limit-exceeded",
    hint="free memory, or raise the memory limit of the process",
    kind="LimitExceeded",
)


class UsageError(Failure):
    """Command line that the parser rejects. `usage` is the line that shows the correct form."""

    code = "command-line-invalid"

    def __init__(self, message: str, *, usage: str = "", code: str = "", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.usage = usage


# Messages of argparse.
MISSING = re.compile(r"the following arguments are required: (.*)")
CONFLICT = re.compile(r"argument (\S+): not allowed with argument (\S+)")
CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)
KIND = re.compile(r"argument (\S+): invalid (\w+) value: (.*)", re.DOTALL)
VALUE = re.compile(r"argument (\S+): (.*)", re.DOTALL)
KINDS = {"int": "a whole number", "float": "a number"}


class Paragraphs(argparse.HelpFormatter):
    """Formatter that wraps the paragraphs of a description. It keeps the lines of a paragraph with indented lines, such
    as a list or an example."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = []
        for paragraph in text.strip("\n").split("\n\n"):
            lines = paragraph.splitlines()
            if not any(line.startswith(" ") for line in lines):
                lines = textwrap.wrap(" ".join(lines), width, break_long_words=False, break_on_hyphens=False)
            paragraphs.append("\n".join(indent + line for line in lines))
        return "\n\n".join(paragraphs)


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises UsageError, accepts no abbreviations and wraps the paragraphs of its texts. A script
    with an abbreviation would break when an option is added."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", Paragraphs)
        super().__init__(*args, **settings)

    def error(self, message: str) -> NoReturn:
        """Raises UsageError instead of ending the process."""
        usage, more = self.format_usage().rstrip(), f"run `{self.prog} --help` for the arguments"
        if match := MISSING.match(message):
            raise UsageError(f"missing argument: {match[1]}", code="argument-missing", hint=more, usage=usage)
        if match := CONFLICT.match(message):
            raise UsageError(
                f"{match[1]} cannot be combined with {match[2]}",
                code="arguments-conflict",
                hint=f"remove {match[1]} or {match[2]}",
                usage=usage,
            )
        if match := CHOICE.match(message):
            choices = [choice.strip("'") for choice in match[3].split(", ")]
            raise UsageError(
                f"{match[1]}: invalid choice {match[2]!r}, expected one of {', '.join(choices)}",
                code="choice-invalid",
                hint=advice(match[2], choices, what="choices"),
                usage=usage,
            )
        if match := KIND.match(message):
            raise UsageError(
                f"{match[1]}: invalid value {match[3]}, expected {KINDS.get(match[2], 'another form')}",
                code="argument-invalid",
                hint=more,
                usage=usage,
            )
        if match := VALUE.match(message):
            raise UsageError(f"{match[1]}: {match[2]}", code="argument-invalid", hint=more, usage=usage)
        raise UsageError(message, code="command-line-invalid", hint=more, usage=usage)

    def format_usage(self) -> str:
        """The line "usage: ..."."""
        self.usage = self.usage or self.short_usage()
        return super().format_usage()

    def format_help(self) -> str:
        """The whole help text."""
        self.usage = self.usage or self.short_usage()
        return super().format_help()

    def short_usage(self) -> str:
        """Usage with the required arguments only: the list of all options can have 50 lines."""
        words = []
        for action in self._actions:
            metavar = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
            name = " ".join(metavar) if isinstance(metavar, tuple) else metavar
            if action.option_strings and action.required:
                words.append(f"{action.option_strings[0]} {name}")
            elif not action.option_strings:
                words.append(f"[{name}]" if action.nargs == "?" else name)
        return " ".join([self.prog, *words, "[options]"])

    def actions(self) -> tuple[argparse.Action, ...]:
        """Every argument and option, for documentation and completion; without old names, which have no help."""
        return tuple(action for action in self._actions if action.help != argparse.SUPPRESS)

    def groups(self) -> tuple[tuple[str, tuple[argparse.Action, ...]], ...]:
        """Options by the title of their group, in the order of the help text."""
        named = ((group.title or "", tuple(group._group_actions)) for group in self._action_groups)
        options = ((title, tuple(action for action in own if action.option_strings)) for title, own in named)
        return tuple((title, own) for title, own in options if own)

    def flags(self) -> list[str]:
        """All options with two dashes."""
        return [flag for action in self.actions() for flag in action.option_strings if flag.startswith("--")]


def parse(parser: Parser, arguments: Sequence[str], *, command: Parser | None = None) -> argparse.Namespace:
    """The parsed arguments. Raises UsageError. Its hint names the flag of `command`, or of the parser itself, that a
    misspelt flag resembles."""
    selected = command or parser
    try:
        parsed, unknown = parser.parse_known_args(arguments)
    except UsageError as error:
        error.hint = _advice(selected, arguments) or error.hint
        raise
    if unknown:
        raise UsageError(
            f"unknown argument: {' '.join(unknown)}",
            code="argument-unknown",
            hint=_advice(selected, unknown) or f"run `{selected.prog} --help` for the arguments",
            usage=selected.format_usage().rstrip(),
        )
    return parsed


def _advice(parser: Parser, arguments: Sequence[str]) -> str:
    """Advice for the first misspelt flag, or ""."""
    known = parser.flags()
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and len(flag) > 2 and flag not in known:
            # "--port" is the end of --grpc-port, and has more letters in common with --transport.
            ends = (name for name in known if name.endswith(f"-{flag[2:].replace('_', '-')}"))
            meant = next(ends, "") or closest(flag, known)
            if meant:
                return f"{flag}: did you mean {meant}?"
    return ""
