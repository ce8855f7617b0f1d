"""Changes of the manifest of a stored model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kanexport.contract import manifest


def edit(**changes: Any) -> Callable[[Path], None]:
    """Another manifest, as `dataclasses.replace` changes it."""

    def change(folder: Path) -> None:
        loaded = dataclasses.replace(manifest.load(folder), **changes)
        (folder / manifest.FILE_NAME).write_bytes(manifest.dumps(loaded))

    return change


def reference(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        edit(reference=dataclasses.replace(manifest.load(folder).reference, **changes))(folder)

    return change
