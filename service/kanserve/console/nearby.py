"""A checkpoint in the place of a model's name: exported and served for one command, in processes of their own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kanexport.shared.output import note
from kanexport.shared.voice import Exit
from kanserve.console.common import CommandError, default_url

PARTS = ("_config.yml", "_state")  # of a pykan checkpoint, which goes by what stands before them
MODELS = "models"  # the repository in the folder of a command
PROGRAM = (sys.executable, "-m", "kanserve")
SECONDS = 10.0  # until a server has left
LAST = 3  # lines of its log in an error


def is_checkpoint(name: str, url: str) -> bool:
    """Whether a name is that of a file here, and no other server was named. A bare name without a suffix is a model's,
    also where a folder is called so. Raises CommandError for a path with nothing at its end: a model's name is none."""
    if url != default_url():
        return False
    path, is_path = Path(name), os.sep in name
    if any(Path(name + part).exists() for part in PARTS) or (path.is_file() and (is_path or path.suffix != "")):
        return True
    if is_path and not path.exists():
        raise CommandError(f"there is no file {name}, and a model's name has no {os.sep} in it", exit_code=Exit.WRONG)
    return is_path


@contextlib.contextmanager
def served(args: argparse.Namespace) -> Iterator[None]:
    """Meanwhile `args.url` is where `args.name` is served, which then is the model's name. Raises CommandError with
    what the export says."""
    rows = getattr(args, "input", None)
    with (
        exported(args.name, rows, then="serving it") as (folder, name),
        running(folder / MODELS, folder / "log") as address,
    ):
        args.name, args.url = name, address
        yield


@contextlib.contextmanager
def exported(path: str, rows: str | None, *, then: str) -> Iterator[tuple[Path, str]]:
    """Meanwhile the folder has the checkpoint as a model in its `MODELS`, of this name. `rows`: a file whose header, if
    it has one, names the features; `then`: what is done with the model. Raises CommandError with what the export
    says."""
    with tempfile.TemporaryDirectory(prefix="kanserve-") as folder:
        note(f"{path}: exporting it, and {then} for this command")
        told = _export(path, Path(folder) / MODELS, rows)
        note(f"  {told['family']}, {told['verified']}")
        for name, value in told["options"]["assumed"].items():
            note(f"  assumed: {name} = {value}")
        yield Path(folder), told["name"]


def _export(path: str, repository: Path, rows: str | None) -> Any:
    """What `kanserve export --json` says."""
    names = ["--features", rows] if rows and _has_header(rows) else []
    done = _run("export", path, "--repository", str(repository), "--json", *names)
    document = json.loads(done.stdout)
    if done.returncode:
        error = document["error"]
        raise CommandError(
            error["message"],
            hint=error["hint"] or "`kanserve export` takes options; then serve what it writes, and name the model",
            kind=error["kind"],
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
