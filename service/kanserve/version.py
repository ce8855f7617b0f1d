"""Version and commit of the installed package."""

from __future__ import annotations

import importlib.metadata

COMMIT = "$Format:%H$"  # `git archive` and the build of the images write it here


def version() -> str:
    """The version of the installed package."""
    try:
        return importlib.metadata.version("kanserve")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree without installation


def commit() -> str:
    """The commit of the sources of the package; "unknown" if the package was built from a clone."""
    return "unknown" if COMMIT.startswith("$") else COMMIT
