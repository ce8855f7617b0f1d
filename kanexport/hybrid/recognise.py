"""Which submodules may be KAN layers: by the shapes of their tensors, never by their class.

A submodule is a candidate if a reader knows its tensors and leaves none over. What it
means is for `judge.py` to say.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from kanexport.files.checkpoint import Checkpoint
from kanexport.hybrid import facts
from kanexport.hybrid.wiring import PLAIN, Wiring, joined
from kanexport.layers import stack
from kanexport.layers.parts import Part
from kanexport.recognise import registry

LINEAR = "linear"

Tensors = dict[str, npt.NDArray[Any]]
Family = tuple[str, registry.Reader | None, Tensors]  # its name, its reader (none: a linear layer), what it reads


class Whole(nn.Module):
    """The module as the child of another, so that it can be a KAN layer itself."""

    def __init__(self, body: nn.Module, wiring: Wiring = PLAIN) -> None:
        super().__init__()
        self.body, self.wiring = body, wiring

    def forward(self, x: torch.Tensor) -> Any:
        """What the module gives for rows as one tensor, as one tensor; for what a module takes and
        gives by itself there is `wiring`."""
        return joined(self.wiring.call(self.body, self.wiring.split(x)), len(x), x.dtype)


def shown(name: str) -> str:
    """A submodule's name as the user knows it."""
    return name.replace("._orig_mod", "").removeprefix("body").removeprefix(".") or "(itself)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A submodule whose tensors some families know, each with the tensors it reads."""

    module: nn.Module
    families: tuple[Family, ...]


def candidates(whole: nn.Module) -> dict[str, Candidate]:
    """By name, parents before children; a module with several names has the first."""
    by_name: dict[str, Candidate] = {}
    seen: set[int] = set()
    waiting = [("body", next(whole.children()))]
    while waiting:
        name, module = waiting.pop(0)
        if id(module) in seen:
            continue
        seen.add(id(module))
        waiting += [(f"{name}.{child}", part) for child, part in module.named_children()]
        families = tuple(_families(module))
        if families:
            by_name[name] = Candidate(module, families)
    return by_name


def as_checkpoint(module: nn.Module, tensors: Tensors) -> Checkpoint:
    """A submodule as the file that its library would have saved."""
    return Checkpoint(Path(type(module).__name__), "", tensors, facts.pykan_config(module), ())


def _families(module: nn.Module) -> Iterator[Family]:
    """The families that know all of a submodule's tensors."""
    if isinstance(module, nn.Linear):
        # As attributes, because a parametrised weight is stored in pieces.
        own = {"weight": module.weight} | ({} if module.bias is None else {"bias": module.bias})
        yield LINEAR, None, facts.arrays(own)
        return
    state = {key: value for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    tensors = facts.arrays(state)
    if not state or len(tensors) < len(state):
        return
    buffers, attributes = _unsaved(module, state)
    found = False
    for family, reader in _all_readers().items():
        for mine in _readable(module, reader, tensors, buffers, attributes):
            found = True
            yield family, reader, mine
    if not found:
        yield from _one_group(module, tensors)


def _one_group(module: nn.Module, tensors: Tensors) -> Iterator[Family]:
    """As layers of several groups that have one, which leads the axes of all of their tensors."""
    if tensors and all(value.ndim > 1 and len(value) == 1 for value in tensors.values()):
        mine = {name: value[0] for name, value in tensors.items()}
        for family, reader in _all_readers().items():
            if isinstance(reader, registry.LayerReader):
                yield from ((family, reader, one) for one in _readable(module, reader, mine, {}, {}))


def _unsaved(module: nn.Module, state: dict[str, torch.Tensor]) -> tuple[Tensors, Tensors]:
    """What a state dict lacks: buffers that are not saved, and tensors that are plain attributes."""
    buffers = {name: value for name, value in module.named_buffers() if name not in state}
    attributes = {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
    return facts.arrays(buffers), facts.arrays(attributes)


def _readable(
    module: nn.Module, reader: registry.Reader, tensors: Tensors, buffers: Tensors, attributes: Tensors
) -> Iterator[Tensors]:
    """What a reader would read of a submodule, if it knows all of its tensors: a layer with those
    unsaved ones that it asks for, a whole network without and with the unsaved buffers."""
    if isinstance(reader, registry.LayerReader):
        beside = buffers | attributes
        asked = {key: beside[key] for key in reader.keys.names() if key in beside and key not in tensors}
        if _is_lone_layer(reader, asked | tensors):
            yield asked | tensors
        return
    for mine in (tensors, tensors | buffers) if buffers else (tensors,):
        if reader.matches(as_checkpoint(module, mine)):
            yield mine


def _is_lone_layer(reader: registry.LayerReader, tensors: Tensors) -> bool:
    """A layer with no tensor left over."""
    lone = set(tensors) <= set(reader.keys.names()) and stack.prefixes(tensors, reader.keys) == [""]
    return lone and reader.fits(Part(tensors, ""))


@functools.cache
def _all_readers() -> dict[str, registry.Reader]:
    return {name: reader for name, reader in registry.readers().items() if not registry.by_shape(reader)}


def parents(name: str) -> Iterator[str]:
    """The submodules that one lies in, from the inside."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def is_in(name: str, others: Container[str]) -> bool:
    """Whether a submodule is one of some, or lies in one."""
    return name in others or any(parent in others for parent in parents(name))
