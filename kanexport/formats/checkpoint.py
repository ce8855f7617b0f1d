"""Loader of checkpoints: reads the tensors that a path names, from one file or several, in any supported format.

The format is told by the first bytes, never by the name. A pykan checkpoint is
three files with one prefix; `PREFIX`, or any of the three, names it, and
`PREFIX_cache_data` is never opened: it holds the last training inputs. `load` takes
one checkpoint, and `entry_points` lists the checkpoints among the files of a folder.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kanexport.errors import CheckpointError
from kanexport.formats import keras, safetensors, torch_archive, yaml_config
from kanexport.formats.pickle_data import MAX_NAME_CHARACTERS, SAVE_STATE_DICT, Name, Opaque, checkpoint_without_tensors
from kanexport.shared import safe_files
from kanexport.shared.manifest import SourceFile
from kanexport.shared.naming import CHECKPOINTS, MORE_CHECKPOINTS

Array = npt.NDArray[Any]

MAX_FILE_BYTES = 2 * 2**30  # a file is read as a whole, and its tensors are copied out of it
STATE, CONFIG, CACHE = "_state", "_config.yml", "_cache_data"
MAX_KEY_CHARACTERS = 500  # of a tensor's name; it becomes part of messages and of the manifest
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
HEAD_BYTES = 2048  # enough to recognise each format
ENDINGS = (*CHECKPOINTS, *MORE_CHECKPOINTS)
SHARD = re.compile(rf"(.+)-\d+-of-0*([1-9]\d*)({'|'.join(map(re.escape, ENDINGS))})", re.IGNORECASE)
INDEX = re.compile(rf"(.+({'|'.join(map(re.escape, ENDINGS))}))\.index\.json", re.IGNORECASE)
SUPPORTED = ".pt, .pth, .safetensors, .keras, pykan prefix"
NUMPY_MAGIC = b"\x93NUMPY"
NUMPY = (
    "write weights with safetensors.numpy.save_file(dict(numpy.load(FILE)), 'model.safetensors'); pass rows with "
    "--baseline or --calibration, and recorded outputs with --expected-outputs"
)
SHOWN = 8  # checkpoints that an error names
LOOKED_AT = 1000  # files of a folder that an error looks at


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
    """Read the checkpoint that a path names. Raises CheckpointError."""
    try:
        state, config = _locate(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)[:300]} cannot be read: {getattr(error, 'strerror', error)}",
            code="checkpoint-unreadable",
            hint="check the path and the permissions of the file",
        ) from error
    contents = {state: _read(state)}
    try:
        place, tensors, beside, others = _parse(contents[state])
    except CheckpointError as error:
        raise error.at(str(state)) from error
    settings, prefix = None, state.stem
    if config is not None:
        contents[config], prefix = _read(config), state.name.removesuffix(STATE)
        try:
            settings = yaml_config.read(contents[config])
        except CheckpointError as error:
            raise error.at(str(config)) from error
    files = tuple(SourceFile(name=f.name, sha256=hashlib.sha256(raw).hexdigest()) for f, raw in contents.items())
    return Checkpoint(path, prefix, tensors, settings, files, beside, ".".join(place), others)


def size(path: Path) -> int:
    """Size in bytes of the file with the weights that a path names; 0 if it does not exist."""
    try:
        return _locate(path)[0].stat().st_size
    except (OSError, ValueError, CheckpointError):
        return 0


def entry_points(files: Sequence[Path]) -> list[Path]:
    """The paths that `load` accepts for the checkpoints among regular files: a prefix for each pair of pykan files,
    the first file of each checkpoint in shards, and each other checkpoint. A file with the name of a checkpoint is
    listed even if it is not one, so that `load` reports it. A pykan config without its weights is listed, too."""
    configs, states = _prefixes(files, CONFIG), _prefixes(files, STATE)
    shards: dict[tuple[Path, str], Path] = {}
    alone: list[Path] = []
    for path in files:
        if whole := _whole(path.name):
            if not INDEX.fullmatch(path.name):
                shards.setdefault((path.parent, whole), path)
        elif _stands_alone(path, states, configs):
            alone.append(path)
    return [Path(prefix) for prefix in sorted(states & configs)] + alone + list(shards.values())


def _stands_alone(path: Path, states: set[str], configs: set[str]) -> bool:
    if path.name.endswith(CONFIG):  # other programs have files of this name too
        try:
            head = safe_files.beginning(path, 2**16)
        except OSError:
            return False
        return str(path).removesuffix(CONFIG) not in states and b"base_fun_name:" in head
    paired = path.name.endswith(STATE) and str(path).removesuffix(STATE) in configs
    return not paired and is_checkpoint(path)


def is_checkpoint(path: Path) -> bool:
    """Whether a regular file is a checkpoint by itself, judged by its name or its first bytes."""
    if path.name.endswith(CACHE):
        return False
    if path.suffix.lower() in CHECKPOINTS:
        return True
    try:
        size = path.stat().st_size
        head = safe_files.beginning(path, HEAD_BYTES)
    except OSError:
        return False
    if head.startswith(torch_archive.MAGIC):
        return torch_archive.begins_like(head) or keras.begins_like(head)
    if head.startswith(LEGACY_MAGIC) or (head.startswith(b"\x80") and b"torch" in head):
        return True
    return safetensors.looks_like(head[:9], size) and b'"data_offsets"' in head


def _prefixes(files: Sequence[Path], ending: str) -> set[str]:
    return {str(path).removesuffix(ending) for path in files if path.name.endswith(ending)}


def _whole(name: str) -> str:
    """The name of the checkpoint to which a shard or an index belongs, such as model.safetensors for
    model-00001-of-00002.safetensors; "" for other files."""
    if shard := SHARD.fullmatch(name):
        return f"{shard[1]}{shard[3]}" if int(shard[2]) > 1 else ""
    index = INDEX.fullmatch(name)
    return index[1] if index else ""


def _locate(path: Path) -> tuple[Path, Path | None]:
    """The file with the weights, and the pykan config if there is one."""
    text = str(path)
    for suffix in (STATE, CONFIG, CACHE):
        if text.endswith(suffix):
            text = text.removesuffix(suffix)
            break
    state, config = Path(text + STATE), Path(text + CONFIG)
    if state.is_file():
        return state, config if config.is_file() else None
    if config.is_file():
        raise CheckpointError(
            f"{config} exists, but {state.name} does not",
            code="checkpoint-incomplete",
            hint="copy all files of the pykan prefix",
        )
    if path.is_dir():
        files = sorted(file for file in itertools.islice(path.iterdir(), LOOKED_AT) if file.is_file())
        names = ", ".join(map(str, entry_points(files)[:SHOWN]))
        hint = "name one checkpoint" + (f": {names}" if names else "") + ", or export all with --recursive"
        raise CheckpointError(f"{path} is a folder", code="checkpoint-is-a-folder", hint=hint)
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist",
            code="checkpoint-not-found",
            hint=f"pass a .pt, .pth, .safetensors or .keras file, or a pykan prefix (then {state.name} must exist)",
        )
    if whole := _whole(path.name):
        raise CheckpointError(
            f"{path} is one file of {whole}, a checkpoint in shards, which is not supported",
            code="checkpoint-in-shards",
            hint=f"load all shards, then {SAVE_STATE_DICT}",
        )
    return path, None


def _read(path: Path) -> bytes:
    try:
        return safe_files.read(path, MAX_FILE_BYTES, links=True)
    except safe_files.UnsafeFile as error:
        raise CheckpointError(f"{path} {error.reason}", code=error.code, hint=error.hint) from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}",
            code="checkpoint-unreadable",
            hint="check the permissions of the file",
        ) from error


def _parse(data: bytes) -> StateDict:
    """The tensors of a file, and the other data in it."""
    if not torch_archive.begins_like(data[:HEAD_BYTES]):
        if data.startswith(torch_archive.MAGIC) and keras.looks_like(data):
            arrays, config = keras.read(data)
            _check(arrays, keras.SAVE_WITH_KERAS)
            return StateDict((), arrays, config, {})
        _refuse_other_formats(data)
    if data.startswith(torch_archive.MAGIC):
        state_dict = find(torch_archive.read(data))
        _check(state_dict.tensors)
        return state_dict
    if data.startswith(LEGACY_MAGIC):
        raise CheckpointError(
            "the file has the format of PyTorch before 1.6, which is not supported",
            code="checkpoint-format-old",
            hint=f"load it once, then {SAVE_STATE_DICT}",
        )
    if safetensors.looks_like(data[:9], len(data)):
        tensors = uncompiled(safetensors.read(data))
        _check(tensors)
        return StateDict((), tensors, {}, {})
    raise CheckpointError(
        f"the file ({len(data)} bytes) is neither a torch.save archive nor safetensors; supported: {SUPPORTED}",
        code="checkpoint-format-unknown",
        hint=f"{SAVE_STATE_DICT}; if it was such a file, copy it again",
    )


def _refuse_other_formats(data: bytes) -> None:
    """Raises CheckpointError for a file of NumPy or Keras that is not a checkpoint."""
    entry = data[30 : 30 + int.from_bytes(data[26:28], "little")] if data.startswith(torch_archive.MAGIC) else b""
    if entry.endswith(b".npy") or data.startswith(NUMPY_MAGIC):
        kind, hint = f"a NumPy file ({'.npz' if entry else '.npy'})", NUMPY
    elif data.startswith(keras.MAGIC):
        kind, hint = "an HDF5 file (.h5), which has no description of the layers", keras.SAVE_WITH_KERAS
    elif entry and keras.begins_like(data[:HEAD_BYTES]):
        kind, hint = f"a .keras file without {keras.CONFIG} or {keras.WEIGHTS}", keras.SAVE_WITH_KERAS
    else:
        return
    raise CheckpointError(
        f"the file is {kind}, expected a checkpoint: {SUPPORTED}", code="checkpoint-format-unknown", hint=hint
    )


def _check(tensors: dict[str, Array], hint: str = SAVE_STATE_DICT) -> None:
    if len(tensors) > safetensors.TENSOR_LIMIT:
        raise CheckpointError(
            f"the file has {len(tensors)} tensors, expected at most {safetensors.TENSOR_LIMIT}",
            code="checkpoint-too-large",
            hint=hint,
        )
    if any(len(key) > MAX_KEY_CHARACTERS for key in tensors):
        raise CheckpointError(
            f"a tensor has a name of more than {MAX_KEY_CHARACTERS} characters",
            code="checkpoint-too-large",
            hint=f"rename the tensors; {hint}",
        )


WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "kan", "weights")
TRAINERS = ("optim", "sched", "scaler", "loops", "callbacks")  # parts of the keys under which trainers keep their own
COMPILED = "_orig_mod."  # torch.compile names what it wraps
AVERAGES = "n_averaged"  # torch's AveragedModel counts in a tensor beside the module's
LISTED = 6  # keys that an error names
MODULE = (
    "export the PyTorch module instead: kanserve export --module yourpackage.yourfile:make_model "
    "--checkpoint FILE --example rows.npy --repository models"
)


class StateDict(NamedTuple):
    """A state dict within the data of a file.

    place    keys on the way to it
    tensors  its tensors by key
    beside   other entries next to it, and next to the dictionaries around it
    others   by place, joined by dots, other state dicts with the same names
    """

    place: tuple[str, ...]
    tensors: dict[str, Array]
    beside: dict[str, Any]
    others: dict[str, dict[str, Array]]


def find(value: dict[str, Any]) -> StateDict:
    """The state dict of a file. Raises CheckpointError if there is none, if there are several, and if an item cannot be
    read as a tensor."""
    top, beside = value, dict[str, Any]()
    place: list[str] = []
    while (key := _next(value, tuple(place))) is not None:
        beside = {name: item for name, item in value.items() if name != key}
        value = value[key]
        place.append(key)
    for key, item in value.items():
        if isinstance(item, Opaque) and item.weights:
            raise CheckpointError(
                f"{key[:MAX_NAME_CHARACTERS]!r} is {item.weights}", code="tensor-kind-unsupported", hint=MODULE
            )
    if not _own(value):
        keys = [f"{key} (of {item})" if isinstance(item, Opaque | Name) else key for key, item in top.items()]
        raise checkpoint_without_tensors(f"the file has no tensors, found {_list(sorted(keys)) or 'no keys'}")
    tensors = uncompiled(_own(value))
    names = _names(tensors)
    states = {path: uncompiled(_own(state)) for path, state in _states(top, ()) if path != tuple(place)}
    others = {".".join(path): state for path, state in states.items() if _names(state) == names}
    return StateDict(tuple(place), tensors, beside, others)


def uncompiled(tensors: dict[str, Array]) -> dict[str, Array]:
    """The tensors without the prefixes that torch.compile and AveragedModel add to the names."""
    if AVERAGES in tensors and all(key.startswith("module.") for key in tensors if key != AVERAGES):
        tensors = {key: value for key, value in tensors.items() if key != AVERAGES}
    plain = {key.replace(COMPILED, ""): value for key, value in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors


def _next(value: dict[str, Any], place: tuple[str, ...]) -> str | None:
    """The key of the inner dictionary to continue with. None if the tensors are at this level, or if there are none."""
    counts = {key: [len(_own(state)) for _, state in _states(item, ())] for key, item in _dictionaries(value)}
    inner = {key: max(sizes) for key, sizes in counts.items() if sizes}  # the size of the largest state dict in each
    here = len(_own(value))
    usual = [key for key in WRAPPERS if key in inner]
    if usual:
        return usual[0]
    if len(inner) > 1 and not here:
        places = [".".join((*place, *path)) for path, _ in _states(value, ())]
        raise CheckpointError(
            f"found more than one state dict: {_list(places)}",
            code="state-dict-ambiguous",
            hint="save only the one that you need: torch.save(model.state_dict(), 'model.pt')",
        )
    # A loss or a mean may lie beside the state dict as a tensor of its own.
    return next((key for key, most in inner.items() if len(inner) == 1 and most > here), None)


def _own(value: dict[str, Any]) -> dict[str, Array]:
    return {key: item for key, item in value.items() if isinstance(item, np.ndarray)}


def _dictionaries(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The items of a dictionary that may have the weights of the model. An optimizer numbers its items."""
    for key, item in value.items():
        if isinstance(item, dict) and not key.isdecimal() and not any(part in key.lower() for part in TRAINERS):
            yield key, item


def _states(value: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every dictionary that directly contains tensors, and the keys that lead to it."""
    if _own(value):
        yield place, value
    for key, item in _dictionaries(value):
        yield from _states(item, (*place, key))


def _names(tensors: dict[str, Array]) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names and shapes, without the prefix that all names share."""
    parts = [key.split(".") for key in tensors]
    shared = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False)))
    return frozenset((".".join(key.split(".")[shared:]), value.shape) for key, value in tensors.items())


def _list(keys: Iterable[str]) -> str:
    known = list(keys)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return ", ".join(key[:MAX_NAME_CHARACTERS] for key in known[:LISTED]) + more
