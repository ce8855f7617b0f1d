"""Request of an export: source, destination and options of the user."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.bundle import baseline, certification
from kanexport.bundle.certification import CertifyOptions
from kanexport.bundle.description import Signature
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.bundle.publish import Destination, Result, Target
from kanexport.ccode import generate, wasm
from kanexport.errors import OptionError, arguments_conflict
from kanexport.formats import scaler
from kanexport.ir import scaling
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.lowering.lower import Lowered
from kanexport.options import KnownFacts
from kanexport.quantization import quantize
from kanexport.quantization.quantize import NOTHING, QuantizationOptions
from kanexport.shared import custom_ops, naming
from kanexport.shared.sections import INT8, NO_SCALER, Scaler, Scalers
from kanexport.verify.graph_runner import Port

CODE_ERRORS = {"float32": 0.0, "int16": 5e-4, "int8": quantize.MAX_ERROR[INT8]}  # of the C code, relative
MANY_ROWS = 256  # of a large run: a server cuts those of wide layers into pieces of about so many, or fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Destination):
    """Export request: the checkpoint, its destination and options. `name`: if empty, the name of the checkpoint.
    `repository`: None writes only C code."""

    path: Path
    name: str = ""
    family: str | None = None
    options: tuple[str, ...] = ()  # "key=value"
    symbolic: tuple[str, ...] = ()  # "layer,source,destination=name"
    functions: tuple[str, ...] = ()  # "name=expression in x"
    architecture: Path | None = None  # the architecture file
    expected_outputs: tuple[Path, ...] = ()  # files with outputs of the trained model, as `parity.data.load` takes them
    baseline: Path | None = None  # rows of the user's data, as `bundle.baseline.load` takes them
    explain: bool = False  # with a graph that explains outputs
    explain_layers: tuple[str, ...] = ()  # those with edges in it, as `bundle.explain_graph.ExplainOptions` has them
    optimize_for_batch: int = 0  # rows per batch; 0: a graph for small batches, and another for large ones if it pays
    kernel: bool | None = None  # with a graph by the operator of `shared.custom_ops`; None: if it is installed and fits
    quantization: QuantizationOptions = NOTHING
    certification: CertifyOptions = certification.NO_OPTIONS
    code: Path | None = None  # the folder for C code of the network
    wasm: bool = False  # with a WebAssembly module of it
    storage: str = "float32"  # of the coefficients in C, a key of `ccode.integer_tables.STORAGE`
    input_scaler: Path | None = None  # a file that `formats.scaler` reads; rows are then in the user's units
    output_scaler: Path | None = None
    shared: bool = False  # options and architecture are for many files; this one may have no use for them

    def target(self, name: str) -> Target:
        """The destination of the model, with the name `name` if the request has none."""
        destination = {field.name: getattr(self, field.name) for field in dataclasses.fields(Destination)}
        return Target(
            **destination | {"name": self.name or name},
            baseline=None if self.baseline is None else baseline.load(self.baseline),
            explain=ExplainOptions(self.explain or bool(self.explain_layers), self.explain_layers),
            range_of_certificate=self.certification.range_check,
        )

    def with_scalers(self, target: Target, signature: Signature) -> tuple[Target, tuple[str, ...]]:
        """The target with the scalers of the request, and notes on their columns. Raises OptionError."""
        names, ports = target.names, signature.ports
        inputs, features, notes = _fitted(self.input_scaler, scaling.INPUTS, names.features, ports.inputs[0], "input")
        outputs, classes, more = _fitted(self.output_scaler, scaling.OUTPUTS, names.classes, ports.outputs[0], "output")
        names = dataclasses.replace(names, features=features, classes=classes)
        return dataclasses.replace(target, names=names, scalers=Scalers(inputs=inputs, outputs=outputs)), notes + more

    def check_kernel(self) -> None:
        """Raises OptionError for a kernel graph that this machine cannot verify, or that does not fit the other
        options."""
        if self.kernel and not custom_ops.library():
            raise OptionError(
                "--kernel needs the package kanserve-kernel, which is not installed for this machine",
                code="kernel-not-installed",
                hint=custom_ops.HOW_TO_INSTALL,
            )
        if self.kernel and self.dtype != "float32":
            raise arguments_conflict(
                f"--kernel needs float32, found --dtype {self.dtype}", hint="remove --kernel or --dtype"
            )
        if self.kernel and self.quantization != NOTHING:
            raise arguments_conflict(
                "--kernel cannot be combined with --quantize: the operator computes with float32 weights"
            )

    def check(self, target: Target) -> None:
        """Raises OptionError for options that do not fit each other, or the target."""
        target.check()
        if self.optimize_for_batch and not 1 <= self.optimize_for_batch <= self.max_batch_size:
            raise OptionError(
                f"--optimize-for-batch is {self.optimize_for_batch}, expected 1 to {self.max_batch_size}",
                code="batch-size-out-of-range",
                hint="pass at most the value of --max-batch-size",
            )
        self.check_kernel()
        if self.code is not None:
            generate.check(self.code, target.name, self.dtype)
            if self.wasm:
                wasm.check()
            if self.quantization != NOTHING:
                raise arguments_conflict("--c cannot be combined with --quantize, which changes the graphs")
        certification.check(self.certification, self.dtype, quantized=self.quantization != NOTHING)
        self.quantization.check(self.dtype, explain=target.explain.enabled)

    def lower(self, kan: Kan, *, near: Collection[int] = (), curves: Kan | None = None) -> Lowered:
        """The graphs of a network, for the requested batch size. `near` and `curves`: as in `lower.lower`."""
        kernel = self.kernel
        if kernel is None:
            fits = self.dtype == "float32" and self.quantization == NOTHING
            small = lower.coefficient_bytes(kan.layers, self.dtype) <= custom_ops.LARGEST
            kernel = fits and small and bool(custom_ops.library())
        return lower.lower(
            kan,
            self.dtype,
            rows=self.optimize_for_batch or 1,
            many=0 if self.optimize_for_batch else min(MANY_ROWS, self.max_batch_size),
            kernel=kernel,
            kernel_optional=self.kernel is None,
            near=near,
            curves=curves,
        )

    def facts(self) -> KnownFacts:
        """Facts from the user that the file does not record. Raises OptionError."""
        return KnownFacts.parse(self.options, symbolic=self.symbolic, functions=self.functions, shared=self.shared)


def _fitted(
    path: Path | None, option: str, names: tuple[str, ...], port: Port, what: str
) -> tuple[Scaler, tuple[str, ...], tuple[str, ...]]:
    """The scaler of one side, the names of its columns, and notes. `names`: empty if the user gave none; the columns of
    the file then name them. Raises OptionError."""
    if path is None:
        return NO_SCALER, names, ()
    file = scaler.load(path, option)
    fitted, notes = file.fitted(names, port.size, what)
    if not file.columns or names:
        return fitted, names, notes
    return fitted, file.columns, (f"the columns of {path.name} name the {what}s: {naming.listed(file.columns)}",)


def document(result: Result) -> dict[str, Any]:
    """The document that `--json` prints for one export."""
    manifest, bars, code = result.manifest, result.manifest.error_bars, result.code
    bar_facts = dataclasses.asdict(bars)
    del bar_facts["x"], bar_facts["errors"]
    bar_facts |= {"stored": len(bars.x), "assumption": bars.assumption, "contradicted": bars.contradicted}
    return {
        "name": manifest.name,
        "version": manifest.version,
        "directory": str(result.directory),
        "family": manifest.source.family,
        "family_reason": manifest.source.family_reason,
        "dtype": manifest.source.dtype,
        "widths": list(manifest.widths),
        "edge_class": manifest.edge_class,
        "verified": manifest.claim,
        "out_of_range": manifest.out_of_range,
        "approximation": dataclasses.asdict(manifest.approximation),
        "scalers": dataclasses.asdict(manifest.scalers),
        "options": {
            "given": manifest.source.options_given,
            "assumed": manifest.source.options_assumed,
            "decided": manifest.source.options_decided,
            "alternatives": manifest.source.alternatives,
        },
        "verification": dataclasses.asdict(manifest.verification),
        "variants": [dataclasses.asdict(variant) for variant in manifest.variants],
        "explanations": dataclasses.asdict(manifest.explanations),
        "intervals": dataclasses.asdict(manifest.intervals) if manifest.intervals.method else None,
        "certificate": dataclasses.asdict(manifest.certificate) if manifest.certificate else None,
        "error_bars": bar_facts if bars else None,
        "files": {entry.path: entry.size for entry in manifest.files},
        "notes": list(manifest.notes),
        "c": None
        if code is None
        else {
            "files": {name: len(data) for name, data in code.files.items()},
            "compiler": code.compiler,
            "zones": [dataclasses.asdict(zone) for zone in code.zones],
            "explain": code.contributes,
            "explained": code.explained,
            "tables": code.code.tables,
            "explain_tables": code.code.explain_tables,
            "stack": dict(code.code.stack),
            "notes": list(code.notes),
        },
    }
