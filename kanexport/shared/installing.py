"""How a missing part of kanserve is installed. Standard library only."""

from __future__ import annotations

import importlib
import sys
import types

from kanexport.shared.voice import Exit, Failure


class MissingPackage(Failure):
    """A command whose packages are not installed."""

    exit_code = Exit.FAILED


def load(command: str, module: str, extra: str = "") -> types.ModuleType:
    """The module of a command. Raises MissingPackage saying how to install the `extra` it needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):  # the module or a folder above it
            raise MissingPackage(
                f"{command} is not part of this installation (the server image leaves it out)",
                hint="use one where the checkpoints are; `make setup` in a checkout of kanserve makes it",
            ) from error
        missing = (error.name or "").partition(".")[0]
        if missing in ("kanserve", "kanexport", "") or not extra:
            raise
        raise MissingPackage(
            f"the command needs the Python package that provides {missing!r}, which is not installed",
            hint=how_to_install(extra),
        ) from error


def how_to_install(extra: str) -> str:
    """What to run for an extra of pyproject.toml, such as 'export'; it follows a sentence that says what is missing.

    kanserve is on no package index, so this is for a checkout. It names the running
    interpreter, because the first `pip` of a shell may serve another environment, and
    is editable, because an environment made by `make setup` has to stay so.
    """
    return f"in a checkout of kanserve, run {sys.executable} -m pip install -e '.[{extra}]'"
