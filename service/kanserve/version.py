"""Version of the installed package."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """The version of the installed package."""
    try:
        return importlib.metadata.version("kanserve")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree without installation
