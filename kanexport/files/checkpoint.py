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
from kanexport.files import safetensorsfile, torchzip, yamlfile
from kanexport.files.pickles import SAVE_STATE_DICT
from kanexport.manifest import SourceFile

Array = npt.NDArray[Any]

SIZE_LIMIT = 2 * 2**30  # bytes of one file
STATE, CONFIG, CACHE = "_state", "_config.yml", "_cache_data"
KEY_LIMIT = 500  # characters of a tensor's name
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
        raise CheckpointError(f"{path} is a folder", hint=_prefixes(path))
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist",
            hint=f"give a .pt, .pth or .safetensors file, or a pykan prefix (then {state.name} must exist)",
        )
    return path, None


def _prefixes(folder: Path) -> str:
    found = sorted(str(p).removesuffix(STATE) for p in folder.glob(f"*{STATE}"))[:8]
    found += sorted(str(p) for p in folder.glob("*") if p.suffix in (".pt", ".pth", ".safetensors"))[:8]
    return "name one checkpoint" + (f": {', '.join(found)}" if found else "") + ", or export all with --recursive"


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > SIZE_LIMIT:
            raise CheckpointError(f"{path} has {size} bytes, more than {SIZE_LIMIT}")
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
    if any(len(key) > KEY_LIMIT for key in tensors):
        raise CheckpointError(f"a tensor's name has more than {KEY_LIMIT} characters")
    return tensors


def _unwrap(value: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Training scripts wrap the state dict, one to three levels deep; its tensors, and
    what lies beside it. Raises CheckpointError where there is none, or a choice."""
    beside: dict[str, Any] = {}
    for _ in range(3):
        own = {key: item for key, item in value.items() if isinstance(item, np.ndarray)}
        inner = {key: item for key, item in value.items() if isinstance(item, dict) and item}
        chosen = _wrapped(own, inner)
        if chosen is None:
            if own:
                return own, beside
            break
        beside = {key: item for key, item in value.items() if key != chosen}
        value = inner[chosen]
    held = [key for key, item in inner.items() if _count(item)]
    if len(held) > 1:
        raise CheckpointError(f"the file holds tensors under {_list(held)}: which are meant?", hint=SAVE_STATE_DICT)
    raise CheckpointError(f"the file holds no tensors under {_list(sorted(value)) or 'any key'}", hint=SAVE_STATE_DICT)


def _wrapped(own: dict[str, Array], inner: dict[str, dict[str, Any]]) -> str | None:
    """The key of the dictionary to go on with; None where the tensors are here, or it is open.

    A loss or a mean may lie beside the state dict as a tensor of its own."""
    named = [key for key in WRAPPERS if key in inner]
    held = [key for key, item in inner.items() if _count(item)]
    if named:
        return named[0]
    if len(held) == 1 and _count(inner[held[0]]) > len(own):
        return held[0]
    return next(iter(inner)) if len(inner) == 1 and not own else None


def _count(value: dict[str, Any]) -> int:
    """Tensors that lie in a dictionary itself. An optimizer has its own further down."""
    return sum(isinstance(item, np.ndarray) for item in value.values())


def _list(keys: list[str]) -> str:
    return ", ".join(keys[:6])[:KEY_LIMIT]


def _name_file(error: CheckpointError, path: Path) -> CheckpointError:
    return type(error)(f"{path}: {error.message}", hint=error.hint)
