"""Page docs/reference/cli.md, from the parsers of the commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence

from kanexport.shared.cli import console
from kanexport.shared.cli.program import Parser
from kanserve.cli import main, options
from tools.reference.tables import table

HEAD = """# Command line

This page lists each command of kanserve with its arguments, options, examples and exit codes.

`make reference` writes this file from the parsers of the commands. `kanserve COMMAND --help` shows the same texts.

Most commands send requests to a server: start one first with `kanserve serve models`. The examples run as pasted from
the root of the repository, with the models of the [quickstart](../get-started/quickstart.md). They also need a second
version of `digits`: `kanserve copy digits 1 2`.
"""
COMMON = """## Common options

Each command has these options.
"""
CONNECTION = """## Connection options

Each command that sends requests to a server has these options.
"""
EXIT_CODES = """## Exit codes

A failed command prints `error[CODE]: message` and a hint to stderr. [Errors](errors.md) lists the codes. With `--json`,
the command also prints one JSON document to stdout: `{"error": {kind, code, message, hint, exit_code}}`.
"""
SAME = "Exit codes: {}. [Exit codes](#exit-codes) explains them."
SHARED = "This command also has the [common options](#common-options){}."
DEFAULT = re.compile(r"(.*?)\s*\(default: (.*)\)(;[^()]*)?", re.DOTALL)
CODE = re.compile(r"  (\d+) +(.*)")
COLUMNS = ("option", "default", "meaning")


def page() -> str:
    """The page. It does not depend on the machine: no help text contains a value of the environment."""
    parsers = main.every_parser()
    missing = main.COMMANDS.keys() - parsers.keys()
    if missing:
        raise RuntimeError(f"packages of these commands are not installed: {', '.join(sorted(missing))}")
    client = Parser(prog="kanserve", add_help=False)
    options.add_client_options(client)
    shared = set(_rows(client.actions())) | set(_rows(Parser(prog="kanserve").actions()))
    connection = [row for row in _rows(client.actions()) if not row[0].startswith("`--json")]
    own = [row for row in shared if row not in connection]
    parts = [
        HEAD,
        _overview(),
        COMMON,
        table(COLUMNS, sorted(own)),
        CONNECTION,
        table(COLUMNS, connection),
        EXIT_CODES,
        _codes(console.EXIT_CODES),
    ]
    for group in dict.fromkeys(command.group for command in main.COMMANDS.values()):
        parts.append(f"## {group}\n")
        for name, command in main.COMMANDS.items():
            if command.group == group:
                parts += _command(parsers[name], command.summary, shared, connection)
    return "\n".join(parts)


def _overview() -> str:
    rows = (
        (f"[`kanserve {name}`](#kanserve-{name})", command.summary, command.group)
        for name, command in main.COMMANDS.items()
    )
    return table(("command", "purpose", "group"), rows)


def _command(
    parser: Parser, summary: str, shared: set[tuple[str, str, str]], connection: Sequence[tuple[str, str, str]]
) -> Iterator[str]:
    """The section of one command."""
    yield f"### {parser.prog}\n"
    yield from _description(parser.description or f"{summary[0].upper()}{summary[1:]}.")
    yield f"```text\n{parser.short_usage()}\n```\n"
    positional = [action for action in parser.actions() if not action.option_strings]
    if positional:
        yield table(("argument", "default", "meaning"), _rows(positional))
    groups = parser.groups()
    for title, actions in groups:
        rows = [row for row in _rows(actions) if row not in shared]
        if rows:
            yield f"{title[0].upper()}{title[1:]}:\n" if len(groups) > 1 and title != "options" else "Options:\n"
            yield table(COLUMNS, rows)
    sends = any(row in connection for row in _rows(parser.actions()))
    yield SHARED.format(" and the [connection options](#connection-options)" if sends else "") + "\n"
    examples, codes, others = _epilog(parser.epilog or "")
    yield from _description(others)
    if examples:
        yield f"Examples:\n\n```console\n{examples}\n```\n"
    if codes:
        yield _codes(codes)
    else:
        yield SAME.format(", ".join(str(int(code)) for code in console.COMMON)) + "\n"


def _description(text: str) -> Iterator[str]:
    """Paragraphs. A paragraph with indented lines is a block."""
    for paragraph in filter(None, text.strip("\n").split("\n\n")):
        lines = paragraph.splitlines()
        indented = [line for line in lines if line.startswith(" ")]
        if not indented:
            yield f"{_text(' '.join(lines))}\n"
            continue
        first = " ".join(line for line in lines if not line.startswith(" "))
        yield "\n".join([f"{_text(first)}\n", "```text", *(line[2:] for line in indented), "```\n"])


def _epilog(text: str) -> tuple[str, str, str]:
    """Examples, exit codes and the other paragraphs of an epilog."""
    examples, codes, others = [], "", []
    for paragraph in text.strip("\n").split("\n\n"):
        head, _, lines = paragraph.partition("\n")
        if head == "examples:":
            examples += [line[2:] for line in lines.splitlines()]
        elif head == "exit codes:":
            codes = paragraph
        else:
            others.append(paragraph)
    return "\n".join(examples), codes, "\n\n".join(others)


def _codes(text: str) -> str:
    return table(("exit code", "meaning"), [(match[1], _text(match[2])) for match in CODE.finditer(text)])


def _rows(actions: Iterable[argparse.Action]) -> list[tuple[str, str, str]]:
    """Name, default and meaning of each argument."""
    rows = []
    for action in actions:
        if action.help == argparse.SUPPRESS:
            continue
        text = (action.help or "").replace("%%", "%")
        found = DEFAULT.fullmatch(text)
        meaning, default = (found[1] + (found[3] or ""), found[2]) if found else (text, _default(action))
        rows.append((f"`{_name(action)}`", _text(default), _text(meaning)))
    return rows


def _name(action: argparse.Action) -> str:
    """The argument as the user types it, such as "--input FILE"."""
    words = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    value = " ".join(words) if isinstance(words, tuple) else words
    if not action.option_strings:
        return value
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {value}"


def _default(action: argparse.Action) -> str:
    """The default of an argument whose text has none."""
    if action.required:
        return "required"
    if isinstance(action.default, str | int | float) and not isinstance(action.default, bool) and action.default != "":
        return "-" if action.default == argparse.SUPPRESS else str(action.default)
    return "off" if action.default is False else "-"


def _text(text: str) -> str:
    """Plain text as Markdown. Text in backquotes stays."""
    parts = text.split("`")
    return "`".join(part if at % 2 else re.sub(r"([*<\[\]])", r"\\\1", part) for at, part in enumerate(parts))
