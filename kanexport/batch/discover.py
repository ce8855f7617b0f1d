"""Discovery of the checkpoints in a folder: files, places and model names.

`kanexport.formats.checkpoint` decides which files are checkpoints. Left out: hidden files
and folders, links, pykan's `_cache_data` (the last training inputs), and the model
repository itself.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanexport.errors import CheckpointError
from kanexport.formats.checkpoint import CACHE, CONFIG, ENDINGS, STATE, entry_points

ENTRY_LIMIT = 200_000  # directory entries looked at
ITEM_LIMIT = 10_000  # checkpoints
NAME_LENGTH = 128
folder_too_large = functools.partial(CheckpointError, code="folder-too-large", hint="name a smaller folder")
SUFFIX = re.compile(rf"\.({'|'.join(suffix[1:] for suffix in ENDINGS)})$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Item:
    """Checkpoint found in a folder: the path for `export`, and its place below the folder. With a `fault` it is a
    folder that cannot be listed."""

    path: Path
    place: str
    fault: str = ""


def find(root: Path, repository: Path) -> tuple[Item, ...]:
    """All checkpoints below a folder, in order of their places. Raises CheckpointError."""
    if not root.is_dir():
        raise CheckpointError(
            f"{str(root)[:300]} is not a folder",
            code="folder-not-found",
            hint="pass a folder of checkpoints with --recursive",
        )
    faults: list[OSError] = []
    files = sorted(_files(root, repository.resolve(), faults))
    checkpoints = entry_points(files)
    if len(checkpoints) > ITEM_LIMIT:
        raise folder_too_large(f"{root} has {len(checkpoints)} checkpoints, expected at most {ITEM_LIMIT}")
    if not checkpoints and not faults:
        raise CheckpointError(
            f"found no checkpoint among {len(files)} files in {root}",
            code="folder-without-checkpoints",
            hint="name a folder with pykan PREFIX_state and PREFIX_config.yml, torch.save, safetensors or .keras files",
        )
    paths = [(path, "") for path in checkpoints]
    paths += [(Path(str(error.filename)), f"cannot be listed: {error.strerror}") for error in faults]
    return tuple(Item(path, path.relative_to(root).as_posix(), fault) for path, fault in sorted(paths))


def names(items: Sequence[Item], prefix: str = "") -> list[str]:
    """A model name for each item, from its place. The name has no suffix if the names in the whole folder still
    differ. Otherwise it keeps the suffix, or has a digest of the place if that is not enough. Names do not end in a
    suffix of a checkpoint, because commands take such a word for a file: a.pt becomes a-pt."""
    front = f"{prefix}-" if prefix else ""
    ends = re.compile(rf"({'|'.join(map(re.escape, (*ENDINGS, STATE, CONFIG)))})$", re.IGNORECASE)
    short = [_usable(front + ends.sub("", item.place)) for item in items]
    whole = [_usable(front + item.place) for item in items]
    chosen: dict[int, str] = {}
    for form in (short, whole):
        waiting = [at for at in range(len(form)) if at not in chosen]
        counts, taken = collections.Counter(form[at] for at in waiting), set(chosen.values())
        for at in waiting:
            if counts[form[at]] == 1 and len(form[at]) <= NAME_LENGTH and form[at] not in taken:
                chosen[at] = form[at]
    for at in set(range(len(items))) - set(chosen):
        digest = hashlib.sha256(items[at].place.encode(errors="surrogateescape")).hexdigest()[:8]
        chosen[at] = f"{short[at][: NAME_LENGTH - 9]}-{digest}"
    return [chosen[at] for at in range(len(items))]


def _usable(text: str) -> str:
    """A place as a model name. A dash replaces characters that a name cannot have, and the dot of a suffix."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-") or "model"
    return re.sub(SUFFIX, r"-\1", name)


def _files(root: Path, repository: Path, faults: list[OSError]) -> Iterator[Path]:
    """Regular files below `root`; links are neither listed nor followed. Folders that cannot be listed are added to
    `faults`."""
    count = 0
    for folder, inner, files in os.walk(root, onerror=faults.append):
        here = Path(folder)
        inner[:] = sorted(name for name in inner if not name.startswith(".") and (here / name).resolve() != repository)
        count += len(inner) + len(files)
        if count > ENTRY_LIMIT:
            raise folder_too_large(f"{root} has more than {ENTRY_LIMIT} files and folders")
        for name in files:
            path = here / name
            if not name.startswith(".") and not name.endswith(CACHE) and _is_regular(path):
                yield path


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
