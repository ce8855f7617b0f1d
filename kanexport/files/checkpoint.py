"""From a path to tensors: which files belong together, and what format they are.

The format is told by the first bytes, never by the name. A pykan checkpoint is
three files with one prefix; `PREFIX`, or any of the three, names it, and
`PREFIX_cache_data` is never opened: it holds the last training inputs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from kanexport.errors import CheckpointError
from kanexport.files import kerasfile, safetensorsfile, statedict, torchzip, yamlfile
from kanexport.files.inert import SAVE_STATE_DICT
from kanexport.files.statedict import Found
from kanexport.manifest import SourceFile
from kanexport.shared import disk

Array = npt.NDArray[Any]

MAX_FILE_BYTES = 2 * 2**30  # a file is read as a whole, and its tensors are copied out of it
STATE, CONFIG, CACHE = "_state", "_config.yml", "_cache_data"
MAX_KEY_CHARACTERS = 500  # of a tensor's name; it becomes part of messages and of the manifest
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that was read.

    tensors  by key; `place` says under which keys of the file, joined by dots, they lay
    config   pykan's, if there is one
    beside   what a library or a training script saved beside the state dict, which may be anything
    others   by place, other tensors of the same names, such as a moving average of the weights
    """

    path: Path  # as the user named it
    stem: str
    tensors: dict[str, Array]
    config: dict[str, Any] | None
    files: tuple[SourceFile, ...]
    beside: dict[str, Any] = field(default_factory=dict)
    place: str = ""
    others: dict[str, dict[str, Array]] = field(default_factory=dict)


def load(path: Path) -> Checkpoint:
    """Read the checkpoint a path names. Raises CheckpointError with what to do."""
    try:
        state, config = _locate(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)[:300]} cannot be read: {getattr(error, 'strerror', error)}") from error
    files = []
    data = _read(state)
    files.append(SourceFile(name=state.name, sha256=hashlib.sha256(data).hexdigest()))
    found = _found(data, state)
    settings = None
    if config is not None:
        raw = _read(config)
        files.append(SourceFile(name=config.name, sha256=hashlib.sha256(raw).hexdigest()))
        try:
            settings = yamlfile.read(raw)
        except CheckpointError as error:
            raise _name_file(error, config) from error
    prefix = str(state.name).removesuffix(STATE) if config is not None else state.stem
    return Checkpoint(path, prefix, found.tensors, settings, tuple(files), found.beside, found.name, dict(found.others))


def size(path: Path) -> int:
    """Bytes of the file with the weights that a path names; 0 where there is none."""
    try:
        return _locate(path)[0].stat().st_size
    except (OSError, ValueError, CheckpointError):
        return 0


def _locate(path: Path) -> tuple[Path, Path | None]:
    """The file with the weights, and pykan's config if it stands beside it."""
    text = str(path)
    for suffix in (STATE, CONFIG, CACHE):
        if text.endswith(suffix):
            text = text.removesuffix(suffix)
            break
    state, config = Path(text + STATE), Path(text + CONFIG)
    if state.is_file():
        return state, config if config.is_file() else None
    if config.is_file():
        raise CheckpointError(f"{config} is there, but {state.name} is not", hint="copy all files of the prefix")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder", hint=_list_checkpoints(path))
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist",
            hint=f"give a .pt, .pth, .safetensors or .keras file, or a pykan prefix (then {state.name} must exist)",
        )
    return path, None


def _list_checkpoints(folder: Path) -> str:
    """Advice that lists the checkpoints of a folder: up to 8 pykan prefixes, and up to 8 files."""
    names = sorted(str(p).removesuffix(STATE) for p in folder.glob(f"*{STATE}"))[:8]
    names += sorted(str(p) for p in folder.glob("*") if p.suffix in (".pt", ".pth", ".safetensors", ".keras"))[:8]
    return "name one checkpoint" + (f": {', '.join(names)}" if names else "") + ", or export all with --recursive"


def _read(path: Path) -> bytes:
    try:
        return disk.read(path, MAX_FILE_BYTES, links=True)
    except disk.Refused as error:
        raise CheckpointError(f"{path} {error.found}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _found(data: bytes, path: Path) -> Found:
    try:
        return _parse(data)
    except CheckpointError as error:
        raise _name_file(error, path) from error


def _parse(data: bytes) -> Found:
    """The tensors, and what lies beside them."""
    if data.startswith(torchzip.MAGIC) and kerasfile.looks_like(data):
        arrays, config = kerasfile.read(data)
        _check(arrays)
        return Found((), arrays, config)
    if data.startswith(torchzip.MAGIC):
        found = statedict.find(torchzip.read(data))
        _check(found.tensors)
        return found
    if data.startswith(LEGACY_MAGIC):
        raise CheckpointError("the file has torch's format of before 1.6", hint=f"load it once, then {SAVE_STATE_DICT}")
    if safetensorsfile.looks_like(data[:9], len(data)):
        tensors = statedict.uncompiled(safetensorsfile.read(data))
        _check(tensors)
        return Found((), tensors, {})
    raise CheckpointError(
        f"the file ({len(data)} bytes) is neither a torch.save archive nor safetensors",
        hint=f"{SAVE_STATE_DICT}; or copy the file again if it was one",
    )


def _check(tensors: dict[str, Array]) -> None:
    if len(tensors) > safetensorsfile.TENSOR_LIMIT:
        raise CheckpointError(f"the file holds {len(tensors)} tensors, more than {safetensorsfile.TENSOR_LIMIT}")
    if any(len(key) > MAX_KEY_CHARACTERS for key in tensors):
        raise CheckpointError(f"a tensor's name has more than {MAX_KEY_CHARACTERS} characters")


def _name_file(error: CheckpointError, path: Path) -> CheckpointError:
    return type(error)(f"{path}: {error.message}", hint=error.hint)
