"""How a server runs a model, in words: what its ModelConfig tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kanexport.shared.naming import Names


def in_words(config: Any) -> str:
    """Of a ModelConfig; empty where it tells nothing, as another server's may."""
    parts = []
    instances = sum(group.count for group in config.instance_group)
    if instances:
        threads = config.parameters["intra_op_thread_count"].string_value if config.parameters else ""
        parts.append(f"{instances} {_plural('instance', instances)}" + (f" of {threads} thread(s)" if threads else ""))
    if config.HasField("dynamic_batching"):
        parts += _batching(config.dynamic_batching, config.max_batch_size)
    return ", ".join(parts)


def names_of(parameters: Mapping[str, Any]) -> Names:
    """What people call the model's numbers, of a ModelConfig's parameters; no names where it tells none."""
    features, units, classes = (_list(parameters, f"kan.{what}") for what in ("features", "units", "classes"))
    told = "kan.description" in parameters
    return Names(features, units, classes, parameters["kan.description"].string_value if told else "")


def _list(parameters: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Asking a map of messages for what it has not would put it there."""
    try:
        found = json.loads(parameters[key].string_value) if key in parameters else []
    except ValueError:
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _batching(batching: Any, most: int) -> list[str]:
    preferred = f", preferably {', '.join(map(str, batching.preferred_batch_size))}"
    delay = batching.max_queue_delay_microseconds
    return [
        f"batches of up to {most} rows" + (preferred if batching.preferred_batch_size else ""),
        f"waiting up to {delay} us for others" if delay else "waiting for no others",
        *([f"{batching.priority_levels} priority levels"] if batching.priority_levels else []),
        *(["answers in order"] if batching.preserve_ordering else []),
    ]


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
