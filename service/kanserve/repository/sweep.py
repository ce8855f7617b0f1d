"""What exports that were killed have left in a repository: removed, where that is allowed. Nobody serves any of it."""

from __future__ import annotations

from pathlib import Path

from kanexport.shared import leftovers


def swept(repository: Path) -> list[str]:
    """The names of what was there, of a repository and the folders in it. Blocks. What a running export works on
    stays, and so does all in a repository that is not to be written."""
    try:
        folders = [path for path in sorted(repository.iterdir()) if not path.name.startswith(".") and path.is_dir()]
    except OSError:  # whoever reads it next says so
        return []
    return [name for folder in (repository, *folders) if not folder.is_symlink() for name in leftovers.sweep(folder)]
