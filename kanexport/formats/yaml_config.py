"""Safe parser of pykan config files. It does not execute their Python object tags.

One in five real configs carries numpy scalars or pickled modules, because pykan
writes with the unsafe dumper. The loader here is SafeLoader with one addition:
a tag it does not know becomes an inert `Tagged` value, whatever kind of node it
is on. Numpy integers and floats are decoded from their bytes; nothing else is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from kanexport.errors import CheckpointError

MAX_CONFIG_BYTES = 2**20  # pykan's own have a few hundred to a few thousand
MAX_CONFIG_DEPTH = 64  # the parser recurses at each level
NODE_LIMIT = 500_000  # every alias counts as the nodes it repeats, so that none stands for a large value
MAX_SCALAR_CHARACTERS = 2_000  # Python takes quadratic time over longer numbers
config_too_large = functools.partial(
    CheckpointError, code="checkpoint-too-large", hint="save the model again with pykan"
)
config_malformed = functools.partial(CheckpointError, code="config-malformed", hint="copy or download the file again")

SCALARS = ("i8", "i4", "i2", "i1", "u8", "u4", "f8", "f4", "b1")  # numpy's codes of types; little endian

# PyYAML's own constructors raise more than YAMLError: `!!int ""` is an IndexError.
FAULTS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A Python object that the file describes: its tag, and the data under it. It is not created."""

    tag: str
    value: Any

    @property
    def name(self) -> str:
        """The dotted Python name in the tag, such as "torch.tanh"."""
        return self.tag.rpartition(":")[2]


class _InertLoader(yaml.SafeLoader):
    """SafeLoader that turns unknown tags into `Tagged`."""


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
    """Decode `numpy.core.multiarray.scalar(dtype, bytes)` for numbers; leave other values unchanged."""
    value = tagged.value
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], bytes)):
        return tagged
    dtype, raw = value
    args = dtype.value.get("args") if isinstance(dtype, Tagged) and isinstance(dtype.value, dict) else None
    code = str(args[0]) if isinstance(args, list) and args else ""
    if code not in SCALARS or np.dtype(code).itemsize != len(raw):
        return tagged
    return np.frombuffer(raw, np.dtype(code).newbyteorder("<")).item()


def read(data: bytes) -> dict[str, Any]:
    """The mapping at the top of the file. Raises CheckpointError."""
    if len(data) > MAX_CONFIG_BYTES:
        raise config_too_large(f"the config has {len(data)} bytes, expected at most {MAX_CONFIG_BYTES}")
    try:
        text = data.decode()
        _check_events(text)
        value = _InertLoader(text).get_single_data()
    except CheckpointError:
        raise
    except FAULTS as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise config_malformed(f"the config is not valid YAML{where}") from error
    if not isinstance(value, dict):
        raise config_malformed(f"the config contains a {type(value).__name__}, expected a mapping")
    return {str(key): item for key, item in value.items()}


def _check_events(text: str) -> None:
    """Limit depth and size before a value is constructed. Raises CheckpointError."""
    extent = _Extent()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        extent.take(event)
        if extent.depth > MAX_CONFIG_DEPTH or extent.nodes > NODE_LIMIT:
            raise config_too_large("the config is nested too deeply, is too large, or has too many aliases")


class _Extent:
    """The number of nodes that the events so far describe, and the depth of the last one. An alias counts as the
    nodes that it repeats, so that a small file cannot describe a large or endless value."""

    def __init__(self) -> None:
        self.nodes = 0
        self._sizes: dict[str, int] = {}  # by anchor: the nodes it stands for, once it is complete
        self._open: list[tuple[str | None, int]] = []  # collections that have not ended: anchor, nodes before it

    @property
    def depth(self) -> int:
        return len(self._open)

    def take(self, event: Any) -> None:
        """Count one event of the parser. Raises CheckpointError."""
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self.nodes))
            self.nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            self._complete(*self._open.pop())
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._sizes:
                raise config_malformed(f"the config refers to {str(event.anchor)[:80]!r} before it is complete")
            self.nodes += self._sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_SCALAR_CHARACTERS:
                raise config_too_large(
                    f"a value of the config has {len(event.value)} characters, more than {MAX_SCALAR_CHARACTERS}"
                )
            self.nodes += 1
            self._complete(event.anchor, self.nodes - 1)

    def _complete(self, anchor: str | None, start: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = self.nodes - start
