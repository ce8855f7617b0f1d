"""Errors and options that all commands share. Imports nothing heavy."""

from __future__ import annotations

import argparse
import os
from typing import Any

from kanexport.contract import safe_files
from kanexport.contract.cli.console import Failure

TOKEN_BYTES = 2**16  # of a file with a token
TLS_OPTIONS = (
    ("ca", "FILE", "TLS: certificates to trust, as PEM"),
    ("cert", "FILE", "TLS: a certificate that says who is calling, as PEM"),
    ("key", "FILE", "TLS: its private key"),
    ("server_name", "NAME", "TLS: the name in the server's certificate, where it is not the host"),
)


def default_url() -> str:
    """Default address of the server. On one machine, the same variables configure client and server. A port that is
    a URL comes from Kubernetes, for a Service called kanserve-grpc."""
    port = os.environ.get("KANSERVE_GRPC_PORT", "")
    return os.environ.get("KANSERVE_URL") or f"127.0.0.1:{port if port.isdecimal() else 8001}"


class CommandError(Failure):
    """Failure that ends a command. `kind` names the cause: the class of a client error or of a settings error."""


class InputError(CommandError):
    """Invalid file or argument."""


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`--json`, which every command has."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


class _Url(argparse.Action):
    """Argparse action of `--url`. It sets `url_given`, because an address from the environment variable is not
    typed."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        namespace.url, namespace.url_given = values, True


def add_client_options(parser: argparse.ArgumentParser, *, url: str | None = None) -> None:
    """`--url`, what TLS needs, `--timeout` and `--json`. `url`: its default, else where clients look."""
    default = "" if url is not None else " (default: KANSERVE_URL, here %(default)s)"
    parser.add_argument(
        "--url",
        action=_Url,
        default=default_url() if url is None else url,
        metavar="HOST:PORT",
        help=f"the server's gRPC address, with grpcs:// in front for TLS{default}",
    )
    parser.set_defaults(url_given=False)
    for name, metavar, what in TLS_OPTIONS:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=os.environ.get(f"KANSERVE_{name.upper()}", ""),
            metavar=metavar,
            help=f"{what} (default: KANSERVE_{name.upper()})",
        )
    parser.add_argument(
        "--token-file",
        default=os.environ.get("KANSERVE_TOKEN_FILE", ""),
        metavar="FILE",
        help="a token that says who is calling (default: KANSERVE_TOKEN_FILE, else what KANSERVE_TOKEN is)",
    )
    parser.add_argument(
        "--token-in-clear", action="store_true", help="send the token without TLS to other machines too"
    )
    parser.add_argument("--timeout", type=positive_seconds, default=30.0, metavar="S", help="seconds for one call (30)")
    add_json_option(parser)


def token(args: argparse.Namespace) -> str:
    """Token from the token file or the environment, or "". There is no option for the token itself, because everyone
    on the machine can read a command line. Raises InputError."""
    if not args.token_file:
        return os.environ.get("KANSERVE_TOKEN", "").strip()
    try:
        text = safe_files.first_line(args.token_file, TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {args.token_file} cannot be read: {why(error)}") from error
    if not text:
        raise InputError(f"the token file {args.token_file} is empty")
    return text


def why(error: OSError | UnicodeDecodeError) -> str:
    """Cause of a file error, without the file's name or contents."""
    return str(error.strerror) if isinstance(error, OSError) else "it is no text"


def add_model_options(parser: argparse.ArgumentParser, *, files: bool = False) -> None:
    """NAME and `--model-version`: a model of the server. `files`: or a checkpoint, see `nearby`."""
    add_name(parser, files=files)
    parser.add_argument("--model-version", default="", metavar="N", help="default: the highest that is ready")


def add_name(parser: argparse.ArgumentParser, *, files: bool = False) -> None:
    """NAME: a model of the server. `files`: or a checkpoint, see `nearby`."""
    also = (
        "; or the path of a checkpoint, with a / in it or a suffix (./net, net.pt), which is exported and served for "
        "this command alone, without --url"
    )
    parser.add_argument("name", metavar="NAME", help=f"a model of the server{also if files else ''}")
    parser.set_defaults(files=files)


def add_row_options(parser: argparse.ArgumentParser, default: str = "") -> None:
    """`--input` and `--array`: where the rows come from. `default`: rows that are taken without, if any."""
    text = "rows as .npy, .npz, .csv, .json, .parquet, .arrow or .feather; - reads stdin" + (
        f" (default: {default})" if default else ""
    )
    parser.add_argument("--input", required=not default, metavar="FILE", help=text)
    parser.add_argument("--array", default="", metavar="NAME", help="which array of an .npz")


def positive_seconds(text: str) -> float:
    """An argparse type: seconds, more than 0 and less than a day."""
    value = float(text)
    if not 0 < value < 86400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds between 0 and 86400")
    return value


def index(text: str) -> int:
    """An argparse type: a count or an index, 0 and up."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0")
    return value
