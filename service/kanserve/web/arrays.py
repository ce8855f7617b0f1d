"""KanService's answers as JSON: fields by their names, packed arrays as nested lists of their numbers.

NaN and the infinities are the words that `numbers` has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
from google.protobuf.message import Message

from kanserve.web import numbers

Shape = Callable[[Any], tuple[int, ...]]
F4, F8, U4, U8 = "<f4", "<f8", "<u4", "<u8"


def _flat(message: Any) -> tuple[int, ...]:
    return (-1,)


def _values(message: Any) -> tuple[int, ...]:
    return tuple(message.shape)


def _curves(message: Any) -> tuple[int, ...]:
    return len(message.sources), len(message.destinations), message.points


# Of each message its packed fields: their numbers, and their shape.
PACKED: Mapping[str, Mapping[str, tuple[str, Shape]]] = MappingProxyType(
    {
        "ExplainResponse": {
            "contributions": (F8, lambda m: (-1, m.nodes, len(m.outputs))),
            "base": (F8, _flat),
            "predictions": (F8, lambda m: (-1, len(m.outputs))),
            "completeness_error": (F8, lambda m: (-1, len(m.outputs))),
        },
        "LayerPath": {
            **dict.fromkeys(("sources", "destinations"), (U4, lambda m: (-1, m.outputs, m.edges))),
            "values": (F8, lambda m: (-1, m.outputs, m.edges)),
            "rest": (F8, lambda m: (-1, m.outputs)),
        },
        "LayerEdges": {
            "values": (F4, _values),
            "each_sources": (U4, _values),
            "each_destinations": (U4, _values),
            "rest": (F4, lambda m: (-1, len(m.rest_of))),
            "nodes": (F4, lambda m: (-1, m.node_count)),
        },
        "Reduction": {"values": (F4, _values)},
        "CurveBlock": {
            "x": (F8, lambda m: (len(m.sources), m.points)),
            "phi": (F4, _curves),
            "derivative": (F4, _curves),
            "extrema_x": (F8, lambda m: (len(m.sources), len(m.destinations), 2)),
            "extrema": (F4, lambda m: (len(m.sources), len(m.destinations), 2)),
        },
        "CurvePart": {"phi": (F4, _flat)},
        "LayerScores": {
            "edges": (F4, lambda m: (m.sources, m.destinations)),
            "spread": (F4, lambda m: (m.sources, m.destinations)),
            "nodes": (F4, _flat),
        },
        "NodeStatistics": {
            **dict.fromkeys(("psi", "js", "wasserstein", "psi_chance", "outside", "outside_before"), (F8, _flat)),
            "nonfinite": (U8, _flat),
            "bounds": (F8, _flat),
            **dict.fromkeys(("counts", "counts_before"), (U8, _flat)),
            "zones": (U8, lambda m: (-1, 3)),
            **dict.fromkeys(("mean", "std", "low", "high"), (F8, _flat)),
        },
        "Layer": {"mask": (F4, lambda m: (m.sources, m.destinations)), "bias": (F8, _flat)},
        "Basis": {"knots": (F8, lambda m: (m.knot_rows, -1))},
        "NodeStep": {"scale": (F8, _flat), "bias": (F8, _flat)},
    }
)


Write = Callable[[np.ndarray[Any, Any]], Any]


def plain(message: Message, write: Write | None = None) -> dict[str, Any]:
    """For `orjson`: fields by name; messages and arrays that are not there are left out. `write`: what an array
    becomes, nested lists unless it is given."""
    write = write or fragment
    packed = PACKED.get(message.DESCRIPTOR.name, {})
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.type == field.TYPE_BYTES:
            dtype, shape = packed[field.name]
            if value:
                found[field.name] = write(np.frombuffer(value, dtype).reshape(_sized(shape(message))))
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _value(field, value, write)
    return found


def _value(field: Any, value: Any, write: Write) -> Any:
    """Of a field that holds no bytes."""
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [plain(one, write) if inner is not None else _number(one) for one in value]
    return plain(value, write) if inner is not None else _number(value)


def fragment(array: np.ndarray[Any, Any]) -> orjson.Fragment:
    """An array as nested lists."""
    return orjson.Fragment(numbers.written(array))


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return orjson.Fragment(json.dumps(value))
    return value


def _sized(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the one extent that numpy finds out, where another is 0."""
    return tuple(0 if extent < 0 else extent for extent in shape) if 0 in shape else shape
