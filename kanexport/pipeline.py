"""Export pipeline: read, lower, verify, pack. A failed verification leaves no files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kanexport.bundle import baseline, certification, description, explain_graph
from kanexport.bundle.description import Signature
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.bundle.publish import Result, Target, VerificationBasis, VerifiedModel, publish
from kanexport.ccode import generate
from kanexport.ccode.generate import CodeFiles
from kanexport.detection import architecture_file, detect
from kanexport.detection.registry import Reader
from kanexport.errors import CheckpointError, DamagedCheckpoint, ExportError, OptionError, VerificationFailed
from kanexport.export_request import CODE_ERRORS
from kanexport.export_request import Request as Request
from kanexport.formats import checkpoint, keras
from kanexport.formats.checkpoint import Checkpoint
from kanexport.graph import builder, precision
from kanexport.ir import archive, clamping, scaling
from kanexport.ir.model import Kan
from kanexport.lowering import kernel_forms, spline_forms
from kanexport.lowering.lower import Lowered
from kanexport.options import Options
from kanexport.parity import compare, data
from kanexport.parity.data import RecordedOutputs
from kanexport.parity.resolve import Interpretation, InterpretationSearch
from kanexport.quantization import quantize
from kanexport.shared import manifest, safe_files
from kanexport.shared.manifest import Manifest, Source
from kanexport.shared.naming import Names
from kanexport.shared.sections import CLAMP, EXACT, Approximation
from kanexport.verify import prover, verify
from kanexport.verify.tolerances import OUTPUT_TOLERANCE
from kanexport.verify.verify import Proof

# Settings of an export that its network file keeps; those that the manifest has are not among them.
SETTINGS = ("dtype", "max_batch_size", "tolerance", "optimize_for_batch", "kernel", "explain_layers")
NETWORK_BYTES = 2**28  # of a network file, at most
ARCHITECTURE = "given with --architecture"

Advance = Callable[[int, int], None]


def export(request: Request, *, advance: Advance = lambda done, total: None) -> Result:
    """Export one checkpoint. `advance(done, total)` receives the progress of the verification.

    Raises ExportError; then nothing in the repository has changed.
    """
    loaded = checkpoint.load(request.path)
    target = request.target(loaded.stem)
    request.check(target)
    kan, source, target, recorded, notes = _read(loaded, request, target, advance)
    del loaded  # the network has copies of its tensors
    return export_network(kan, request, target, source, notes, recorded=recorded, advance=advance)


def export_network(
    kan: Kan,
    request: Request,
    target: Target,
    source: Source,
    notes: tuple[str, ...] = (),
    *,
    recorded: RecordedOutputs | None = None,
    advance: Advance = lambda done, total: None,
) -> Result:
    """Lower, verify and publish a network as it was read. `source`: its origin, for the manifest. Raises ExportError;
    then nothing in the repository has changed."""
    signature = Signature.of_network(kan, request.dtype)
    target.check_names(signature)
    graphs = build_and_verify(kan, request, target, signature, advance)
    network, network_notes = _network_file(kan, request, target)
    model = VerifiedModel(
        lowered=graphs.lowered,
        proof=graphs.proof,
        claim=VerificationBasis(manifest.EDITED if target.edit else manifest.READING)
        if recorded is None
        else compare.network(
            recorded,
            kan,
            graphs.plain,
            graphs.requirements,
            graphs.requirements.tolerance if graphs.approximation.quantize else OUTPUT_TOLERANCE,
        ),
        layers=graphs.layers,
        edge_class=kan.edge_class,
        opset=builder.OPSET,
        signature=signature,
        source=source,
        notes=graphs.kan.notes + notes + graphs.notes + network_notes,
        approximation=graphs.approximation,
        network=network,
        certificate=certification.measure(request.certification, graphs.kan, target.names),
    )
    if request.code is None:
        return publish(target, model)
    code = _code(graphs, target, model, request)
    result = publish(target, model)
    code.write(request.code)
    folder = request.code if request.repository is None else result.directory
    return dataclasses.replace(result, code=code, directory=folder)


def network(request: Request) -> tuple[Kan, Names]:
    """The network of a checkpoint as an export would serve it, with clamped inputs and scalers on request, and its
    names. Raises ExportError."""
    loaded = checkpoint.load(request.path)
    target = request.target(loaded.stem)
    kan, _, target, _, _ = _read(loaded, request, target, lambda done, total: None)
    target.check_names(Signature.of_network(kan, request.dtype))
    return _served(kan, request, target), target.names


def _read(
    loaded: Checkpoint, request: Request, target: Target, advance: Advance
) -> tuple[Kan, Source, Target, RecordedOutputs | None, tuple[str, ...]]:
    """The network of a file, by the interpretation that recorded outputs select, or by the single reader that accepts
    the file; its origin, the target with the scalers of the request, the recorded outputs, and notes. Raises
    ExportError, with a hint that fits the format of the file."""
    recorded = data.load(request.expected_outputs).of_network() if request.expected_outputs else None
    notes: tuple[str, ...] = ()
    try:
        interpretations = _interpretations(loaded, request, several=recorded is not None)
        facts = request.facts()
        if recorded is None:
            options, reason = Options(facts), interpretations[0].reason
            kan, family = interpretations[0].read(options)
        else:
            decision = InterpretationSearch(interpretations, recorded, facts, request.tolerance, advance).decide()
            chosen, notes = decision.reading, decision.notes
            kan, family, options, reason = chosen.kan, chosen.family, chosen.options, interpretations[chosen.at].reason
            options.record_decisions(decision.decided, decision.also)
    except ExportError as error:
        if keras.layers(loaded.beside):
            keras.advise(error)
        raise
    options.finish(family)
    source = Source(
        family=family,
        family_reason=reason,
        dtype=kan.dtype,
        files=loaded.files,
        options_given=options.explicit,
        options_assumed=options.assumed,
        options_decided=options.decided,
        alternatives=options.alternatives(),
    )
    signature = Signature.of_network(kan, request.dtype)
    target.check_names(signature)
    target, scaler_notes = request.with_scalers(target, signature)
    return kan, source, target, recorded, scaler_notes + precision.notes(kan.dtype, request.dtype) + notes


def _network_file(kan: Kan, request: Request, target: Target) -> tuple[bytes | None, tuple[str, ...]]:
    """The archive of a network with the settings of its export, if there is one, and notes."""
    settings = {name: getattr(request, name) for name in SETTINGS}
    facts = settings | {"explain": target.explain.enabled, "quantize": request.quantization.quantize}
    try:
        data = archive.dumps(kan, facts)
    except archive.NotArchivable as error:
        return None, (f"the version has no {manifest.NETWORK_FILE}, which `kanserve edit` reads: {error}",)
    if len(data) > NETWORK_BYTES:
        size = f"{len(data) >> 20} MiB, expected at most {NETWORK_BYTES >> 20}"
        return None, (f"the version has no {manifest.NETWORK_FILE}, which `kanserve edit` reads: it has {size}",)
    return data, ()


@dataclass(frozen=True, slots=True, eq=False)
class Reopened:
    """The network of a version, and what exports it again.

    kan       as it was read, without clamped inputs and scalers
    request   with the settings of the export; `quantization` is not among them
    target    the repository, name, version, names, scalers and policy of the version
    quantize  the method of the export, or empty
    """

    kan: Kan
    request: Request
    target: Target
    manifest: Manifest
    quantize: str

    @property
    def served(self) -> Kan:
        """The network with clamped inputs and scalers, as the graphs compute it."""
        return self.served_like(self.kan)

    def served_like(self, kan: Kan) -> Kan:
        """Another network, such as the edited one, with the same clamped inputs and scalers."""
        return _served(kan, self.request, self.target)


def reopen(folder: Path) -> Reopened:
    """The network of a version in a model repository. Raises CheckpointError and RepositoryError."""
    try:
        about = manifest.load(folder)
        entry = next((file for file in about.files if file.path == manifest.NETWORK_FILE), None)
        if entry is None:
            raise CheckpointError(
                f"{folder} has no {manifest.NETWORK_FILE}: it is an exported PyTorch module, or an earlier release "
                "exported it",
                code="network-file-missing",
                hint="export the checkpoint of the network again with this version of kanserve",
            )
        data = safe_files.read(folder / manifest.NETWORK_FILE, NETWORK_BYTES, expected=entry.size)
    except (OSError, manifest.ManifestError) as error:
        raise CheckpointError(
            f"{folder} is not a readable version of a model: {error}",
            code="version-unreadable",
            hint="pass the folder of a version, such as models/hello/1",
        ) from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CheckpointError(
            f"{folder / manifest.NETWORK_FILE} differs from the file that the manifest lists",
            code="file-hash-differs",
            hint="copy the version again",
        )
    kan, facts = archive.loads(data)
    try:
        settings = {name: facts[name] for name in SETTINGS}
        quantize, explain = str(facts["quantize"]), bool(facts["explain"])
        layers = settings["explain_layers"] = tuple(settings["explain_layers"])
    except (KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{folder / manifest.NETWORK_FILE} has no setting {error}") from error
    request = Request(
        path=folder,
        repository=folder.absolute().parents[1],
        name=about.name,
        version=about.version,
        names=about.names,
        explain=explain,
        out_of_range=about.out_of_range,
        **settings,
    )
    target = dataclasses.replace(request.target(about.name), scalers=about.scalers)
    return Reopened(kan, request, dataclasses.replace(target, explain=ExplainOptions(explain, layers)), about, quantize)


def _served(kan: Kan, request: Request, target: Target) -> Kan:
    """The network with clamped inputs and scalers, if the user requests them. Raises OptionError."""
    served = clamping.clamped(kan) if request.out_of_range == CLAMP else kan
    return scaling.scaled(served, target.scalers, request.dtype)


def _code(graphs: Graphs, target: Target, model: VerifiedModel, request: Request) -> CodeFiles:
    """C code of the network, verified if there is a compiler. Raises InvalidKan and VerificationFailed."""
    facts = generate.Facts(
        name=target.name,
        version=target.version,
        family=model.source.family,
        files=model.source.files,
        names=target.names,
        tolerance=max(request.tolerance, CODE_ERRORS[request.storage]),
        storage=request.storage,
        scalers=target.scalers,
        mean=() if target.baseline is None else baseline.mean(target.baseline, model.signature, target.names),
    )
    return generate.generate(graphs.kan, graphs.lowered, graphs.layers, facts, with_module=request.wasm)


def _interpretations(loaded: Checkpoint, request: Request, *, several: bool) -> list[Interpretation]:
    """Interpretations of the file: by the architecture file, or by the readers that accept it; more than one only if
    `several`. Raises ExportError if no reader accepts the file, or more than one and not `several`."""
    if request.architecture is not None:
        if request.family is not None:
            raise OptionError(
                "--family cannot be combined with --architecture",
                code="arguments-conflict",
                hint="remove --family, and write family = ... into the steps of the architecture file",
            )
        steps = architecture_file.load(request.architecture)
        if not request.shared or architecture_file.matches(loaded, steps):
            return [Interpretation(ARCHITECTURE, functools.partial(architecture_file.assemble, loaded, steps))]
    fitting = detect.readings(loaded, request.family) if several else [detect.detect(loaded, request.family)]
    return [Interpretation(reason, functools.partial(_by_reader, reader, loaded)) for reader, reason in fitting]


def _by_reader(reader: Reader, loaded: Checkpoint, options: Options) -> tuple[Kan, str]:
    return detect.read(reader, loaded, options), reader.FAMILY


@dataclass(frozen=True, slots=True, eq=False)
class Graphs:
    """Graphs of a network and their verification.

    plain         those of the network as it was read: `kan` also clamps its inputs and applies scalers, on request
    requirements  the target with the tolerance for recorded outputs of the trained model
    notes         on their layout
    """

    kan: Kan
    lowered: Lowered
    proof: Proof
    plain: Lowered
    requirements: Target
    layers: tuple[manifest.LayerInfo, ...]
    approximation: Approximation = EXACT
    notes: tuple[str, ...] = ()


def build_and_verify(kan: Kan, request: Request, target: Target, signature: Signature, advance: Advance) -> Graphs:
    """Build the graphs of a network and verify them. Raises VerificationFailed, InvalidKan and OptionError."""
    served = _served(kan, request, target)
    make = _build_quantized if request.quantization.quantize else _build_exact
    graphs = make(kan, served, request, target, signature, advance)
    layers, many = graphs.kan.layers, graphs.lowered.many
    rows, file = (request.optimize_for_batch or 1, "") if many is None else (many.rows, manifest.MANY_FILE)
    notes = spline_forms.form_notes(layers, rows, file)
    notes += kernel_forms.notes(layers, request.dtype, requested=bool(request.kernel))
    return dataclasses.replace(graphs, notes=notes + graphs.notes)


def _build_exact(
    kan: Kan, served: Kan, request: Request, target: Target, signature: Signature, advance: Advance
) -> Graphs:
    """The graphs with as many near-uniform layers in closed form as pass the verification within the plain
    tolerance."""
    away = spline_forms.uniform_layers(served, request.dtype)
    refused: tuple[str, ...] = ()
    for near in spline_forms.choices(away):
        try:
            graphs = _build_and_prove(kan, served, request, target, signature, near, advance)
        except VerificationFailed as failed:
            if not near:
                raise
            why = failed.message
        else:
            why = "" if not near else verify.near_knot_excess(graphs.proof.verification)
            if not why:
                return dataclasses.replace(
                    graphs, notes=refused + verify.near_knot_notes(away, near, graphs.proof.verification)
                )
        refused += verify.near_knot_rejection(away, near, why)
    raise AssertionError("the last choice passes the verification or raises")


def _build_and_prove(
    kan: Kan,
    served: Kan,
    request: Request,
    target: Target,
    signature: Signature,
    near: tuple[int, ...],
    advance: Advance,
) -> Graphs:
    """`kan` as it was read and as it is `served`, with the layers `near` in closed form. Raises VerificationFailed."""
    plain = lowered = request.lower(kan, near=near)
    if served is not kan:
        lowered = request.lower(served, near=near)
    if request.out_of_range == CLAMP:
        # Scalers round, so that they are left out of both graphs, which are compared bit by bit.
        clamped = clamping.clamped(kan)
        graphs = request.lower(clamped, near=near) if target.scalers else lowered
        prover.verify_clamping(clamped.layers[0], kan.n_inputs, plain, graphs, request.dtype)
    layers = description.layers(served, lowered.node_tensors)
    mean = () if target.baseline is None else baseline.mean(target.baseline, signature, target.names)
    against = explain_graph.attribution_baseline(target.explain, served, mean)
    lowered = explain_graph.add(target.explain, lowered, layers, signature, target.names, against)
    proof = verify.verify(served, lowered, request.dtype, tolerance=request.tolerance, advance=advance)
    if not proof.verification.kernel:  # it failed, and the export continues without it
        lowered = dataclasses.replace(lowered, kernel=None, kernel_edges={})
    return Graphs(served, lowered, proof, plain, target, layers)


def _build_quantized(
    kan: Kan, adjusted: Kan, request: Request, target: Target, signature: Signature, advance: Advance
) -> Graphs:
    """The quantized graphs and their verification. Recorded outputs of the trained model are compared with them,
    too."""
    rows = request.quantization.rows or target.baseline
    quantization = dataclasses.replace(request.quantization, rows=rows)
    network = quantize.rounded(adjusted, quantization, signature.inputs(), target.names)
    plain = lowered = request.lower(network.served, curves=network.curves)
    if adjusted is not kan:
        served, curves = network.like(kan)
        plain = request.lower(served, curves=curves)
    proof, approximation = network.verified(lowered, quantization, request.tolerance, advance)
    requirements = dataclasses.replace(target, tolerance=max(target.tolerance, quantization.bound))
    layers = description.layers(adjusted, lowered.node_tensors)
    return Graphs(adjusted, lowered, proof, plain, requirements, layers, approximation)
