"""Model version from a folder, loaded in this process with the checks of the server."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.cli.suggest import advice
from kanexport.shared.manifest import Manifest
from kanexport.shared.naming import UNNAMED, Names
from kanserve.analysis import coverage
from kanserve.analysis.coverage import Bounds
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, FailedPrecondition, NotFound
from kanserve.insight import coverage as insight_coverage
from kanserve.insight import explain
from kanserve.insight.coverage import LayerCoverage
from kanserve.insight.edge_queries import LayerGraph
from kanserve.insight.explain import Prepared
from kanserve.models import admission
from kanserve.models.loader import Loader
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.runtime.base import Session
from kanserve.scheduling import batching
from kanserve.services.explain import export_reference
from kanserve.types import Array, Explanation, ModelInfo

WHOLE = 2**14  # rows of a run, of a model whose load has not measured a size
EXPLAIN_BYTES = 2**24  # of the edges of the rows that are explained at once
MONOTONE = ("select", "affine", "clip", "standardize")  # steps that keep or reverse the order of the values of a node


@dataclass(frozen=True, slots=True)
class Version:
    """Loaded version. Several threads may use it at once, except for `explain`.

    info     its facts
    content  hash of its manifest and its config
    """

    info: ModelInfo
    content: str
    _session: Session
    _graphs: tuple[LayerGraph, ...]
    _piece_rows: int
    _prepared: Prepared = field(default_factory=Prepared)

    @property
    def names(self) -> Names:
        """Names of features and outputs."""
        return UNNAMED if self.info.manifest is None else self.info.manifest.names

    @property
    def most_rows(self) -> int:
        """Largest number of rows of one execution."""
        most = self._piece_rows or WHOLE
        return min(most, self.info.max_batch_size or most)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs for at most `most_rows` rows by input. Raises BackendError and ResourceExhausted."""
        return self._session.run([tensor.name for tensor in self.info.outputs], feeds)

    def trace(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Named tensors for rows by input. Raises BackendError and ResourceExhausted."""
        return self._session.run(names, feeds)

    def coverage(self, feeds: Mapping[str, Array]) -> tuple[LayerCoverage, ...]:
        """The coverage of each layer for rows by input. Raises FailedPrecondition."""
        steps = insight_coverage.compute(self._session, self.manifest, {}, feeds, step=self.most_rows)
        return next(layers for layers in steps if layers is not None)

    def explain(self, feeds: Mapping[str, Array], output: int) -> Iterator[Explanation]:
        """Contributions to one output, for consecutive pieces of the rows. The reference is the mean of the baseline
        rows, or else the best available one. Raises FailedPrecondition."""
        name, values = export_reference(self.info, self.manifest, "")
        tensor = self.info.inputs[0]
        feed = values.astype(next(iter(feeds.values())).dtype).reshape(1, *tensor.shape[1:])
        steps = explain.compute(
            self._session,
            self._graphs,
            self.manifest,
            self._prepared,
            feeds,
            (name, {tensor.name: feed}),
            method=explain.RESCALE,
            outputs=[output],
            chunk_bytes=EXPLAIN_BYTES,
        )
        return (piece for piece in steps if piece is not None)

    @property
    def manifest(self) -> Manifest:
        """The manifest. Raises FailedPrecondition for plain ONNX."""
        if self.info.manifest is None:
            raise FailedPrecondition(
                f"model '{self.info.name}' is plain ONNX without a manifest, so its layers are unknown",
                code="model-without-layers",
                hint="export the model with `kanserve export`",
            )
        return self.info.manifest


def load(folder: Path, version: int | None = None, *, check: bool = True) -> Version:
    """The version in a folder: the folder of a version, of a model or of a repository with one model. Without
    `version`, the highest one that is not an edit.

    check  run the load check first, in a sandboxed process. Only a version that passed it on this machine needs no
           second one.

    Raises ConfigError, NotFound and LoadError.
    """
    candidates = layout.scan(folder, plain_onnx=True)
    names = sorted({candidate.name for candidate in candidates})
    if len(names) > 1:
        raise ConfigError(
            f"{folder} has {len(names)} models ({', '.join(names[:3])}), expected one",
            code="repository-not-one-model",
            hint=f"pass the folder of one model, such as {folder / names[0]}",
        )
    versions = [candidate for candidate in candidates if version in (None, candidate.version)]
    if not candidates:
        raise NotFound(
            f"{folder} has no model version",
            code="model-unknown",
            hint="pass the folder of a model that `kanserve export` wrote",
        )
    if not versions:
        raise NotFound(
            f"model '{names[0]}' has no version {version}",
            code="version-unknown",
            hint=advice(str(version), [str(candidate.version) for candidate in candidates], what="versions"),
        )
    # Without a number, the highest version that is not an edit, or the folder of a version.
    descending = sorted(versions, key=lambda candidate: candidate.version, reverse=True)
    candidate = next(
        (own for own in descending if version is not None or not own.steps or not layout.is_edit(own)), None
    )
    if candidate is None:
        raise NotFound(
            f"the versions of model '{names[0]}' are edits, which are used only by their numbers",
            code="model-has-no-version",
            hint=f"pass a version, such as --version {descending[0].version}",
        )
    settings = Settings(repository=folder)
    bundle = layout.load(candidate, settings.max_file_bytes)
    if check:
        admission.load(candidate, bundle)
    parts = Loader(settings, 1, Metrics()).load_parts(bundle)
    return Version(parts.info, bundle.content, parts.session, parts.graphs, parts.plan.piece_rows)


class InputRanges:
    """Ranges of the inputs of a version: which rows have an input out of range. The smallest and the largest value of
    each input decide that for most blocks of rows, at no cost."""

    def __init__(self, version: Version) -> None:
        manifest = version.info.manifest
        # Each input with ranges, the ranges, and whether they read it by steps that keep the order.
        self._parts: list[tuple[str, Bounds, bool]] = []
        if manifest is not None and manifest.certificate.range_check:
            checked = insight_coverage.checked_inputs(manifest)
            self._parts = [(name, bounds, True) for name, _, bounds in checked]
        elif manifest is not None:
            inputs = {tensor.name: tensor for tensor in version.info.inputs}
            for at, layer in enumerate(manifest.layers):
                if layer.node_tensor not in inputs:
                    continue
                with contextlib.suppress(FailedPrecondition):  # its steps are unknown, and so is the range
                    bounds = insight_coverage.bounds(manifest, at, inputs[layer.node_tensor].shape[-1])
                    if bounds.scales:
                        steps = [step for scale in bounds.scales for step in scale.pre_steps]
                        monotone = all(step.kind in MONOTONE for step in steps)
                        self._parts.append((layer.node_tensor, bounds, monotone))

    @property
    def known(self) -> bool:
        """Whether an input has a range."""
        return bool(self._parts)

    def outside(
        self, feeds: Mapping[str, Array], low: Mapping[str, Array], high: Mapping[str, Array]
    ) -> NDArray[np.bool_]:
        """Whether each row of `feeds` [B, ...] has an input out of range [B]. `low` and `high`: the smallest and the
        largest value of each input [n], over these rows."""
        mask = np.zeros(len(next(iter(feeds.values()))), np.bool_)
        for name, bounds, monotone in self._parts:
            width = feeds[name].shape[-1]
            ends = np.stack([low[name], high[name]]).reshape(-1, width).astype(np.float64)
            if monotone and not coverage.outside(bounds, ends).any():
                continue
            nodes = feeds[name].reshape(-1, width).astype(np.float64)
            mask |= coverage.outside(bounds, nodes).reshape(len(mask), -1).any(axis=1)
        return mask


def sizes(version: Version) -> dict[str, int]:
    """Numbers of a row in each output. Raises FailedPrecondition for an output of unknown size."""
    known = {tensor.name: math.prod(tensor.shape[1:]) for tensor in version.info.outputs}
    if unknown := [name for name, size in known.items() if size < 0]:
        raise FailedPrecondition(
            f"output '{unknown[0]}' of model '{version.info.name}' has no fixed size, so it has no columns",
            code="output-size-unknown",
            hint="export the model with fixed shapes",
        )
    return known


def pieces(feeds: Mapping[str, Array], rows: int) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """Consecutive rows by input, at most `rows` each, and the position of the first."""
    for start in range(0, len(next(iter(feeds.values()))), rows):
        yield start, batching.select_rows(feeds, start, start + rows)
