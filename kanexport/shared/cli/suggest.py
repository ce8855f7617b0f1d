"""Suggestions for misspelt names and missing packages. Standard library only."""

from __future__ import annotations

import difflib
import importlib
import sys
import types
from collections.abc import Iterable

from kanexport.shared.cli.console import Exit, Failure

WORD_LENGTH = 80  # characters of a word that are compared
SHOWN = 40  # names of a list; the rest is counted


def advice(word: str, known: Iterable[str], *, what: str = "known", prefix: str = "") -> str:
    """Hint for `word`, which is not in `known`: "did you mean 'digits'?" if a name is close, otherwise the list, such
    as "known: digits, hello". Empty if `known` is empty.

    A `prefix` that all names have is shown and not compared, because it would make all of them similar.
    """
    names = list(dict.fromkeys(known))
    bare = {name.removeprefix(prefix): name for name in names}
    close = closest(word.removeprefix(prefix), bare)
    if close:
        return f"did you mean {bare[close]!r}?"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}" if names else ""


def closest(word: str, known: Iterable[str]) -> str:
    """The name that resembles `word` most, or "". Case, `-` and `_` make no difference."""
    names = {_plain(name): name for name in known}
    matches = difflib.get_close_matches(_plain(word[:WORD_LENGTH]), names, n=1)
    return names[matches[0]] if matches else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


class MissingPackage(Failure):
    """Failure of a command whose packages are not installed."""

    exit_code = Exit.FAILED
    code = "package-not-installed"


def load(command: str, module: str, extra: str = "") -> types.ModuleType:
    """The module of a command. Raises MissingPackage with the command that installs the `extra` it needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):  # the module or a folder above it
            raise MissingPackage(
                f"`{command}` is not part of this installation: the server image does not contain it",
                code="command-not-installed",
                hint="run the command in a checkout of kanserve after `make setup`",
            ) from error
        missing = (error.name or "").partition(".")[0]
        if missing in ("kanserve", "kanexport", "") or not extra:
            raise
        raise MissingPackage(
            f"`{command}` needs the Python package that provides {missing!r}, which is not installed",
            code="package-not-installed",
            hint=how_to_install(extra),
        ) from error


def how_to_install(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, such as 'export', as an imperative sentence.

    kanserve is not on a package index, so this is for a checkout. The command names the running interpreter, because
    the first `pip` of a shell may belong to another environment. It is editable, because an environment of
    `make setup` has to stay editable.
    """
    kernel = " ./kernel" if extra in ("export", "serve", "ray") else ""  # the custom operator, which they need
    extras = "serve,ray" if extra == "ray" else extra  # a fleet consists of servers
    return f"in a checkout of kanserve, run {sys.executable} -m pip install -e '.[{extras}]'{kernel}"
