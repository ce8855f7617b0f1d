"""From checked bytes to a model that proved itself here, on this device.

The graph fits its manifest, and the manifest's reference rows give the manifest's answers.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport import manifest as contract
from kanexport.manifest import BasisInfo, LayerInfo, Manifest
from kanserve.backends import Backend, Session
from kanserve.config import Settings
from kanserve.errors import Exhausted, KanserveError, LoadError, LoadReason
from kanserve.models.edges import LayerGraph
from kanserve.models.model import Model
from kanserve.nouns import DTYPES, HELD, Array, ModelInfo, TensorInfo
from kanserve.observe.metrics import Metrics
from kanserve.repository.check import check_manifest
from kanserve.repository.layout import Bundle

PROBES = 5
FLOATS = ("FP32", "FP64")  # what node vectors are


@dataclass(frozen=True, slots=True)
class Loader:
    """Makes models with one backend, on the device and within the limits of the settings."""

    backend: Backend
    settings: Settings
    threads: int
    metrics: Metrics

    def load(self, bundle: Bundle) -> Model:
        """Prepare and prove one version; blocks. Raises LoadError, ConfigError."""
        session = self._create(bundle.files[contract.MODEL_FILE], _beside(bundle))
        info = _info(bundle, session, self.settings.plain_max_batch)
        graphs: tuple[LayerGraph, ...] = ()
        if bundle.manifest is not None:
            _prove(bundle.manifest, info, session)
            graphs = self._graphs(bundle, bundle.manifest)
        return Model(
            info,
            session,
            graphs,
            self.metrics.model(info.name, str(info.version)),
            self.settings,
            workers=self.threads,
            inline_rows=_inline_rows(info, session, self.settings.inline_seconds),
            chunk_rows=_chunk_rows(bundle.manifest, self.settings.piece_bytes),
        )

    def _graphs(self, bundle: Bundle, manifest: Manifest) -> tuple[LayerGraph, ...]:
        beside = _beside(bundle)
        return tuple(
            LayerGraph(layer, functools.partial(self._create, bundle.files[layer.edges_file], beside))
            for layer in manifest.layers
        )

    def _create(self, graph: bytes, beside: Mapping[str, bytes]) -> Session:
        return self.backend.create(graph, device=self.settings.device, threads=self.threads, beside=beside)


def _beside(bundle: Bundle) -> Mapping[str, bytes]:
    """What the graphs of a version share, from the bytes that were checked."""
    return {name: data for name, data in bundle.files.items() if name == contract.WEIGHTS_FILE}


def _info(bundle: Bundle, session: Session, plain_max_batch: int) -> ModelInfo:
    manifest = bundle.manifest
    if manifest is None:
        tensors = (*session.inputs, *session.outputs)
        batched = all(len(t.shape) > 1 and t.shape[0] == -1 for t in tensors)
        size = plain_max_batch if batched else 0
        return ModelInfo(bundle.name, bundle.version, size, session.inputs, session.outputs, bundle.digest)
    check_manifest(manifest)
    given, wanted = (
        tuple(TensorInfo(spec.name, spec.datatype, spec.shape) for spec in specs)
        for specs in (manifest.inputs, manifest.outputs)
    )
    _check_graph(manifest, given, wanted, session)
    return ModelInfo(
        manifest.name,
        manifest.version,
        manifest.max_batch_size,
        given,
        wanted,
        bundle.digest,
        manifest,
    )


def _check_graph(
    manifest: Manifest, given: tuple[TensorInfo, ...], wanted: tuple[TensorInfo, ...], session: Session
) -> None:
    """The graph has the tensors of the manifest. Raises LoadError."""
    inputs = {tensor.name: tensor for tensor in session.inputs}
    outputs = {tensor.name: tensor for tensor in session.outputs}
    if len(inputs) != len(given) or _unlike(given, inputs):
        listed = ", ".join(f"'{tensor.name}'" for tensor in given)
        raise LoadError(LoadReason.MISMATCH, f"the graph's inputs are not the manifest's {listed}")
    if name := _unlike(wanted, outputs):
        raise LoadError(LoadReason.MISMATCH, f"the graph has no output like the manifest's '{name}'")
    for at, layer in enumerate(manifest.layers):
        node = inputs.get(layer.node_tensor) or outputs.get(layer.node_tensor)
        _check_node(at, layer, node)


def _unlike(claims: tuple[TensorInfo, ...], found: dict[str, TensorInfo]) -> str:
    """The first that the graph does not have as it is claimed, or nothing."""
    fits = (claim.name in found and _fits(claim, found[claim.name]) for claim in claims)
    return next((claim.name for claim, fit in zip(claims, fits, strict=True) if not fit), "")


def _check_node(at: int, layer: LayerInfo, node: TensorInfo | None) -> None:
    """What feeds a layer is there, [rows, *positions, nodes]. Raises LoadError."""
    if node is None:
        raise LoadError(LoadReason.MISMATCH, f"layer {at}: the graph has no '{layer.node_tensor}'")
    expected = TensorInfo(node.name, node.datatype, (-1, *layer.positions, node.shape[-1] if node.shape else -1))
    if node.datatype not in FLOATS or not _fits(expected, node):
        raise LoadError(
            LoadReason.MISMATCH,
            f"layer {at}: '{node.name}' is {node.datatype} {list(node.shape)}, expected {' or '.join(FLOATS)} "
            f"[rows, *positions, nodes] with positions {list(layer.positions)}",
        )


def _fits(claim: TensorInfo, found: TensorInfo) -> bool:
    """Same type and rank, a free batch, and no dimension that contradicts the claim."""
    return (
        claim.datatype == found.datatype
        and len(claim.shape) == len(found.shape) > 1
        and claim.shape[0] == found.shape[0] == -1
        and all(want == have or have == -1 for want, have in zip(claim.shape, found.shape, strict=True))
    )


def _prove(manifest: Manifest, info: ModelInfo, session: Session) -> None:
    reference = manifest.reference
    if not reference.inputs:
        return  # a model that is NaN somewhere on every row; its notes say so
    try:
        flat = np.asarray(reference.inputs, np.float64)
        answers = np.asarray(reference.outputs, np.float64)
    except ValueError as error:
        raise LoadError(LoadReason.MANIFEST, "the reference rows differ in length") from error
    feeds = {
        tensor.name: rows.astype(DTYPES[tensor.datatype])
        for tensor, rows in zip(info.inputs, _parts(flat, info.inputs), strict=True)
    }
    expected = _parts(answers, info.outputs)
    try:
        found = session.run([tensor.name for tensor in info.outputs], feeds)
    except Exhausted as error:
        raise LoadError(LoadReason.RUNTIME, str(error)) from error
    except KanserveError as error:
        raise LoadError(LoadReason.REFERENCE, "the graph cannot compute the reference rows") from error
    for tensor, answer, one in zip(info.outputs, expected, found, strict=True):
        _compare("" if len(info.outputs) == 1 else f" of '{tensor.name}'", answer, one, reference.tolerance)


def _compare(what: str, expected: NDArray[np.float64], found: Array, tolerance: float) -> None:
    """Raises LoadError where an output is not what the manifest says."""
    if found.shape != expected.shape:
        raise LoadError(
            LoadReason.REFERENCE,
            f"reference outputs{what} have shape {list(found.shape)}, not {list(expected.shape)}",
        )
    scale = float(np.abs(expected).max(initial=0.0))
    error_found = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
    # Written so that NaN fails.
    if not error_found <= tolerance * scale:
        raise LoadError(
            LoadReason.REFERENCE,
            f"reference rows{what} differ by {error_found:.3g}; allowed: {tolerance:.3g} of {scale:.3g}",
        )


def _parts(flat: NDArray[np.float64], tensors: tuple[TensorInfo, ...]) -> list[NDArray[np.float64]]:
    """Flat reference rows in the shapes of their tensors. Raises LoadError."""
    sizes = [math.prod(tensor.shape[1:]) for tensor in tensors]
    if flat.shape[1:] != (sum(sizes),):
        names = ", ".join(f"'{tensor.name}'" for tensor in tensors)
        raise LoadError(
            LoadReason.MANIFEST,
            f"a reference row of {names} holds {math.prod(flat.shape[1:])} numbers, expected {sum(sizes)}",
        )
    parts = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(len(flat), *tensor.shape[1:]) for part, tensor in zip(parts, tensors, strict=True)]


def _chunk_rows(manifest: Manifest | None, piece_bytes: int) -> int:
    """Rows whose basis values fill `piece_bytes`; 0 if nobody knows whether they may be parted.

    The widest intermediate of a piece should stay in a core's cache. Measured on
    [784, 64, 10], G = 5, 1024 rows: 19.4 ms in pieces of 64 rows, 61 ms in one piece.
    """
    if manifest is None:
        return 0
    item = max(DTYPES[tensor.datatype].itemsize for tensor in manifest.inputs)
    widest = max((_width(layer, basis) for layer in manifest.layers for basis in layer.bases), default=1)
    # No matrix product should have less than 16 rows; positions count as rows.
    positions = max((math.prod(layer.positions) for layer in manifest.layers), default=1)
    return max(1, 16 // positions, piece_bytes // (item * widest))


def _width(layer: LayerInfo, basis: BasisInfo) -> int:
    """Numbers that a basis makes of one row."""
    per_function = layer.sources * (layer.destinations if basis.per_edge else 1) * math.prod(layer.positions)
    return per_function * basis.functions


def _inline_rows(info: ModelInfo, session: Session, inline_seconds: float) -> int:
    """How many rows run within `inline_seconds`, for which the event loop may be held: the
    largest power of two, 0 if not even one.

    Measures the best of a few runs, so that a busy moment does not decide for ever.
    """
    if info.max_batch_size == 0 or any(-1 in tensor.shape[1:] for tensor in info.inputs):
        return 0
    allowed = 0
    rows = 1
    names = [tensor.name for tensor in info.outputs]
    while rows <= info.max_batch_size:
        feeds: dict[str, Array] = {
            tensor.name: np.zeros((rows, *tensor.shape[1:]), HELD[tensor.datatype]) for tensor in info.inputs
        }
        if _best_seconds(session, names, feeds) > inline_seconds:
            break
        allowed = rows
        rows *= 2
    return allowed


def _best_seconds(session: Session, names: list[str], feeds: dict[str, Array]) -> float:
    best = float("inf")
    for _ in range(PROBES):
        started = time.perf_counter()
        try:
            session.run(names, feeds)
        except KanserveError:
            return float("inf")  # a plain graph may dislike zeros; it then runs on the pool
        best = min(best, time.perf_counter() - started)
    return best
