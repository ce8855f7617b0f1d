"""Which library wrote a checkpoint: told from the names and shapes of its tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from kanexport.errors import ExportError, FamilyError, OptionError
from kanexport.files.checkpoint import Checkpoint
from kanexport.form.ir import Kan
from kanexport.layers import stack
from kanexport.layers.parts import Part, Tensors
from kanexport.options import Options
from kanexport.recognise import refused, registry, unknown
from kanexport.recognise.registry import LayerReader, Reader, layer_readers, quiet, readers
from kanexport.shared.nearest import advice

WEIGHTS = "weights"  # the option: under which keys of the file the tensors lie


def detect(checkpoint: Checkpoint, family: str | None) -> tuple[Reader, str]:
    """The reader for a checkpoint and why. Raises FamilyError with the candidates."""
    return require_one(detect_all(checkpoint, family))


def one(checkpoint: Checkpoint, family: str | None) -> list[tuple[Reader, str]]:
    """The result of `detect`, as a list of one."""
    return [detect(checkpoint, family)]


def detect_all(checkpoint: Checkpoint, family: str | None) -> list[tuple[Reader, str]]:
    """Every reader that takes a checkpoint, and why; at least one. If names do not identify a library, or are
    ambiguous, the reader by shapes is the last. Raises FamilyError."""
    known = readers()
    if family is not None:
        if family not in known:
            raise FamilyError(f"unknown family {family[:80]!r}", hint=advice(family, known))
        return [(known[family], "given with --family")]
    fitting = _fitting(checkpoint, [reader for reader in known.values() if not registry.by_shape(reader)])
    if all(registry.ambiguous(reader) for reader, _ in fitting):
        fitting += _by_shape(checkpoint)
    if fitting:
        return fitting
    raise _unknown(checkpoint)


def readings(checkpoint: Checkpoint, family: str | None) -> list[tuple[Reader, str]]:
    """All readers that recorded outputs may decide between: those of `detect_all`. If only the name of a single
    tensor identifies the library, the reader by shapes is one of them too. Raises FamilyError."""
    fitting = detect_all(checkpoint, family)
    single = family is None and all(registry.single(reader) for reader, _ in fitting)
    return fitting + _by_shape(checkpoint) if single else fitting


def _by_shape(checkpoint: Checkpoint) -> list[tuple[Reader, str]]:
    return _fitting(checkpoint, filter(registry.by_shape, readers().values()))


def _fitting(checkpoint: Checkpoint, some: Iterable[Reader]) -> list[tuple[Reader, str]]:
    return [(reader, reason) for reader in some if (reason := reader.matches(checkpoint))]


def require_one(fitting: Sequence[tuple[Reader, str]]) -> tuple[Reader, str]:
    """The only reader that takes a checkpoint. If names are ambiguous, it is the reader by shapes, which asks the
    user. Raises FamilyError if several readers take the checkpoint."""
    if len(fitting) == 1 or registry.by_shape(fitting[-1][0]):
        return fitting[-1]
    why = " and ".join(f"{reader.FAMILY} ({reason})" for reader, reason in fitting)
    names = " | ".join(reader.FAMILY for reader, _ in fitting)
    raise FamilyError(f"the tensors fit {why}", hint=f"say which: --family {names}; or --answers, which tells")


def _unknown(checkpoint: Checkpoint) -> FamilyError:
    """What to do, what was found, and what comes nearest."""
    tensors = checkpoint.tensors
    named = refused.reason(tensors)
    fact = named or "no KAN library that is read writes these tensors"
    near = unknown.nearest(tensors)
    families = f"Nearest families: {near}" if near else f"Families: {', '.join(readers())}"
    return FamilyError(
        f"{checkpoint.path}: {fact}. Give the model itself, with --module. Found: {unknown.described(tensors)}",
        hint=f"kanserve export --module yourpackage.yourfile:make_model --checkpoint {checkpoint.path} "
        f"--example rows.npy --repository models. {families}",
    )


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


def chosen(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """The checkpoint with the tensors that are meant, where the file holds several of the same names,
    such as the weights and their moving average. Raises OptionError."""
    if not checkpoint.others:
        return checkpoint
    places = (checkpoint.place, *checkpoint.others)
    place = options.text(WEIGHTS, checkpoint.place, among=places)
    if place not in places:
        raise OptionError(f"option {WEIGHTS} is {place[:80]!r}", hint=advice(place, places))
    tensors = {checkpoint.place: checkpoint.tensors, **checkpoint.others}[place]
    return dataclasses.replace(checkpoint, tensors=tensors)


def read(reader: Reader, checkpoint: Checkpoint, options: Options) -> Kan:
    """`reader.read`, with the file named in every error."""
    options.beside = checkpoint.beside
    try:
        with quiet():
            return reader.read(chosen(checkpoint, options), options)
    except ExportError as error:
        if str(checkpoint.path) in error.message:
            raise
        raise error.at(str(checkpoint.path)) from error
