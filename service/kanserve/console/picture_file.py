"""A scene as a file, of the kind that its name says."""

from __future__ import annotations

from pathlib import Path

from kanexport.shared import atomic, installing
from kanexport.shared.voice import Exit
from kanserve.console.common import CommandError
from kanserve.pictures import svg
from kanserve.pictures.scene import Scene

SUFFIXES = (".svg", ".png")


def write(target: str, scene: Scene) -> None:
    """Raises CommandError."""
    if Path(target).suffix.lower() == ".png":
        data: bytes = installing.load("plot", "kanserve.pictures.png", "plot").data(scene)
    else:
        data = svg.text(scene).encode()
    try:
        atomic.write(Path(target), data)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}", exit_code=Exit.FAILED) from error
