"""Command `kanserve token new|list|revoke`: management of the token file of a server."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kanexport.shared import safe_files
from kanexport.shared.cli.console import Exit, note, print_json, say
from kanserve.auth import token_file
from kanserve.auth.permissions import Role
from kanserve.cli.options import CommandError, InputError, add_json_option, flag, invalid, number, option
from kanserve.errors import ConfigError

TEXT = """Manage access tokens: create, list or revoke tokens in the token file of a server.

kanserve prints a new token once, and the token file stores only its SHA-256. --output FILE creates a file that only
you can read. With `> FILE`, the umask decides who can read the file. To rotate a token, create another token,
distribute it, and revoke the first one. A running server applies changes of the token file.
"""
EXAMPLES = """examples:
  kanserve token new dashboard --roles infer,interpret --tokens tokens.toml --output dashboard.token
  kanserve token new ci --roles infer --expires 90d --rate 100 --tokens tokens.toml --output ci.token
  kanserve token list --tokens tokens.toml
  kanserve token revoke ci --tokens tokens.toml

"""
DAYS = re.compile(r"([1-9]\d{0,4})d")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "action",
        choices=("new", "list", "revoke"),
        metavar="new|list|revoke",
        help="new: create a token; list: show all callers; revoke: delete a token",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default="",
        metavar="NAME",
        help="name of the token, which the server logs; new and revoke need it (default: none)",
    )
    text = "token file of the server, as for `kanserve serve --tokens`"
    option(parser, "--tokens", "FILE", text, os.environ.get("KANSERVE_TOKENS"), type=Path, shown="KANSERVE_TOKENS")
    text = f"new: roles of the token, separated by commas: {', '.join(Role)}"
    option(parser, "--roles", "A,B", text, type=_roles, shown="none, required")
    text = "new: expiry as a date (2027-01-31) or in days from now (90d)"
    option(parser, "--expires", "TIME", text, type=_time, shown="never")
    text = "new: largest number of calls per second"
    option(parser, "--rate", "N", text, type=_rate, shown="no limit")
    flag(parser, "--stdin", "new: read the token from stdin, such as a token from a secret store")
    text = "new: write the token to this file with mode 0600; an existing file is an error"
    option(parser, "--output", "FILE", text, type=Path, shown="stdout")
    parser.add_argument("--force", action="store_true", help="new: replace an existing --output file (default: off)")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    if args.tokens is None:
        raise InputError(
            "missing argument: --tokens FILE",
            code="argument-missing",
            hint="pass --tokens FILE, or set KANSERVE_TOKENS",
        )
    if args.action != "list" and not args.name:
        raise InputError(
            "missing argument: NAME",
            code="argument-missing",
            hint=f"pass the name of the token: `kanserve token {args.action} NAME`",
        )
    try:
        if args.action == "new":
            _new(args)
        elif args.action == "list":
            _list(args)
        else:
            token_file.revoke(args.tokens, args.name)
            if args.json:
                print_json({"revoked": args.name})
            else:
                note(f"{args.name} revoked; running servers apply the change within seconds")
    except ConfigError as error:
        raise CommandError(str(error), code=error.code, hint=error.hint, kind="ConfigError") from error
    return Exit.DONE


def _new(args: argparse.Namespace) -> None:
    if not args.roles:
        raise InputError(
            "missing argument: --roles",
            code="argument-missing",
            hint=f"pass one or more of {', '.join(Role)}: --roles infer,interpret",
        )
    if args.stdin and args.output is not None:
        raise InputError(
            "--output cannot be combined with --stdin", code="arguments-conflict", hint="remove --output or --stdin"
        )
    supplied = _from_stdin() if args.stdin else ""
    with _output(args.output, force=args.force) as put:
        token = token_file.new(args.tokens, args.name, args.roles, token=supplied, expires=args.expires, rate=args.rate)
        try:
            put(token)
        except OSError:
            token_file.revoke(args.tokens, args.name, last=True)  # the token reached no user
            raise
    shown = "" if supplied or args.output is not None else token
    if args.json:
        written = None if args.output is None else str(args.output)
        print_json({"name": args.name, "roles": args.roles, "token": shown or None, "output": written})
    elif shown:
        say(shown)
        note(f"token of {args.name}; kanserve does not show it again")
    elif args.output is not None:
        note(f"{args.output}: token of {args.name}; only you can read the file")


@contextlib.contextmanager
def _output(path: Path | None, *, force: bool) -> Iterator[Callable[[str], None]]:
    """A function that writes a token to the file. The command opens the file before it creates the token, so that no
    token is lost. Raises CommandError."""
    if path is None:
        yield lambda token: None
        return
    folder = safe_files.Folder(path.parent, shared=True)
    try:
        if force and os.path.lexists(path):
            folder.check(path.name)
            yield lambda token: folder.write(path.name, f"{token}\n".encode())
            return
        with folder.new(path.name) as file:
            yield lambda token: file.writelines([f"{token}\n".encode()])
    except FileExistsError as error:
        raise InputError(
            f"--output {path} exists", code="output-exists", hint="pass another file, or add --force"
        ) from error
    except safe_files.UnsafeFile as error:
        raise InputError(
            f"--output: {error.filename} {error.reason}", code="output-unsafe", hint="pass a file in another folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"--output {path} cannot be written: {error.strerror}",
            code="output-not-writable",
            hint="pass a file in an existing folder that you can write",
        ) from error


def _from_stdin() -> str:
    token = sys.stdin.readline().strip()
    if not token_file.SHORTEST <= len(token) <= token_file.LONGEST or not token.isascii() or not token.isprintable():
        raise InputError(
            f"the token on stdin has {len(token)} characters, expected {token_file.SHORTEST} to {token_file.LONGEST} "
            "printable ASCII characters",
            code="token-invalid",
            hint="create a token, such as 32 random bytes in base64: `head -c 32 /dev/urandom | base64`",
        )
    return token


def _list(args: argparse.Namespace) -> None:
    credentials = token_file.load(args.tokens)
    callers = [_caller(entry, "token") for entry in credentials.tokens]
    callers += [_caller(entry, entry.mark) for entry in credentials.certificates]
    if args.json:
        print_json({"callers": callers})
        return
    from kanexport.shared.cli.tables import Table

    table = Table("", ("name", "credential", "roles", "expires", "calls per second", "state"))
    for caller in callers:
        never, unbounded = caller["expires"] or "never", caller["rate"] or "no limit"
        table.add(caller["name"], caller["shows"], ", ".join(caller["roles"]), never, str(unbounded), caller["state"])
    table.show()


def _caller(entry: token_file.Entry, shows: str) -> dict[str, Any]:
    """A caller for JSON, without the hash of its token."""
    expires = entry.principal.expires
    shown = None if expires is None else f"{datetime.datetime.fromtimestamp(expires, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    return {
        "name": entry.principal.name,
        "shows": shows,
        "roles": sorted(entry.own),
        "expires": shown,
        "rate": entry.rate,
        "state": "expired" if expires is not None and expires <= time.time() else "valid",
    }


def _roles(text: str) -> list[Role]:
    """An argparse type: roles with commas between them."""
    try:
        return sorted({Role(role.strip()) for role in text.split(",")})
    except ValueError as error:
        raise invalid(text, f"one or more of {', '.join(Role)}, separated by commas") from error


def _rate(text: str) -> float:
    expected = "a number of calls per second above 0"
    return number(text, float, expected, lambda value: 0 < value <= token_file.FASTEST)


def _time(text: str) -> datetime.datetime:
    """An argparse type: a date, a time with a zone, or days from now."""
    if match := DAYS.fullmatch(text):
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=int(match[1]))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise invalid(text, "a date such as 2027-01-31, or days such as 90d") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
