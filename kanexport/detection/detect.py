"""Detection of the library that wrote a checkpoint, from the names and shapes of its tensors."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence

from kanexport.detection import registry
from kanexport.detection.registry import LayerReader, Reader, layer_readers, readers, without_warnings
from kanexport.errors import ExportError, FamilyError, option_value_unknown
from kanexport.formats import keras
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import Kan
from kanexport.options import Options
from kanexport.readers.common import chain
from kanexport.readers.common.layer_tensors import Part, Tensors, modules_of
from kanexport.shared.cli.suggest import advice

WEIGHTS = "weights"  # the option: under which keys of the file the tensors lie


def detect(checkpoint: Checkpoint, family: str | None) -> tuple[Reader, str]:
    """The reader for a checkpoint, and the reason for it. Raises FamilyError, which lists the candidates."""
    return require_one(detect_all(checkpoint, family))


def detect_all(checkpoint: Checkpoint, family: str | None) -> list[tuple[Reader, str]]:
    """Every reader that accepts a checkpoint, and the reason; at least one. If names do not identify a library, or
    are ambiguous, the reader by shapes is the last. Raises FamilyError."""
    if family is not None:
        return [(registry.named(family), "given with --family")]
    fitting = _fitting(checkpoint, [reader for reader in readers().values() if not registry.by_shape(reader)])
    if all(registry.ambiguous(reader) for reader, _ in fitting):
        fitting += _by_shape(checkpoint)
    if fitting:
        return fitting
    tensors = checkpoint.tensors
    if classes := dict.fromkeys(map(keras.class_name, keras.layers(checkpoint.beside))):
        raise FamilyError(
            f"{checkpoint.path}: the Keras model has no layer of class KANLinear (keras-efficient-kan), found "
            f"{', '.join([name[:80] for name in classes][:CLASSES])}",
            code="library-not-identified",
            hint=keras.OTHER_WAYS,
        )
    fact = reason(tensors) or "unknown library: the tensors do not fit a supported KAN library"
    near = nearest(tensors)
    families = f"nearest libraries: {near}" if near else f"supported libraries: {', '.join(readers())}"
    raise FamilyError(
        f"{checkpoint.path}: {fact}. Found: {described(tensors)}",
        code="library-not-identified",
        hint="export the PyTorch module instead: kanserve export --module yourpackage.yourfile:make_model "
        f"--checkpoint {checkpoint.path} --example rows.npy --repository models; {families}",
    )


def readings(checkpoint: Checkpoint, family: str | None) -> list[tuple[Reader, str]]:
    """All readers between which recorded outputs may decide: those of `detect_all`. If the name of a single tensor
    identifies the library, the reader by shapes is one of them, too. Raises FamilyError."""
    fitting = detect_all(checkpoint, family)
    single = family is None and all(registry.single(reader) for reader, _ in fitting)
    return fitting + _by_shape(checkpoint) if single else fitting


def _by_shape(checkpoint: Checkpoint) -> list[tuple[Reader, str]]:
    return _fitting(checkpoint, filter(registry.by_shape, readers().values()))


def _fitting(checkpoint: Checkpoint, some: Iterable[Reader]) -> list[tuple[Reader, str]]:
    candidates = (reader for reader in some if registry.may_fit(reader, checkpoint))
    return [(reader, reason) for reader in candidates if (reason := reader.matches(checkpoint))]


def require_one(fitting: Sequence[tuple[Reader, str]]) -> tuple[Reader, str]:
    """The only reader that accepts a checkpoint. If names are ambiguous, it is the reader by shapes, which then
    needs an option. Raises FamilyError if several readers accept the checkpoint."""
    if len(fitting) == 1 or registry.by_shape(fitting[-1][0]):
        return fitting[-1]
    why = " and ".join(f"{reader.FAMILY} ({reason})" for reader, reason in fitting)
    names = " | ".join(reader.FAMILY for reader, _ in fitting)
    raise FamilyError(
        f"the tensors fit several libraries: {why}",
        code="library-ambiguous",
        hint=f"pass --family {names}, or recorded outputs with --expected-outputs FILE",
    )


def detect_layer(tensors: Tensors, prefix: str) -> LayerReader:
    """The reader for one layer. Raises FamilyError, which lists the tensors."""
    part = Part(tensors, prefix)
    fitting = [
        reader
        for reader in layer_readers().values()
        if prefix in chain.prefixes(tensors, reader.keys, prefix) and reader.fits(part)
    ]
    if len(fitting) == 1:
        return fitting[0]
    names = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]
    what = f"fit {' and '.join(r.FAMILY for r in fitting)}" if fitting else "do not fit a known KAN layer"
    raise FamilyError(
        f"the tensors under {prefix!r} ({', '.join(names[:6]) or 'none'}) {what}",
        code="layer-not-identified",
        hint="name the library of the step: family = NAME",
    )


def chosen(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """The checkpoint with the selected tensors, if the file has several sets with the same names, such as the
    weights and their moving average. Raises OptionError."""
    if not checkpoint.others:
        return checkpoint
    places = (checkpoint.place, *checkpoint.others)
    place = options.text(WEIGHTS, checkpoint.place, among=places)
    if place not in places:
        raise option_value_unknown(
            f"option {WEIGHTS} is {place[:80]!r}, expected one of {len(places)} places",
            hint=advice(place, places, what="available"),
        )
    tensors = {checkpoint.place: checkpoint.tensors, **checkpoint.others}[place]
    return dataclasses.replace(checkpoint, tensors=tensors)


def read(reader: Reader, checkpoint: Checkpoint, options: Options) -> Kan:
    """Call `reader.read`. Each error names the file."""
    try:
        with without_warnings():
            return reader.read(chosen(checkpoint, options), options)
    except ExportError as error:
        if str(checkpoint.path) in error.message:
            raise
        raise error.at(str(checkpoint.path)) from error


SHARED = "one trained activation function that all nodes share, between Linear layers; its edges have no functions"
# The tensors that identify one unsupported module: all of one axis, under one prefix.
REFUSALS = {
    frozenset(
        f"{name}_{side}" for side in "pq" for name in ("alpha", "beta", "zeta", "w")
    ): f"rKAN's PadeRKAN is {SHARED}",
    frozenset({"alpha", "beta", "iota"}): f"rKAN's JacobiRKAN is {SHARED}",
    frozenset({"alpha", "beta", "gamma"}): f"fKAN's FractionalJacobiNeuralBlock is {SHARED}",
}


def reason(tensors: Tensors) -> str:
    """The reason why a checkpoint does not belong to a supported library; empty if it is not known."""
    for prefix, shapes in modules_of({key: value for key, value in tensors.items() if value.ndim == 1}).items():
        what = REFUSALS.get(frozenset(shapes))
        if what is not None:
            keys = ", ".join(prefix + name for name in sorted(shapes)[:3])
            return f"unsupported module ({keys}): {what}"
    return ""


Shapes = Mapping[str, tuple[int, ...]]  # of one module, by the tensor's own name

CLASSES = 12  # of layers of a Keras model, which an error lists
LISTED = 3  # of each kind, with its shape
NEAREST = 3  # families
ALIKE = 0.75  # of two names, as difflib counts
EDGE_AXES = 3  # of coefficients: sources, destinations, functions
GATES: dict[float, str] = {4: "LSTM", 3: "GRU", 1: "RNN"}  # by rows of the recurrent weight, in hidden sizes
USUAL = {1: "normalization", 2: "linear layer"}  # modules of weight and bias alone, by the axes of the weight
ATTENTION = ("in_proj_weight", "q_proj_weight")


def described(tensors: Tensors) -> str:
    """A summary of the modules of a state dict by names and shapes, such as "2 convolutions
    (conv.weight (8, 1, 3, 3), ...)"."""
    kinds: dict[str, list[str]] = {}
    for prefix, shapes in modules_of(tensors).items():
        kind, name = _kind(shapes)
        kinds.setdefault(kind, []).append(f"{prefix}{name} {shapes[name]}")
    listed = [f"{_counted(len(places), kind)} ({_some(places)})" for kind, places in kinds.items()]
    if unreal := [f"{key} {value.dtype}" for key, value in tensors.items() if value.dtype.kind == "c"]:
        listed.append(f"complex numbers ({_some(unreal)})")
    return "; ".join(listed)


def nearest(tensors: Tensors) -> str:
    """The libraries with the most similar tensor names, and their tensors; empty if there is none."""
    required = {family: reader.keys.required for family, reader in layer_readers().items()}
    scores = {family: _score(names, tensors) for family, names in required.items()}
    best = sorted((family for family in scores if scores[family] > 0), key=lambda family: -scores[family])[:NEAREST]
    texts = {
        family: ", ".join(
            f"{name} with {axes} ax{'is' if axes == 1 else 'es'}" for name, axes in required[family].items()
        )
        for family in best
    }
    return "; ".join(f"{family} has {text}" for family, text in texts.items())


def _kind(shapes: Shapes) -> tuple[str, str]:
    """The kind of a module, and the name of the tensor that shows it."""
    for name, shape in shapes.items():
        if name.startswith("weight_hh") and len(shape) == 2 and shape[1]:
            return f"{GATES.get(shape[0] / shape[1], 'recurrent')} layer", name
        if name in ATTENTION:
            return "attention layer", name
    if "running_mean" in shapes:
        return "batch normalization", "running_mean"
    if shapes.get("weight") and shapes.keys() <= {"weight", "bias"}:
        return USUAL.get(len(shapes["weight"]), "convolution"), "weight"
    # A custom module: the tensor with the most axes shows its kind.
    name = max(shapes, key=lambda name: len(shapes[name]))
    return ("tensor of three axes, as for edges" if len(shapes[name]) == EDGE_AXES else "custom module"), name


def _counted(count: int, kind: str) -> str:
    if count == 1:
        return f"1 {kind}"
    first, *rest = kind.split(" ", 1)
    plural = [first + "s", *rest] if first in ("tensor", "module") else [kind + "s"]
    return f"{count} {' '.join(plural)}".replace(" its ", " their ")


def _some(places: list[str]) -> str:
    return ", ".join(places[:LISTED]) + (", ..." if len(places) > LISTED else "")


def _score(names: Iterable[str], keys: Iterable[str]) -> float:
    """The share of the required names of a layer that occur; a similar name counts for up to half. Weights that any
    module has do not count."""
    scores = []
    for name in names:
        if name in ("weight", "bias"):
            continue
        best = 0.0
        for key in keys:
            end = ".".join(key.split(".")[-1 - name.count(".") :])  # a name may have dots
            ratio = difflib.SequenceMatcher(None, name, end).ratio()
            best = max(best, 1.0 if name == end else ratio / 2 if ratio >= ALIKE else 0.0)
        scores.append(best)
    return sum(scores) / len(scores) if scores else 0.0
