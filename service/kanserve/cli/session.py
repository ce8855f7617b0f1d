"""Connection of a client command, with the translation of its errors for the command line."""

from __future__ import annotations

import argparse
import contextlib
import csv
import http.client
import json
import os
import shlex
import subprocess
import sys
import tempfile
import urllib.parse
import webbrowser
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from kanexport.shared import csv_text
from kanexport.shared.cli.console import CodedError, Exit, exit_codes_of, note, print_json
from kanexport.shared.cli.suggest import advice
from kanexport.shared.naming import CHECKPOINTS, MORE_CHECKPOINTS
from kanserve.cli.options import TLS_OPTIONS, CommandError, InputError, token
from kanserve.client import base, targets
from kanserve.client.errors import (
    ArgumentError,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NotAllowed,
    NotFound,
    NotSupported,
    RateLimited,
    TooLarge,
    Unavailable,
    Unreachable,
)
from kanserve.client.fleet import Replies
from kanserve.client.sync import Client
from kanserve.tables import input_rows
from kanserve.types import Description


@contextlib.contextmanager
def connection(args: argparse.Namespace, *, model: str = "") -> Iterator[Client]:
    """A client for `--url`. Its errors become CommandError with code, hint and exit code.

    `model`: the model name of the command. If the server does not know it, the hint lists the known names, and a
    checkpoint of that name in the folder. If `model` is a path, the command exports and serves the checkpoint, and
    `args.name` becomes the model's name. A command that does not support checkpoints rejects a path.
    """
    own = bool(model) and is_path_for(args, model)
    try:
        with served(args) if own else contextlib.nullcontext(), _client(args, own=own) as client:
            try:
                yield client
            except NotFound as error:
                raise failure(error, hint=_names(client, args, model)) from error
    except (Unreachable, DeadlineExceeded) as error:
        advice_for_path = server_advice(args, model)
        ended = failure(error)
        ended.hint = "; or ".join(filter(None, (advice_for_path, ended.hint)))
        raise ended from error
    except ClientError as error:
        raise failure(error) from error
    except ArgumentError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error


@contextlib.contextmanager
def queried(args: argparse.Namespace) -> Iterator[tuple[Client, Description, Any]]:
    """A client as `connection`, the description of the model, and the rows of `--input`, None without it. The command
    reads the file before it sends a request. Raises InputError."""
    source = input_rows.contents(args.input) if args.input else None
    with connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows = None
        if source is not None:
            rows = input_rows.rows_for_all(described.inputs, source, array=args.array, names=described.names)
        yield client, described, rows


@contextlib.contextmanager
def connections(args: argparse.Namespace, *, model: str) -> Iterator[dict[str, Client]]:
    """A client of each server of `--url`, by address; errors as of `connection`."""
    try:
        servers = targets.each(args.url)
        secure = base.is_secure(args.url, base.Tls.from_files(args.ca, args.cert, args.key, args.server_name))
    except ArgumentError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error
    with contextlib.ExitStack() as stack:
        clients = {}
        for address, name in servers.items():
            certified = args.server_name or (name if secure else "")
            own = argparse.Namespace(**{**vars(args), "url": address, "server_name": certified})
            clients[address] = stack.enter_context(connection(own, model=model))
        yield clients


def _client(args: argparse.Namespace, *, own: bool) -> Client:
    """`own`: this command started the server, which needs neither certificates nor a token."""
    if own:
        return Client(args.url, timeout=args.timeout)
    options = {name: getattr(args, name) for name, _, _ in TLS_OPTIONS}
    try:
        return Client(args.url, timeout=args.timeout, token=token(args), token_in_clear=args.token_in_clear, **options)
    except CodedError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error


# Codes whose hints name headers and arguments of clients. A command has options for them.
IN_OTHER_WORDS = ("authorization-invalid", "credential-missing", "deadline-exceeded")


def failure(error: ClientError, *, hint: str = "") -> CommandError:
    """A client's error as the end of a command."""
    ended = _failure(error)
    ended.kind = type(error).__name__
    ended.code = error.error_code or ended.code
    of_server = "" if error.error_code in IN_OTHER_WORDS else error.hint
    ended.hint = hint or of_server or ended.hint
    ended.exit_code = Exit.WRONG if error.input_is_wrong else Exit.FAILED
    return ended


def _failure(error: ClientError) -> CommandError:
    text = str(error)
    match error:
        case Unreachable():
            if text.startswith("no server"):
                start = "start a server with `kanserve serve REPOSITORY`, or pass another address with --url HOST:PORT"
                return CommandError(text, code="server-unreachable", hint=start)
            return CommandError(text, code="connection-failed")
        case DeadlineExceeded():
            return CommandError(text, code="timeout-exceeded", hint="pass a longer time limit with --timeout SECONDS")
        case NotAllowed():
            token_hint = "pass a token with --token-file FILE; `kanserve token new` on the server's host creates one"
            return CommandError(text, code="not-allowed", hint=token_hint)
        case NotFound():
            return CommandError(text, code="not-found", hint="list the models with `kanserve models`")
        case TooLarge():
            return CommandError(text, code="limit-exceeded", hint="pass fewer rows, or raise the limit of the server")
        case RateLimited():
            return CommandError(text, code="rate-limited", hint="run the command again later")
        case Unavailable():
            return CommandError(text, code="server-unavailable", hint="run the command again later")
        case NotSupported():
            return CommandError(text, code="not-supported")
        case InvalidInput():
            return CommandError(text, code="request-invalid")
    return CommandError(text, code="server-failed", hint="read the log of the server")


def _names(client: Client, args: argparse.Namespace, model: str) -> str:
    """Advice for a name that the server does not know, or "" if it has another version of the model."""
    with contextlib.suppress(ClientError):
        known = sorted({entry.name for entry in client.index()})
        if model and model not in known:
            names = advice(model, known, what="models of the server") or "export a model: the server has none"
            return "; ".join(filter(None, (server_advice(args, model), names)))
    return ""


EXITS_OF_SEVERAL = exit_codes_of(
    FAILED="a server of several did not reply, so that the sum is partial; or another failure"
)


def document_of_several(replies: Replies[Any]) -> dict[str, Any]:
    """Fields of a JSON document: the servers that replied, and those that did not. Empty for one server."""
    if len(replies.by_server) + len(replies.missing) == 1:
        return {}
    missing = {address: str(error) for address, error in replies.missing.items()}
    return {"servers": list(replies.by_server), "missing_servers": missing}


def end_of_several(replies: Replies[Any]) -> int:
    """Exit code of the command, after notes on the number of servers and on those without a reply."""
    replied, missing = len(replies.by_server), replies.missing
    if replied + len(missing) > 1:
        note(f"{'partial sum' if missing else 'sum'} of {replied} of {replied + len(missing)} servers")
    for address, error in missing.items():
        note(f"  {address} did not reply: {error}")
    return Exit.FAILED if missing else Exit.DONE


SUFFIXES = (*CHECKPOINTS, *MORE_CHECKPOINTS)
PARTS = ("_config.yml", "_state")  # suffixes of a pykan checkpoint after its prefix
MODELS = "models"  # the repository in the folder of a command
PROGRAM = (sys.executable, "-m", "kanserve")
SECONDS = 10.0  # until a server has exited
LAST = 3  # lines of its log in an error


def is_path(word: str) -> bool:
    """True if an argument is a path and not the name of a served model. Existing files do not change the result."""
    return _is_place(word) or word.lower().endswith(SUFFIXES)


def is_path_for(args: argparse.Namespace, word: str) -> bool:
    """True if an argument is a path, for a command with `--url`. If `--url` is given, a word without a separator is
    a name, also with a suffix. Raises InputError for a path next to `--url`, because that server does not take
    files."""
    if not args.url_given:
        return is_path(word)
    if _is_place(word):
        raise InputError(
            f"the path {word} cannot be combined with --url",
            code="path-with-url",
            hint="remove --url to use the files on this machine, or pass the name of a served model",
        )
    return False


def is_here(path: str) -> bool:
    """True if a checkpoint is at a path: a file, or the files of pykan whose names begin with the path."""
    try:
        return Path(path).is_file() or any(Path(path + part).is_file() for part in PARTS)
    except OSError:  # the name is too long for a file
        return False


def server_advice(args: argparse.Namespace, word: str) -> str:
    """A hint for a name that the server does not know: the path of the checkpoint with this name in the current folder.
    "" if the folder has none, or the command takes no path."""
    if not word or _is_place(word):
        return ""
    remove = " without --url" if getattr(args, "url_given", False) else ""
    if getattr(args, "folders", False) and Path(word).is_dir():
        return f"pass {_place(word)}{remove} to use the folder"
    if not getattr(args, "files", False):
        return ""
    candidates = [word + suffix for suffix in ("", *SUFFIXES) if is_here(word + suffix)]
    return f"pass {_place(candidates[0])}{remove} to use the checkpoint in this folder" if candidates else ""


def _is_place(word: str) -> bool:
    return os.sep in word or word in (os.curdir, os.pardir)


def _place(word: str) -> str:
    """The path as a user types it in a shell."""
    return shlex.quote(os.path.join(os.curdir, word))


@contextlib.contextmanager
def served(args: argparse.Namespace) -> Iterator[None]:
    """Export the checkpoint at `args.name`, and serve it while the command runs. Sets `args.url` to the server's
    address and `args.name` to the model's name. Raises CommandError with the text of the export."""
    if not getattr(args, "files", False):
        raise InputError(
            f"{args.name} is a path, expected the name of a served model",
            code="path-not-supported",
            hint="export the checkpoint with `kanserve export`, serve it, and pass the name of the model",
        )
    rows = getattr(args, "input", None)
    with (
        exported(args.name, rows, then="serving it") as (folder, name),
        started(folder / MODELS, folder / "log") as server,
    ):
        args.name, args.url = name, server["grpc"]
        yield


@contextlib.contextmanager
def exported(path: str, rows: str | None, *, then: str) -> Iterator[tuple[Path, str]]:
    """Temporary repository with the exported checkpoint, and the name of its model. Raises CommandError with the
    text of the export.

    rows  a file whose header, if it has one, names the features
    then  the purpose of the export, for the message
    """
    if not is_here(path) and not Path(path).exists():
        hint = "pass an existing checkpoint; for a served model with this suffix in its name, add --url HOST:PORT"
        if _is_place(path):
            hint = f"pass an existing checkpoint, or the name of a served model without {os.sep}"
        raise InputError(f"file not found: {path}", code="checkpoint-not-found", hint=hint)
    with tempfile.TemporaryDirectory(prefix="kanserve-") as folder:
        note(f"{path}: exporting the checkpoint, and {then} for this command")
        repository = Path(folder) / MODELS
        names = ["--features", rows] if rows and _has_header(rows) else []
        words = ("export", path, "--repository", str(repository), "--json", *names)
        done = subprocess.run([*PROGRAM, *words], env=_environment(), capture_output=True, text=True, check=False)
        report = json.loads(done.stdout)
        if done.returncode:
            error = report["error"]
            raise CommandError(
                error["message"],
                hint=error["hint"]
                or "export the checkpoint with `kanserve export` and its options, and serve the result",
                kind=error["kind"],
                code=error["code"],
                exit_code=Exit(done.returncode),
            )
        note(f"  {report['family']}, {report['verified']}")
        for name, value in report["options"]["assumed"].items():
            note(f"  assumed: {name} = {value}")
        yield Path(folder), report["name"]


def _has_header(rows: str) -> bool:
    """True for a .csv file whose first line is a header."""
    if not rows.lower().endswith(".csv"):
        return False
    try:
        with open(rows, encoding="utf-8-sig") as file:
            return bool(csv_text.header(file.readline()))
    except (OSError, ValueError, csv.Error):  # the command itself reports it
        return False


def _environment() -> dict[str, str]:
    """The environment without settings of the user's own server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KANSERVE_")}


@contextlib.contextmanager
def started(models: Path, log: Path, *flags: str, cores: Collection[int] = ()) -> Iterator[dict[str, Any]]:
    """A server for a repository, on free ports and these cores (none: all), and its document: the addresses `grpc` and
    `metrics`, and `pid`. Raises CommandError."""
    words: Sequence[str] = ("serve", str(models), "--grpc-port", "0", "--metrics-port", "0", "--json", *flags)
    with log.open("w") as errors, _on_cores(cores):
        process = subprocess.Popen(
            [*PROGRAM, *words], env=_environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            last = "; ".join(log.read_text().splitlines()[-LAST:])
            raise CommandError(
                f"the server for {models} did not start: {last[:500]}",
                code="server-not-started",
                hint=f"check the repository with `kanserve doctor {models}`",
            )
        yield json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def _on_cores(cores: Collection[int]) -> Iterator[None]:
    """Context in which this thread, and the processes that it starts, have only these cores. A server counts its cores
    when it starts."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


SECURE = "grpcs://"
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")  # on Linux, a browser needs one of them


def ui_address(url: str, *path: str, secure: bool = False, version: str = "") -> str:
    """Address of the web UI for a server's port that speaks gRPC and HTTP, such as 127.0.0.1:8001. `path`: the part
    after /ui/. Raises InputError for the address of several servers."""
    try:
        targets.require_single(url, "the web UI")
    except CodedError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error
    scheme = "https" if secure or url.startswith(SECURE) else "http"
    place = "/".join(urllib.parse.quote(part, safe="") for part in path)
    query = f"?version={urllib.parse.quote(version, safe='')}" if version else ""
    return f"{scheme}://{url.removeprefix(SECURE)}/ui/{place}{query}"


def check(where: str, seconds: float) -> None:
    """Raises CommandError if an address without TLS has no page: a port may speak only gRPC."""
    parts = urllib.parse.urlsplit(where)
    if parts.scheme != "http":
        return
    connection = http.client.HTTPConnection(parts.netloc, timeout=seconds)
    try:
        connection.request("GET", "/ui/")
        response = connection.getresponse()
        is_page = response.getheader("content-type", "").startswith("text/html") and response.status == http.client.OK
    except (OSError, http.client.HTTPException):
        is_page = False
    finally:
        connection.close()
    if not is_page:
        raise CommandError(
            f"no web UI at {where}",
            code="web-ui-not-found",
            hint="start the server with --transport asgi, or with --http-port PORT and pass --page HOST:PORT here",
            exit_code=Exit.FAILED,
        )


def show(where: str, *, browser: bool, as_json: bool) -> None:
    """Print the address, and open it if there is a browser. Without a screen, `webbrowser` may open a text browser in
    the terminal."""
    has_screen = not sys.platform.startswith("linux") or any(map(os.environ.get, SCREENS))
    opened = browser and has_screen and webbrowser.open(where)
    if as_json:
        print_json({"address": where, "opened": opened})
    else:
        print(where, flush=True)
        if browser and not opened:
            note("no browser found; open the address in a browser")
