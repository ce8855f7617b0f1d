"""The page: read, lower, verify, pack. Nothing is kept unless the proof holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kanexport import architecture, checkpoint, describe, graph, lower, readers, verify
from kanexport.checkpoint import Checkpoint
from kanexport.errors import OptionError
from kanexport.ir import Kan
from kanexport.manifest import Source
from kanexport.options import Options
from kanexport.publish import MAX_BATCH_SIZE, Model, Result, Target, publish

ARCHITECTURE = "given with --architecture"
DIGITS = {"float16": "3.3 decimal digits each", "bfloat16": "2.4 decimal digits each"}  # 11 and 8 bits


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
    tolerance: float = verify.OUTPUT_TOLERANCE
    force: bool = False
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
        )

    def facts(self) -> Options:
        """What the user says that no file holds. Raises OptionError."""
        return Options.parse(self.options, symbolic=self.symbolic, functions=self.functions)


def export(request: Request, *, advance: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Export one checkpoint. `advance(done, total)` follows the verification.

    Raises ExportError; then nothing in the repository has changed.
    """
    loaded = checkpoint.load(request.path)
    target = request.target(loaded.stem)
    target.check()
    options = request.facts()
    kan, family, reason = _read(loaded, request, options)
    options.finish(family, shared=request.shared)
    lowered = lower.lower(kan, request.dtype)
    proof = verify.verify(kan, lowered, request.dtype, tolerance=request.tolerance, advance=advance)
    source = Source(
        family=family,
        family_reason=reason,
        dtype=kan.dtype,
        files=loaded.files,
        options_given=options.given,
        options_assumed=options.assumed,
    )
    made = Model(
        lowered=lowered,
        proof=proof,
        layers=describe.layers(kan, lowered.node_tensors),
        edge_class=kan.edge_class,
        opset=graph.OPSET,
        input_shape=(kan.n_inputs,),
        output_shape=(kan.n_outputs,),
        source=source,
        notes=kan.notes + _notes(kan, request.dtype),
    )
    return publish(target, made)


def _read(loaded: Checkpoint, request: Request, options: Options) -> tuple[Kan, str, str]:
    """The network, its family, and why that family."""
    if request.architecture is not None:
        if request.family is not None:
            raise OptionError("--family and --architecture exclude each other; a step has family = ...")
        steps = architecture.load(request.architecture)
        if not request.shared or readers.holds(loaded, steps):
            kan, family = readers.assemble(loaded, steps, options)
            return kan, family, ARCHITECTURE
    reader, reason = readers.detect(loaded, request.family)
    return readers.read(reader, loaded, options), reader.FAMILY, reason


def _notes(kan: Kan, dtype: str) -> tuple[str, ...]:
    if kan.dtype == "float64" and dtype == "float32":
        return ("the checkpoint is float64 and the graph float32; --dtype float64 keeps full precision",)
    if kan.dtype in DIGITS:
        return (
            f"the checkpoint's weights are {kan.dtype}, {DIGITS[kan.dtype]}; the graph computes with these values in "
            f"{dtype}, and a source that computes in {kan.dtype} rounds more than that",
        )
    return ()
