"""The page: read, lower, verify, pack. Nothing is kept unless the proof holds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kanexport.answers import held, rows
from kanexport.answers.decide import Search, Way
from kanexport.answers.rows import Answers
from kanexport.approximate import export as fewer
from kanexport.approximate.asked import NOTHING, Fewer
from kanexport.errors import OptionError
from kanexport.files import checkpoint
from kanexport.files.checkpoint import Checkpoint
from kanexport.form import clamp
from kanexport.form.ir import Kan
from kanexport.lowering import cost, lower, splines
from kanexport.lowering.lower import Lowered
from kanexport.manifest import MANY_FILE, READING, LayerInfo, Source
from kanexport.operators import graph, precision
from kanexport.options import Options
from kanexport.packing import baseline, describe, explained
from kanexport.packing.explained import Asked
from kanexport.packing.publish import MAX_BATCH_SIZE, Claim, ProvedModel, Result, Target, publish
from kanexport.packing.signature import Signature
from kanexport.proof import kept, verify
from kanexport.proof.tolerance import OUTPUT_TOLERANCE
from kanexport.proof.verify import Proof
from kanexport.recognise import assemble, detect, steplist
from kanexport.recognise.registry import Reader
from kanexport.shared import kernel
from kanexport.shared.approximation import EXACT, Approximation
from kanexport.shared.naming import UNNAMED, Names
from kanexport.shared.outside import AS_TRAINED, CLAMP

ARCHITECTURE = "given with --architecture"
MANY_ROWS = 256  # of a large run: a server cuts those of wide layers into pieces of about so many, or fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to export and where to. `name`: empty takes the checkpoint's own."""

    path: Path
    repository: Path
    name: str = ""
    version: int = 1
    family: str | None = None
    options: tuple[str, ...] = ()  # "key=value"
    symbolic: tuple[str, ...] = ()  # "layer,source,destination=name"
    functions: tuple[str, ...] = ()  # "name=expression in x"
    architecture: Path | None = None  # the user's own list of steps
    dtype: str = "float32"
    max_batch_size: int = MAX_BATCH_SIZE
    tolerance: float = OUTPUT_TOLERANCE
    force: bool = False
    answers: tuple[Path, ...] = ()  # files with what the trained model answered, as `answers.rows.load` takes them
    names: Names = UNNAMED
    reference: Path | None = None  # rows of the user's data, as `packing.baseline.load` takes them
    explain: bool = False  # with a graph that tells how answers came about
    explain_layers: tuple[str, ...] = ()  # whose edges it tells, as `packing.explained.Asked` has them
    outside: str = AS_TRAINED  # what becomes of rows outside, a key of `shared.outside.POLICIES`
    rows: int = 0  # of the runs that the graph shall be fast in; 0: of few, and where it pays another graph for many
    kernel: bool = False  # with a graph by the operator of `shared.kernel`
    fewer: Fewer = NOTHING  # bits, and what that may cost
    shared: bool = False  # options and architecture are for many files; this one may have no use for them

    def target(self, name: str) -> Target:
        """Where the model goes, called `name` if the request has none."""
        return Target(
            repository=self.repository,
            name=self.name or name,
            version=self.version,
            dtype=self.dtype,
            max_batch_size=self.max_batch_size,
            tolerance=self.tolerance,
            force=self.force,
            names=self.names,
            reference=None if self.reference is None else baseline.load(self.reference),
            explain=Asked(self.explain or bool(self.explain_layers), self.explain_layers),
            outside=self.outside,
        )

    def check_rows(self) -> None:
        """Raises OptionError where no run can have so many."""
        if self.rows and not 1 <= self.rows <= self.max_batch_size:
            raise OptionError(f"rows of a run are {self.rows}, expected 1 to max batch size, {self.max_batch_size}")

    def check_kernel(self) -> None:
        """Raises OptionError where a graph is asked for that nothing here could prove."""
        if self.kernel and not kernel.library():
            raise OptionError(
                "--kernel needs the package kanserve-kernel, which is not installed, or not for this machine",
                hint=kernel.HOW_TO_INSTALL,
            )
        if self.kernel and self.dtype != "float32":
            raise OptionError(f"--kernel is for float32, the graph is {self.dtype}")
        if self.kernel and self.fewer != NOTHING:
            raise OptionError("--kernel computes with whole weights, and goes with neither --weights nor --precision")

    def lower(self, kan: Kan, curves: Kan | None = None) -> Lowered:
        """The graphs of a network, for runs of as many rows as it says; `curves`: as of `lower.lower`."""
        return lower.lower(
            kan,
            self.dtype,
            rows=self.rows or 1,
            many=0 if self.rows else min(MANY_ROWS, self.max_batch_size),
            kernel=self.kernel,
            curves=curves,
        )

    def facts(self, tried: Mapping[str, str] | None = None) -> Options:
        """What the user says that no file holds, and what is `tried` in its place. Raises OptionError."""
        options = Options.parse(self.options, symbolic=self.symbolic, functions=self.functions, tried=tried)
        options.mixed = self.shared
        return options


def export(request: Request, *, advance: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Export one checkpoint. `advance(done, total)` follows the verification.

    Raises ExportError; then nothing in the repository has changed.
    """
    loaded = checkpoint.load(request.path)
    target = request.target(loaded.stem)
    target.check()
    request.check_rows()
    request.check_kernel()
    request.fewer.check(request.dtype, explain=target.explain.wanted)
    answers = rows.load(request.answers) if request.answers else None
    found = _read(loaded, request, answers, advance)
    kan, options, files = found.kan, found.options, loaded.files
    del loaded  # the network has copies of its tensors
    options.finish(found.family, shared=request.shared)
    signature = Signature.of_network(kan, request.dtype)
    target.check_names(signature)
    graphs = _graphs(kan, request, target, signature, advance)
    source = Source(
        family=found.family,
        family_reason=found.reason,
        dtype=kan.dtype,
        files=files,
        options_given=options.given,
        options_assumed=options.assumed,
        options_decided=options.decided,
        alternatives=options.alternatives(),
    )
    model = ProvedModel(
        lowered=graphs.lowered,
        proof=graphs.proof,
        claim=Claim(READING) if answers is None else held.network(answers, kan, graphs.plain, graphs.held),
        layers=graphs.layers,
        edge_class=kan.edge_class,
        opset=graph.OPSET,
        signature=signature,
        source=source,
        notes=graphs.kan.notes
        + precision.notes(kan.dtype, request.dtype)
        + _of_rows(graphs, request.rows)
        + splines.notes(graphs.kan.layers, request.dtype, asked=request.kernel),
        approximation=graphs.approximation,
    )
    return publish(target, model)


def _of_rows(graphs: _Graphs, rows: int) -> tuple[str, ...]:
    many = graphs.lowered.many
    if many is not None:
        return cost.notes(graphs.kan.layers, many.rows, MANY_FILE)
    return cost.notes(graphs.kan.layers, rows or 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Graphs:
    """The graphs of a network and their proof. `plain`: those of the network as it was read, which `kan` is unless its
    inputs are kept on the grid; `held`: what is asked of them where there are answers."""

    kan: Kan
    lowered: Lowered
    proof: Proof
    plain: Lowered
    held: Target
    layers: tuple[LayerInfo, ...]
    approximation: Approximation = EXACT


def _graphs(
    kan: Kan, request: Request, target: Target, signature: Signature, advance: Callable[[int, int], None]
) -> _Graphs:
    dtype, plain = request.dtype, request.lower(kan)
    given, lowered = kan, plain
    if request.outside == CLAMP:
        given = clamp.clamped(kan)
        lowered = request.lower(given)
        kept.prove(given.layers[0], kan.n_inputs, plain, lowered, dtype)
    layers = describe.layers(given, lowered.node_tensors)
    mean = () if target.reference is None else baseline.mean(target.reference, signature, target.names)
    if request.fewer.form:
        return _rounded(given, kan, layers, request, target, signature, advance)
    against = explained.against(target.explain, given, mean)
    lowered = explained.add(target.explain, lowered, layers, signature, target.names, against)
    proof = verify.verify(given, lowered, dtype, tolerance=request.tolerance, advance=advance)
    return _Graphs(given, lowered, proof, plain, target, layers)


def _rounded(
    given: Kan,
    kan: Kan,
    layers: tuple[LayerInfo, ...],
    request: Request,
    target: Target,
    signature: Signature,
    advance: Callable[[int, int], None],
) -> _Graphs:
    """The graphs with fewer bits, and their proof. Answers of the trained model are held against them, too."""
    rows = request.fewer.rows or target.reference
    asked = dataclasses.replace(request.fewer, rows=rows)
    found = fewer.rounded(given, asked, signature.inputs(), target.names)
    lowered = request.lower(found.served, found.curves)
    plain = lowered if given is kan else request.lower(*found.like(kan))
    proof, approximation = found.proved(lowered, asked, request.tolerance, advance)
    held = dataclasses.replace(target, tolerance=max(target.tolerance, asked.bound))
    return _Graphs(given, lowered, proof, plain, held, layers, approximation)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A file as it was read: the network, its family and why that one, and what was assumed on the way."""

    kan: Kan
    family: str
    reason: str
    options: Options


def _read(loaded: Checkpoint, request: Request, answers: Answers | None, advance: Callable[[int, int], None]) -> _Found:
    """The network, as answers of the trained model mean it, or else as the one reader that takes it does."""
    ways = _ways(loaded, request, several=answers is not None)
    if answers is not None:
        decision = Search(ways, answers, request.facts, request.tolerance, advance).decide()
        one = decision.reading
        one.options.settle(decision.decided, decision.also)
        return _Found(one.kan, one.family, one.way.reason, one.options)
    options = request.facts()
    kan, family = ways[0].read(options)
    return _Found(kan, family, ways[0].reason, options)


def _ways(loaded: Checkpoint, request: Request, *, several: bool) -> list[Way]:
    """How the file may be read: by the user's list of steps, or by the reader that takes it; where `several`
    may take it, by each. Raises ExportError where there is none, or more than one and not `several`."""
    if request.architecture is not None:
        if request.family is not None:
            raise OptionError("--family and --architecture exclude each other; a step has family = ...")
        steps = steplist.load(request.architecture)
        if not request.shared or assemble.holds(loaded, steps):
            return [Way(ARCHITECTURE, functools.partial(assemble.assemble, loaded, steps))]
    fitting = detect.detect_all(loaded, request.family)
    if not several:
        detect.require_one(fitting)
    return [Way(reason, functools.partial(_by_reader, reader, loaded)) for reader, reason in fitting]


def _by_reader(reader: Reader, loaded: Checkpoint, options: Options) -> tuple[Kan, str]:
    return detect.read(reader, loaded, options), reader.FAMILY
