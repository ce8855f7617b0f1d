"""Validation of a manifest, without a runtime. The server and `kanserve models FOLDER` share it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from kanexport.shared import naming
from kanexport.shared.manifest import (
    ANY,
    BASIC,
    VERIFICATION_BASES,
    LayerInfo,
    Manifest,
    NodeStep,
    TensorSpec,
)
from kanexport.shared.sections import (
    ABSOLUTE,
    ANCHORS,
    CLAMP,
    DIRECTIONS,
    EXACT_FORM,
    FITTED_FORM,
    FLAG,
    FP16_WEIGHTS,
    INT8,
    LAC,
    LOGITS,
    MIN_MAX,
    NO_EDIT,
    NO_ERROR_BARS,
    NORMALIZED,
    OUT_OF_RANGE_POLICIES,
    PAIRS,
    PROBABILITIES,
    REJECT,
    STANDARD,
    Approximation,
    CertificateInfo,
    ExplainedTensor,
    NodeBaseline,
    OutputInterval,
)
from kanserve.errors import LoadError, LoadReason
from kanserve.repository.layout import EXPORT_AGAIN
from kanserve.repository.pbtxt import FILE_NAME, OperatorConfig
from kanserve.types import DTYPES, TensorInfo

Tensor = TensorInfo | TensorSpec
SERVED_CLASSES = ("A", "B")


def check_manifest(manifest: Manifest) -> None:
    """Check everything that needs no execution of the graph. Raises LoadError."""
    for fault in limit_faults(manifest):
        raise _invalid(fault)
    names = [tensor.name for tensor in (*manifest.inputs, *manifest.outputs)]
    if len(set(names)) < len(names):
        raise _invalid("two of the inputs and outputs have the same name")
    _check_class("the model", manifest.edge_class)
    for at, layer in enumerate(manifest.layers):
        if layer.edge_class:
            _check_class(f"layer {at}", layer.edge_class)
    _check_listed(manifest)
    if manifest.out_of_range not in OUT_OF_RANGE_POLICIES:
        known = ", ".join(OUT_OF_RANGE_POLICIES)
        raise _invalid(f"out_of_range is {manifest.out_of_range[:40]!r}, expected one of {known}")
    kept = bool(manifest.layers) and [step.kind for step in manifest.layers[0].pre_steps][-1:] == ["clip"]
    if manifest.out_of_range == CLAMP and not kept:
        raise _invalid("out_of_range is 'clamp', but no step of the first layer clamps its inputs")
    _check_approximation(manifest.approximation)
    if manifest.optimization not in (ANY, BASIC):
        raise _invalid(f"optimization is {manifest.optimization[:40]!r}, expected {ANY!r} or {BASIC!r}")
    if manifest.verification_basis not in VERIFICATION_BASES:
        known = ", ".join(VERIFICATION_BASES)
        raise _invalid(f"verification.basis is {manifest.verification_basis[:40]!r}, expected one of {known}")
    if len(manifest.reference.inputs) != len(manifest.reference.outputs):
        raise _invalid(
            f"the reference rows have {len(manifest.reference.inputs)} inputs and "
            f"{len(manifest.reference.outputs)} outputs, expected the same number"
        )


def _invalid(fault: str) -> LoadError:
    return LoadError(
        LoadReason.MANIFEST, f"invalid manifest: {fault}", code="manifest-value-invalid", hint=EXPORT_AGAIN
    )


def _check_listed(manifest: Manifest) -> None:
    """Check that the list of files has all graphs. Raises LoadError."""
    layers = enumerate(manifest.layers)
    graphs = {f"the edge graph {layer.edges_file!r} of layer {at}": layer.edges_file for at, layer in layers}
    graphs |= {f"the variant {variant.file!r}": variant.file for variant in manifest.variants}
    if explained := manifest.explanations.file:
        graphs[f"the explanation graph {explained!r}"] = explained
    listed = {entry.path for entry in manifest.files}
    for what, file in graphs.items():
        if file not in listed:
            raise LoadError(
                LoadReason.MANIFEST,
                f"{what} is not in the manifest's list of files",
                code="manifest-file-not-listed",
                hint=EXPORT_AGAIN,
            )


def _check_approximation(approximation: Approximation) -> None:
    """Check that the claimed error is a rounding error within its bound. Raises LoadError."""
    if approximation.quantize not in ("", INT8, FP16_WEIGHTS):
        raise _invalid(f"approximation is {approximation.quantize[:40]!r}, expected {INT8} or {FP16_WEIGHTS}")
    if not 0 <= approximation.error <= approximation.max_error < 1 or bool(approximation.quantize) != bool(
        approximation.max_error
    ):
        raise _invalid(
            f"approximation has the error {approximation.error:g} and the maximum {approximation.max_error:g}, "
            "expected 0 <= error <= maximum < 1"
        )


def _check_class(what: str, edge_class: str) -> None:
    """Check an edge class. NOTE: class C is rejected, because the prediction of a row would depend on its batch:
    clients, chunks and dynamic batching decide which rows are in one batch. A model whose ranges were frozen at export
    is of class A or B."""
    if edge_class == "C":
        raise LoadError(
            LoadReason.MANIFEST,
            f"{what} is of edge class C: the prediction of a row depends on the other rows of its batch",
            code="edge-class-not-served",
            hint="freeze the ranges that the model computes from a batch, and export it again",
        )
    if edge_class not in SERVED_CLASSES:
        raise _invalid(f"{what} is of edge class {edge_class!r}, expected A or B")


def check_config(
    config: OperatorConfig, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, batched: bool
) -> None:
    """Compare a config.pbtxt with the tensors of its model, whose first dimension is the batch if `batched`.
    Raises LoadError if they contradict each other."""
    if config.name not in ("", name):
        raise LoadError(
            LoadReason.CONFIG,
            f"{FILE_NAME} has the name {config.name!r}, the folder has {name!r}",
            code="config-name-differs",
            hint=f"set name to {name!r}, or remove it",
        )
    missing = {tensor.name for tensor in inputs} - {tensor.name for tensor in config.inputs}
    if config.inputs and missing:
        raise LoadError(
            LoadReason.CONFIG,
            f"{FILE_NAME} does not have the input '{min(missing)}' of the model",
            code="config-input-missing",
            hint="add the input, or remove all inputs from the file",
        )
    for what, configured, expected in (("input", config.inputs, inputs), ("output", config.outputs, outputs)):
        known = {tensor.name: tensor for tensor in expected}
        for tensor in configured:
            _check_tensor(what, tensor, known, skip=1 if batched else 0)


def _check_tensor(what: str, configured: TensorInfo, known: dict[str, Tensor], skip: int) -> None:
    if configured.name not in known:
        raise LoadError(
            LoadReason.CONFIG,
            f"{FILE_NAME} has the {what} '{configured.name}', the model has {', '.join(map(repr, known))}",
            code="config-tensor-unknown",
            hint=f"correct the name of the {what}, or remove it",
        )
    expected = known[configured.name]
    shape = expected.shape[skip:]
    fits = len(configured.shape) == len(shape) and all(
        want == have or -1 in (want, have) for want, have in zip(configured.shape, shape, strict=True)
    )
    if (configured.shape and not fits) or configured.datatype not in ("", expected.datatype):
        raise LoadError(
            LoadReason.CONFIG,
            f"{FILE_NAME} has {configured.datatype} {list(configured.shape)} for the {what} '{configured.name}', "
            f"the model has {expected.datatype} {list(shape)}",
            code="config-tensor-differs",
            hint="correct data_type and dims, or remove them",
        )


ROWS = 2**31 - 1  # of a batch, as the protocol's config counts them
NUMBERS = 2**31 - 1  # of a row; no message holds more bytes
AXES = 16
TENSORS = 1024
LAYERS = 4096
FILES = LAYERS + 64
VARIANTS = 1  # the server does not choose among more
NODES = 2**24  # sources or destinations of a layer
EDGES = 2**31 - 1  # of a layer
OPSET = 64
REFERENCE_ROWS = 4096
RANGES = {STANDARD: 0, MIN_MAX: 2}  # numbers in the range of each kind of scaler


def limit_faults(manifest: Manifest) -> Iterator[str]:
    """Texts about all numbers that are out of bounds."""
    yield from _within("max_batch_size", manifest.max_batch_size, 1, ROWS)
    yield from _within("opset", manifest.opset, 1, OPSET)
    yield from _within("the number of inputs", len(manifest.inputs), 1, TENSORS)
    yield from _within("the number of outputs", len(manifest.outputs), 1, TENSORS)
    yield from _within("the number of layers", len(manifest.layers), 0, LAYERS)
    yield from _within("the number of files", len(manifest.files), 1, FILES)
    for spec in (*manifest.inputs, *manifest.outputs):
        yield from _tensor(spec)
    for at, layer in enumerate(manifest.layers):
        yield from (f"layer {at}: {fault}" for fault in _layer(layer))
    try:
        manifest.names.check(*naming.sizes(*([x.shape for x in part] for part in (manifest.inputs, manifest.outputs))))
    except naming.NamingError as error:
        yield str(error)
    yield from baseline_faults(manifest)
    yield from interval_faults(manifest)
    yield from (f"certificate: {fault}" for fault in certificate_faults(manifest))
    yield from (f"error_bars: {fault}" for fault in error_bar_faults(manifest))
    yield from _scalers(manifest)
    yield from edit_faults(manifest)
    explained = manifest.explanations.tensors
    least = 1 if manifest.explanations.file else 0
    yield from _within("the number of explained tensors", len(explained), least, TENSORS + 2 * LAYERS)
    for tensor in explained:
        yield from _tensor(tensor)
        yield from _within(f"the layer of '{tensor.name}'", tensor.layer, -1, len(manifest.layers) - 1)
    yield from _within("the number of variants", len(manifest.variants), 0, VARIANTS)
    for variant in manifest.variants:
        yield from _within(f"the rows of {variant.file[:40]!r}", variant.rows, 1, ROWS)
    yield from _within("the number of reference rows", len(manifest.reference.inputs), 0, REFERENCE_ROWS)
    if not 0 <= manifest.reference.tolerance <= 1:
        yield f"the reference tolerance is {manifest.reference.tolerance:g}, expected 0 to 1"


def _scalers(manifest: Manifest) -> Iterator[str]:
    """Faults of the scalers, with which the server explains numbers."""
    for what, scaler, tensors in (
        ("input", manifest.scalers.inputs, manifest.inputs),
        ("output", manifest.scalers.outputs, manifest.outputs),
    ):
        if not scaler:
            continue
        size = sum(math.prod(tensor.shape[1 : AXES + 1]) for tensor in tensors)
        if not len(scaler.offset) == len(scaler.scale) == size or min(scaler.scale) <= 0:
            yield f"the {what} scaler does not have an offset and a positive scale for each of {_number(size)} columns"
        if scaler.kind not in RANGES or len(scaler.range) != RANGES[scaler.kind]:
            yield f"the {what} scaler is {scaler.kind[:40]!r} with a range of {len(scaler.range)} numbers"


def _within(what: str, value: int, least: int, most: int) -> Iterator[str]:
    if not least <= value <= most:
        yield f"{what} is {_number(value)}, expected {least} to {most}"


def _number(value: int) -> str:
    """Number in full, unless it is too long to read."""
    return str(value) if abs(value) < 10**18 else f"{'-' if value < 0 else ''}2^{abs(value).bit_length() - 1} or more"


def _tensor(tensor: TensorSpec | ExplainedTensor) -> Iterator[str]:
    shape = tensor.shape
    if tensor.datatype not in DTYPES:
        yield f"'{tensor.name}' is {tensor.datatype[:40]!r}, expected one of {', '.join(DTYPES)}"
    if len(shape) < 2 or shape[0] != -1 or min(shape[1:]) < 1:
        yield f"'{tensor.name}' has shape {_shape(shape)}, expected [-1, ...] with known extents"
        return
    yield from _extents(f"'{tensor.name}'", shape[1:])


def _extents(what: str, extents: Sequence[int]) -> Iterator[str]:
    yield from _within(f"the number of axes of {what}", len(extents), 0, AXES)
    yield from _within(f"the size of a row of {what}", math.prod(extents[:AXES]), 1, NUMBERS)


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(_number, shape[:AXES]))}{', ...' if len(shape) > AXES else ''}]"


def _layer(layer: LayerInfo) -> Iterator[str]:
    if min(layer.sources, layer.destinations, *layer.positions) < 1:
        yield "the layer has no sources, no destinations or no positions"
        return
    yield from _within("the number of sources", layer.sources, 1, NODES)
    yield from _within("the number of destinations", layer.destinations, 1, NODES)
    edges = layer.sources * layer.destinations
    yield from _within("the number of edges", edges, 1, EDGES)
    yield from _within("active_edges", layer.active_edges, 0, edges)
    yield from _extents("positions", layer.positions)
    if layer.mask and (len(layer.mask) != layer.sources or {*map(len, layer.mask)} != {layer.destinations}):
        yield f"the mask is not [{layer.sources}][{layer.destinations}]"
    if layer.bias and len(layer.bias) != layer.destinations:
        yield f"the bias has {len(layer.bias)} entries, expected {layer.destinations}"
    for edge in layer.symbolic:
        source, destination = edge.source, edge.destination
        if not (0 <= source < layer.sources and 0 <= destination < layer.destinations):
            yield f"a symbolic edge is from {_number(source)} to {_number(destination)}, which the layer does not have"
    for basis in layer.bases:
        yield from _within(f"the number of functions of basis {basis.kind[:40]!r}", basis.functions, 1, NODES)
        if len(basis.knots) not in (0, 1, layer.sources):
            yield f"basis {basis.kind[:40]!r} has {len(basis.knots)} rows of knots, expected one, or one per source"
        yield from _steps(basis.pre_steps)
    yield from _steps((*layer.pre_steps, *layer.post_steps))


def _steps(steps: Sequence[NodeStep]) -> Iterator[str]:
    for step in steps:
        if step.indices and not (min(step.indices) >= 0 and max(step.indices) < NODES):
            yield f"a step {step.kind[:40]!r} has an index out of range, expected 0 to {NODES - 1}"
        if step.kind == "standardize" and not (len(step.scale) == len(step.bias) and min(step.scale, default=0) > 0):
            yield "a step 'standardize' has no positive scale for each offset"


def baseline_faults(manifest: Manifest) -> Iterator[str]:
    """Texts about faults of the baseline; none for a valid one."""
    baseline = manifest.baseline
    if not baseline.rows:
        return
    if len(baseline.layers) != len(manifest.layers):
        yield f"the baseline has {len(baseline.layers)} layers, expected {len(manifest.layers)}"
    numbers = sum(math.prod(tensor.shape[1 : AXES + 1]) for tensor in manifest.inputs)
    if len(baseline.mean) != numbers:
        yield f"the baseline's mean has {len(baseline.mean)} numbers, expected {numbers}"
    if len(baseline.outputs) != len(manifest.outputs):
        yield f"the baseline has {len(baseline.outputs)} outputs, expected {len(manifest.outputs)}"
    parts = [
        *((f"layer {at}", layer) for at, layer in enumerate(baseline.layers)),
        *(("output", layer) for layer in baseline.outputs),
    ]
    yield from (f"{name}: {fault}" for name, part in parts if (fault := _part(part)))


def _part(layer: NodeBaseline) -> str:
    """Text about the first fault, or ""."""
    nodes = len(layer.counts)
    lengths = {len(layer.nonfinite), len(layer.mean), len(layer.std)}
    if lengths != {nodes} or len(layer.cells) not in (1, nodes) or not nodes:
        return f"the lists of the baseline do not have one entry for each of {nodes} nodes"
    if not all(map(_ascending, layer.cells)):
        return "the bounds of the baseline's histogram do not ascend"
    cells = layer.cells * nodes if len(layer.cells) == 1 else layer.cells
    fit = all(len(counts) == len(own) + 1 and min(counts) >= 0 for counts, own in zip(layer.counts, cells, strict=True))
    return "" if fit else "the counts of the baseline do not fit the bounds of its histogram"


def edit_faults(manifest: Manifest) -> Iterator[str]:
    """Texts about faults of the edit; none for a version that is not one."""
    edit = manifest.edit
    if edit == NO_EDIT:
        return
    yield from _within("the parent version of the edit", edit.parent_version, 1, 2**63 - 1)
    yield from _within("the number of edited edges", len(edit.edges), 1, EDGES)
    yield from _within("the number of compared rows", edit.rows, 0, 2**32 - 1)
    yield from _within("the number of changed rows", edit.changed, -1, edit.rows)
    if min((*edit.largest, *edit.mean), default=0.0) < 0:
        yield "a change of an output is negative"
    for edge in edit.edges:
        layer = manifest.layers[edge.layer] if 0 <= edge.layer < len(manifest.layers) else None
        if layer is None or not (0 <= edge.source < layer.sources and 0 <= edge.destination < layer.destinations):
            yield f"the edited edge {_number(edge.layer)}:{_number(edge.source)}:{_number(edge.destination)} is unknown"
        if edge.form not in (EXACT_FORM, FITTED_FORM) or edge.error < 0:
            yield f"an edited edge has the form {edge.form[:40]!r} and the error {edge.error:g}"


POINTS = 4096  # of a table of spreads


def interval_faults(manifest: Manifest) -> Iterator[str]:
    """Texts about faults of the prediction intervals; none for valid ones, and for a model without intervals."""
    section = manifest.intervals
    if not section.method:
        return
    if section.method not in (ABSOLUTE, NORMALIZED, LAC):
        yield f"intervals.method is {section.method[:40]!r}, expected {ABSOLUTE}, {NORMALIZED} or {LAC}"
    if not 0 < section.coverage < 1:
        yield f"intervals.coverage is {section.coverage:g}, expected a number between 0 and 1"
    numbers = sum(math.prod(tensor.shape[1 : AXES + 1]) for tensor in manifest.inputs)
    if {len(section.low), len(section.high)} not in ({0}, {numbers}):
        ends = f"{len(section.low)} smallest and {len(section.high)} largest values"
        yield f"the intervals have {ends} of inputs, expected {numbers} of each"
    if [tensor.datatype in ("FP32", "FP64") for tensor in manifest.outputs] != [True]:
        yield f"the model has intervals and {len(manifest.outputs)} outputs, expected one floating-point output"
        return
    shape = manifest.output.shape[1 : AXES + 1]
    if section.method != LAC:
        if len(section.outputs) != math.prod(shape):
            yield f"the intervals have {len(section.outputs)} entries, expected {math.prod(shape)}"
    elif section.scores not in (LOGITS, PROBABILITIES) or len(shape) != 1:
        yield f"the scores of the prediction sets are {section.scores[:40]!r} of an output {_shape(shape)}"
    yield from (f"intervals.outputs[{at}]: {fault}" for at, own in enumerate(section.outputs) if (fault := _table(own)))


def _table(interval: OutputInterval) -> str:
    """Text about the first fault, or ""."""
    points, spreads = interval.points, interval.spreads
    if interval.quantile < 0 or min(spreads, default=1) <= 0:
        return "the quantile or a spread is negative, or a spread is 0"
    if len(points) != len(spreads) or len(points) > POINTS:
        return f"the table has {len(points)} points and {len(spreads)} spreads, expected as many, at most {POINTS}"
    return "" if len(points) < 2 or _ascending(points) else "the points do not ascend"


# radon: one fact of the certificate after the other.
def certificate_faults(manifest: Manifest) -> Iterator[str]:
    """Texts about faults of the certificate; none for a valid one, and for a model without one."""
    stored = manifest.certificate
    if not stored:
        return
    if [tensor.datatype for tensor in (*manifest.inputs, *manifest.outputs)] != ["FP32", "FP32"]:
        yield "the model has other tensors than one FP32 input and one FP32 output"
        return
    inputs, outputs = (math.prod(tensor.shape[1 : AXES + 1]) for tensor in (manifest.input, manifest.output))
    yield from _within("the number of pairs of an input and an output", inputs * outputs, 1, PAIRS)
    wrong = _wrong_size(stored, inputs, outputs)
    if wrong:
        yield f"{wrong} does not fit {inputs} inputs and {outputs} outputs"
        return
    for what, lows, highs in (
        ("the box", stored.low, stored.high),
        ("the range of the outputs", stored.output_low, stored.output_high),
        ("the found range", stored.found_low, stored.found_high),
    ):
        for at, (low, high) in enumerate(zip(lows, highs, strict=True)):
            if low > high:
                yield f"{what} has {low:g} as low and {high:g} as high at {at}, expected ascending numbers"
    if min(stored.slack) < 0 or min(map(min, stored.lipschitz)) < 0:
        yield "a slack or a Lipschitz bound is negative, expected 0 or more"
    if {*itertools.chain.from_iterable(stored.directions)} - {*range(len(DIRECTIONS))}:
        yield f"a direction is not a number from 0 to {len(DIRECTIONS) - 1}"
    if not (stored.budget > 0 and stored.seconds >= 0 and 1 <= stored.boxes < ROWS):
        yield f"budget {stored.budget:g}, seconds {stored.seconds:g} or boxes {stored.boxes} are out of range"
    if stored.range_check and manifest.out_of_range not in (FLAG, REJECT):
        yield f"range_check is true, but out_of_range is {manifest.out_of_range[:40]!r}, expected {FLAG} or {REJECT}"


def error_bar_faults(manifest: Manifest) -> Iterator[str]:
    """Texts about faults of the error bars; none for valid ones, and for a model without them."""
    section, certificate = manifest.error_bars, manifest.certificate
    if section == NO_ERROR_BARS:
        return
    if not certificate:
        yield "the model has error bars and no certificate"
        return
    inputs, outputs = len(certificate.low), len(certificate.output_low)
    yield from _within("the number of stored rows", len(section.x), 1, ANCHORS)
    yield from _within("the number of rows", section.rows, len(section.x), ROWS)
    if len(section.errors) != len(section.x) or len(section.median) not in (0, outputs):
        yield f"{len(section.x)} rows have {len(section.errors)} errors and {len(section.median)} medians"
    if {*map(len, section.x)} - {inputs} or {*map(len, section.errors)} - {outputs}:
        yield f"a row or its errors do not fit {inputs} inputs and {outputs} outputs"
    elif not all(_in_box(certificate, row) for row in section.x):
        yield "a stored row is outside of the certified box"
    if not section.factor > 0 or min(itertools.chain.from_iterable(section.errors), default=0.0) < 0:
        yield "the factor or an error is negative, or the factor is 0"


def _in_box(certificate: CertificateInfo, row: Sequence[float]) -> bool:
    ends = zip(certificate.low, row, certificate.high, strict=False)  # other faults are about their number
    return all(low <= own <= high for low, own, high in ends)


def _wrong_size(stored: CertificateInfo, inputs: int, outputs: int) -> str:
    """Name of the first list of the wrong length, or ""."""
    sizes = {
        **dict.fromkeys(("low", "high", "directions", "lipschitz"), inputs),
        **dict.fromkeys(("output_low", "output_high", "found_low", "found_high", "slack"), outputs),
    }
    wrong = [name for name, size in sizes.items() if len(getattr(stored, name)) != size]
    wrong += [name for name in ("directions", "lipschitz") if {*map(len, getattr(stored, name))} - {outputs}]
    if stored.at_low or stored.at_high:  # for all outputs, or for none
        wrong += [name for name in ("at_low", "at_high") if [*map(len, getattr(stored, name))] != [inputs] * outputs]
    for own in stored.witnesses:
        fits = 0 <= own.input < inputs and 0 <= own.output < outputs
        if not fits or not len(own.rises) == len(own.falls) == inputs + 1:
            wrong.append("witnesses")
    return wrong[0] if wrong else ""


def _ascending(bounds: Sequence[float]) -> bool:
    return len(bounds) > 1 and all(bound < following for bound, following in itertools.pairwise(bounds))
