"""How a missing part of kanserve is installed. Standard library only."""

from __future__ import annotations

import sys


def how_to_install(extra: str) -> str:
    """What to run for an extra of pyproject.toml, such as 'export'; it follows a sentence that says what is missing.

    kanserve is on no package index, so this is for a checkout. It names the running
    interpreter, because the first `pip` of a shell may serve another environment, and
    is editable, because an environment made by `make setup` has to stay so.
    """
    return f"in a checkout of kanserve, run {sys.executable} -m pip install -e '.[{extra}]'"
