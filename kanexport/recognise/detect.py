"""Which library wrote a checkpoint: told from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Sequence

from kanexport.errors import ExportError, FamilyError
from kanexport.files.checkpoint import Checkpoint
from kanexport.form.ir import Kan
from kanexport.layers import stack
from kanexport.layers.parts import Part, Tensors
from kanexport.options import Options
from kanexport.recognise import refused
from kanexport.recognise.registry import LayerReader, Reader, layer_readers, quiet, readers
from kanexport.shared.nearest import advice


def detect(checkpoint: Checkpoint, family: str | None) -> tuple[Reader, str]:
    """The reader for a checkpoint and why. Raises FamilyError with the candidates."""
    return require_one(detect_all(checkpoint, family))


def detect_all(checkpoint: Checkpoint, family: str | None) -> list[tuple[Reader, str]]:
    """Every reader that takes a checkpoint, and why; at least one. Raises FamilyError."""
    known = readers()
    if family is not None:
        if family not in known:
            raise FamilyError(f"unknown family {family[:80]!r}", hint=advice(family, known))
        return [(known[family], "given with --family")]
    fitting = [(reader, reason) for reader in known.values() if (reason := reader.matches(checkpoint))]
    if fitting:
        return fitting
    raise FamilyError(
        f"{checkpoint.path}: {_refusal(checkpoint.tensors)}", hint=f"families that are read: {', '.join(known)}"
    )


def require_one(fitting: Sequence[tuple[Reader, str]]) -> tuple[Reader, str]:
    """The only one of the readers that take a checkpoint. Raises FamilyError where it is one of several."""
    if len(fitting) == 1:
        return fitting[0]
    why = " and ".join(f"{reader.FAMILY} ({reason})" for reader, reason in fitting)
    names = " | ".join(reader.FAMILY for reader, _ in fitting)
    raise FamilyError(f"the tensors fit {why}", hint=f"say which: --family {names}; or --answers, which tells")


def _refusal(tensors: Tensors) -> str:
    """Why no reader takes a checkpoint."""
    keys = ", ".join(f"{key} {value.shape}" for key, value in list(tensors.items())[:5])
    return refused.reason(tensors) or f"no known KAN library writes these tensors: {keys}"


def detect_layer(tensors: Tensors, prefix: str) -> LayerReader:
    """The reader for one layer. Raises FamilyError with what was found."""
    part = Part(tensors, prefix)
    fitting = [
        reader
        for reader in layer_readers().values()
        if prefix in stack.prefixes(tensors, reader.keys, prefix) and reader.fits(part)
    ]
    if len(fitting) == 1:
        return fitting[0]
    names = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]
    what = f"fit {' and '.join(r.FAMILY for r in fitting)}" if fitting else "fit no known KAN layer"
    raise FamilyError(f"the tensors under {prefix!r} ({', '.join(names[:6]) or 'none'}) {what}")


def read(reader: Reader, checkpoint: Checkpoint, options: Options) -> Kan:
    """`reader.read`, with the file named in every error."""
    options.beside = checkpoint.beside
    try:
        with quiet():
            return reader.read(checkpoint, options)
    except ExportError as error:
        if str(checkpoint.path) in error.message:
            raise
        raise error.at(str(checkpoint.path)) from error
