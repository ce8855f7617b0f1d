"""pykan 0.1 and 0.2: files of `saveckpt`, or a bare state dict.

The files are `PREFIX_config.yml` and `PREFIX_state`; without the config see `readers/common/pykan.py`.

Source: pykan 0.2.8, MultKAN.forward and its layers. For n sources, m subnodes:

    z_j = sum_i mask_ij (scale_base_ij base(x_i) + scale_sp_ij sum_c coef_ijc B_c(x_i))
        + sum_i symmask_ji (c f(a x_i + b) + d)              unless symbolic_enabled is off
    u   = subnode_scale * z + subnode_bias
    v   = the first n_sum of u, then products of consecutive groups of the rest
    x'  = node_scale * v + node_bias

G and k come from the shapes: the config's may be stale. `act_fun` arrays are
[source, destination], `symbolic_fun` arrays and names [destination, source].

Grid updates on constant or discrete values leave knots on one spot. From 0.2.2 on, whose
config has `round`, `B_batch` ends every level with `nan_to_num`, and a function that met
0 / 0 is zero; before, it is NaN, and so is the output in every row.

Options: base_fun, input_id, n_inputs, singularity, y_th, repeated_knots, mult_arity, symbolic_enabled, prefix
Recognized by: `act_fun.0.coef` with three axes
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline, Repeated
from kanexport.errors import USE_MODULE, InvalidKan, OpenQuestion, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.ir.steps import Affine, Product, Select, Step
from kanexport.options import Options
from kanexport.readers.common import layer_tensors, pykan
from kanexport.readers.common.layer_tensors import Tensors
from kanexport.readers.common.pykan import NAN, ZERO, Config, EdgeFunctions, Level, shorten

FAMILY = "pykan"
MARK = pykan.FIRST

KNOTS = "repeated_knots"  # the option: what 0 / 0 in the splines counts as
NO_VERSION = "pykan before 0.2.2 returns NaN in every row if knots repeat; without a config, the version is not known"
LISTED = 8  # sources that a note names
SELECTIONS = 500  # of inputs that the search tries: as many as find room among all readings
INPUT_LIMIT = 100_000  # of --option n_inputs: rows of that width are made to prove the graph

DROPKAN = "act_fun.0.neuron_train"  # pykan has no such tensor


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint belongs to this family, or an empty text."""
    roots = [root for root in pykan.roots(checkpoint.tensors) if f"{root}{DROPKAN}" not in checkpoint.tensors]
    return f"{roots[0]}{pykan.FIRST} has three axes" if roots else ""


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """Read config and state. Raises FamilyError, InvalidKan or OptionError."""
    notes: list[str] = []
    if checkpoint.config is None:
        checkpoint = pykan.model_checkpoint(checkpoint, options, pykan.roots(checkpoint.tensors))
    depth = pykan.depth(checkpoint.tensors)
    if checkpoint.config is None:
        config = Config(pykan.config(checkpoint, depth, options), checkpoint.path, stored=False)
        notes.append(pykan.NOTE)
    else:
        config = Config(checkpoint.config, checkpoint.path)
    levels = config.levels(checkpoint.tensors, depth)
    base = config.base_function(options)
    functions = EdgeFunctions(options, avoids=True) if config.symbolic_enabled else None
    model = _Model(checkpoint.tensors, config, levels, base, functions, options, notes)
    layers = []
    for index in range(depth):
        try:
            layers.append(_layer(model, index))
        except InvalidKan as error:
            text = error.message if "layer" in error.message else f"layer {index}: {error.message}"
            raise type(error)(f"{config.path}: {text}", code=error.code, hint=error.hint) from error
    notes += functions.notes if functions is not None else []
    n_inputs, select = _selection(config, options, layers[0].sources)
    if select is not None:
        layers[0] = dataclasses.replace(layers[0], pre_steps=(select,))
    dtype = layer_tensors.storage_dtype([checkpoint.tensors[f"act_fun.{i}.coef"] for i in range(depth)])
    return Kan(n_inputs, tuple(layers), dtype, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Model:
    """The data from which every layer is read.

    levels     nodes before each layer
    functions  functions of the symbolic edges; None if symbolic edges are off
    notes      notes, which reading adds to
    """

    tensors: Tensors
    config: Config
    levels: list[Level]
    base: Activation
    functions: EdgeFunctions | None
    options: Options
    notes: list[str]


def _layer(model: _Model, index: int) -> Layer:
    def part(name: str, *shape: int) -> layer_tensors.Array:
        return layer_tensors.tensor(model.tensors, f"act_fun.{index}.{name}", shape)

    coef, grid = (model.tensors.get(f"act_fun.{index}.{name}") for name in ("coef", "grid"))
    if coef is None or grid is None or coef.ndim != 3 or grid.ndim != 2:
        raise InvalidKan(
            f"layer {index} has no coef [n, m, G+k] and grid [n, G+2k+1]", code="tensor-missing", hint=USE_MODULE
        )
    n, m, count = coef.shape
    before, after = model.levels[index : index + 2]
    if (n, m) != (before.nodes, after.subnodes):
        raise InvalidKan(
            f"layer {index}: the width of the config gives {before.nodes} sources and {after.subnodes} "
            f"destinations, the weights have {n} and {m}",
            code="config-does-not-fit-weights",
            hint=pykan.SAME_SAVE,
        )
    knots = part("grid", n, grid.shape[1])
    spline = BSpline(knots, grid.shape[1] - count - 1, _repeated(model, index, knots))
    scaled = layer_tensors.scaled(part("coef", n, m, count), part("scale_sp", n, m)[:, :, None])
    symbolic, nan_spreads = _symbolic(model, index, (n, m))
    return Layer(
        terms=(BasisTerm(spline, scaled), BasisTerm(model.base, part("scale_base", n, m)[:, :, None])),
        mask=part("mask", n, m),
        bias=np.zeros(m),
        symbolic=symbolic,
        post_steps=_after(model.tensors, index, after),
        nan_spreads=nan_spreads,
    )


def _repeated(model: _Model, index: int, knots: layer_tensors.Array) -> Repeated:
    """The meaning of repeated knots in knots [n, T]. Raises InvalidKan or OptionError."""
    choice = model.options.optional(KNOTS)
    with np.errstate(invalid="ignore", over="ignore"):  # the spline refuses what is not finite
        gaps = np.diff(knots, axis=1)
    sources = np.flatnonzero((gaps <= 0).any(axis=1)).tolist()
    if not sources:
        return Repeated.REFUSED
    named = f"{', '.join(map(str, sources[:LISTED]))}{' ...' if len(sources) > LISTED else ''}"
    meaning = model.config.repeated_knots if choice is None else None
    if meaning is None:
        meaning = model.options.choice(KNOTS, (ZERO, NAN), ZERO, words=NO_VERSION)
    if meaning == NAN:
        raise InvalidKan(
            f"knots of source {named} repeat: pykan before 0.2.2, which wrote this file, returns NaN in every row",
            code="knots-repeat",
            hint=f"if you use the model with pykan 0.2.2 or later, pass --option {KNOTS}={ZERO}",
        )
    model.notes.append(
        f"layer {index}: knots of source {named} repeat, as after grid updates on constant or discrete values; as in "
        "pykan, splines on a grid interval of width 0 are zero everywhere"
        + (", and splines on decreasing knots jump" if (gaps < 0).any() else "")
    )
    return Repeated.FUNCTION


def _after(tensors: Tensors, index: int, level: Level) -> tuple[Step, ...]:
    """Subnode affine, products, node affine. Steps without an effect are left out."""
    steps: list[Step] = []
    for kind, count in (("subnode", level.subnodes), ("node", level.nodes)):
        if kind == "node" and level.arities:
            steps.append(Product((1,) * level.sums + level.arities))
        names = (f"{kind}_scale_{index}", f"{kind}_bias_{index}")
        if any(name in tensors for name in names):  # pykan stores none for a layer of `expand_depth`
            affine = Affine(*(layer_tensors.tensor(tensors, name, (count,)) for name in names))
            steps += [] if affine.trivial else [affine]
    return tuple(steps)


def _symbolic(
    model: _Model, index: int, shape: tuple[int, int]
) -> tuple[tuple[SymbolicEdge, ...], npt.NDArray[np.bool_]]:
    """The edges of a layer [n, m] with a mask or a name of a symbolic function, and those without one, [n, m]. pykan
    multiplies the source by zero on the latter, and so turns a non-finite one into NaN."""
    n, m = shape
    mask = layer_tensors.tensor(model.tensors, f"symbolic_fun.{index}.mask", (m, n))
    affine = layer_tensors.tensor(model.tensors, f"symbolic_fun.{index}.affine", (m, n, 4))
    if model.functions is None:
        if mask.any():
            count = int(np.count_nonzero(mask))
            model.notes.append(
                f"layer {index}: {count} symbolic edges are off, because the checkpoint has symbolic_enabled: false"
            )
        return (), np.zeros(shape, dtype=bool)
    names = model.config.function_names(index, shape, model.functions)
    edges = []
    for j, i in np.ndindex(m, n):
        factor, name = float(mask[j, i]), names[j][i]
        if name == "0" and factor == 0:
            continue
        if factor == 0 and not model.functions.computes(name):
            model.notes.append(f"edge ({index},{i},{j}): its masked symbolic function {shorten(name)} is not exported")
            continue
        a, b, c, d = affine[j, i].tolist()
        edges.append(SymbolicEdge(i, j, model.functions.function(name, (index, i, j)), a, b, c, d, factor))
    return tuple(edges), np.array([[name == "0" for name in row] for row in names], dtype=bool).T


def _selection(config: Config, options: Options, sources: int) -> tuple[int, Select | None]:
    """The original number of inputs of the model, and the inputs that the network reads, if the user gives them.
    `prune_input` does not store them. Raises OptionError."""
    chosen, numbers = options.integers("input_id"), options.integers("n_inputs")
    if numbers is not None and len(numbers) != 1:
        raise OptionError(
            "option n_inputs has several numbers, expected one",
            code="option-not-an-integer",
            hint="pass one number, such as --option n_inputs=4",
        )
    total = (numbers[0] if numbers else None) or options.facts.width
    if chosen is None:
        _refuse_unselected(config, total, sources)
        return sources, None
    if len(chosen) != sources:
        raise OptionError(
            f"option input_id has {len(chosen)} entries, expected {sources}, the inputs of the network",
            code="option-does-not-fit-weights",
            hint=f"pass --option input_id with {sources} numbers, from model.input_id",
        )
    if total is None:
        total = max(chosen) + 1
        options.assume("n_inputs", str(total))
    if total > INPUT_LIMIT:
        raise OptionError(
            f"the model would have {total} inputs, expected at most {INPUT_LIMIT}",
            code="option-out-of-range",
            hint="pass a smaller --option n_inputs or input_id",
        )
    if max(chosen) >= total:
        raise OptionError(
            f"option input_id has column {max(chosen)}, expected columns below n_inputs = {total}",
            code="option-out-of-range",
            hint="pass columns that count from 0, or a larger --option n_inputs",
        )
    return total, Select(chosen)


def _refuse_unselected(config: Config, total: int | None, sources: int) -> None:
    """Reject a network without input_id that may have read more inputs than its `sources`. `total`: the inputs
    before pruning, if they are known. Raises OpenQuestion."""
    fits = total is None or total <= sources
    if fits and not config.lost_inputs:
        if total is not None and total != sources:
            raise OptionError(
                f"option n_inputs is {total}, but the network reads {sources} inputs",
                code="option-needs-other",
                hint="pass --option input_id too",
            )
        return
    selections: tuple[str, ...] = ()  # all ways to select the inputs in their order, if they are few
    if total is not None and total <= SELECTIONS and math.comb(total, sources) <= SELECTIONS:
        selections = tuple(",".join(map(str, columns)) for columns in itertools.combinations(range(total), sources))
    what = (
        "the checkpoint was written after prune_input, which does not record the remaining inputs"
        if config.lost_inputs
        else f"the network reads {sources} of {total} inputs, and the checkpoint does not record which"
    )
    raise OpenQuestion(
        f"{config.path}: {what}",
        "input_id",
        selections,
        hint=f"pass {sources} numbers of model.input_id: --option input_id=0,2 (and --option n_inputs=N, the number of "
        "inputs before pruning); or, for few inputs, recorded outputs with --expected-outputs FILE",
    )
