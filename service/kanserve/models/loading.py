"""From checked bytes to a model that proved itself here, on this device.

The graph fits its manifest, and the manifest's reference rows give the manifest's answers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport import manifest as contract
from kanexport.manifest import LayerInfo, Manifest
from kanserve.backends import Backend, Session
from kanserve.config import Settings
from kanserve.errors import Exhausted, KanserveError, LoadError, LoadReason
from kanserve.models import measure
from kanserve.models.edges import LayerGraph
from kanserve.models.model import Model
from kanserve.models.serving import Way, batch_size, decide
from kanserve.nouns import DTYPES, Array, ModelInfo, TensorInfo
from kanserve.observe.metrics import Metrics
from kanserve.repository.check import check_config, check_manifest
from kanserve.repository.layout import Bundle
from kanserve.repository.pbtxt import OperatorConfig

LARGE = 256 * 2**20  # bytes
FLOATS = ("FP32", "FP64")  # what node vectors are


@dataclass(frozen=True, slots=True)
class Before:
    """A version of the model that serves: what it is, how its runs go, and under which config.pbtxt."""

    info: ModelInfo
    way: Way
    config: OperatorConfig


@dataclass(frozen=True, slots=True)
class Loader:
    """Makes models with one backend, on the device and within the limits of the settings."""

    backend: Backend
    settings: Settings
    threads: int
    metrics: Metrics

    def load(self, bundle: Bundle, like: Before | None = None) -> Model:
        """Prepare and prove one version; blocks. `like`: one that serves, whose way it may take over. Raises
        LoadError, ConfigError."""
        config, settings = bundle.config, self.settings
        if config.device not in ("", settings.device):
            raise LoadError(
                LoadReason.CONFIG,
                f"config.pbtxt wants the device {config.device}, this server has {settings.device}: "
                "start it with another --device, or give the instance_group another kind",
            )
        create = functools.partial(self._create, bundle.files[contract.MODEL_FILE], _beside(bundle))
        way = self._same_way(bundle, like)
        session = create(self._threads(bundle) if way is None else way.threads)
        info = _info(bundle, session, settings.plain_max_batch)
        check_config(config, info.name, info.inputs, info.outputs, batched=info.max_batch_size > 0)
        graphs: tuple[LayerGraph, ...] = ()
        if bundle.manifest is not None:
            _prove(bundle.manifest, info, session)
            graphs = self._graphs(bundle, bundle.manifest)
        if way is None:
            session, way = self._way(bundle, info, session, create)
        metrics = self.metrics.model(info.name, str(info.version))
        return Model(info, session, graphs, metrics, settings, decide(info, settings, config, way))

    def _threads(self, bundle: Bundle) -> int:
        """Of one run, before anything is measured: one. A large model's runs wait for memory more than for cores,
        and it is not made twice: it has all."""
        config = bundle.config
        if config.threads or config.instances:
            return config.threads or max(1, self.threads // config.instances)
        return self.threads if _large(bundle) else 1

    def _same_way(self, bundle: Bundle, like: Before | None) -> Way | None:
        """That of a network of the same form under the same config: runs would be measured beside live traffic."""
        manifest = bundle.manifest
        if like is None or manifest is None or like.info.manifest is None or like.config != bundle.config:
            return None
        return like.way if _form(manifest) == _form(like.info.manifest) else None

    def _way(
        self, bundle: Bundle, info: ModelInfo, session: Session, create: Callable[[int], Session]
    ) -> tuple[Session, Way]:
        """How its runs go, and the session for it: as the operator says, as its size says, or as it measures."""
        settings, config, threads = self.settings, bundle.config, self._threads(bundle)
        pieces = measure.piece_rows(bundle.manifest, settings.piece_bytes)
        instances = config.instances or max(1, self.threads // threads)
        if not (config.threads or config.instances or _large(bundle)):
            all_threads = measure.together(info, session, create, budget=self.threads, piece_rows=pieces)
            if all_threads is not None:
                session, threads = all_threads, self.threads
        inline = measure.inline_rows(info, session, settings.inline_seconds)
        return session, Way(instances, inline, pieces, threads)

    def _graphs(self, bundle: Bundle, manifest: Manifest) -> tuple[LayerGraph, ...]:
        beside = _beside(bundle)
        return tuple(
            LayerGraph(layer, functools.partial(self._create, bundle.files[layer.edges_file], beside, self.threads))
            for layer in manifest.layers
        )

    def _create(self, graph: bytes, beside: Mapping[str, bytes], threads: int) -> Session:
        return self.backend.create(graph, device=self.settings.device, threads=threads, beside=beside)


def _form(manifest: Manifest) -> object:
    """What decides how long a run takes, as far as a manifest says it."""
    layers = [
        (x.sources, x.destinations, x.positions, [(y.kind, y.functions) for y in x.bases]) for x in manifest.layers
    ]
    return manifest.inputs, manifest.outputs, manifest.max_batch_size, manifest.opset, layers


def _large(bundle: Bundle) -> bool:
    return sum(len(bundle.files.get(name, b"")) for name in (contract.MODEL_FILE, contract.WEIGHTS_FILE)) > LARGE


def _beside(bundle: Bundle) -> Mapping[str, bytes]:
    """What the graphs of a version share, from the bytes that were checked."""
    return {name: data for name, data in bundle.files.items() if name == contract.WEIGHTS_FILE}


def _info(bundle: Bundle, session: Session, plain_max_batch: int) -> ModelInfo:
    manifest = bundle.manifest
    if manifest is None:
        tensors = (*session.inputs, *session.outputs)
        batched = all(len(t.shape) > 1 and t.shape[0] == -1 for t in tensors)
        size = batch_size(bundle.config, plain_max_batch if batched else 0, manifest=False)
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
        batch_size(bundle.config, manifest.max_batch_size, manifest=True),
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
