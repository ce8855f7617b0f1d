"""The boundary to code that is not ours: the user's and torch's. What its errors say, in one line, and where."""

from __future__ import annotations

import contextlib
import ctypes
import linecache
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from kanexport.errors import ExportError

OWN = tuple(str(path.parent.parent) for path in (Path(__file__), Path(__file__).resolve()))
PYTHON = sysconfig.get_paths()["stdlib"]
LIBRARIES = re.compile(r"site-packages.(torch|functorch|onnx|onnxscript|onnx_ir|sympy|numpy)\b")
QUOTED = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')  # dynamo tells frames in its text
LENGTH = 300


class ForeignError(Exception):
    """What the user's code or torch raised, as `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(type(error).__name__)
        self.error = error


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """The user's code or torch runs inside; whatever it raises becomes a ForeignError. Ctrl-C passes."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a module may raise anything, and a script that parses arguments exits
        raise ForeignError(error) from error


@contextlib.contextmanager
def printing_to_stderr() -> Iterator[None]:
    """What is printed inside goes to stderr, also what libraries print that are not Python: stdout has one
    document and nothing else."""
    sys.stdout.flush()
    saved = None
    with contextlib.suppress(OSError):
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(OSError, TypeError, AttributeError):  # no C library by that name
            ctypes.CDLL(None).fflush(None)
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def first_line(error: BaseException) -> str:
    """What an error says, without what follows: advice for torch's own developers, paths, traces."""
    if isinstance(error, ExportError):
        return error.message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:LENGTH].removesuffix(": ")


def root(error: BaseException) -> BaseException:
    """The error that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def place(error: BaseException) -> str:
    """The innermost line of the user's own code that an error passed through, such as
    "nets.py, line 12, in forward: if x.sum() > 0:"; empty where there is none."""
    for link in _chain(error):
        passed = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(link.__traceback__)]
        quoted = [(name, int(line), function) for name, line, function in QUOTED.findall(str(link))]
        for frames in (passed, quoted):
            users = [frame for frame in frames if _is_users(frame[0])]
            if users:
                return _described(*users[-1])
    return ""


def _described(name: str, line: int, function: str) -> str:
    text = linecache.getline(name, line).strip()
    return f"{Path(name).name}, line {line}, in {function}" + (f": {text[:120]}" if text else "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """From the error that began it outwards."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    yield from reversed(chain)


def is_users_own(name: str) -> bool:
    """Whether a file is the user's, and not of a library that is installed."""
    return _is_users(name) and "site-packages" not in name and "dist-packages" not in name


def _is_users(name: str) -> bool:
    """Whether a file is neither ours, nor torch's, nor Python's own."""
    if name.startswith("<") or name.startswith(OWN) or LIBRARIES.search(name):
        return False
    return not name.startswith(PYTHON) or "site-packages" in name
