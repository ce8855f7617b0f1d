"""What can be said of a checkpoint that no reader takes: what its tensors look like, and which families are nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from kanexport.layers.parts import Tensors
from kanexport.recognise.registry import LayerReader, layer_readers

Shapes = Mapping[str, tuple[int, ...]]  # of one module, by the tensor's own name

LISTED = 3  # of each kind, with its shape
NEAREST = 3  # families
ALIKE = 0.75  # of two names, as difflib counts
EDGE_AXES = 3  # of coefficients: sources, destinations, functions
GATES: dict[float, str] = {4: "LSTM", 3: "GRU", 1: "RNN"}  # by rows of the recurrent weight, in hidden sizes
USUAL = {1: "normalisation", 2: "linear layer"}  # modules of weight and bias alone, by the axes of the weight
ATTENTION = ("in_proj_weight", "q_proj_weight")


def described(tensors: Tensors) -> str:
    """What the modules of a state dict look like by names and shapes, such as "2 convolutions
    (conv.weight (8, 1, 3, 3), ...)"."""
    kinds: dict[str, list[str]] = {}
    for prefix, shapes in _modules(tensors).items():
        kind, name = _kind(shapes)
        kinds.setdefault(kind, []).append(f"{prefix}{name} {shapes[name]}")
    listed = [f"{_counted(len(places), kind)} ({_some(places)})" for kind, places in kinds.items()]
    if unreal := [f"{key} {value.dtype}" for key, value in tensors.items() if value.dtype.kind == "c"]:
        listed.append(f"complex numbers ({_some(unreal)})")
    return "; ".join(listed)


def nearest(tensors: Tensors) -> str:
    """The families whose tensors have the most similar names, and what they have; empty where there is none."""
    scores = {family: _score(reader, tensors) for family, reader in layer_readers().items()}
    best = sorted((family for family in scores if scores[family] > 0), key=lambda family: -scores[family])[:NEAREST]
    return "; ".join(f"{family} has {_required(layer_readers()[family])}" for family in best)


def _modules(tensors: Tensors) -> dict[str, dict[str, tuple[int, ...]]]:
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, value in tensors.items():
        prefix, dot, name = key.rpartition(".")
        modules.setdefault(prefix + dot, {})[name] = value.shape
    return modules


def _kind(shapes: Shapes) -> tuple[str, str]:
    """What a module looks like, and the name of the tensor that tells."""
    for name, shape in shapes.items():
        if name.startswith("weight_hh") and len(shape) == 2 and shape[1]:
            return f"{GATES.get(shape[0] / shape[1], 'recurrent')} layer", name
        if name in ATTENTION:
            return "attention layer", name
    if "running_mean" in shapes:
        return "batch normalisation", "running_mean"
    if shapes.get("weight") and shapes.keys() <= {"weight", "bias"}:
        return USUAL.get(len(shapes["weight"]), "convolution"), "weight"
    return _other(shapes)


def _other(shapes: Shapes) -> tuple[str, str]:
    """A module with names of its own: the tensor with the most axes tells."""
    name = max(shapes, key=lambda name: len(shapes[name]))
    return ("tensor of three axes, as edges have" if len(shapes[name]) == EDGE_AXES else "module of its own kind"), name


def _counted(count: int, kind: str) -> str:
    if count == 1:
        return f"1 {kind}"
    first, *rest = kind.split(" ", 1)
    plural = [first + "s", *rest] if first in ("tensor", "module") else [kind + "s"]
    return f"{count} {' '.join(plural)}".replace(" its ", " their ")


def _some(places: list[str]) -> str:
    return ", ".join(places[:LISTED]) + (", ..." if len(places) > LISTED else "")


def _score(reader: LayerReader, keys: Iterable[str]) -> float:
    """How many of the names that a layer must have are there, a similar one for up to half; weights that
    any module has do not count."""
    required = [name for name in reader.keys.required if name not in ("weight", "bias")]
    found = [max((_likeness(name, key) for key in keys), default=0.0) for name in required]
    return sum(found) / len(required) if required else 0.0


def _likeness(name: str, key: str) -> float:
    """Of a name, which may have dots, and the end of a key."""
    end = ".".join(key.split(".")[-1 - name.count(".") :])
    if name == end:
        return 1.0
    ratio = difflib.SequenceMatcher(None, name, end).ratio()
    return ratio / 2 if ratio >= ALIKE else 0.0


def _required(reader: LayerReader) -> str:
    return ", ".join(
        f"{name} with {axes} ax{'is' if axes == 1 else 'es'}" for name, axes in reader.keys.required.items()
    )
