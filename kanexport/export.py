"""The page: read, lower, verify, pack. Nothing is kept unless the proof holds."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kanexport import architecture, checkpoint, describe, graph, lower, manifest, pack, readers, verify
from kanexport.checkpoint import Checkpoint
from kanexport.errors import OptionError
from kanexport.ir import Kan
from kanexport.manifest import FileEntry, Manifest, Source
from kanexport.options import Options

DATATYPES = {"float32": "FP32", "float64": "FP64"}
DIGITS = {"float16": "3.3 decimal digits each", "bfloat16": "2.4 decimal digits each"}  # 11 and 8 bits
MAX_BATCH_SIZE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to export and where to. `name`: empty takes the checkpoint's own."""

    path: Path
    repository: Path
    name: str = ""
    version: int = 1
    family: str | None = None
    options: tuple[str, ...] = ()  # "key=value"
    architecture: Path | None = None  # the user's own list of steps
    dtype: str = "float32"
    max_batch_size: int = MAX_BATCH_SIZE
    tolerance: float = verify.OUTPUT_TOLERANCE
    force: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The folder that appeared, and what its manifest says."""

    directory: Path
    manifest: Manifest


def export(request: Request, *, advance: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Export one checkpoint. `advance(done, total)` follows the verification.

    Raises ExportError; then nothing in the repository has changed.
    """
    _check(request)
    loaded = checkpoint.load(request.path)
    name = request.name or loaded.stem
    pack.check_target(request.repository, name, request.version, force=request.force)
    options = Options.parse(request.options)
    kan, family, reason = _read(loaded, request, options)
    options.finish(family)
    lowered = lower.lower(kan, request.dtype)
    proof = verify.verify(kan, lowered, request.dtype, tolerance=request.tolerance, advance=advance)
    files = {manifest.MODEL_FILE: lowered.model} | {
        describe.edges_file(at): model for at, model in enumerate(lowered.edges)
    }
    document = Manifest(
        format=manifest.FORMAT,
        name=name,
        version=request.version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        exporter_version=importlib.metadata.version("kanserve"),
        edge_class=kan.edge_class,
        opset=graph.OPSET,
        max_batch_size=request.max_batch_size,
        input=_tensor(lower.INPUT, request.dtype, kan.n_inputs),
        output=_tensor(lower.OUTPUT, request.dtype, kan.n_outputs),
        layers=describe.layers(kan, lowered.node_tensors),
        source=Source(
            family=family,
            family_reason=reason,
            dtype=kan.dtype,
            files=loaded.files,
            options_given=options.given,
            options_assumed=options.assumed,
        ),
        verification=proof.verification,
        reference=proof.reference,
        files=tuple(
            FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in files.items()
        ),
        notes=kan.notes + proof.notes + _notes(kan, request.dtype),
    )
    return Result(pack.pack(request.repository, document, files, force=request.force), document)


def _read(loaded: Checkpoint, request: Request, options: Options) -> tuple[Kan, str, str]:
    """The network, its family, and why that family."""
    if request.architecture is not None:
        if request.family is not None:
            raise OptionError("--family and --architecture exclude each other; a step has family = ...")
        kan, family = readers.assemble(loaded, architecture.load(request.architecture), options)
        return kan, family, "given with --architecture"
    reader, reason = readers.detect(loaded, request.family)
    return readers.read(reader, loaded, options), reader.FAMILY, reason


def _check(request: Request) -> None:
    if request.dtype not in DATATYPES:
        raise OptionError(f"dtype is {request.dtype!r}, expected float32 or float64")
    if not 1 <= request.max_batch_size <= 2**31 - 1:
        raise OptionError(f"max batch size is {request.max_batch_size}, expected 1 or more")
    if not 0 < request.tolerance < 1:
        raise OptionError(f"tolerance is {request.tolerance}, expected a number between 0 and 1")


def _tensor(name: str, dtype: str, columns: int) -> manifest.TensorSpec:
    return manifest.TensorSpec(name=name, datatype=DATATYPES[dtype], shape=(-1, columns))


def _notes(kan: Kan, dtype: str) -> tuple[str, ...]:
    if kan.dtype == "float64" and dtype == "float32":
        return ("the checkpoint is float64 and the graph float32; --dtype float64 keeps full precision",)
    if kan.dtype in DIGITS:
        return (
            f"the checkpoint's weights are {kan.dtype}, {DIGITS[kan.dtype]}; the graph computes with these values in "
            f"{dtype}, and a source that computes in {kan.dtype} rounds more than that",
        )
    return ()
