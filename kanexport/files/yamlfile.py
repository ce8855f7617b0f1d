"""pykan's config files, which hold Python object tags that must not be obeyed.

One in five real configs carries numpy scalars or pickled modules, because pykan
writes with the unsafe dumper. The loader here is SafeLoader with one addition:
a tag it does not know becomes an inert `Tagged` value, whatever kind of node it
is on. Numpy integers and floats are decoded from their bytes; nothing else is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import yaml

from kanexport.errors import CheckpointError

SIZE_LIMIT = 2**20  # bytes
DEPTH_LIMIT = 64
EVENT_LIMIT = 500_000  # nodes, with every alias counted as what it stands for
SCALAR_LIMIT = 2_000  # characters; longer numbers take Python for ever

# PyYAML's own constructors raise more than YAMLError: `!!int ""` is an IndexError.
FAULTS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A Python object the file describes: its tag, and the data under it, inert."""

    tag: str
    value: Any

    @property
    def name(self) -> str:
        """The dotted Python name in the tag, such as "torch.tanh"."""
        return self.tag.rpartition(":")[2]


class _InertLoader(yaml.SafeLoader):
    """SafeLoader; unknown tags become `Tagged`."""


def _inert(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "tuple":
        return tuple(value) if isinstance(value, list) else value
    tagged = Tagged(suffix, value)
    return _numpy_scalar(tagged) if tagged.name.endswith("multiarray.scalar") else tagged


_InertLoader.add_multi_constructor("tag:yaml.org,2002:python/", _inert)
_InertLoader.add_multi_constructor("", _inert)
_InertLoader.add_multi_constructor("!", _inert)


def _numpy_scalar(tagged: Tagged) -> Any:
    """Decode `numpy.core.multiarray.scalar(dtype, bytes)` for numbers; else leave it."""
    value = tagged.value
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], bytes)):
        return tagged
    dtype, raw = value
    args = dtype.value.get("args") if isinstance(dtype, Tagged) and isinstance(dtype.value, dict) else None
    code = args[0] if isinstance(args, list) and args else None
    formats = {
        "i8": "<q",
        "i4": "<i",
        "i2": "<h",
        "i1": "<b",
        "u8": "<Q",
        "u4": "<I",
        "f8": "<d",
        "f4": "<f",
        "b1": "<?",
    }
    form = formats.get(str(code))
    if form is None or struct.calcsize(form) != len(raw):
        return tagged
    return struct.unpack(form, raw)[0]


def read(data: bytes) -> dict[str, Any]:
    """The mapping at the top of the file. Raises CheckpointError."""
    if len(data) > SIZE_LIMIT:
        raise CheckpointError(f"the config has {len(data)} bytes, more than {SIZE_LIMIT}")
    try:
        text = data.decode()
        _check_events(text)
        value = _InertLoader(text).get_single_data()
    except CheckpointError:
        raise
    except FAULTS as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise CheckpointError(f"the config is not readable YAML{where}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"the config holds a {type(value).__name__}, expected a mapping")
    return {str(key): item for key, item in value.items()}


def _check_events(text: str) -> None:
    """Bound depth and size before anything is constructed; aliases count as what they
    repeat, so a small file cannot stand for a large value or for one without end."""
    sizes: dict[str, int] = {}
    parents: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        start, anchor = count, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            parents.append((anchor, count))
            count += 1
            anchor = None
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, start = parents.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise CheckpointError(f"the config refers to {str(anchor)[:80]!r} before it is complete")
            count += sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if len(event.value) > SCALAR_LIMIT:
                raise CheckpointError(f"the config has a value of {len(event.value)} characters")
        if anchor is not None:
            sizes[anchor] = count - start
        if len(parents) > DEPTH_LIMIT or count > EVENT_LIMIT:
            raise CheckpointError("the config is nested too deeply, too large or full of aliases")
