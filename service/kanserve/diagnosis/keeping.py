"""The folder where statistics are kept: whether it can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kanexport.shared import disk
from kanserve.config import Settings
from kanserve.diagnosis.finding import Finding, ok, warning

ABOUT = "statistics"


def look(settings: Settings) -> Iterator[Finding]:
    """Nothing where none is asked for. A folder that is not there yet is made where its parent lets it."""
    if settings.state is None:
        return
    try:
        disk.Folder(settings.state).check()
    except disk.Refused as error:
        yield warning(
            ABOUT,
            f"they are to be kept in {settings.state}, which {error.found}: the server will not use it",
            "name a directory that belongs to the server's user and that others cannot write (--state)",
        )
        return
    except OSError:  # it does not exist, or cannot be opened: the nearest directory shows why
        pass
    nearest = next(path for path in (settings.state, *settings.state.absolute().parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        yield ok(ABOUT, f"kept in {settings.state}")
        return
    what = "cannot be written" if nearest.is_dir() else "is no folder"
    yield warning(
        ABOUT,
        f"they are to be kept in {settings.state}, and {nearest} {what}: they will be lost with the server",
        "let the server's user write there, or name another folder (--state)",
    )
