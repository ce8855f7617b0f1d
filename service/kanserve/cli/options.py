"""Errors and options that all commands share. Imports nothing heavy."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kanexport.shared import safe_files
from kanexport.shared.cli.console import Exit, print_json, say
from kanserve.tables.errors import CommandError as CommandError
from kanserve.tables.errors import InputError as InputError

N = TypeVar("N", int, float)
TOKEN_BYTES = 2**16  # of a file with a token
TLS_OPTIONS = (
    ("ca", "FILE", "TLS: CA certificates that the client trusts, PEM"),
    ("cert", "FILE", "TLS: client certificate that the client presents, PEM"),
    ("key", "FILE", "TLS: private key of the client certificate, PEM"),
    ("server_name", "NAME", "TLS: name in the server's certificate, if it differs from the host"),
)


def print_result(args: argparse.Namespace, document: Any, text: str) -> int:
    """Print the result of a command: the document with `--json`, otherwise the text. Returns 0."""
    if args.json:
        print_json(document)
    else:
        say(text)
    return Exit.DONE


def flag(parser: argparse._ActionsContainer, name: str, text: str) -> None:
    """Add a switch, which is off by default."""
    parser.add_argument(name, action="store_true", help=f"{text} (default: off)")


def option(
    parser: argparse._ActionsContainer,
    name: str,
    metavar: str | tuple[str, ...],
    text: str,
    default: Any = None,
    *,
    shown: str = "",
    **more: Any,
) -> None:
    """Add an option with a value. `shown`: the default in words, if it is not the value. `more`: as for argparse."""
    words = shown or (f"{default:g}" if isinstance(default, float) else str(default))
    parser.add_argument(name, metavar=metavar, default=default, help=f"{text} (default: {words})", **more)


def default_url() -> str:
    """Default address of the server. On one machine, the same variables configure client and server. A port that is
    a URL comes from Kubernetes, for a Service called kanserve-grpc."""
    port = os.environ.get("KANSERVE_GRPC_PORT", "")
    return os.environ.get("KANSERVE_URL") or f"127.0.0.1:{port if port.isdecimal() else 8001}"


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`--json`, which every command has."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout (default: off)")


class _Url(argparse.Action):
    """Argparse action of `--url`. It sets `url_given`, because an address from the environment variable is not
    typed."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        namespace.url, namespace.url_given = values, True


def add_client_options(parser: argparse.ArgumentParser, *, url: str | None = None) -> None:
    """`--url`, what TLS needs, `--timeout` and `--json`. `url`: the default address, if it is not the one of all
    clients."""
    default = "none" if url is not None else "KANSERVE_URL, otherwise 127.0.0.1 and KANSERVE_GRPC_PORT, otherwise 8001"
    group = parser.add_argument_group("connection")
    text = (
        "gRPC address of the server; grpcs://HOST:PORT uses TLS; several servers: HOST:PORT,HOST:PORT or "
        "dns:///NAME:PORT"
    )
    option(group, "--url", "HOST:PORT", text, default_url() if url is None else url, action=_Url, shown=default)
    parser.set_defaults(url_given=False)
    for name, metavar, what in TLS_OPTIONS:
        variable = f"KANSERVE_{name.upper()}"
        option(group, f"--{name.replace('_', '-')}", metavar, what, os.environ.get(variable, ""), shown=variable)
    shown = "KANSERVE_TOKEN_FILE, otherwise the token in KANSERVE_TOKEN"
    default = os.environ.get("KANSERVE_TOKEN_FILE", "")
    option(group, "--token-file", "FILE", "file with the access token", default, shown=shown)
    flag(group, "--token-in-clear", "send the token to another host without TLS; everyone on the network can read it")
    option(group, "--timeout", "SECONDS", "time limit of one request in seconds", 30.0, type=positive_seconds)
    add_json_option(parser)


def token(args: argparse.Namespace) -> str:
    """Token from the token file or the environment, or "". There is no option for the token itself, because everyone
    on the machine can read a command line. Raises InputError."""
    if not args.token_file:
        return os.environ.get("KANSERVE_TOKEN", "").strip()
    try:
        text = safe_files.first_line(args.token_file, TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the token file {args.token_file} cannot be read: {why(error)}",
            code="token-file-unreadable",
            hint="name a readable file with one token: --token-file FILE",
        ) from error
    if not text:
        raise InputError(
            f"the token file {args.token_file} is empty, expected one token",
            code="token-file-empty",
            hint="write the token to the file: `kanserve token new NAME --output FILE`",
        )
    return text


def why(error: OSError | UnicodeDecodeError) -> str:
    """Cause of a file error, without the file's name or contents."""
    return str(error.strerror) if isinstance(error, OSError) else "it is not ASCII text"


def add_model_options(parser: argparse.ArgumentParser, *, files: bool = False) -> None:
    """NAME and `--model-version`: a model of the server. `files`: or a checkpoint, see `session`."""
    add_name(parser, files=files)
    option(parser, "--model-version", "N", "version of the model", "", shown="the server's default version")


def add_name(parser: argparse.ArgumentParser, *, files: bool = False) -> None:
    """NAME: a model of the server. `files`: or a checkpoint, see `session`."""
    also = ", or path of a checkpoint (./net, net.pt) to export and serve for this command only, without --url"
    parser.add_argument("name", metavar="NAME", help=f"served model{also if files else ''}")
    parser.set_defaults(files=files)


def add_measured_model(parser: argparse.ArgumentParser, default: str) -> None:
    """`--repository`, `--model-version` and the rows, of a command that measures a model. `default`: the version
    without the option."""
    option(parser, "--repository", "FOLDER", "model repository with NAME", Path("models"), type=Path, shown="models")
    parser.add_argument("--model-version", default="", metavar="N", help=f"version of the model (default: {default})")
    add_row_options(parser, "random rows within the grids")


def add_row_options(parser: argparse.ArgumentParser, default: str = "") -> None:
    """`--input` and `--array`: the file of the rows. `default`: the rows that are used without a file, if any."""
    text = "file of rows: .npy, .npz, .csv, .json, .parquet, .arrow or .feather; - reads stdin" + (
        f" (default: {default})" if default else ""
    )
    parser.add_argument("--input", required=not default, metavar="FILE", help=text)
    text = "name of the array in an .npz file"
    option(parser, "--array", "NAME", text, "", shown="the only array, otherwise the name of the model's input")


def add_show_option(parser: argparse.ArgumentParser, default: int, what: str) -> None:
    """`--show`: the length of a table."""
    option(parser, "--show", "N", f"number of {what} in the table", default, type=index)


def positive_seconds(text: str) -> float:
    """An argparse type: seconds, more than 0 and less than a day."""
    return number(text, float, "a number of seconds above 0 and below 86400", lambda value: 0 < value < 86400)


def index(text: str) -> int:
    """An argparse type: a count or an index, 0 and up."""
    return number(text, int, "a whole number from 0", lambda value: 0 <= value < 2**32)


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""
    return lambda text: number(text, int, f"a whole number from {low} to {high}", lambda value: low <= value <= high)


def number(text: str, kind: Callable[[str], N], expected: str, valid: Callable[[N], bool]) -> N:
    """A number for an argparse type. Raises ArgumentTypeError."""
    try:
        value = kind(text)
    except ValueError:
        raise invalid(text, expected) from None
    if not valid(value):
        raise invalid(text, expected)
    return value


def invalid(text: str, expected: str) -> argparse.ArgumentTypeError:
    """The error of an argparse type."""
    return argparse.ArgumentTypeError(f"invalid value {text!r}, expected {expected}")
