"""The checkpoints of a folder: which files they are, and what to call their models.

A file is a checkpoint by its first bytes; one that is named like a checkpoint is
listed too, so that a report can say what it holds instead. Left out: hidden files
and folders, links, pykan's `_cache_data` (the last training inputs), and the model
repository itself.
"""

from __future__ import annotations

import collections
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanexport.errors import CheckpointError
from kanexport.files import safetensorsfile, torchzip
from kanexport.files.checkpoint import CACHE, CONFIG, LEGACY_MAGIC, STATE

ENTRY_LIMIT = 200_000  # directory entries looked at
ITEM_LIMIT = 10_000  # checkpoints
SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt")  # names of checkpoints, whatever they hold
MORE_SUFFIXES = (".bin", ".pkl", ".pickle", ".model")  # of checkpoints and much else
HEAD = 2048  # bytes that tell a format
NAME_LENGTH = 128
SMALLER = "name a smaller folder"


@dataclass(frozen=True, slots=True)
class Item:
    """One checkpoint: what `export` takes as its path, and its place below the folder.
    Or, with a `fault`, a folder that cannot be listed."""

    path: Path
    place: str
    fault: str = ""


def find(root: Path, repository: Path) -> tuple[Item, ...]:
    """All checkpoints below a folder, in order of their places. Raises CheckpointError."""
    if not root.is_dir():
        raise CheckpointError(f"{str(root)[:300]} is not a folder", hint="--recursive takes a folder of checkpoints")
    faults: list[OSError] = []
    files = sorted(_files(root, repository.resolve(), faults))
    configs = {str(path).removesuffix(CONFIG) for path in files if path.name.endswith(CONFIG)}
    states = {str(path).removesuffix(STATE) for path in files if path.name.endswith(STATE)}
    found = [Path(prefix) for prefix in states & configs]
    for path in files:
        prefix = str(path).removesuffix(STATE).removesuffix(CONFIG)
        if path.name.endswith(CONFIG):
            # A config without its weights is refused with what is missing; other programs have configs too.
            if prefix not in states and _is_pykan_config(path):
                found.append(path)
        elif not (path.name.endswith(STATE) and prefix in configs) and _is_checkpoint(path):
            found.append(path)
    if len(found) > ITEM_LIMIT:
        raise CheckpointError(f"{root} holds {len(found)} checkpoints, more than {ITEM_LIMIT}", hint=SMALLER)
    if not found and not faults:
        raise CheckpointError(
            f"no checkpoint is below {root}, among {len(files)} files",
            hint="looked for are pykan's PREFIX_state and PREFIX_config.yml, torch.save archives and safetensors",
        )
    items = [Item(path, path.relative_to(root).as_posix()) for path in found]
    for error in faults:
        path = Path(str(error.filename))
        items.append(Item(path, path.relative_to(root).as_posix(), f"cannot be listed: {error.strerror}"))
    return tuple(sorted(items, key=lambda item: item.path))


def names(items: Sequence[Item], prefix: str = "") -> list[str]:
    """A model name for each, from its place alone: without its suffix if that leaves the
    names different, else with it, else with a digest of the place."""
    front = f"{prefix}-" if prefix else ""
    ends = "|".join(map(re.escape, (*SUFFIXES, *MORE_SUFFIXES, STATE, CONFIG)))
    forms = [
        [front + re.sub(rf"({ends})$", "", item.place, flags=re.IGNORECASE) for item in items],
        [front + item.place for item in items],
    ]
    digests = [hashlib.sha256(item.place.encode(errors="surrogateescape")).hexdigest()[:8] for item in items]
    choices = [[_usable(text) for text in form] for form in forms]
    choices.append(
        [f"{name[: NAME_LENGTH - 9]}-{digest}" for name, digest in zip(choices[0], digests, strict=True)],
    )
    result = [""] * len(items)
    taken: set[str] = set()
    for at, form in enumerate(choices):
        waiting = [n for n, name in enumerate(result) if not name]
        counts = collections.Counter(form[n] for n in waiting)
        last = at == len(choices) - 1
        for n in waiting:
            if last or (counts[form[n]] == 1 and len(form[n]) <= NAME_LENGTH and form[n] not in taken):
                result[n] = form[n]
        taken |= set(result)
    return result


def _usable(text: str) -> str:
    """A place as a model name; what a name may not hold becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-") or "model"


def _files(root: Path, repository: Path, faults: list[OSError]) -> Iterator[Path]:
    """Regular files below `root`; links are neither listed nor followed. What cannot be
    listed is added to `faults`."""
    count = 0
    for folder, inner, files in os.walk(root, onerror=faults.append):
        here = Path(folder)
        inner[:] = sorted(name for name in inner if not name.startswith(".") and (here / name).resolve() != repository)
        count += len(inner) + len(files)
        if count > ENTRY_LIMIT:
            raise CheckpointError(f"{root} holds more than {ENTRY_LIMIT} files and folders", hint=SMALLER)
        for name in files:
            path = here / name
            if not name.startswith(".") and not name.endswith(CACHE) and _is_regular(path):
                yield path


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _is_checkpoint(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    if head.startswith(torchzip.MAGIC):
        # The first entry of what torch writes. Its name's length is at 26, the name at 30.
        return head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b"/data.pkl")
    if head.startswith(LEGACY_MAGIC) or (head.startswith(b"\x80") and b"torch" in head):
        return True
    return safetensorsfile.looks_like(head[:9], size) and b'"data_offsets"' in head


def _is_pykan_config(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"base_fun_name:" in file.read(2**16)
    except OSError:
        return False
