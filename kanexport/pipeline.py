"""The page: read, lower, verify, pack. Nothing is kept unless the proof holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kanexport.errors import OptionError
from kanexport.files import checkpoint
from kanexport.files.checkpoint import Checkpoint
from kanexport.form.ir import Kan
from kanexport.lowering import lower
from kanexport.manifest import Source
from kanexport.operators import graph, precision
from kanexport.options import Options
from kanexport.packing import describe
from kanexport.packing.publish import MAX_BATCH_SIZE, ProvedModel, Result, Target, publish
from kanexport.packing.signature import Signature
from kanexport.proof import verify
from kanexport.proof.tolerance import OUTPUT_TOLERANCE
from kanexport.recognise import assemble, detect, steplist

ARCHITECTURE = "given with --architecture"


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
        alternatives=options.alternatives(),
    )
    model = ProvedModel(
        lowered=lowered,
        proof=proof,
        layers=describe.layers(kan, lowered.node_tensors),
        edge_class=kan.edge_class,
        opset=graph.OPSET,
        signature=Signature.of_network(kan, request.dtype),
        source=source,
        notes=kan.notes + precision.notes(kan.dtype, request.dtype),
    )
    return publish(target, model)


def _read(loaded: Checkpoint, request: Request, options: Options) -> tuple[Kan, str, str]:
    """The network, its family, and why that family."""
    if request.architecture is not None:
        if request.family is not None:
            raise OptionError("--family and --architecture exclude each other; a step has family = ...")
        steps = steplist.load(request.architecture)
        if not request.shared or assemble.holds(loaded, steps):
            kan, family = assemble.assemble(loaded, steps, options)
            return kan, family, ARCHITECTURE
    reader, reason = detect.detect(loaded, request.family)
    return detect.read(reader, loaded, options), reader.FAMILY, reason
