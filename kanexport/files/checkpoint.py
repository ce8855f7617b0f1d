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

import numpy as np
import numpy.typing as npt

from kanexport.errors import CheckpointError
from kanexport.files import kerasfile, safetensorsfile, torchzip, yamlfile
from kanexport.files.pickles import SAVE_STATE_DICT
from kanexport.manifest import SourceFile

Array = npt.NDArray[Any]

MAX_FILE_BYTES = 2 * 2**30  # a file is read as a whole, and its tensors are copied out of it
STATE, CONFIG, CACHE = "_state", "_config.yml", "_cache_data"
MAX_KEY_CHARACTERS = 500  # of a tensor's name; it becomes part of messages and of the manifest
WRAPPER_LIMIT = 2  # dictionaries around a state dict; training scripts write one or two
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "kan", "weights")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that was read: tensors by key, the config if there is one, and what
    a library or a training script saved beside the state dict, which may be anything."""

    path: Path  # as the user named it
    stem: str
    tensors: dict[str, Array]
    config: dict[str, Any] | None
    files: tuple[SourceFile, ...]
    beside: dict[str, Any] = field(default_factory=dict)


def load(path: Path) -> Checkpoint:
    """Read the checkpoint a path names. Raises CheckpointError with what to do."""
    try:
        state, config = _locate(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)[:300]} cannot be read: {getattr(error, 'strerror', error)}") from error
    files = []
    data = _read(state)
    files.append(SourceFile(name=state.name, sha256=hashlib.sha256(data).hexdigest()))
    tensors, beside = _tensors(data, state)
    settings = None
    if config is not None:
        raw = _read(config)
        files.append(SourceFile(name=config.name, sha256=hashlib.sha256(raw).hexdigest()))
        try:
            settings = yamlfile.read(raw)
        except CheckpointError as error:
            raise _name_file(error, config) from error
    prefix = str(state.name).removesuffix(STATE) if config is not None else state.stem
    return Checkpoint(path, prefix, tensors, settings, tuple(files), beside)


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
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} has {size} bytes, more than {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _tensors(data: bytes, path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    try:
        return _parse(data)
    except CheckpointError as error:
        raise _name_file(error, path) from error


def _parse(data: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors, and what lies beside them."""
    if data.startswith(torchzip.MAGIC) and kerasfile.looks_like(data):
        arrays, config = kerasfile.read(data)
        return _named(arrays), config
    if data.startswith(torchzip.MAGIC):
        tensors, beside = _unwrap(torchzip.read(data))
        return _named(tensors), beside
    if data.startswith(LEGACY_MAGIC):
        raise CheckpointError("the file has torch's format of before 1.6", hint=f"load it once, then {SAVE_STATE_DICT}")
    if safetensorsfile.looks_like(data[:9], len(data)):
        return _named(safetensorsfile.read(data)), {}
    raise CheckpointError(
        f"the file ({len(data)} bytes) is neither a torch.save archive nor safetensors",
        hint=f"{SAVE_STATE_DICT}; or copy the file again if it was one",
    )


def _named(tensors: dict[str, Array]) -> dict[str, Array]:
    if len(tensors) > safetensorsfile.TENSOR_LIMIT:
        raise CheckpointError(f"the file holds {len(tensors)} tensors, more than {safetensorsfile.TENSOR_LIMIT}")
    if any(len(key) > MAX_KEY_CHARACTERS for key in tensors):
        raise CheckpointError(f"a tensor's name has more than {MAX_KEY_CHARACTERS} characters")
    return tensors


def _unwrap(value: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors of a state dict that training scripts wrap in up to WRAPPER_LIMIT other
    dictionaries, and what lies beside it. Raises CheckpointError where there is none, or a choice."""
    beside: dict[str, Any] = {}
    for _ in range(WRAPPER_LIMIT + 1):
        level = _Level.of(value)
        wrapped = level.wrapped()
        if wrapped is None:
            if level.tensors:
                return level.tensors, beside
            break
        beside = {key: item for key, item in value.items() if key != wrapped}
        value = level.inner[wrapped]
    if len(level.holders) > 1:
        raise CheckpointError(
            f"the file holds tensors under {_list(level.holders)}: which are meant?", hint=SAVE_STATE_DICT
        )
    raise CheckpointError(f"the file holds no tensors under {_list(sorted(value)) or 'any key'}", hint=SAVE_STATE_DICT)


@dataclass(frozen=True, slots=True)
class _Level:
    """What one dictionary of a file has: tensors of its own, and dictionaries that are not empty."""

    tensors: dict[str, Array]
    inner: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, value: dict[str, Any]) -> _Level:
        return cls(
            {key: item for key, item in value.items() if isinstance(item, np.ndarray)},
            {key: item for key, item in value.items() if isinstance(item, dict) and item},
        )

    @property
    def holders(self) -> list[str]:
        """The dictionaries that have tensors of their own."""
        return [key for key, item in self.inner.items() if _count(item)]

    def wrapped(self) -> str | None:
        """The key of the dictionary to go on with; None where the tensors are here, or it is open.

        A loss or a mean may lie beside the state dict as a tensor of its own."""
        usual = [key for key in WRAPPERS if key in self.inner]
        if usual:
            return usual[0]
        holders = self.holders
        if len(holders) == 1 and _count(self.inner[holders[0]]) > len(self.tensors):
            return holders[0]
        return next(iter(self.inner)) if len(self.inner) == 1 and not self.tensors else None


def _count(value: dict[str, Any]) -> int:
    """Tensors that lie in a dictionary itself. An optimizer has its own further down."""
    return sum(isinstance(item, np.ndarray) for item in value.values())


def _list(keys: list[str]) -> str:
    return ", ".join(keys[:6])[:MAX_KEY_CHARACTERS]


def _name_file(error: CheckpointError, path: Path) -> CheckpointError:
    return type(error)(f"{path}: {error.message}", hint=error.hint)
