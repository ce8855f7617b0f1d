"""What a module takes, found by trying, where its user gives neither rows nor a shape.

A module does not tell its input. Its first layers tell how many columns or channels
they want, and its bare parameters, such as a positional embedding, how many tokens;
pictures are tried square. A shape counts if the module runs on it and treats its rows
one by one. If a second one counts too, the export says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from kanexport.errors import ExportError, OptionError
from kanexport.hybrid import recognise
from kanexport.hybrid.capture import plain

FIRST_LAYERS = 3  # how many are asked, in the order they were made in
SIDES = (*range(1, 65), 80, 96, 112, 128, 160, 192, 224, 256)
CHANNELS = (1, 3, 2, 4)  # where no convolution tells them
ROWS, SECONDS = 3, 20.0
CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


@dataclass(frozen=True, slots=True)
class Guess:
    """The first shape of a row that works, and another one, or ()."""

    shape: tuple[int, ...]
    other: tuple[int, ...]


def guess(module: nn.Module) -> Guess:
    """Try shapes from likely to less likely. Raises OptionError if none works."""
    found: list[tuple[int, ...]] = []
    tried: set[tuple[int, ...]] = set()
    end = time.monotonic() + SECONDS
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        for shape in _likely(module):
            if len(found) == 2 or time.monotonic() > end:
                break
            if shape not in tried and _runs(module, shape):
                found.append(shape)
            tried.add(shape)
    finally:
        for part in training:
            part.training = True
    if not found:
        raise OptionError(
            "a module does not tell what it takes, and no likely shape ran",
            hint="give some rows with --example rows.npy, or their shape with --input-shape 1,8,8; "
            "or let the factory return (module, example rows)",
        )
    return Guess(found[0], found[1] if len(found) > 1 else ())


def _likely(module: nn.Module) -> Iterator[tuple[int, ...]]:
    tokens = _tokens(module)
    for width, axes in _first_layers(module):
        if axes:
            yield from ((width, *[side] * axes) for side in reversed(SIDES[7:32]) if side % 4 == 0)
            yield from ((width, *[side] * axes) for side in SIDES)
        else:
            yield from ((count, width) for count in tokens)
            yield (width,)
            yield from ((side, width) for side in SIDES)
    yield from ((channels, side, side) for channels in CHANNELS for side in SIDES)


def _first_layers(module: nn.Module) -> list[tuple[int, int]]:
    """Columns or channels of the first layers, and the axes after them: (96, 0) or (1, 2)."""
    found: list[tuple[int, int]] = []
    waiting = [module]
    while waiting and len(found) < FIRST_LAYERS:
        part = waiting.pop(0)
        axes = next((axes for kind, axes in CONVOLUTIONS.items() if isinstance(part, kind)), None)
        width = _width(part)
        if axes is not None:
            found.append((int(part.in_channels), axes))  # type: ignore[arg-type]
        elif width is not None:
            found.append((width, 0))
        else:
            waiting = [*part.children(), *waiting]
    return found
