"""The connection of a client command: what its errors mean for the command line."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

from kanexport.shared.nearest import advice
from kanexport.shared.voice import Exit
from kanserve.client.connection import Client
from kanserve.client.errors import ClientError, DeadlineExceeded, NotAllowed, NotFound, Unreachable
from kanserve.console import nearby
from kanserve.console.common import TLS_OPTIONS, CommandError, InputError, token


@contextlib.contextmanager
def connection(args: argparse.Namespace, *, model: str = "") -> Iterator[Client]:
    """A client for `--url`; its errors become CommandError with hint and exit code.

    `model`: the name that the command is about. If the server does not know it, the hint lists the known names, and a
    checkpoint of that name in the folder. If `model` is a path, the command exports and serves the checkpoint, and
    `args.name` becomes the model's name. A command that takes no checkpoint rejects a path.
    """
    own = bool(model) and nearby.is_path_for(args, model)
    try:
        with nearby.served(args) if own else contextlib.nullcontext(), _client(args, own=own) as client:
            try:
                yield client
            except NotFound as error:
                raise failure(error, hint=_names(client, args, model)) from error
    except (Unreachable, DeadlineExceeded) as error:
        raise failure(error, hint="; or ".join(filter(None, (nearby.advice(args, model), _hint(error))))) from error
    except ClientError as error:
        raise failure(error) from error


def _client(args: argparse.Namespace, *, own: bool) -> Client:
    """`own`: this command has started the server, which needs neither certificates nor a token."""
    if own:
        return Client(args.url, timeout=args.timeout)
    given = {name: getattr(args, name) for name, _, _ in TLS_OPTIONS}
    try:
        return Client(args.url, timeout=args.timeout, token=token(args), token_in_clear=args.token_in_clear, **given)
    except ValueError as error:
        raise InputError(str(error)) from error


def failure(error: ClientError, *, hint: str = "") -> CommandError:
    """A client's error as the end of a command."""
    return CommandError(
        str(error),
        hint=hint or _hint(error),
        kind=type(error).__name__,
        exit_code=Exit.WRONG if error.input_is_wrong else Exit.FAILED,
    )


def _hint(error: ClientError) -> str:
    if isinstance(error, Unreachable) and "no server answers" in str(error):
        return "start one with `kanserve serve REPOSITORY`, or name another with --url HOST:PORT"
    if isinstance(error, NotAllowed):
        return "--token-file FILE says who is calling; `kanserve token new` makes a token where the server runs"
    if isinstance(error, DeadlineExceeded):
        return "--timeout SECONDS allows more"
    return ""


def _names(client: Client, args: argparse.Namespace, model: str) -> str:
    """Help with a name that the server does not have; nothing if it has it (in another version)."""
    with contextlib.suppress(ClientError):
        known = sorted({entry.name for entry in client.index()})
        if model and model not in known:
            names = advice(model, known, what="models of the server") or "the server has no models"
            return "; ".join(filter(None, (nearby.advice(args, model), names)))
    return ""
