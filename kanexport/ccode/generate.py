"""C code of an exported network: generated, compiled if the machine has a compiler, and verified like the graphs.

The code computes graphs that the exporter verifies, with one row: the serving graph in the form with the custom
operator, the edges of each layer, and the graph of contributions. Constants that several of them have are one table in
C.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kanexport.ccode import compiled, integer_tables, operators, source, wasm
from kanexport.ccode.compiled import Program
from kanexport.ccode.nodes import FLOAT, Given, Node, transposed
from kanexport.ccode.source import Code
from kanexport.errors import OptionError, RepositoryError
from kanexport.graph.external_data import Weights
from kanexport.graph.opened import opened
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.lowering.attribution import Anchor, contributions_graph
from kanexport.lowering.lower import EDGES, INPUT, OUTPUT, Lowered
from kanexport.shared import atomic, custom_ops, grids
from kanexport.shared.manifest import LayerInfo, SourceFile, Zone
from kanexport.shared.naming import Names
from kanexport.shared.sections import CONTRIBUTIONS, UNSCALED, Scalers
from kanexport.shared.wasm_module import ModuleFacts
from kanexport.verify import attribution, verify
from kanexport.verify.attribution import ExplainedProver, NoContributions
from kanexport.verify.prover import Prover, Subject
from kanexport.verify.test_points import EDGE_BUDGET

Array = npt.NDArray[np.float64]

LISTED = 40  # inputs and outputs that a comment names
DRAWS = 16  # times the rows of the verification, for rounded coefficients
DTYPE = "float32"
MEAN, CENTER, ZEROS = "mean of the baseline rows", "middle of each input's grid", "zeros"
NOT_COMPILED = "not compiled: no C compiler is installed (CC, cc, gcc, clang)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts for the comments of the files, and the tolerance of the outputs. `mean`: of the baseline
    rows, if there are any. `storage`: of the coefficients of splines, a key of `integer_tables.STORAGE`. `scalers`: the
    network applies them."""

    name: str
    version: int
    family: str
    files: Sequence[SourceFile]
    names: Names
    tolerance: float
    mean: Sequence[float] = ()
    storage: str = "float32"
    scalers: Scalers = UNSCALED


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFiles:
    """Generated and verified C code.

    files        contents by name
    code         the code, with its sizes
    compiler     the command of the compiler, or "" if the code was not compiled
    zones        errors of outputs and contributions against float64, by region
    explained    the reference row of the contributions, or the reason for their absence
    contributes  whether there is that function
    notes        on relaxed tolerances
    """

    files: Mapping[str, bytes]
    code: Code
    compiler: str
    zones: tuple[Zone, ...]
    explained: str
    contributes: bool
    notes: tuple[str, ...] = ()

    @property
    def verified(self) -> str:
        """A sentence on the verification."""
        if not self.compiler:
            return NOT_COMPILED
        worst = max(zone.outputs_max_rel for zone in self.zones)
        return f"compiled by {self.compiler}; largest relative error of outputs and contributions {worst:.1e}"

    def write(self, directory: Path) -> None:
        """Write the files to a folder, which may not exist. Raises RepositoryError."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name, data in self.files.items():
                atomic.write(directory / name, data)
        except OSError as error:
            raise RepositoryError(
                f"{directory} cannot be written: {error.strerror}",
                code="c-folder-not-writable",
                hint="name another folder with --c DIR",
            ) from error


def check(directory: Path, name: str, dtype: str) -> None:
    """Reject early what would fail late. Raises OptionError."""
    source.check_name(name)
    if dtype != "float32":
        raise OptionError(
            f"--c needs float32, found --dtype {dtype}", code="arguments-conflict", hint="remove --c or --dtype"
        )
    if directory.exists() and not directory.is_dir():
        raise OptionError(
            f"--c {directory} is a file, expected a folder", code="c-folder-invalid", hint="name a folder with --c DIR"
        )


def generate(
    kan: Kan, lowered: Lowered, layers: Sequence[LayerInfo], facts: Facts, *, with_module: bool = False
) -> CodeFiles:
    """C code of a network, verified if there is a compiler. `with_module`: also as a WebAssembly module. Raises
    InvalidKan for an operator without C, OptionError without the compiler of the module, and VerificationFailed if the
    code differs from the float64 evaluation."""
    chosen, row = reference(layers, kan.n_inputs, facts.mean)
    anchor: Anchor | None = None
    own: Anchor | None = None  # with the coefficients of the code: then differences from the reference are consistent
    try:
        anchor, own = (attribution.anchor(part, row) for part in (kan, integer_tables.rounded(kan, facts.storage)))
        explained = chosen
    except NoContributions as error:
        explained = str(error)
    predict, explain = network(kan, lowered.node_tensors, own)
    model = source.Model(
        name=facts.name,
        inputs=kan.n_inputs,
        outputs=kan.n_outputs,
        predict=predict,
        explain=explain,
        base=() if own is None else own.base.tolist(),
        about=_about(kan, facts),
        storage=facts.storage,
        usage=[*_tensors(kan, facts.names), "", *_usage(facts.name, explained, row, contributes=anchor is not None)],
    )
    code = source.write(model)
    command, zones, notes = _verified(kan, lowered, anchor, code, facts)
    files = {f"{facts.name}.c": code.text.encode(), f"{facts.name}.h": code.header.encode()}
    if with_module:
        files[f"{facts.name}.wasm"] = wasm.module(code, _module_facts(model, facts, explained, row))
    return CodeFiles(
        files=files,
        code=code,
        compiler=command,
        zones=zones,
        explained=explained,
        contributes=anchor is not None,
        notes=notes,
    )


def network(kan: Kan, node_tensors: Sequence[str], anchor: Anchor | None) -> tuple[Node, Node | None]:
    """The nodes of the outputs [1, m] and, with an anchor, of the contributions [1, m, n]. Raises InvalidKan for an
    operator without C."""
    weights = Weights()
    graph = opened(lower.serving_graph(kan, tuple(node_tensors), DTYPE, weights, custom=(custom_ops.SPLINES,)), weights)
    row = Given((1, kan.n_inputs), FLOAT, INPUT)
    values = operators.nodes(graph, {INPUT: row})
    if anchor is None:
        return values[OUTPUT], None
    edges: dict[str, Node] = {}
    for at, (layer, name, width) in enumerate(zip(kan.layers, node_tensors, kan.widths(), strict=False)):
        of_edges = opened(lower.edge_graph(layer, name, width, DTYPE, weights, kernel=True), weights)
        edges[f"{EDGES}{at}"] = operators.nodes(of_edges, {name: values[name]})[EDGES]
    last = opened(contributions_graph(anchor, list(edges), DTYPE))
    contributions = operators.nodes(last, edges)[CONTRIBUTIONS]
    return values[OUTPUT], transposed(contributions, (0, 2, 1))


def reference(layers: Sequence[LayerInfo], width: int, mean: Sequence[float]) -> tuple[str, Array]:
    """The name and the row of the reference that `kanserve explain` has by default: the mean of the baseline rows, the
    middle of each input's grid, or zeros if an input has no grid."""
    if mean:
        return MEAN, np.array(mean)
    middle, sources = np.zeros(width), grids.sources(layers[0])
    if sources is None:
        return ZEROS, middle
    for at, unit in enumerate(sources):
        knots = unit.in_node_units(_knots(layers[0], at))
        if not knots:
            return ZEROS, np.zeros(width)
        middle[unit.node] = (min(knots) + max(knots)) / 2
    return CENTER, middle


def _knots(layer: LayerInfo, source: int) -> tuple[float, ...]:
    """The finite knots of a source."""
    rows = [basis.knots for basis in layer.bases if basis.knots and not (basis.pre_steps or basis.per_edge)]
    return tuple(knot for row in rows for knot in row[source if len(row) > 1 else 0] if np.isfinite(knot))


def _module_facts(model: source.Model, facts: Facts, explained: str, row: Array) -> ModuleFacts:
    return ModuleFacts(
        name=facts.name,
        version=facts.version,
        inputs=model.inputs,
        outputs=model.outputs,
        sources={file.name: file.sha256 for file in facts.files},
        base=tuple(model.base),
        reference=tuple(row.tolist()),
        explained=explained,
        tolerance=facts.tolerance,
    )


def _verified(
    kan: Kan, lowered: Lowered, anchor: Anchor | None, code: Code, facts: Facts
) -> tuple[str, tuple[Zone, ...], tuple[str, ...]]:
    command = compiled.compiler()
    if not command:
        return "", (), ()
    with compiled.program(code, kan.n_inputs, kan.n_outputs, command) as program:

        def prover(subject: Subject) -> CodeProver:
            return CodeProver(subject, lowered, anchor, program, facts.tolerance)

        draws = 1 if facts.storage == "float32" else DRAWS
        hint = "; or use larger --c-tables"
        zones, notes = verify.verify_other(kan, prover, f"{code.name}.c", hint=hint, draws=draws)
        return program.command, zones, notes


class CodeProver(ExplainedProver):
    """Prover of a compiled program: its outputs and, with an anchor, its contributions."""

    def __init__(
        self, subject: Subject, lowered: Lowered, anchor: Anchor | None, program: Program, tolerance: float
    ) -> None:
        bare = Lowered(lowered.model, (), lowered.node_tensors, lowered.weights, optimization=lowered.optimization)
        Prover.__init__(self, subject, bare, "float32", tolerance)
        self._anchor, self._program = anchor, program
        numbers = sum(layer.mask.size for layer in subject.layers) if anchor is not None else 1
        self.rows = max(2, EDGE_BUDGET // numbers)

    def run(self, x: Array) -> dict[str, Array]:
        """Outputs and contributions of the program, and its inputs, as float64."""
        y, contributions = self._program.run(x.astype(np.float32))
        result: dict[str, Array] = {INPUT: x, OUTPUT: y.astype(np.float64)}
        if contributions is not None:
            result[CONTRIBUTIONS] = contributions.transpose(0, 2, 1).astype(np.float64)
        return result

    def zone(self, name: str, x: Array) -> None:
        """Outputs and contributions for rows x [B, n]. If there are too many rows, an even selection."""
        x = self.fewer(x)
        errors, trace, outputs, keep, shaken = self.outputs(name, x)
        if self._anchor is not None:
            self.compare_contributions(errors, x, trace, outputs, keep, shaken)

    def batches(self, x: Array, *, empty: bool) -> None:
        """One row by itself."""
        self.zone("single", x[:1])


def _about(kan: Kan, facts: Facts) -> list[str]:
    scalers = " and ".join(scaler.name for scaler in (facts.scalers.inputs, facts.scalers.outputs) if scaler)
    lines = [
        f"{facts.name}, version {facts.version}: {facts.names.description or 'Kolmogorov-Arnold network'}",
        "",
        f"Library  {facts.family}, {' -> '.join(map(str, kan.widths()))}",
        *(f"Source   {file.name}, sha256 {file.sha256}" for file in facts.files),
        *([f"Units    the code applies the scalers {scalers}: values are not scaled"] if scalers else []),
        f"Written  by kanserve {importlib.metadata.version('kanserve')}; do not edit",
        f"Target   error of at most {facts.tolerance:g} of the largest output, against the checkpoint in float64",
    ]
    return [plain(line) for line in lines]


def _tensors(kan: Kan, names: Names) -> list[str]:
    """The names of the inputs, with units, and of the outputs."""
    units = (*names.units, *[""] * kan.n_inputs)
    inputs = [names.feature(at) + (f" [{units[at]}]" if units[at] else "") for at in range(kan.n_inputs)]
    outputs = [names.output(at) for at in range(kan.n_outputs)]
    lines = []
    for what, listed in (("x", inputs), ("y", outputs)):
        lines += [f"{what}[{at}]  {name}" for at, name in enumerate(listed[:LISTED])]
        if len(listed) > LISTED:
            lines.append(f"... and {len(listed) - LISTED} more")
    return [plain(line) for line in lines]


def _usage(name: str, explained: str, row: Array, *, contributes: bool) -> list[str]:
    upper = name.upper()
    lines = [
        "The functions keep no state: threads and interrupts can call them at the same time. They do not allocate",
        "memory. x and the result must not overlap. A compiler option that ignores NaN, such as -ffast-math, changes",
        "the results for values that are not finite.",
        "",
        f"    float x[{upper}_INPUTS] = {{0}}, y[{upper}_OUTPUTS];",
        f"    {name}_predict(x, y);",
    ]
    if not contributes:
        return [*lines, "", plain(f"The code has no function for contributions: {explained}.")]
    shown = ", ".join(f"{value:.6g}" for value in row[:LISTED]) + (", ..." if len(row) > LISTED else "")
    return [
        *lines,
        "",
        f"    float contributions[{upper}_OUTPUTS * {upper}_INPUTS];",
        f"    {name}_explain(x, contributions);",
        "",
        f"{name}_base[o] and the contributions of all inputs add up to y[o].",
        plain(f"Reference row: {explained} ({shown})"),
        f"Define {upper}_NO_EXPLAIN to compile only {name}_predict.",
    ]


def plain(text: str) -> str:
    """Text that cannot end a C comment or change how it is read."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text)
    return shown.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")
