"""Search for additive layers: layers without a reader whose outputs are sums of one function per source.

Any submodule of the user's own classes may be one that has a weight for each pair of source and destination. Two
rows tell most of them apart: the search gives up submodules that do not add up there. The others have to hold
wherever a reading would have to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.torch_export import capture
from kanexport.torch_export.borrowed_module import ForeignError, foreign_code
from kanexport.torch_export.capture import Call, array
from kanexport.torch_export.kan_candidates import LINEAR, is_in
from kanexport.torch_export.match import Reading, Verdict, verify_reading
from kanexport.torch_export.sampled_layer import SAMPLED, Sampled, injected

Array = npt.NDArray[np.float64]
Calls = Mapping[str, Sequence[Call]]

MOST_SOURCES = 1024  # each row becomes as many rows
VECTORS = 3  # that are looked at first
AGREEMENT = 1e-4  # relative, there; what does not add up is off by far more
# A module that holds these maps no vectors one by one.
OTHERS = (nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.Embedding)


def unknown(whole: nn.Module, readings: Mapping[str, Reading]) -> dict[str, nn.Module]:
    """The submodules of classes of the user, by name and outermost first, that were not read. They contain no
    submodule that was read, except linear layers."""
    read = [name for name, reading in readings.items() if reading.family != LINEAR]
    parts = {}
    for name, part in whole.named_modules():
        is_users = not type(part).__module__.startswith("torch.")
        if not name or not is_users or is_in(name, readings) or any(is_in(other, (name,)) for other in read):
            continue
        if not any(isinstance(inner, OTHERS) for inner in part.modules()):
            parts[name] = part
    return parts


def find_candidates(
    parts: Mapping[str, nn.Module], calls: Calls
) -> tuple[dict[str, tuple[nn.Module, ...]], dict[str, str]]:
    """Candidates for additive layers, each with the norms at its start, by name. They are additive on a few vectors,
    and are the largest ones that do not contain the layer as a part. Submodules with coefficients like those of a
    KAN layer are candidates, too, so that a note can name them. The second table has the reasons why the exporter does
    not test some of these."""
    layers: dict[str, Sampled] = {}
    looks: list[str] = []
    untried: dict[str, str] = {}
    for name, part in parts.items():
        own, resembles = calls.get(name, ()), _has_coefficients(part)
        fault = _fault(part, own)
        if fault:
            untried |= {name: fault} if resembles else {}
            continue
        looks += [name] * resembles
        for norms in ((), *_norms(own[0])):
            with contextlib.suppress(InvalidKan):
                sampled = Sampled.of(own[0], norms)
                if _adds_up(sampled, may_be_linear=resembles):
                    layers[name] = sampled
                    break
    chosen = {name: layer.norms for name, layer in layers.items() if _is_whole(name, layer, layers)}
    return chosen | {name: () for name in looks if not is_in(name, layers)}, untried


def _has_coefficients(part: nn.Module) -> bool:
    """Whether it has coefficients in three axes or more, as basis functions have."""
    return any(parameter.ndim >= 3 for parameter in part.parameters(recurse=False))


def _fault(part: nn.Module, calls: Sequence[Call]) -> str:
    """The reason why a submodule cannot be a candidate; empty if it maps vectors to vectors, and has at least one
    weight for each pair of source and destination."""
    if not calls:
        return "returns no tensor with one vector per input vector"
    x, y = calls[0].x, calls[0].y
    if x.ndim and x.shape[-1] > MOST_SOURCES:
        return f"has {x.shape[-1]} sources, more than {MOST_SOURCES}"
    weights = sum(parameter.numel() for parameter in part.parameters())
    if x.ndim >= 2 and y.ndim >= 2 and weights >= x.shape[-1] * y.shape[-1]:
        with contextlib.suppress(InvalidKan):
            capture.form(calls[0], x.shape[-1], y.shape[-1])
            return ""
    return "does not have one weight for each pair of source and destination"


def _adds_up(sampled: Sampled, *, may_be_linear: bool) -> bool:
    """Whether its edges add up to its outputs, and are linear only if they may be."""
    n, m = len(sampled.base), len(sampled.constant)
    x, y = sampled.call.x.reshape(-1, n)[-VECTORS:], sampled.call.y.reshape(-1, m)[-VECTORS:]
    once = sampled.edges(x)
    if not np.abs(sampled.constant + once.sum(axis=1) - y).max() <= AGREEMENT * np.abs(y).max():
        return False
    if may_be_linear:
        return True
    twice = sampled.edges(x, times=2.0)
    return not np.abs(twice - 2 * once).max() <= AGREEMENT * np.abs(twice).max(initial=1e-30)


def _norms(call: Call) -> list[tuple[nn.Module, ...]]:
    """The norms in a layer that receive the vectors of the layer and mix them, if there are any."""
    vectors: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if len(args) == 1 and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
            vectors.setdefault(module, (args[0], output))

    handles = [part.register_forward_hook(note) for part in call.module.modules() if part is not call.module]
    try:
        call.rerun(call.x)
    finally:
        for handle in handles:
            handle.remove()
    norms = tuple(module for module, (x, z) in vectors.items() if _is_norm(call, module, x, z))
    return [norms] if norms else []


def _is_norm(call: Call, module: nn.Module, x: torch.Tensor, z: torch.Tensor) -> bool:
    n = call.x.shape[-1]
    if x.shape != z.shape or x.shape[-1] != n or not np.array_equal(array(x).reshape(-1), call.x.reshape(-1)):
        return False
    moved = x.detach().clone()
    moved[..., 0] += 1 + moved[..., 0].abs()
    try:
        with foreign_code(), torch.no_grad():
            return bool((array(module(moved)) != array(z))[..., 1:].any())
    except ForeignError:
        return False


def _is_whole(name: str, sampled: Sampled, layers: Mapping[str, Sampled]) -> bool:
    """Whether it is in no other layer, unless that one reads its sources only through it, and does not contain
    another such layer."""
    inside = [inner for inner in layers if inner != name and is_in(inner, (name,))]
    if any(_only_through(sampled.call, layers[inner].call) for inner in inside):
        return False
    around = [outer for outer in layers if outer != name and is_in(name, (outer,))]
    return all(_only_through(layers[outer].call, sampled.call) for outer in around)


def _only_through(outer: Call, inner: Call) -> bool:
    """Whether a layer is constant if the layer inside it is."""
    if inner.x.shape != outer.x.shape or not np.array_equal(inner.x, outer.x):
        return False
    m = inner.y.shape[-1]
    same = np.resize(inner.y.reshape(-1, m)[0], inner.y.shape)
    with injected([(inner.module, torch.from_numpy(same))], shape=True):
        result = outer.rerun(outer.x)
    return result is not None and bool(np.ptp(result.y.reshape(-1, outer.y.shape[-1]), axis=0).max() <= 0)


def verify_candidates(
    candidates: Mapping[str, tuple[nn.Module, ...]], calls: Calls, far: Calls, precision: str
) -> tuple[dict[str, Reading], dict[str, Verdict]]:
    """The additive submodules, as readings, and the verdicts on the others. `candidates`: the norms at their start,
    by name."""
    readings: dict[str, Reading] = {}
    refused: dict[str, Verdict] = {}
    for name, norms in candidates.items():
        try:
            sampled = Sampled.of(calls[name][0], norms)
            reading = Reading(SAMPLED, sampled.kan(), "", sampled)
            verdict = verify_reading(reading, calls[name], far.get(name, ()), precision)
        except InvalidKan as error:
            verdict = Verdict(why=error.message)
        if verdict.reading is not None:
            readings[name] = verdict.reading
        else:
            refused[name] = verdict
    return readings, refused
