"""Whether a factory makes the same module each time: constants that it draws and keeps in no state dict are
not those that the module was trained with, and no checkpoint brings them back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.hybrid import extremes, inputs
from kanexport.hybrid.capture import Oracle
from kanexport.hybrid.lend import lent
from kanexport.hybrid.recognise import Whole

Array = npt.NDArray[np.float64]

SEED = 20_240_229  # another state of every generator than a program begins with
SAME = 1e-9  # relative, in float64; float32 has its own rounding
NAMED = 5  # of what differs
ROWS = 8


@contextlib.contextmanager
def other_randomness() -> Iterator[None]:
    """Inside: torch, numpy and Python draw other numbers than they would have; afterwards as if they had not."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def drawn(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules of one factory have different weights."""
    return bool(_apart(first.state_dict(), second.state_dict()))


def require_same(first: nn.Module, second: nn.Module, example: Any) -> None:
    """Raises InvalidKan where two modules with the same weights, made by one factory, answer the `example`
    differently, and names what differs in them; OptionError as `inputs.rows`."""
    x, wiring = inputs.rows(example, first)
    rows = np.concatenate([x[:ROWS], extremes.far(x, extremes.floating(wiring.ports, x))])
    answers = [_answers(Whole(module, wiring), rows) for module in (first, first, second)]
    if not _close(answers[0], answers[1]):  # random at inference, which is refused elsewhere
        return
    if _close(answers[0], answers[2]):
        return
    names = _apart(_constants(first), _constants(second))
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    raise InvalidKan(
        "the factory makes a module that answers differently each time it is called, with the same weights: "
        + (
            f"it draws {shown}, which no state dict keeps" if names else "something in it is drawn that is no attribute"
        ),
        hint="keep what is drawn in the state dict (register_buffer) and train again, or draw it from the seed that "
        "the training had, inside the factory",
    )


def _answers(whole: Whole, rows: Array) -> Array:
    oracle = Oracle.of(whole, rows)
    with lent(whole, oracle.dtype):
        return oracle.run(rows)[0]


def _close(first: Array, second: Array) -> bool:
    if first.shape != second.shape:
        return False
    scale = np.abs(first[np.isfinite(first)]).max(initial=0) or 1.0
    return bool(np.allclose(first, second, rtol=0, atol=SAME * scale, equal_nan=True))


def _constants(module: nn.Module) -> dict[str, Any]:
    """What a module computes with that no state dict has, by name: buffers that are not saved, and numbers,
    arrays and tensors among the attributes, alone or in lists."""
    saved = set(module.state_dict())
    found = {name: value for name, value in module.named_buffers() if name not in saved}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if not key.startswith("_") or isinstance(value, torch.Tensor):
                found[f"{name}.{key}".removeprefix(".")] = value
    return found


def _apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The names under which two tables have different numbers."""
    return [name for name, value in first.items() if name not in second or not _equal(value, second[name])]


def _equal(first: Any, second: Any) -> bool:
    """Of numbers, arrays, tensors and lists of them; anything else counts as equal."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    one, other = _numbers(first), _numbers(second)
    if one is None or other is None:
        return True
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc" and other.dtype.kind in "fc"))


def _numbers(value: Any) -> npt.NDArray[Any] | None:
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return None
        value = value.detach().cpu()
        value = (value.double() if value.dtype == torch.bfloat16 else value).resolve_conj().numpy()
    if isinstance(value, int | float | complex):
        value = np.asarray(value)
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" else None
