"""Publisher of a verified model: writes manifest and files as one version of a model repository.

`Result` is the outcome of an export. The table that a command prints and its `--json` document come from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kanexport.bundle import baseline, calibration, error_bars, repository
from kanexport.bundle.baseline import Rows
from kanexport.bundle.calibration import IntervalOptions
from kanexport.bundle.description import Signature, edges_file
from kanexport.bundle.error_bars import ErrorBarOptions
from kanexport.bundle.explain_graph import NO_EXPLANATION, ExplainOptions
from kanexport.ccode.generate import CodeFiles
from kanexport.errors import REPORT, OptionError, RepositoryError, option_out_of_range, option_value_unknown
from kanexport.graph import compose, precision
from kanexport.lowering.lower import Lowered
from kanexport.shared import grids, manifest, naming, sections
from kanexport.shared.custom_ops import KERNEL_FILE
from kanexport.shared.custom_ops import edges_file as kernel_edges_file
from kanexport.shared.manifest import FileEntry, LayerInfo, Manifest, Source, TensorSpec
from kanexport.shared.naming import UNNAMED, Names, NamingError
from kanexport.verify.tolerances import OUTPUT_TOLERANCE
from kanexport.verify.verify import Proof

MAX_BATCH_SIZE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Place of a model in a repository, and the requirements on it. `repository`: None writes no version."""

    repository: Path | None
    name: str
    version: int = 1
    dtype: str = "float32"
    max_batch_size: int = MAX_BATCH_SIZE
    tolerance: float = OUTPUT_TOLERANCE
    force: bool = False
    names: Names = UNNAMED
    out_of_range: str = sections.AS_TRAINED  # handling of such rows, a key of `shared.sections.OUT_OF_RANGE_POLICIES`
    intervals: IntervalOptions = calibration.NO_OPTIONS
    error_bars: ErrorBarOptions = error_bars.NO_OPTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(Destination):
    """Destination with the rows of the user, as a network is published."""

    baseline: Rows | None = None  # of the user's data
    explain: ExplainOptions = NO_EXPLANATION
    scalers: sections.Scalers = sections.UNSCALED  # which the graphs apply
    range_of_certificate: bool = False  # FLAG and REJECT check the certified box
    edit: sections.Edit = sections.NO_EDIT  # how the network was made from that of another version

    def __post_init__(self) -> None:
        """The header of the baseline rows names the features, unless the user does."""
        with contextlib.suppress(NamingError):
            if self.baseline is not None and not self.names.features:
                names = dataclasses.replace(self.names, features=self.baseline.features())
                object.__setattr__(self, "names", names)

    def of_header(self) -> tuple[str, ...]:
        """Notes on the header of the baseline rows."""
        rows = self.baseline
        if rows is None or not rows.columns:
            return ()
        try:
            named = rows.features() == self.names.features
        except NamingError as error:
            unused = f"the header of {rows.name} has no valid feature names: {error}; name the features with --features"
            return () if self.names.features else (unused,)
        named_by = f"the header of {rows.name} names the features: {naming.listed(rows.columns)}"
        return (named_by,) if named else ()

    def check(self) -> None:
        """Reject early what would fail late. Raises OptionError and RepositoryError."""
        precision.check(self.dtype)
        if not 1 <= self.max_batch_size <= 2**31 - 1:
            raise option_out_of_range(
                f"--max-batch-size is {self.max_batch_size}, expected 1 or more",
                hint="pass a positive --max-batch-size",
            )
        if self.out_of_range not in sections.OUT_OF_RANGE_POLICIES:
            raise option_value_unknown(
                f"out_of_range is {self.out_of_range[:40]!r}, expected one of "
                f"{', '.join(sections.OUT_OF_RANGE_POLICIES)}",
                hint=f"pass one of {', '.join(sections.OUT_OF_RANGE_POLICIES)}",
            )
        if not 0 < self.tolerance < 1:
            raise option_out_of_range(
                f"--tolerance is {self.tolerance}, expected a number between 0 and 1",
                hint="pass a small number, such as --tolerance 1e-4",
            )
        if self.repository is not None:
            repository.check_target(self.repository, self.name, self.version, force=self.force)

    def check_names(self, signature: Signature) -> None:
        """Check that the names fit the inputs and outputs of the model. Raises OptionError."""
        tensors = (signature.inputs(), signature.outputs())
        try:
            self.names.check(*naming.sizes(*([tensor.shape for tensor in part] for part in tensors)))
        except naming.NamingError as error:
            raise OptionError(str(error), code=error.code, hint=error.hint) from error


@dataclass(frozen=True, slots=True)
class VerificationBasis:
    """Basis of the verification of a model.

    basis             a key of `manifest.VERIFICATION_BASES`
    expected_outputs  errors against recorded outputs of the trained model, if there are any
    notes             sentences for the manifest
    """

    basis: str
    expected_outputs: tuple[manifest.ParityCheck, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        recorded = bool(self.expected_outputs)
        if self.basis not in manifest.VERIFICATION_BASES or recorded != (
            self.basis in (manifest.EXPECTED_OUTPUTS, manifest.CHOSEN_TOLERANCE)
        ):
            raise OptionError(
                f"internal check failed: {len(self.expected_outputs)} files of expected outputs do not fit the "
                f"verification basis {self.basis!r}",
                code="internal-check-failed",
                hint=REPORT,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedModel:
    """Verified model: its graphs, their verification and its basis, and the other facts of the manifest."""

    lowered: Lowered
    proof: Proof
    claim: VerificationBasis
    layers: tuple[LayerInfo, ...]
    edge_class: str
    opset: int
    signature: Signature
    source: Source
    notes: tuple[str, ...]
    approximation: sections.Approximation = sections.EXACT
    network: bytes | None = None  # archive of the network, as in `ir.archive`
    certificate: sections.CertificateInfo = sections.NO_CERTIFICATE


@dataclass(frozen=True, slots=True)
class Result:
    """Result of an export: the folder of the new version, or else of the C code; the manifest; and the C code, if the
    user requested it."""

    directory: Path
    manifest: Manifest
    code: CodeFiles | None = None


def publish(target: Target, model: VerifiedModel) -> Result:
    """Write one version, if the target has a repository. Raises RepositoryError and OptionError; then the repository is
    unchanged."""
    target.check_names(model.signature)
    intervals, bars, calibration_notes = _calibrated(target, model)
    files, measured = _files(model), _baseline(target, model)
    policy = sections.AS_TRAINED if target.range_of_certificate else target.out_of_range
    out_of_range_notes = check(policy, model.layers, model.signature.inputs(), measured)
    root, explained = target.repository, model.lowered.explained
    document = Manifest(
        format=manifest.FORMAT,
        name=target.name,
        version=target.version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        exporter_version=importlib.metadata.version("kanserve"),
        edge_class=model.edge_class,
        opset=model.opset,
        max_batch_size=target.max_batch_size,
        inputs=model.signature.inputs(),
        outputs=model.signature.outputs(),
        layers=model.layers,
        source=model.source,
        verification=dataclasses.replace(
            model.proof.verification, basis=model.claim.basis, expected_outputs=model.claim.expected_outputs
        ),
        reference=model.proof.reference,
        files=tuple(_entry(path, data) for path, data in files.items()),
        notes=model.approximation.notes()
        + model.notes
        + model.proof.notes
        + model.claim.notes
        + (compose.notes(model.lowered.model) if model.source.family == manifest.HYBRID else ())
        + target.of_header()
        + (*out_of_range_notes, *calibration_notes, *_same_rows(target, measured))
        + (() if explained is None else explained.notes),
        names=target.names,
        baseline=measured,
        explanations=sections.NO_EXPLANATIONS if explained is None else explained.about,
        out_of_range=target.out_of_range,
        variants=model.proof.variants,
        approximation=model.approximation,
        optimization=model.lowered.optimization,
        intervals=intervals,
        certificate=model.certificate,
        error_bars=bars,
        scalers=target.scalers,
        edit=target.edit,
    )
    bare, document = _with_numbers_file(document, files)
    return Result(Path() if root is None else repository.pack(root, bare, files, force=target.force), document)


def _calibrated(target: Target, model: VerifiedModel) -> tuple[sections.Intervals, sections.ErrorBars, tuple[str, ...]]:
    """The sections that the exporter measures on calibration rows, and notes on them. Raises OptionError."""
    intervals, notes = calibration.measure(target.intervals, model.lowered, model.signature, target.names, target.dtype)
    bars, more = error_bars.measure(target.error_bars, model.certificate, model.lowered, model.signature, target.names)
    return intervals, bars, notes + more


def _with_numbers_file(document: Manifest, files: dict[str, bytes | repository.Parts]) -> tuple[Manifest, Manifest]:
    """The manifest in the form of its file, and the whole manifest. The function adds the numbers that are not in
    that file to `files`. Raises RepositoryError."""
    try:
        bare, numbers = manifest.parts(document)
    except manifest.ManifestError as error:
        raise RepositoryError(
            str(error), code=error.code, hint="export a smaller model, with fewer symbolic edges"
        ) from error
    if numbers is None:
        return document, document
    files[manifest.NUMBERS_FILE] = numbers
    listed = (*document.files, _entry(manifest.NUMBERS_FILE, numbers))
    return dataclasses.replace(bare, files=listed), dataclasses.replace(document, files=listed)


def _baseline(target: Target, model: VerifiedModel) -> sections.Baseline:
    """The baseline of the user's rows; otherwise of the inputs of the calibration rows, if the model has one input."""
    rows = target.baseline
    if rows is None and target.intervals.rows is not None:
        inputs = model.signature.inputs()
        rows = target.intervals.rows.as_baseline() if len(inputs) == 1 and inputs[0].datatype in FLOATS else None
    if rows is None:
        return sections.NO_BASELINE
    return baseline.measure(rows, model.lowered, model.layers, model.signature, target.names, target.dtype)


def _same_rows(target: Target, measured: sections.Baseline) -> tuple[str, ...]:
    """Notes on a baseline of the calibration rows."""
    rows = target.intervals.rows
    if rows is None or rows.sha256 != measured.sha256:
        return ()
    if target.baseline is None:
        return (f"the baseline has the inputs of {rows.name}, because --baseline was not given",)
    return (f"{rows.name} is the baseline too; calibration rows must not be training rows",)


def _files(model: VerifiedModel) -> dict[str, bytes | repository.Parts]:
    """The files of a version by name, without its manifest."""
    lowered = model.lowered
    files: dict[str, bytes | repository.Parts] = {manifest.MODEL_FILE: lowered.model}
    if lowered.weights is not None:
        files[manifest.WEIGHTS_FILE] = list(lowered.weights.content())
    if lowered.many is not None:
        files[manifest.MANY_FILE] = lowered.many.graph
    if lowered.explained is not None:
        files[sections.EXPLAIN_FILE] = lowered.explained.graph
    if lowered.kernel is not None:
        files[KERNEL_FILE] = lowered.kernel
    if model.network is not None:
        files[manifest.NETWORK_FILE] = model.network
    files |= {kernel_edges_file(edges_file(at)): data for at, data in lowered.kernel_edges.items()}
    return files | {edges_file(at): data for at, data in enumerate(lowered.edges)}


def _entry(path: str, data: bytes | repository.Parts) -> FileEntry:
    digest, parts = hashlib.sha256(), [data] if isinstance(data, bytes) else data
    for part in parts:
        digest.update(part)
    return FileEntry(path=path, size=sum(map(len, parts)), sha256=digest.hexdigest())


FLOATS = ("FP32", "FP64")
SHOWN = 10  # inputs that are named


def check(
    policy: str, layers: Sequence[LayerInfo], inputs: Sequence[TensorSpec], baseline: sections.Baseline
) -> tuple[str, ...]:
    """Notes for the manifest on inputs that have no range. Raises OptionError if none of them has one."""
    if policy not in (sections.FLAG, sections.REJECT):
        return ()
    names = {tensor.name for tensor in inputs}
    reading = [layer for layer in layers if layer.node_tensor in names]
    if not reading:
        raise OptionError(
            f"--out-of-range {policy} does not fit this model: no layer with edges reads the inputs unchanged",
            code="range-unknown",
            hint="send the request parameter kan.coverage, which checks the layers of a PyTorch module per row",
        )
    return () if baseline.rows else _without_grid(policy, reading)


def _without_grid(policy: str, reading: Sequence[LayerInfo]) -> tuple[str, ...]:
    bare = sorted({at for layer in reading for at in _gridless_sources(layer)})
    if len(bare) >= sum(layer.sources for layer in reading):
        raise OptionError(
            f"--out-of-range {policy} does not fit this model: the first layer has no grid",
            code="range-unknown",
            hint="pass rows of your data with --baseline, which then define the range",
        )
    more = f" and {len(bare) - SHOWN} more" if len(bare) > SHOWN else ""
    shown = ", ".join(map(str, bare[:SHOWN]))
    note = f"source {shown}{more} of the first layer has no grid, so it is not checked for values out of range"
    return (note,) if bare else ()


def _gridless_sources(layer: LayerInfo) -> list[int]:
    """The sources without a grid."""
    tables = []
    for basis in layer.bases:
        if basis.knots and not basis.per_edge:
            has_grid = [grids.of_knots(basis.kind, basis.functions, row) is not None for row in basis.knots]
            tables.append(has_grid * layer.sources if len(has_grid) == 1 else has_grid)
    return [at for at in range(layer.sources) if not any(table[at] for table in tables)]
