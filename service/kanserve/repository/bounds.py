"""How large the numbers of a manifest may be. What is beyond is no model that anybody could serve.

A number that no machine can hold would be met later, by a request: here it is a reason not to load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from kanexport.manifest import BasisInfo, LayerInfo, Manifest, NodeStep, TensorSpec
from kanexport.shared import naming
from kanexport.shared.explanations import ExplainedTensor
from kanserve.errors import LoadError, LoadReason
from kanserve.nouns import DTYPES
from kanserve.repository import seen

ROWS = 2**31 - 1  # of a batch, as the protocol's config counts them
NUMBERS = 2**31 - 1  # of a row; no message holds more bytes
AXES = 16
TENSORS = 1024
LAYERS = 4096
FILES = LAYERS + 64
VARIANTS = 1  # nobody would choose among more
NODES = 2**24  # sources or destinations of a layer
EDGES = 2**31 - 1  # of a layer
OPSET = 64
REFERENCE_ROWS = 4096


def check(manifest: Manifest) -> None:
    """Raises LoadError naming the first number that is out of bounds."""
    for fault in faults(manifest):
        raise LoadError(LoadReason.MANIFEST, f"{fault}: export the model again")


def faults(manifest: Manifest) -> Iterator[str]:
    """All that is out of bounds, in words."""
    yield from _within("max_batch_size", manifest.max_batch_size, 1, ROWS)
    yield from _within("opset", manifest.opset, 1, OPSET)
    yield from _within("the number of inputs", len(manifest.inputs), 1, TENSORS)
    yield from _within("the number of outputs", len(manifest.outputs), 1, TENSORS)
    yield from _within("the number of layers", len(manifest.layers), 0, LAYERS)
    yield from _within("the number of files", len(manifest.files), 1, FILES)
    for tensor in (*manifest.inputs, *manifest.outputs):
        yield from _tensor(tensor)
    for at, layer in enumerate(manifest.layers):
        yield from (f"layer {at}: {fault}" for fault in _layer(layer))
    yield from _names(manifest)
    yield from seen.faults(manifest)
    yield from _explanations(manifest)
    yield from _within("the number of variants", len(manifest.variants), 0, VARIANTS)
    for variant in manifest.variants:
        yield from _within(f"the rows of {variant.file[:40]!r}", variant.rows, 1, ROWS)
    yield from _within("the number of reference rows", len(manifest.reference.inputs), 0, REFERENCE_ROWS)
    if not 0 <= manifest.reference.tolerance <= 1:
        yield f"the reference tolerance is {manifest.reference.tolerance:g}, expected 0 to 1, of the largest answer"


def _names(manifest: Manifest) -> Iterator[str]:
    tensors = (manifest.inputs, manifest.outputs)
    try:
        manifest.names.check(*naming.sizes(*([tensor.shape for tensor in part] for part in tensors)))
    except naming.NamingError as error:
        yield str(error)


def _explanations(manifest: Manifest) -> Iterator[str]:
    """What the graph gives that nothing here runs, but people read of."""
    told = manifest.explanations
    yield from _within(
        "the number of explained tensors", len(told.tensors), 1 if told.file else 0, TENSORS + 2 * LAYERS
    )
    for tensor in told.tensors:
        yield from _tensor(tensor)
        yield from _within(f"the layer of '{tensor.name}'", tensor.layer, -1, len(manifest.layers) - 1)


def _within(what: str, found: int, least: int, most: int) -> Iterator[str]:
    if not least <= found <= most:
        yield f"{what} is {_number(found)}, expected {least} to {most}"


def _number(found: int) -> str:
    """In full, unless nobody would read it."""
    return str(found) if abs(found) < 10**18 else f"{'-' if found < 0 else ''}2^{abs(found).bit_length() - 1} or more"


def _tensor(tensor: TensorSpec | ExplainedTensor) -> Iterator[str]:
    shape = tensor.shape
    if tensor.datatype not in DTYPES:
        yield f"'{tensor.name}' is {tensor.datatype[:40]!r}, expected one of {', '.join(DTYPES)}"
    if len(shape) < 2 or shape[0] != -1 or min(shape[1:]) < 1:
        yield f"'{tensor.name}' has shape {_shape(shape)}, expected [-1, ...]: the size of a row is not known"
        return
    yield from _extents(f"'{tensor.name}'", shape[1:])


def _extents(what: str, extents: Sequence[int]) -> Iterator[str]:
    yield from _within(f"the number of axes of {what}", len(extents), 0, AXES)
    yield from _within(f"the size of a row of {what}", math.prod(extents[:AXES]), 1, NUMBERS)


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(_number, shape[:AXES]))}{', ...' if len(shape) > AXES else ''}]"


def _layer(layer: LayerInfo) -> Iterator[str]:
    if min(layer.sources, layer.destinations, *layer.positions) < 1:
        yield "no sources, no destinations or no positions"
        return
    yield from _within("the number of sources", layer.sources, 1, NODES)
    yield from _within("the number of destinations", layer.destinations, 1, NODES)
    edges = layer.sources * layer.destinations
    yield from _within("the number of edges", edges, 1, EDGES)
    yield from _within("active_edges", layer.active_edges, 0, edges)
    yield from _extents("positions", layer.positions)
    yield from _of_edges(layer)
    for basis in layer.bases:
        yield from _basis(basis, layer.sources)
    yield from _steps((*layer.before, *layer.after))


def _of_edges(layer: LayerInfo) -> Iterator[str]:
    if layer.mask and (len(layer.mask) != layer.sources or {*map(len, layer.mask)} != {layer.destinations}):
        yield f"the mask is not [{layer.sources}][{layer.destinations}]"
    if layer.bias and len(layer.bias) != layer.destinations:
        yield f"the bias has {len(layer.bias)} entries, expected {layer.destinations}"
    for edge in layer.symbolic:
        source, destination = edge.source, edge.destination
        if not (0 <= source < layer.sources and 0 <= destination < layer.destinations):
            yield f"a symbolic edge leads from {_number(source)} to {_number(destination)}, which are not there"


def _basis(basis: BasisInfo, sources: int) -> Iterator[str]:
    yield from _within(f"the number of functions of basis {basis.kind[:40]!r}", basis.functions, 1, NODES)
    if len(basis.knots) not in (0, 1, sources):
        yield f"basis {basis.kind[:40]!r} has {len(basis.knots)} rows of knots, expected one, or one for each source"
    yield from _steps(basis.before)


def _steps(steps: Sequence[NodeStep]) -> Iterator[str]:
    for step in steps:
        if step.indices and not (min(step.indices) >= 0 and max(step.indices) < NODES):
            yield f"a step {step.kind[:40]!r} has indices beyond 0 to {NODES - 1}"
