"""Request of an export: source, destination and options of the user."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.bundle import baseline, calibration, certification, error_bars
from kanexport.bundle.calibration import IntervalOptions
from kanexport.bundle.certification import CertifyOptions
from kanexport.bundle.description import Signature
from kanexport.bundle.error_bars import ErrorBarOptions
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.bundle.publish import MAX_BATCH_SIZE, Result, Target
from kanexport.ccode import generate, wasm
from kanexport.ccode.generate import CodeFiles
from kanexport.errors import OptionError
from kanexport.formats import scaler
from kanexport.ir import scaling
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.lowering.lower import Lowered
from kanexport.options import Options
from kanexport.quantization import options as quantization
from kanexport.quantization.options import NOTHING, QuantizationOptions
from kanexport.shared import custom_ops, naming
from kanexport.shared.naming import UNNAMED, Names
from kanexport.shared.sections import AS_TRAINED, INT8, NO_SCALER, ErrorBars, Scaler, Scalers
from kanexport.verify.graph_runner import Port
from kanexport.verify.tolerances import OUTPUT_TOLERANCE

CODE_ERRORS = {"float32": 0.0, "int16": 5e-4, "int8": quantization.MAX_ERROR[INT8]}  # of the C code, relative
MANY_ROWS = 256  # of a large run: a server cuts those of wide layers into pieces of about so many, or fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Export request: the checkpoint, its destination and options. `name`: if empty, the name of the checkpoint."""

    path: Path
    repository: Path | None  # None: no version is written, only the C code
    name: str = ""
    version: int = 1
    family: str | None = None
    options: tuple[str, ...] = ()  # "key=value"
    symbolic: tuple[str, ...] = ()  # "layer,source,destination=name"
    functions: tuple[str, ...] = ()  # "name=expression in x"
    architecture: Path | None = None  # the architecture file
    dtype: str = "float32"
    max_batch_size: int = MAX_BATCH_SIZE
    tolerance: float = OUTPUT_TOLERANCE
    force: bool = False
    expected_outputs: tuple[Path, ...] = ()  # files with outputs of the trained model, as `parity.data.load` takes them
    names: Names = UNNAMED
    baseline: Path | None = None  # rows of the user's data, as `bundle.baseline.load` takes them
    explain: bool = False  # with a graph that tells how answers came about
    explain_layers: tuple[str, ...] = ()  # whose edges it tells, as `packing.explained.Asked` has them
    out_of_range: str = AS_TRAINED  # handling of such rows, a key of `shared.sections.OUT_OF_RANGE_POLICIES`
    optimize_for_batch: int = 0  # rows per batch; 0: a graph for small batches, and another for large ones if it pays
    kernel: bool | None = None  # with a graph by the operator of `shared.custom_ops`; None: if it is installed and fits
    quantization: QuantizationOptions = NOTHING
    intervals: IntervalOptions = calibration.NO_OPTIONS
    certification: CertifyOptions = certification.NO_OPTIONS
    error_bars: ErrorBarOptions = error_bars.NO_OPTIONS
    code: Path | None = None  # the folder for C code of the network
    wasm: bool = False  # with a WebAssembly module of it
    storage: str = "float32"  # of the coefficients in C, a key of `ccode.integer_tables.STORAGE`
    input_scaler: Path | None = None  # a file that `formats.scaler` reads; rows are then in the user's units
    output_scaler: Path | None = None
    shared: bool = False  # options and architecture are for many files; this one may have no use for them

    def target(self, name: str) -> Target:
        """The destination of the model, with the name `name` if the request has none."""
        return Target(
            repository=self.repository,
            name=self.name or name,
            version=self.version,
            dtype=self.dtype,
            max_batch_size=self.max_batch_size,
            tolerance=self.tolerance,
            force=self.force,
            names=self.names,
            baseline=None if self.baseline is None else baseline.load(self.baseline),
            explain=ExplainOptions(self.explain or bool(self.explain_layers), self.explain_layers),
            out_of_range=self.out_of_range,
            intervals=self.intervals,
            range_of_certificate=self.certification.range_check,
            error_bars=self.error_bars,
        )

    def with_scalers(self, target: Target, signature: Signature) -> tuple[Target, tuple[str, ...]]:
        """The target with the scalers of the request, and notes on their columns. Raises OptionError."""
        names, ports = target.names, signature.ports
        inputs, features, notes = _fitted(self.input_scaler, scaling.INPUTS, names.features, ports.inputs[0], "input")
        outputs, classes, more = _fitted(self.output_scaler, scaling.OUTPUTS, names.classes, ports.outputs[0], "output")
        names = dataclasses.replace(names, features=features, classes=classes)
        return dataclasses.replace(target, names=names, scalers=Scalers(inputs=inputs, outputs=outputs)), notes + more

    def check_batch(self) -> None:
        """Raises OptionError if the batch size to optimize for is out of range."""
        if self.optimize_for_batch and not 1 <= self.optimize_for_batch <= self.max_batch_size:
            raise OptionError(
                f"--optimize-for-batch is {self.optimize_for_batch}, expected 1 to {self.max_batch_size}",
                code="batch-size-out-of-range",
                hint="pass at most the value of --max-batch-size",
            )

    def _writes_kernel(self, kan: Kan) -> bool:
        """Whether a graph by the custom operator is written for the layers that it supports."""
        if self.kernel is not None:
            return self.kernel
        fits = self.dtype == "float32" and self.quantization == NOTHING
        small = lower.coefficient_bytes(kan.layers, self.dtype) <= custom_ops.LARGEST
        return fits and small and bool(custom_ops.library())

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
            raise OptionError(
                f"--kernel needs float32, found --dtype {self.dtype}",
                code="arguments-conflict",
                hint="remove --kernel or --dtype",
            )
        if self.kernel and self.quantization != NOTHING:
            raise OptionError(
                "--kernel cannot be combined with --quantize: the operator computes with float32 weights",
                code="arguments-conflict",
                hint="remove one of the two",
            )

    @property
    def code_tolerance(self) -> float:
        """The allowed relative error of the outputs of the C code."""
        return max(self.tolerance, CODE_ERRORS[self.storage])

    def check_code(self, name: str) -> None:
        """Raises OptionError for C code that does not fit the other options. `name`: of the model."""
        if self.code is None:
            return
        generate.check(self.code, name, self.dtype)
        if self.wasm:
            wasm.check()
        if self.quantization != NOTHING:
            raise OptionError(
                "--c cannot be combined with --quantize, which changes the graphs",
                code="arguments-conflict",
                hint="remove one of the two",
            )

    def check_certificate(self) -> None:
        """Raises OptionError for a certificate that does not fit the other options."""
        certification.check(self.certification, self.dtype, quantized=self.quantization != NOTHING)

    def lower(self, kan: Kan, *, near: Collection[int] = (), curves: Kan | None = None) -> Lowered:
        """The graphs of a network, for the requested batch size. `near` and `curves`: as in `lower.lower`."""
        return lower.lower(
            kan,
            self.dtype,
            rows=self.optimize_for_batch or 1,
            many=0 if self.optimize_for_batch else min(MANY_ROWS, self.max_batch_size),
            kernel=self._writes_kernel(kan),
            kernel_optional=self.kernel is None,
            near=near,
            curves=curves,
        )

    def facts(self, tried: Mapping[str, str] | None = None) -> Options:
        """Facts from the user that the file does not record. `tried`: values that replace defaults. Raises
        OptionError."""
        options = Options.parse(self.options, symbolic=self.symbolic, functions=self.functions, tried=tried)
        options.mixed = self.shared
        return options


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
    manifest = result.manifest
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
        "error_bars": _error_bars(manifest.error_bars),
        "files": {entry.path: entry.size for entry in manifest.files},
        "notes": list(manifest.notes),
        "c": None if result.code is None else _code(result.code),
    }


def _error_bars(section: ErrorBars) -> dict[str, Any] | None:
    """The facts of error bars, without the rows."""
    if not section:
        return None
    facts = {key: value for key, value in dataclasses.asdict(section).items() if key not in ("x", "errors")}
    return {**facts, "stored": len(section.x), "assumption": section.assumption, "contradicted": section.contradicted}


def _code(code: CodeFiles) -> dict[str, Any]:
    return {
        "files": {name: len(data) for name, data in code.files.items()},
        "compiler": code.compiler,
        "zones": [dataclasses.asdict(zone) for zone in code.zones],
        "explain": code.contributes,
        "explained": code.explained,
        "tables": code.code.tables,
        "explain_tables": code.code.explain_tables,
        "stack": dict(code.code.stack),
        "notes": list(code.notes),
    }
