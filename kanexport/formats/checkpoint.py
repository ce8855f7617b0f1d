"""Loader of checkpoints: a path becomes tensors, whatever files and format they are stored in.

The format is told by the first bytes, never by the name. A pykan checkpoint is
three files with one prefix; `PREFIX`, or any of the three, names it, and
`PREFIX_cache_data` is never opened: it holds the last training inputs.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.contract import safe_files
from kanexport.contract.manifest import SourceFile
from kanexport.errors import CheckpointError
from kanexport.formats import keras, safetensors, torch_archive, yaml_config
from kanexport.formats.pickle_data import MAX_NAME_CHARACTERS, SAVE_STATE_DICT, Name, Opaque

Array = npt.NDArray[Any]

MAX_FILE_BYTES = 2 * 2**30  # a file is read as a whole, and its tensors are copied out of it
STATE, CONFIG, CACHE = "_state", "_config.yml", "_cache_data"
MAX_KEY_CHARACTERS = 500  # of a tensor's name; it becomes part of messages and of the manifest
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint.

    tensors  by key
    config   pykan's, if there is one
    beside   other entries that a library or a training script saved, which may be anything
    place    keys of the file under which the tensors lay, joined by dots
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
    state_dict = _parse_named(data, state)
    settings = None
    if config is not None:
        raw = _read(config)
        files.append(SourceFile(name=config.name, sha256=hashlib.sha256(raw).hexdigest()))
        try:
            settings = yaml_config.read(raw)
        except CheckpointError as error:
            raise _name_file(error, config) from error
    prefix = str(state.name).removesuffix(STATE) if config is not None else state.stem
    return Checkpoint(
        path,
        prefix,
        state_dict.tensors,
        settings,
        tuple(files),
        state_dict.beside,
        state_dict.name,
        dict(state_dict.others),
    )


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
        return safe_files.read(path, MAX_FILE_BYTES, links=True)
    except safe_files.UnsafeFile as error:
        raise CheckpointError(f"{path} {error.reason}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _parse_named(data: bytes, path: Path) -> StateDict:
    try:
        return _parse(data)
    except CheckpointError as error:
        raise _name_file(error, path) from error


def _parse(data: bytes) -> StateDict:
    """The tensors, and what lies beside them."""
    if data.startswith(torch_archive.MAGIC) and keras.looks_like(data):
        arrays, config = keras.read(data)
        _check(arrays)
        return StateDict((), arrays, config)
    if data.startswith(torch_archive.MAGIC):
        state_dict = find(torch_archive.read(data))
        _check(state_dict.tensors)
        return state_dict
    if data.startswith(LEGACY_MAGIC):
        raise CheckpointError("the file has torch's format of before 1.6", hint=f"load it once, then {SAVE_STATE_DICT}")
    if safetensors.looks_like(data[:9], len(data)):
        tensors = uncompiled(safetensors.read(data))
        _check(tensors)
        return StateDict((), tensors, {})
    raise CheckpointError(
        f"the file ({len(data)} bytes) is neither a torch.save archive nor safetensors",
        hint=f"{SAVE_STATE_DICT}; or copy the file again if it was one",
    )


def _check(tensors: dict[str, Array]) -> None:
    if len(tensors) > safetensors.TENSOR_LIMIT:
        raise CheckpointError(f"the file holds {len(tensors)} tensors, more than {safetensors.TENSOR_LIMIT}")
    if any(len(key) > MAX_KEY_CHARACTERS for key in tensors):
        raise CheckpointError(f"a tensor's name has more than {MAX_KEY_CHARACTERS} characters")


def _name_file(error: CheckpointError, path: Path) -> CheckpointError:
    return type(error)(f"{path}: {error.message}", hint=error.hint)


WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "kan", "weights")
TRAINERS = ("optim", "sched", "scaler", "loops", "callbacks")  # parts of the keys under which trainers keep their own
COMPILED = "_orig_mod."  # torch.compile names what it wraps
AVERAGES = "n_averaged"  # torch's AveragedModel counts in a tensor beside the module's
LISTED = 6  # keys that an error names
MODULE = (
    "if the model can be built, export it with kanserve export --module yourpackage.yourfile:make_model "
    "--checkpoint FILE --example rows.npy --repository models"
)


@dataclass(frozen=True, slots=True)
class StateDict:
    """A state dict within the data of a file.

    place    keys on the way to it
    tensors  its tensors by key
    beside   other entries next to it, and next to the dictionaries around it
    others   by place, other state dicts with the same names
    """

    place: tuple[str, ...]
    tensors: dict[str, Array]
    beside: dict[str, Any]
    others: dict[str, dict[str, Array]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The place as text: "state_dict", or "checkpoint.model"."""
        return ".".join(self.place)


def find(value: dict[str, Any]) -> StateDict:
    """The state dict of a file. Raises CheckpointError where there is none, or a choice, and where
    something in it cannot be read as a tensor."""
    top, beside = value, dict[str, Any]()
    place: list[str] = []
    while (key := _next(value, tuple(place))) is not None:
        beside = {name: item for name, item in value.items() if name != key}
        value = value[key]
        place.append(key)
    tensors = _own(value)
    _require_readable(value)
    if not tensors:
        raise CheckpointError(f"the file holds no tensors under {_contents(top)}", hint=SAVE_STATE_DICT)
    state_dict = StateDict(tuple(place), uncompiled(tensors), beside)
    names = _names(state_dict.tensors)
    others = {
        ".".join(path): uncompiled(_own(state))
        for path, state in _states(top, ())
        if path != state_dict.place and _names(uncompiled(_own(state))) == names
    }
    return StateDict(state_dict.place, state_dict.tensors, beside, others)


def uncompiled(tensors: dict[str, Array]) -> dict[str, Array]:
    """The tensors without the prefixes that torch.compile and AveragedModel add to the names."""
    if AVERAGES in tensors and all(key.startswith("module.") for key in tensors if key != AVERAGES):
        tensors = {key: value for key, value in tensors.items() if key != AVERAGES}
    plain = {key.replace(COMPILED, ""): value for key, value in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors


def _next(value: dict[str, Any], place: tuple[str, ...]) -> str | None:
    """The key of the dictionary to go on with; None where the tensors are here, or nowhere."""
    inner, here = _inner(value), len(_own(value))
    usual = [key for key in WRAPPERS if key in inner]
    if usual:
        return usual[0]
    if len(inner) > 1 and not here:
        places = [".".join((*place, *path)) for path, _ in _states(value, ())]
        raise CheckpointError(f"the file holds tensors under {_list(places)}: which are meant?", hint=SAVE_STATE_DICT)
    # A loss or a mean may lie beside the state dict as a tensor of its own.
    return next((key for key, most in inner.items() if len(inner) == 1 and most > here), None)


def _inner(value: dict[str, Any]) -> dict[str, int]:
    """The dictionaries that lead to tensors, and how many the largest state dict in each has."""
    counts = {key: [len(_own(state)) for _, state in _states(item, ())] for key, item in _dictionaries(value)}
    return {key: max(sizes) for key, sizes in counts.items() if sizes}


def _own(value: dict[str, Any]) -> dict[str, Array]:
    return {key: item for key, item in value.items() if isinstance(item, np.ndarray)}


def _dictionaries(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The items of a dictionary that may have the model's weights. An optimizer numbers its own items."""
    for key, item in value.items():
        if isinstance(item, dict) and not key.isdecimal() and not any(part in key.lower() for part in TRAINERS):
            yield key, item


def _states(value: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every dictionary with tensors of its own, and the keys on the way to it."""
    if _own(value):
        yield place, value
    for key, item in _dictionaries(value):
        yield from _states(item, (*place, key))


def _names(tensors: dict[str, Array]) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names and shapes, without the prefix that all names share."""
    parts = [key.split(".") for key in tensors]
    shared = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False)))
    return frozenset((".".join(key.split(".")[shared:]), value.shape) for key, value in tensors.items())


def _require_readable(value: dict[str, Any]) -> None:
    for key, item in value.items():
        if isinstance(item, Opaque) and item.weights:
            raise CheckpointError(f"{key[:MAX_NAME_CHARACTERS]!r} is {item.weights}", hint=MODULE)


def _contents(value: dict[str, Any]) -> str:
    """The keys of a file, with the class of what is an object."""
    named = [f"{key} (of {item})" if isinstance(item, Opaque | Name) else key for key, item in value.items()]
    return _list(sorted(named)) or "any key"


def _list(keys: Iterable[str]) -> str:
    known = list(keys)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return ", ".join(key[:MAX_NAME_CHARACTERS] for key in known[:LISTED]) + more
