"""What a module takes, found by trying, where its user gives neither rows nor a shape.

A module does not tell its input. Its first layers tell how many columns or channels
they want, and its bare parameters, such as a positional embedding, how many tokens;
pictures are tried square. A shape counts if the module runs on it and treats its rows
one by one. If a second one counts too, the export says so.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from kanexport.errors import OptionError
from kanexport.hybrid.faults import ForeignError, foreign_code
from kanexport.hybrid.lend import plain

FIRST_MODULES = 4  # how many are asked, in the order they were made in
USUAL = (28, 32, 64, 224, 8, 16)  # sides of pictures
SIDES = (*range(1, 65), 80, 96, 112, 128, 160, 192, 224, 256)
CHANNELS = (1, 3, 2, 4)  # where no convolution tells them
ROWS, LARGEST = 3, 2_000_000  # rows tried at once; numbers in a row
SECONDS = 20.0  # for a first shape, and a tenth of it for another one

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Guess:
    """The first shape of a row that works, and another one, or ()."""

    shape: Shape
    other: Shape

    def __str__(self) -> str:
        shape, other = (",".join(map(str, sizes)) for sizes in (self.shape, self.other))
        return f"{shape}, found by trying" + (f" ({other} runs as well; --input-shape tells it)" if other else "")


class _First(NamedTuple):
    """A module with tensors of its own: how many columns or channels it may take, and the
    axes after the channels, such as 2 for pictures; 0 for columns."""

    widths: Sequence[int]
    axes: int


def guess(module: nn.Module) -> Guess:
    """Try shapes from likely to less likely. Raises OptionError if none works."""
    with _for_inference(module):
        working = _working(module)
    if not working:
        raise OptionError(
            "a module does not tell what it takes, and no likely shape ran",
            hint="give some rows with --example rows.npy, or their shape with --input-shape 1,8,8; "
            "or let the factory return (module, example rows)",
        )
    return Guess(working[0], working[1] if len(working) > 1 else ())


@contextlib.contextmanager
def _for_inference(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _working(module: nn.Module) -> list[Shape]:
    """At most two shapes that work, while there is time."""
    working: list[Shape] = []
    tried: set[Shape] = set()
    end = time.monotonic() + SECONDS
    for shape in _likely(module):
        if len(working) == 2 or time.monotonic() > end:
            break
        if shape not in tried and _runs(module, shape):
            working.append(shape)
            end = min(end, time.monotonic() + SECONDS / 10)
        tried.add(shape)
    return working


def _likely(module: nn.Module) -> Iterator[Shape]:
    """Shapes of a row, the likeliest first; some more than once."""
    firsts = list(itertools.islice(_firsts(module), FIRST_MODULES))
    tokens = _tokens(module)
    for first in firsts:
        yield from _told_by(first, tokens)
    for first in firsts:
        if not first.axes:
            yield from ((length, width) for width in first.widths for length in SIDES)
            yield from ((width, 1) for width in first.widths)
    yield from ((channels, side, side) for channels in CHANNELS for side in (*USUAL, *SIDES))


def _told_by(first: _First, tokens: Sequence[int]) -> Iterator[Shape]:
    """Pictures with the channels of a convolution, else tokens or single rows of a width."""
    for width in first.widths:
        if first.axes:
            yield from ((width, *[side] * first.axes) for side in (*USUAL, *SIDES))
        else:
            yield from ((count, width) for count in tokens)
            yield (width,)


def _firsts(module: nn.Module) -> Iterator[_First]:
    """The modules with tensors of their own, in the order they were made in."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            yield _First((part.in_channels,), part.weight.ndim - 2)
            continue
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        sizes = dict.fromkeys(size for tensor in own for size in reversed(tensor.shape) if size)
        if sizes and not _has_weighted_parts(part):
            yield _First(tuple(sizes), 0)


def _has_weighted_parts(module: nn.Module) -> bool:
    return any(list(part.parameters()) for part in module.children())


def _tokens(module: nn.Module) -> list[int]:
    """How many tokens a bare parameter of a module with parts of its own speaks of."""
    bare = [
        tensor
        for part in module.modules()
        if _has_weighted_parts(part)
        for tensor in part.parameters(recurse=False)
        if tensor.ndim >= 2
    ]
    return list(dict.fromkeys(size for tensor in bare for size in tensor.shape[-2:-1] if size > 1))


def _runs(module: nn.Module, shape: Shape) -> bool:
    """Whether the module takes rows of that shape, and gives each its own answer."""
    if math.prod(shape) > LARGEST:
        return False
    x = torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))
    kinds = [tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()]
    x = x.to(kinds[0] if kinds else x.dtype)
    try:
        with foreign_code():
            with torch.no_grad(), plain(x.dtype):
                together, alone = module(x), module(x[1:2])
            return (
                isinstance(together, torch.Tensor)
                and together.ndim >= 2
                and together.shape == (ROWS, *alone.shape[1:])
                and bool(torch.allclose(together[1:2].float(), alone.float(), rtol=1e-2, atol=1e-3, equal_nan=True))
            )
    except ForeignError:
        return False
