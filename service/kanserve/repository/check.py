"""What the server relies on in a manifest, without a runtime: also asked by `kanserve models FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence

from kanexport.manifest import ANY, BASIC, Manifest, TensorSpec
from kanexport.shared.approximation import HALVES, SUMS, Approximation
from kanexport.shared.outside import CLAMP, POLICIES
from kanserve.errors import LoadError, LoadReason
from kanserve.nouns import TensorInfo
from kanserve.repository import bounds
from kanserve.repository.pbtxt import FILE_NAME, OperatorConfig

Tensor = TensorInfo | TensorSpec
SERVED_CLASSES = ("A", "B")


def check_manifest(manifest: Manifest) -> None:
    """What can be said without running the graph. Raises LoadError."""
    bounds.check(manifest)
    _check_names(manifest)
    _check_class("the model", manifest.edge_class)
    listed = {entry.path for entry in manifest.files}
    for at, layer in enumerate(manifest.layers):
        if layer.edge_class:
            _check_class(f"layer {at}", layer.edge_class)
        if layer.edges_file not in listed:
            raise LoadError(LoadReason.MANIFEST, f"layer {at}: {layer.edges_file!r} is not a listed file")
    for variant in manifest.variants:
        if variant.file not in listed:
            raise LoadError(LoadReason.MANIFEST, f"variant {variant.file!r} is not a listed file")
    if manifest.explanations.file and manifest.explanations.file not in listed:
        raise LoadError(LoadReason.MANIFEST, f"{manifest.explanations.file!r} is not a listed file")
    _check_outside(manifest)
    _check_approximation(manifest.approximation)
    _check_optimization(manifest.optimization)
    if len(manifest.reference.inputs) != len(manifest.reference.outputs):
        raise LoadError(LoadReason.MANIFEST, "the manifest's reference rows have other inputs than outputs")


def _check_optimization(found: str) -> None:
    if found not in (ANY, BASIC):
        raise LoadError(LoadReason.MANIFEST, f"optimization is {found[:40]!r}, expected {ANY!r} or {BASIC!r}")


def _check_outside(manifest: Manifest) -> None:
    if manifest.outside not in POLICIES:
        raise LoadError(
            LoadReason.MANIFEST, f"outside is {manifest.outside[:40]!r}, expected one of {', '.join(POLICIES)}"
        )
    kept = bool(manifest.layers) and [step.kind for step in manifest.layers[0].before][-1:] == ["clip"]
    if manifest.outside == CLAMP and not kept:
        raise LoadError(LoadReason.MANIFEST, "outside is 'clamp', but nothing keeps the inputs of the first layer")


def _check_approximation(found: Approximation) -> None:
    """What it says of itself is no more than a bound on rounding, and was kept."""
    if found.asked not in ("", SUMS, HALVES):
        raise LoadError(LoadReason.MANIFEST, f"approximation is {found.asked[:40]!r}, expected {SUMS} or {HALVES}")
    if not 0 <= found.error <= found.max_error < 1 or bool(found.asked) != bool(found.max_error):
        raise LoadError(
            LoadReason.MANIFEST,
            f"approximation has an error of {found.error:g} of {found.max_error:g} allowed, expected 0 to below 1",
        )


def _check_names(manifest: Manifest) -> None:
    names = [tensor.name for tensor in (*manifest.inputs, *manifest.outputs)]
    if len(set(names)) < len(names):
        raise LoadError(LoadReason.MANIFEST, "two of the manifest's inputs and outputs have one name")


def _check_class(what: str, edge_class: str) -> None:
    """NOTE: class C is refused, since the same row would get other answers in other
    company: clients, chunks and dynamic batching decide which rows meet. A model
    whose ranges were frozen when it was exported is of class A or B."""
    if edge_class == "C":
        raise LoadError(
            LoadReason.MANIFEST,
            f"{what} is of edge class C: a row's answer depends on the other rows of its batch; "
            "export it with what it takes from the batch frozen",
        )
    if edge_class not in SERVED_CLASSES:
        raise LoadError(LoadReason.MANIFEST, f"{what} is of edge class {edge_class!r}; A and B are known")


def check_config(
    config: OperatorConfig, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, batched: bool
) -> None:
    """A config.pbtxt against the tensors of its model, whose first dimension is the batch if `batched`.
    Raises LoadError where they contradict each other."""
    if config.name not in ("", name):
        raise LoadError(LoadReason.CONFIG, f"{FILE_NAME} is of model {config.name!r}, the folder of {name!r}")
    missing = {tensor.name for tensor in inputs} - {tensor.name for tensor in config.inputs}
    if config.inputs and missing:
        raise LoadError(LoadReason.CONFIG, f"{FILE_NAME} lacks the input '{min(missing)}'")
    for what, given, found in (("input", config.inputs, inputs), ("output", config.outputs, outputs)):
        known = {tensor.name: tensor for tensor in found}
        for tensor in given:
            _check_tensor(what, tensor, known, skip=1 if batched else 0)


def _check_tensor(what: str, given: TensorInfo, known: dict[str, Tensor], skip: int) -> None:
    if given.name not in known:
        raise LoadError(
            LoadReason.CONFIG,
            f"{FILE_NAME} has the {what} '{given.name}', the model {', '.join(map(repr, known))}",
        )
    found = known[given.name]
    shape = found.shape[skip:]
    fits = len(given.shape) == len(shape) and all(
        want == have or -1 in (want, have) for want, have in zip(given.shape, shape, strict=True)
    )
    if (given.shape and not fits) or given.datatype not in ("", found.datatype):
        raise LoadError(
            LoadReason.CONFIG,
            f"{FILE_NAME} says that the {what} '{given.name}' is {given.datatype} {list(given.shape)}, "
            f"the model says {found.datatype} {list(shape)}",
        )
