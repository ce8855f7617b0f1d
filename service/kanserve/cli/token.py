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

from kanexport.contract import safe_files
from kanexport.contract.cli.console import Exit, note, print_json, say
from kanserve.auth import token_file
from kanserve.auth.roles import Role
from kanserve.cli.options import CommandError, InputError, add_json_option
from kanserve.errors import ConfigError

EXAMPLES = """examples:
  kanserve token new dashboard --roles infer,interpret --tokens tokens.toml --output dashboard.token
  kanserve token new ci --roles infer --expires 90d --rate 100 --tokens tokens.toml --output ci.token
  kanserve token list --tokens tokens.toml
  kanserve token revoke ci --tokens tokens.toml

A token is shown once, when it is made; the tokens file holds its sha256. --output FILE writes the token where only you
can read it. `> FILE` leaves that to the umask: usually everyone on the machine can read the file. To rotate a token,
make another under a second name, hand it out, and revoke the first: a running server follows the tokens file.
"""
DAYS = re.compile(r"([1-9]\d{0,4})d")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = EXAMPLES
    parser.add_argument("action", choices=("new", "list", "revoke"), metavar="new|list|revoke", help="what to do")
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="whose token: told in the server's log")
    parser.add_argument(
        "--tokens",
        type=Path,
        default=os.environ.get("KANSERVE_TOKENS"),
        metavar="FILE",
        help="the file, as of `kanserve serve --tokens` (default: KANSERVE_TOKENS)",
    )
    parser.add_argument("--roles", type=_roles, metavar="A,B", help=f"new: what it may do: {', '.join(Role)}")
    parser.add_argument("--expires", type=_time, metavar="TIME", help="new: a date, or days from now as in 90d (never)")
    parser.add_argument("--rate", type=_rate, metavar="N", help="new: calls per second (any number)")
    parser.add_argument(
        "--stdin", action="store_true", help="new: take the token from stdin, as one that a secret store has made"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="new: write the token to FILE with mode 0600 instead of stdout; an existing FILE is an error",
    )
    parser.add_argument("--force", action="store_true", help="new: --output replaces an existing FILE")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    if args.tokens is None:
        raise InputError("--tokens FILE is missing, and KANSERVE_TOKENS is not set")
    if args.action != "list" and not args.name:
        raise InputError(f"`kanserve token {args.action}` needs a NAME")
    try:
        return {"new": _new, "list": _list, "revoke": _revoke}[args.action](args)
    except ConfigError as error:
        raise CommandError(str(error), kind="ConfigError", exit_code=Exit.WRONG) from error


def _new(args: argparse.Namespace) -> int:
    if not args.roles:
        raise InputError(f"--roles is missing: {', '.join(Role)}")
    if args.stdin and args.output is not None:
        raise InputError("--output writes a new token, and --stdin gives one that is already stored somewhere")
    supplied = _from_stdin() if args.stdin else ""
    with _output(args.output, force=args.force) as put:
        token = token_file.new(args.tokens, args.name, args.roles, token=supplied, expires=args.expires, rate=args.rate)
        try:
            put(token)
        except OSError:
            token_file.revoke(args.tokens, args.name)  # the token reached no user
            raise
    _report(args, "" if supplied or args.output is not None else token)
    return Exit.DONE


def _report(args: argparse.Namespace, token: str) -> None:
    """Print the new token's name and place. `token`: "" if the command must not show it."""
    if args.json:
        written = None if args.output is None else str(args.output)
        print_json({"name": args.name, "roles": args.roles, "token": token or None, "output": written})
    elif token:
        say(token)
        note(f"the token of {args.name}; it is not shown again")
    elif args.output is not None:
        note(f"{args.output}: the token of {args.name}, which only you can read")


@contextlib.contextmanager
def _output(path: Path | None, *, force: bool) -> Iterator[Callable[[str], None]]:
    """A function that writes a token to the file. The command opens the file before it makes the token, because a
    caller whose token is lost would be of no use. Raises CommandError."""
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
        raise InputError(f"--output {path} exists already", hint="name another file, or add --force") from error
    except safe_files.UnsafeFile as error:
        raise InputError(f"--output: {error.filename} {error.reason}", hint="name another file") from error
    except OSError as error:
        raise InputError(f"--output {path} cannot be written: {error.strerror}") from error


def _from_stdin() -> str:
    token = sys.stdin.readline().strip()
    if not token_file.SHORTEST <= len(token) <= token_file.LONGEST or not token.isascii() or not token.isprintable():
        raise InputError(
            f"the token on stdin has {len(token)} characters: {token_file.SHORTEST} to {token_file.LONGEST} "
            "printable ones were expected, as of 32 random bytes in base64"
        )
    return token


def _list(args: argparse.Namespace) -> int:
    credentials = token_file.load(args.tokens)
    callers = [_caller(entry, "token") for entry in credentials.tokens]
    callers += [_caller(entry, entry.mark) for entry in credentials.certificates]
    if args.json:
        print_json({"callers": callers})
        return Exit.DONE
    from kanexport.contract.cli.tables import Table

    table = Table("", ("name", "shows", "roles", "expires", "calls per second", "state"))
    for caller in callers:
        never, unbounded = caller["expires"] or "never", caller["rate"] or "any"
        table.add(caller["name"], caller["shows"], ", ".join(caller["roles"]), never, str(unbounded), caller["state"])
    table.show()
    return Exit.DONE


def _caller(entry: token_file.Entry, shows: str) -> dict[str, Any]:
    """A caller for machines: never the hash."""
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


def _revoke(args: argparse.Namespace) -> int:
    token_file.revoke(args.tokens, args.name)
    if args.json:
        print_json({"revoked": args.name})
    else:
        note(f"{args.name} is revoked; running servers follow within seconds")
    return Exit.DONE


def _roles(text: str) -> list[Role]:
    """An argparse type: roles with commas between them."""
    try:
        return sorted({Role(role.strip()) for role in text.split(",")})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(Role)}, with commas between them") from error


def _time(text: str) -> datetime.datetime:
    """An argparse type: a date, a time with a zone, or days from now."""
    if match := DAYS.fullmatch(text):
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=int(match[1]))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no date, as 2027-01-31, and no days, as 90d") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _rate(text: str) -> float:
    """An argparse type: calls per second, above 0."""
    value = float(text)
    if not 0 < value <= token_file.FASTEST:
        raise argparse.ArgumentTypeError(f"{text} is no number of calls per second above 0")
    return value
