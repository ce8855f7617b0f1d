"""Verification of a graph against its manifest, and of its outputs against the reference outputs of the export."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import custom_ops
from kanexport.shared.manifest import LayerInfo, Manifest, TensorSpec
from kanserve.errors import KanserveError, LoadError, LoadReason, ResourceExhausted
from kanserve.repository.layout import EXPORT_AGAIN
from kanserve.runtime.base import Session
from kanserve.types import DTYPES, Array, TensorInfo

ROUNDING = 2.0  # units in the last place that a restored output may be off by
FLOATS = ("FP32", "FP64")  # datatypes of node vectors


def tensors(specs: tuple[TensorSpec, ...]) -> tuple[TensorInfo, ...]:
    """Inputs or outputs of a manifest as types of the server."""
    return tuple(TensorInfo(spec.name, spec.datatype, spec.shape) for spec in specs)


def check_graph(manifest: Manifest, session: Session) -> None:
    """Check that the graph has the tensors of the manifest. Raises LoadError."""
    expected, results = tensors(manifest.inputs), tensors(manifest.outputs)
    inputs = {tensor.name: tensor for tensor in session.inputs}
    outputs = {tensor.name: tensor for tensor in session.outputs}
    if len(inputs) != len(expected) or _unlike(expected, inputs):
        listed = ", ".join(f"'{tensor.name}'" for tensor in expected)
        raise _differs(f"the inputs of the graph differ from those of the manifest: {listed}")
    if name := _unlike(results, outputs):
        raise _differs(f"the graph does not have the output '{name}' of the manifest")
    for at, layer in enumerate(manifest.layers):
        node = inputs.get(layer.node_tensor) or outputs.get(layer.node_tensor)
        if node is None:
            raise _differs(f"layer {at}: the graph has no tensor '{layer.node_tensor}'")
        # The tensor feeds the layer as [rows, *positions, nodes].
        expected_node = TensorInfo(
            node.name, node.datatype, (-1, *layer.positions, node.shape[-1] if node.shape else -1)
        )
        if node.datatype not in FLOATS or not _fits(expected_node, node):
            raise _differs(
                f"layer {at}: '{node.name}' is {node.datatype} {list(node.shape)}, expected {' or '.join(FLOATS)} "
                f"[rows, *positions, nodes] with positions {list(layer.positions)}"
            )


def _differs(text: str) -> LoadError:
    return LoadError(LoadReason.MISMATCH, text, code="graph-differs-from-manifest", hint=EXPORT_AGAIN)


def _unlike(claims: tuple[TensorInfo, ...], actual: dict[str, TensorInfo]) -> str:
    """The first claimed tensor that the graph does not have, or ""."""
    fits = (claim.name in actual and _fits(claim, actual[claim.name]) for claim in claims)
    return next((claim.name for claim, fit in zip(claims, fits, strict=True) if not fit), "")


def _fits(claim: TensorInfo, actual: TensorInfo) -> bool:
    """True for the same type and rank, a free batch dimension, and no dimension that contradicts the claim."""
    return (
        claim.datatype == actual.datatype
        and len(claim.shape) == len(actual.shape) > 1
        and claim.shape[0] == actual.shape[0] == -1
        and all(want == have or have == -1 for want, have in zip(claim.shape, actual.shape, strict=True))
    )


def check_reference(manifest: Manifest, session: Session) -> None:
    """Check that the reference rows give the reference outputs within their tolerance. Raises LoadError."""
    reference = manifest.reference
    output_tensors = tensors(manifest.outputs)
    if not reference.inputs:
        return  # a model with a NaN output on every row; its notes contain that
    rows, expected = feeds(manifest), reference_outputs(manifest)
    try:
        outputs = session.run([tensor.name for tensor in output_tensors], rows)
    except ResourceExhausted as error:
        raise LoadError(
            LoadReason.MEMORY,
            "there is not enough memory to run the reference rows",
            code="load-check-memory",
            hint="give the server more memory, or raise load_memory_bytes if it has more",
        ) from error
    except KanserveError as error:
        raise LoadError(
            LoadReason.REFERENCE,
            "the graph cannot compute the reference rows",
            code="reference-rows-fail",
            hint=EXPORT_AGAIN,
        ) from error
    for tensor, wanted, output in zip(output_tensors, expected, outputs, strict=True):
        what = "" if len(output_tensors) == 1 else f" of '{tensor.name}'"
        # Outputs with a scaler are compared as the network computes them, so that a column of large values does not
        # hide another one.
        scaler = manifest.scalers.outputs
        if output.shape != wanted.shape:
            raise LoadError(
                LoadReason.REFERENCE,
                f"reference outputs{what} have shape {list(output.shape)}, expected {list(wanted.shape)}",
                code="reference-outputs-differ",
                hint=EXPORT_AGAIN,
            )
        offset, unit = (np.array(scaler.offset), np.array(scaler.scale)) if scaler else (np.zeros(()), np.ones(()))
        scale = float(np.abs((wanted - offset) / unit).max(initial=0.0))
        last = float(np.finfo(np.float64 if output.dtype == np.float64 else np.float32).eps)
        room = ROUNDING * last * np.maximum(np.abs(wanted), np.abs(offset)) if scaler else 0.0
        differences = np.abs(output.astype(np.float64) - wanted)
        error_found = float((np.where(differences <= room, 0.0, differences) / unit).max(initial=0.0))
        # Written so that NaN fails.
        if not error_found <= reference.tolerance * scale:
            raise LoadError(
                LoadReason.REFERENCE,
                f"reference outputs{what} differ by {error_found:.3g}, "
                f"expected at most {reference.tolerance:.3g} of {scale:.3g}",
                code="reference-outputs-differ",
                hint="export the model again with this version of onnxruntime",
            )


def check_explained(manifest: Manifest, session: Session) -> None:
    """Check that the explanation graph has the inputs of the model and the outputs of the manifest, and gives the
    reference outputs. Raises LoadError."""
    explanations, expected = manifest.explanations, tensors(manifest.inputs)
    claims = tuple(TensorInfo(tensor.name, tensor.datatype, tensor.shape) for tensor in explanations.tensors)
    inputs, outputs = ({tensor.name: tensor for tensor in part} for part in (session.inputs, session.outputs))
    if len(inputs) != len(expected) or _unlike(expected, inputs):
        raise _differs(f"the inputs of {explanations.file} differ from those of the model")
    if name := _unlike(claims, outputs):
        raise _differs(f"{explanations.file} does not have the output '{name}' of the manifest")
    named(explanations.file, functools.partial(check_reference, manifest, session))


def named(file: str, check: Callable[[], None]) -> None:
    """Run the check of one of several graphs. Its LoadError names the file."""
    try:
        check()
    except LoadError as error:
        raise LoadError(error.reason, f"{file}: {error}", code=error.code, hint=error.hint) from error


def reference_outputs(manifest: Manifest) -> list[NDArray[np.float64]]:
    """The reference outputs, [R, ...] each. Raises LoadError."""
    try:
        flat = np.asarray(manifest.reference.outputs, np.float64)
    except ValueError as error:
        raise _ragged() from error
    return _parts(flat, tensors(manifest.outputs))


def feeds(manifest: Manifest) -> dict[str, Array]:
    """The reference rows by input, [R, ...] each. Raises LoadError."""
    inputs = tensors(manifest.inputs)
    try:
        flat = np.asarray(manifest.reference.inputs, np.float64)
    except ValueError as error:
        raise _ragged() from error
    return {
        tensor.name: rows.astype(DTYPES[tensor.datatype])
        for tensor, rows in zip(inputs, _parts(flat, inputs), strict=True)
    }


def _ragged() -> LoadError:
    return LoadError(
        LoadReason.MANIFEST,
        "the reference rows differ in length",
        code="reference-rows-differ-in-length",
        hint=EXPORT_AGAIN,
    )


def _parts(flat: NDArray[np.float64], tensors: tuple[TensorInfo, ...]) -> list[NDArray[np.float64]]:
    """Flat reference rows in the shapes of their tensors. Raises LoadError."""
    sizes = [math.prod(tensor.shape[1:]) for tensor in tensors]
    if flat.shape[1:] != (sum(sizes),):
        names = ", ".join(f"'{tensor.name}'" for tensor in tensors)
        raise LoadError(
            LoadReason.MANIFEST,
            f"a reference row of {names} has {math.prod(flat.shape[1:])} numbers, expected {sum(sizes)}",
            code="reference-rows-wrong-width",
            hint=EXPORT_AGAIN,
        )
    parts = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(len(flat), *tensor.shape[1:]) for part, tensor in zip(parts, tensors, strict=True)]


def check_edges(at: int, layer: LayerInfo, session: Session, nodes: int) -> None:
    """Check that the edge graph of a layer takes one vector of `nodes` numbers, and gives an edge for each source and
    destination. Raises LoadError."""
    (tensor,) = session.inputs if len(session.inputs) == 1 else (None,)
    if tensor is None or tensor.name != layer.node_tensor or tensor.datatype not in FLOATS:
        raise _differs(f"layer {at}: the only input of {layer.edges_file} is not '{layer.node_tensor}'")
    named = {layer.edges_tensor} | {basis.edges_tensor for basis in layer.bases if basis.edges_tensor}
    if missing := named - {tensor.name for tensor in session.outputs}:
        raise _differs(f"layer {at}: {layer.edges_file} has no output '{min(missing)}'")
    feeds = {tensor.name: np.zeros((1, nodes), DTYPES[tensor.datatype])}
    _edges(
        f"layer {at}: {layer.edges_file}", layer, session, feeds, (1, layer.sources, layer.destinations), "one vector"
    )


def _edges(
    what: str,
    layer: LayerInfo,
    session: Session,
    feeds: Mapping[str, Array],
    shape: tuple[int, ...],
    vectors: str = "",
) -> Array:
    """The edge values that an edge graph of a layer computes. Raises LoadError, which names `what`, if it cannot
    compute them, or gives another shape or type."""
    try:
        (edges,) = session.run([layer.edges_tensor], feeds)
    except KanserveError as error:
        raise _differs(f"{what} cannot compute {vectors or f'{shape[0]} vectors'}") from error
    if edges.shape != shape or edges.dtype.kind != "f":
        raise _differs(f"{what} gives {edges.dtype} {list(edges.shape)}, expected {list(shape)}")
    return edges


STRONGEST_CHECKED = 10  # edges of a vector whose selection is compared with a sort of all edges
EDGES_APART = 10  # times the tolerance of edges, by which two right edge graphs may differ


def operator_edges(at: int, layer: LayerInfo, session: Session, nodes: Array, k: int = 0) -> NDArray[np.float64]:
    """The edge values [N, S * D] of the edge graph of a layer by the custom operator, or its k strongest edges
    [N, 3 k]. Raises LoadError if it does not take the node vectors [N, n], or gives another shape."""
    what = f"layer {at}: {custom_ops.edges_file(layer.edges_file)}"
    feeds = {layer.node_tensor: nodes, custom_ops.STRONGEST: np.full((1, 1), k, np.float32)}
    shape = (len(nodes), 3 * k or layer.sources * layer.destinations)
    return _edges(what, layer, session, feeds, shape).astype(np.float64)


def check_operator_edges(manifest: Manifest, at: int, by_operator: Session, portable: Session) -> None:
    """Check that the edge graph of a layer by the custom operator gives the edges of the portable one, on a few vectors
    and, if the layer takes the input of the model, on the reference rows. Raises LoadError."""
    layer = manifest.layers[at]
    width = next((tensor.shape[-1] for tensor in portable.inputs if tensor.shape), 0)
    ramp = np.linspace(-1, 1, max(width, 1), dtype=np.float32)
    rows = feeds(manifest).get(layer.node_tensor, ramp[:0]) if manifest.reference.inputs else ramp[:0]
    parts = [np.stack([0 * ramp, ramp, -2 * ramp]), *([rows] if rows.shape[1:] == ramp.shape else [])]
    nodes = np.concatenate(parts).astype(np.float32)
    edges = operator_edges(at, layer, by_operator, nodes)
    shape = (len(nodes), layer.sources, layer.destinations)
    values = _edges(f"layer {at}: {layer.edges_file}", layer, portable, {layer.node_tensor: nodes}, shape)
    difference = float(np.abs(edges - values.astype(np.float64).reshape(edges.shape)).max(initial=0.0))
    largest = float(np.abs(values).max(initial=0.0))
    # Written so that NaN fails.
    if not difference <= EDGES_APART * manifest.verification.edges_tolerance * largest:
        raise _differs(
            f"layer {at}: {custom_ops.edges_file(layer.edges_file)} differs by {difference:.3g} from "
            f"{layer.edges_file}, whose largest edge is {largest:.3g}"
        )
    count = min(STRONGEST_CHECKED, edges.shape[1])
    chosen = np.argsort(-np.abs(edges), axis=1, kind="stable")[:, :count]
    places = np.divmod(chosen, layer.destinations)
    expected = np.concatenate([np.take_along_axis(edges, chosen, axis=1), *places], axis=1)
    if not np.array_equal(operator_edges(at, layer, by_operator, nodes, count), expected):
        raise _differs(f"layer {at}: {custom_ops.edges_file(layer.edges_file)} selects other edges than the strongest")
