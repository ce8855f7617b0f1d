"""Where a file keeps its state dict, among all that a training script or Lightning saves with it.

A state dict is a dictionary that has tensors of its own. It may lie in any number of others;
under the usual names it is taken first, and where there is just one, under any name. What lies
under an optimizer's name is never it. Of two with other names, neither is guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import CheckpointError
from kanexport.files.inert import MAX_NAME_CHARACTERS, SAVE_STATE_DICT, Name, Opaque

Array = npt.NDArray[Any]

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
class Found:
    """A state dict: the keys on the way to it, its tensors, what lies beside it or beside the
    dictionaries around it, and, by place, others with the same names."""

    place: tuple[str, ...]
    tensors: dict[str, Array]
    beside: dict[str, Any]
    others: dict[str, dict[str, Array]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The place as text: "state_dict", or "checkpoint.model"."""
        return ".".join(self.place)


def find(value: dict[str, Any]) -> Found:
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
    found = Found(tuple(place), uncompiled(tensors), beside)
    names = _names(found.tensors)
    others = {
        ".".join(path): uncompiled(_own(state))
        for path, state in _states(top, ())
        if path != found.place and _names(uncompiled(_own(state))) == names
    }
    return Found(found.place, found.tensors, beside, others)


def uncompiled(tensors: dict[str, Array]) -> dict[str, Array]:
    """Without what torch.compile and AveragedModel add to the names."""
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
    return {key: max(found) for key, found in counts.items() if found}


def _own(value: dict[str, Any]) -> dict[str, Array]:
    return {key: item for key, item in value.items() if isinstance(item, np.ndarray)}


def _dictionaries(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those in a dictionary that may have the model's weights. An optimizer numbers what it keeps."""
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
