"""KAN convolutions among the submodules: found by running them, and held against what they add up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import ExportError, InvalidKan
from kanexport.form.ir import Kan
from kanexport.hybrid.capture import Call
from kanexport.hybrid.conv_layer import ConvLayer
from kanexport.hybrid.conv_read import Convolved, read
from kanexport.hybrid.conv_watch import Ordinary, Watch
from kanexport.hybrid.faults import ForeignError, foreign_code
from kanexport.hybrid.judge import Reading, holds
from kanexport.hybrid.sampled import SAMPLED

Array = npt.NDArray[np.float64]

FAR = (1.0, 10.0, 1e3, 1e6)  # times what was seen
SPOILT = (np.nan, np.inf, -np.inf)
VECTORS = 4096  # of one picture that are compared
PICTURES = 2  # of one call


class _Told(nn.Module):
    """Stands for a layer whose answers are there already."""


def parts(whole: nn.Module, taken: Container[str]) -> dict[str, nn.Module]:
    """By name, outermost first, the submodules that may run KAN convolutions: not torch's own, and with
    weights of three axes or more."""
    return {
        name: part
        for name, part in whole.named_modules()
        if name
        and name not in taken
        and not type(part).__module__.startswith("torch.")
        and any(parameter.ndim >= 3 for parameter in part.parameters())
    }


def offer(
    candidates: Mapping[str, nn.Module], calls: Mapping[str, Sequence[Call]], precision: str, taken: Sequence[str]
) -> tuple[dict[str, Reading], dict[str, str]]:
    """Those that are KAN convolutions, and why others are none that seemed to be. `taken`: layers that have been
    read, which neither hold one nor lie in one."""
    found: dict[str, Reading] = {}
    refused: dict[str, str] = {}
    for name in candidates:
        mine = calls.get(name, ())
        if not mine or any(_within(name, other) or _within(other, name) for other in (*taken, *found)):
            continue
        try:
            convolved = _judged(mine, precision)
            found[name] = Reading(SAMPLED, _kan(convolved.parts[0]), "", convolved)
        except Ordinary:
            continue
        except ExportError as error:
            refused[name] = error.message
    return found, refused


def _within(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def _judged(calls: Sequence[Call], precision: str) -> Convolved:
    call = calls[0]
    if not 3 <= call.x.ndim <= 5 or call.x.ndim != call.y.ndim:
        raise Ordinary("takes no pictures")
    watch = _watched(call, call.x[:PICTURES])
    if watch.strange or not watch.seen:
        raise Ordinary("convolves nothing that is looked into")
    convolved = read(call, watch)
    _hold(convolved, calls, precision)
    return convolved


def _hold(convolved: Convolved, calls: Sequence[Call], precision: str) -> None:
    """Raises InvalidKan where the edges of a layer do not add up to what the module's convolutions give."""
    rows = [_rows(calls, variants) for variants in (_near, _far)]
    answers = [[(x, _answers(_watched(one, x))) for one, x in pairs] for pairs in rows]
    for layer in convolved.parts:
        near, far = ([_as_call(layer, *pair) for pair in pairs] for pairs in answers)
        verdict = holds(Reading(SAMPLED, _kan(layer), ""), near, far, precision)
        if verdict.reading is None:
            raise InvalidKan(verdict.why.replace("what its tensors tell", "the sum of its edges"))


def _kan(part: ConvLayer) -> Kan:
    return Kan(part.layer.sources, (part.layer,))


def _watched(call: Call, x: Array) -> Watch:
    """The convolutions of the call made with other pictures, also where it does not come to its end."""
    watch = Watch()
    given = torch.from_numpy(x).to(call.dtype)
    with contextlib.suppress(ForeignError), foreign_code(), torch.no_grad(), watch:
        args, kwargs = call.arguments(given)
        call.module.forward(*args, **kwargs)
    return watch


def _answers(watch: Watch) -> Array:
    """[B, m, *positions]: what the convolutions add up to."""
    return np.concatenate([result.numbers for result in watch.results], axis=1)


def _as_call(layer: ConvLayer, x: Array, answers: Array) -> Call:
    """Some vectors of a layer, and what the module makes of them."""
    vectors = layer.vectors(x)
    wanted = np.moveaxis(answers[:, layer.results], 1, -1)
    if wanted.shape[:-1] != vectors.shape[:-1]:
        raise InvalidKan("has other positions than its convolutions")
    given, wanted = vectors.reshape(-1, vectors.shape[-1]), wanted.reshape(-1, wanted.shape[-1])
    chosen = np.random.default_rng(0).permutation(len(given))[:VECTORS]
    return Call("", given[chosen], wanted[chosen], _Told(), (torch.zeros(0),), {}, 0)


def _rows(calls: Sequence[Call], variants: Callable[[Array], Iterator[Array]]) -> Iterator[tuple[Call, Array]]:
    for call in calls:
        for x in variants(call.x[:PICTURES]):
            yield call, x.astype(np.float32).astype(np.float64)


def _near(x: Array) -> Iterator[Array]:
    """The pictures themselves, and others beside and beyond them."""
    finite = np.where(np.isfinite(x), x, 0)
    yield x
    yield 4 * finite + np.random.default_rng(0).normal(0, finite.std() or 1.0, size=x.shape)


def _far(x: Array) -> Iterator[Array]:
    """Pictures far from what was seen, with all signs and with one, NaN and infinities in places and in channels."""
    rng = np.random.default_rng(0)
    scale = float(np.abs(x[np.isfinite(x)]).max(initial=0)) or 1.0
    yield np.zeros_like(x)
    for times in FAR:
        noise = scale * times * rng.uniform(-1, 1, size=x.shape)
        yield from (noise, np.abs(noise), -np.abs(noise))
    ordinary = scale * rng.uniform(-1, 1, size=x.shape)
    for value in SPOILT:
        for share in (0.02, 0.5, 1.0):
            yield np.where(rng.random(size=x.shape) < share, value, ordinary)
        channel = ordinary.copy()
        channel[:, rng.integers(x.shape[1])] = value
        yield channel
