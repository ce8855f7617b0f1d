"""Connection of a client command, with the translation of its errors for the command line."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shlex
import subprocess
import sys
import tempfile
import urllib.parse
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kanexport.contract.cli.console import Exit, note, print_json
from kanexport.contract.cli.suggest import advice
from kanexport.contract.coded import CodedError
from kanexport.contract.naming import CHECKPOINTS, MORE_CHECKPOINTS
from kanserve.cli.options import TLS_OPTIONS, CommandError, InputError, token
from kanserve.client.errors import ClientError, DeadlineExceeded, NotAllowed, NotFound, Unreachable
from kanserve.client.sync import Client


@contextlib.contextmanager
def connection(args: argparse.Namespace, *, model: str = "") -> Iterator[Client]:
    """A client for `--url`; its errors become CommandError with hint and exit code.

    `model`: the name that the command is about. If the server does not know it, the hint lists the known names, and a
    checkpoint of that name in the folder. If `model` is a path, the command exports and serves the checkpoint, and
    `args.name` becomes the model's name. A command that takes no checkpoint rejects a path.
    """
    own = bool(model) and is_path_for(args, model)
    try:
        with served(args) if own else contextlib.nullcontext(), _client(args, own=own) as client:
            try:
                yield client
            except NotFound as error:
                raise failure(error, hint=_names(client, args, model)) from error
    except (Unreachable, DeadlineExceeded) as error:
        raise failure(error, hint="; or ".join(filter(None, (server_advice(args, model), _hint(error))))) from error
    except ClientError as error:
        raise failure(error) from error


def _client(args: argparse.Namespace, *, own: bool) -> Client:
    """`own`: this command has started the server, which needs neither certificates nor a token."""
    if own:
        return Client(args.url, timeout=args.timeout)
    options = {name: getattr(args, name) for name, _, _ in TLS_OPTIONS}
    try:
        return Client(args.url, timeout=args.timeout, token=token(args), token_in_clear=args.token_in_clear, **options)
    except CodedError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error


def failure(error: ClientError, *, hint: str = "") -> CommandError:
    """A client's error as the end of a command, with the server's error code, and its hint unless there is a better
    one."""
    return CommandError(
        str(error),
        hint=hint or _hint(error),
        kind=type(error).__name__,
        code=error.error_code,
        exit_code=Exit.WRONG if error.input_is_wrong else Exit.FAILED,
    )


def _hint(error: ClientError) -> str:
    if isinstance(error, Unreachable) and not error.hint:
        return "start one with `kanserve serve REPOSITORY`, or name another with --url HOST:PORT"
    if isinstance(error, NotAllowed):
        return "--token-file FILE says who is calling; `kanserve token new` makes a token where the server runs"
    if isinstance(error, DeadlineExceeded):
        return "--timeout SECONDS allows more"
    return error.hint


def _names(client: Client, args: argparse.Namespace, model: str) -> str:
    """Help with a name that the server does not have; nothing if it has it (in another version)."""
    with contextlib.suppress(ClientError):
        known = sorted({entry.name for entry in client.index()})
        if model and model not in known:
            names = advice(model, known, what="models of the server") or "the server has no models"
            return "; ".join(filter(None, (server_advice(args, model), names)))
    return ""


SUFFIXES = (*CHECKPOINTS, *MORE_CHECKPOINTS)
PARTS = ("_config.yml", "_state")  # of a pykan checkpoint, which goes by what stands before them
MODELS = "models"  # the repository in the folder of a command
PROGRAM = (sys.executable, "-m", "kanserve")
SECONDS = 10.0  # until a server has left
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
            f"{word} is a path, and --url names a server: expected one of them",
            hint="leave --url out for the files here, or give the name of a model of that server",
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
    leave = " and leave --url out" if getattr(args, "url_given", False) else ""
    if getattr(args, "folders", False) and Path(word).is_dir():
        return f"for the folder here, give {_place(word)}{leave}"
    if not getattr(args, "files", False):
        return ""
    candidates = [word + suffix for suffix in ("", *SUFFIXES) if is_here(word + suffix)]
    return f"for the checkpoint in this folder, give {_place(candidates[0])}{leave}" if candidates else ""


def _is_place(word: str) -> bool:
    return os.sep in word or word in (os.curdir, os.pardir)


def _place(word: str) -> str:
    """The path as a user types it in a shell."""
    return shlex.quote(os.path.join(os.curdir, word))


@contextlib.contextmanager
def served(args: argparse.Namespace) -> Iterator[None]:
    """Export the checkpoint at `args.name`, and serve it meanwhile. Sets `args.url` to the server's address and
    `args.name` to the model's name. Raises CommandError with the text of the export."""
    if not getattr(args, "files", False):
        raise InputError(
            f"{args.name} is a path, expected the name of a served model: `kanserve {args.command}` takes no file"
        )
    rows = getattr(args, "input", None)
    with (
        exported(args.name, rows, then="serving it") as (folder, name),
        running(folder / MODELS, folder / "log") as address,
    ):
        args.name, args.url = name, address
        yield


@contextlib.contextmanager
def exported(path: str, rows: str | None, *, then: str) -> Iterator[tuple[Path, str]]:
    """Temporary repository with the exported checkpoint, and the name of its model. Raises CommandError with the
    text of the export.

    rows  a file whose header, if it has one, names the features
    then  the purpose of the export, for the message
    """
    if not is_here(path) and not Path(path).exists():
        raise CommandError(f"there is no file {path}", hint=_missing(path), exit_code=Exit.WRONG)
    with tempfile.TemporaryDirectory(prefix="kanserve-") as folder:
        note(f"{path}: exporting it, and {then} for this command")
        report = _export(path, Path(folder) / MODELS, rows)
        note(f"  {report['family']}, {report['verified']}")
        for name, value in report["options"]["assumed"].items():
            note(f"  assumed: {name} = {value}")
        yield Path(folder), report["name"]


def _missing(path: str) -> str:
    if _is_place(path):
        return f"the name of a served model has no {os.sep} in it"
    return "a word with the suffix of a checkpoint is a file; with --url HOST:PORT it is the name of a model"


def _export(path: str, repository: Path, rows: str | None) -> Any:
    """Output of `kanserve export --json` for the checkpoint."""
    names = ["--features", rows] if rows and _has_header(rows) else []
    done = _run("export", path, "--repository", str(repository), "--json", *names)
    document = json.loads(done.stdout)
    if done.returncode:
        error = document["error"]
        raise CommandError(
            error["message"],
            hint=error["hint"] or "`kanserve export` takes options; then serve what it writes, and name the model",
            kind=error["kind"],
            code=error["code"],
            exit_code=Exit(done.returncode),
        )
    return document


def _has_header(rows: str) -> bool:
    """A .csv whose first line is no row of numbers."""
    if not rows.lower().endswith(".csv"):
        return False
    try:
        with open(rows, encoding="utf-8-sig") as file:
            first = file.readline().split(",")
        float(first[0])
    except ValueError:
        return True
    except OSError:  # the command itself says so
        return False
    return False


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *words], env=_environment(), capture_output=True, text=True, check=False)


def _environment() -> dict[str, str]:
    """Without settings that are meant for the operator's own server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KANSERVE_")}


@contextlib.contextmanager
def running(models: Path, log: Path, *flags: str) -> Iterator[str]:
    """A server over a repository, on ports of this machine's choice; its address. Raises CommandError."""
    words: Sequence[str] = ("serve", str(models), "--grpc-port", "0", "--metrics-port", "0", "--json", *flags)
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*PROGRAM, *words], env=_environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            last = "; ".join(log.read_text().splitlines()[-LAST:])
            raise CommandError(f"a server for {models} did not start: {last[:500]}")
        yield json.loads(line)["grpc"]
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


SECURE = "grpcs://"
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")  # one of them, where a browser has a place on Linux


def ui_address(url: str, *path: str, secure: bool = False, version: str = "") -> str:
    """Address of the web UI for a server's port that speaks gRPC and HTTP, such as 127.0.0.1:8001. `path`: the part
    after /ui/."""
    scheme = "https" if secure or url.startswith(SECURE) else "http"
    place = "/".join(urllib.parse.quote(part, safe="") for part in path)
    query = f"?version={urllib.parse.quote(version, safe='')}" if version else ""
    return f"{scheme}://{url.removeprefix(SECURE)}/ui/{place}{query}"


def check(where: str, seconds: float) -> None:
    """Raises CommandError where no page is at an address without TLS: a port may speak gRPC alone."""
    parts = urllib.parse.urlsplit(where)
    if parts.scheme != "http":
        return
    connection = http.client.HTTPConnection(parts.netloc, timeout=seconds)
    try:
        connection.request("GET", "/ui/")
        answer = connection.getresponse()
        is_page = answer.getheader("content-type", "").startswith("text/html") and answer.status == http.client.OK
    except (OSError, http.client.HTTPException):
        is_page = False
    finally:
        connection.close()
    if not is_page:
        raise CommandError(
            f"there is no page at {where}",
            hint="asgi serves HTTP on gRPC's port; grpcio needs `serve --http-port PORT`, and this command --page",
            exit_code=Exit.FAILED,
        )


def show(where: str, *, browser: bool, as_json: bool) -> None:
    """Prints the address, and opens it where there is a browser."""
    opened = browser and _has_screen() and webbrowser.open(where)
    if as_json:
        print_json({"address": where, "opened": opened})
    else:
        print(where, flush=True)
        if browser and not opened:
            note("there is no browser here; open the address in one")


def _has_screen() -> bool:
    """Elsewhere `webbrowser` may take the terminal for a browser of text."""
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in SCREENS)
