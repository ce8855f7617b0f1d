"""Detection of KAN convolutions among the submodules. The exporter runs them and compares the sums of their edges."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import ExportError, LayerSkipped
from kanexport.torch_export.borrowed_module import ForeignError, foreign_code, replaced
from kanexport.torch_export.capture import Call, array, rounded
from kanexport.torch_export.conv_capture import NORMS, SPOILT, Ordinary, Source, Watch
from kanexport.torch_export.conv_layer import ConvLayer, Convolved, read, sum_layers
from kanexport.torch_export.kan_candidates import grouped, overlaps
from kanexport.torch_export.match import EDGES_SUM, TENSORS, Reading, beyond, verify_reading
from kanexport.torch_export.sampled_layer import SAMPLED
from kanexport.verify.tolerances import magnitude

Array = npt.NDArray[np.float64]

FAR = (1.0, 10.0, 1e3, 1e6)  # times what was seen
VECTORS = 4096  # of one picture that are compared
PICTURES = 2  # of one call
NUMBERS = 4_000_000  # that a layer is given for one row


class _RecordedModule(nn.Module):
    """A placeholder for a layer with recorded outputs."""


def parts(whole: nn.Module, taken: Container[str]) -> dict[str, nn.Module]:
    """The submodules that may run KAN convolutions, by name, outermost first: custom modules with weights of three
    axes or more."""
    return {
        name: part
        for name, part in whole.named_modules()
        if name
        and name not in taken
        and not type(part).__module__.startswith("torch.")
        and any(parameter.ndim >= 3 for parameter in part.parameters())
    }


def find_convolutions(
    calls: Mapping[str, Sequence[Call]], precision: str, taken: Sequence[str]
) -> tuple[dict[str, Reading], dict[str, str]]:
    """The KAN convolutions by the name of the module of their sources, and reasons why other modules are not.

    calls  calls of the modules that may be one, outermost first
    taken  layers that have been read, which neither hold one nor lie in one
    """
    layers_by_source: dict[str, Reading] = {}
    refused: dict[str, str] = {}
    done: list[str] = list(taken)
    # First functions of the input of a module, from the outermost module; then functions that begin inside, from the
    # innermost.
    for name, inside in [*((name, False) for name in calls), *((name, True) for name in reversed(list(calls)))]:
        if overlaps(name, done):
            continue
        try:
            layers = _layers(name, calls[name], precision, inside=inside)
        except Ordinary:
            continue
        except ExportError as error:
            refused[name] = error.message
        else:
            done.append(name)
            for layer in layers:
                reading = Reading(SAMPLED, sum_layers(layer.parts[:1]), "", layer)
                layers_by_source[layer.source.name or name] = reading
    return layers_by_source, {name: why for name, why in refused.items() if not overlaps(name, done)}


def _layers(name: str, calls: Sequence[Call], precision: str, *, inside: bool) -> list[Convolved]:
    """The layers of a module whose functions begin at its input or, if `inside`, also at the outputs of inner modules
    that normalize or project. Raises InvalidKan for other modules."""
    call = calls[0]
    if not 3 <= call.x.ndim <= 5 or call.x.ndim != call.y.ndim:
        raise Ordinary("does not take pictures")
    parts = {
        f"{name}.{inner}": part
        for inner, part in call.module.named_modules()
        if inside and inner and isinstance(part, (*NORMS, nn.modules.conv._ConvNd))
    }
    if inside and not parts:
        raise Ordinary("has no submodules")
    watch, values = _watched(call, call.x[:PICTURES], parts)
    if watch.has_unknown or not watch.seen:
        raise Ordinary("runs no convolution that the exporter can analyze")
    sources = [Source(call.x, module=None)] + [
        Source(value, part_name, parts[part_name]) for part_name, value in values.items()
    ]
    layers = read(call, watch, sources)
    for layer in layers:
        picture = layer.source.value.shape[2:]
        for part in layer.parts:  # every run computes its inputs
            count = part.layer.sources * math.prod(part.geometry.positions(picture))
            if count > NUMBERS:
                raise LayerSkipped(f"has {count} inputs per row, place by place, more than {NUMBERS}")
    _require_sums(layers, calls, precision)
    return layers


def _require_sums(layers: Sequence[Convolved], calls: Sequence[Call], precision: str) -> None:
    """Raises InvalidKan if the edges of layers do not add up to the results of the convolutions."""
    parts = {layer.source.name: layer.source.module for layer in layers if layer.source.module is not None}
    near, far = (
        [(x, *_watched(call, x, parts)) for call in calls for x in map(rounded, variants(call.x[:PICTURES]))]
        for variants in (lambda pictures: (pictures, beyond(pictures)), _far)
    )
    # The results of layers with the same numbers are added.
    added = grouped(
        (tuple(part.results.tolist()), (layer.source.name, part)) for layer in layers for part in layer.parts
    )
    for group in added.values():
        near_calls, far_calls = (
            [_as_call(group, {"": x, **values}, watch) for x, watch, values in runs] for runs in (near, far)
        )
        reading = Reading(SAMPLED, sum_layers([part for _, part in group]), "")
        verdict = verify_reading(reading, near_calls, far_calls, precision)
        if verdict.reading is None:
            raise LayerSkipped(verdict.why.replace(TENSORS, EDGES_SUM))


def _watched(call: Call, x: Array, parts: Mapping[str, nn.Module]) -> tuple[Watch, dict[str, Array]]:
    """The convolutions of the call with other pictures, also if it does not finish, and the outputs of some parts,
    in their order, if they ran once."""
    watch, values = Watch(), {}
    pictures = torch.from_numpy(x).to(call.dtype)

    def noted(name: str, part: nn.Module) -> Callable[..., Any]:
        own = part.forward

        def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
            y = own(*args, **kwargs)
            values[name] = None if name in values or not isinstance(y, torch.Tensor) else array(y)
            return y

        return forward

    noting = replaced((part, noted(name, part)) for name, part in parts.items())
    with contextlib.suppress(ForeignError), foreign_code(), torch.no_grad(), noting, watch:
        args, kwargs = call.arguments(pictures)
        call.module.forward(*args, **kwargs)
    return watch, {name: value for name, value in values.items() if value is not None and value.ndim == x.ndim}


def _as_call(layers: Sequence[tuple[str, ConvLayer]], values: Mapping[str, Array], watch: Watch) -> Call:
    """A call with some vectors of layers whose results are added, and the sums of the convolutions for them. `values`:
    those of each source, by name. Raises InvalidKan."""
    if any(name not in values for name, _ in layers):
        raise LayerSkipped("does not run the same modules in each call")
    vectors = [part.vectors(values[name]) for name, part in layers]
    results = layers[0][1].results
    starts = np.cumsum([0, *(len(result.form.constant) for result in watch.results)])
    sums = [
        result.numbers[:, results[(results >= low) & (results < high)] - low]
        for result, low, high in zip(watch.results, starts, starts[1:], strict=False)
    ]
    sums = [part for part in sums if part.shape[1]]
    if sum(part.shape[1] for part in sums) < len(results) or len({part.shape[2:] for part in sums}) != 1:
        raise LayerSkipped("has other positions than its convolutions")
    outputs = np.moveaxis(np.concatenate(sums, axis=1), 1, -1)
    if any(outputs.shape[:-1] != vector.shape[:-1] for vector in vectors):
        raise LayerSkipped("has other positions than its convolutions")
    flat, outputs = np.concatenate(vectors, axis=-1), outputs.reshape(-1, outputs.shape[-1])
    flat = flat.reshape(-1, flat.shape[-1])
    chosen = np.random.default_rng(0).permutation(len(flat))[:VECTORS]
    return Call("", flat[chosen], outputs[chosen], _RecordedModule(), (torch.zeros(0),), {}, 0)


def _far(x: Array) -> Iterator[Array]:
    """Pictures far from the example, with all signs and with one, NaN and infinities in places and in channels."""
    rng = np.random.default_rng(0)
    scale = magnitude(x) or 1.0
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


def notes(convolved: Convolved) -> list[str]:
    """The notes on the layers of a KAN convolution."""
    words = [
        "a KAN convolution; a source is a channel at one place of the kernel; its edges add up to the results of the "
        "convolutions, before a normalization or activation after them"
    ]
    if convolved.after:
        words.append("its sources are its outputs")
    if any(part.basis.inside for part in convolved.parts):
        words.append(
            "padded with zeros after its functions, so an edge is its value minus its value at zero, and 0 outside the "
            "picture; further sources, one per place of the kernel, carry the values at zero: they are 1 inside the "
            "picture and 0 outside"
        )
    return words
