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
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline, Repeated
from kanexport.errors import InvalidKan, OpenQuestion, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.ir.steps import Affine, Product, Select, Step
from kanexport.options import Options
from kanexport.readers.common import layer_tensors, pykan
from kanexport.readers.common.layer_tensors import Tensors
from kanexport.readers.common.pykan import NAN, ZERO, Config, Level
from kanexport.readers.common.symbolic import EdgeFunctions, shorten

FAMILY = "pykan"

KNOTS = "repeated_knots"  # the option: what 0 / 0 in the splines counts as
NO_VERSION = "pykan before 0.2.2 answers NaN in every row where knots repeat; no config tells the version"
LISTED = 8  # sources that a note names
SELECTIONS = 500  # of inputs that the search tries: as many as find room among all readings
INPUT_LIMIT = 100_000  # of --option n_inputs: rows of that width are made to prove the graph

DROPKAN = "act_fun.0.neuron_train"  # pykan has no such tensor


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint is of this family, or an empty text."""
    roots = [root for root in pykan.roots(checkpoint.tensors) if f"{root}{DROPKAN}" not in checkpoint.tensors]
    return f"{roots[0]}{pykan.FIRST} has three axes" if roots else ""


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """Read config and state. Raises FamilyError, InvalidKan or OptionError."""
    notes: list[str] = []
    if checkpoint.config is None:
        checkpoint = pykan.model_checkpoint(checkpoint, options, pykan.roots(checkpoint.tensors))
    depth = len([key for key in checkpoint.tensors if re.fullmatch(r"act_fun\.\d+\.coef", key)])
    if checkpoint.config is None:
        config = Config(pykan.config(checkpoint, depth, options), checkpoint.path, stored=False)
        notes.append(pykan.NOTE)
    else:
        config = Config(checkpoint.config, checkpoint.path)
    levels = config.levels(checkpoint.tensors, depth)
    base = config.base_function(options)
    functions = EdgeFunctions(options, avoids=True) if config.symbolic_enabled else None
    model = _Model(checkpoint.tensors, config, levels, base, functions, options, notes)
    layers = [_named_layer(model, index) for index in range(depth)]
    notes += functions.notes if functions is not None else []
    n_inputs, select = _selection(config, options, layers[0].sources)
    if select is not None:
        layers[0] = dataclasses.replace(layers[0], pre_steps=(select,))
    dtype = layer_tensors.storage_dtype([checkpoint.tensors[f"act_fun.{i}.coef"] for i in range(depth)])
    return Kan(n_inputs, tuple(layers), dtype, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Model:
    """The data that every layer is read from.

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


def _named_layer(model: _Model, index: int) -> Layer:
    """The layer; every error names the file and the layer."""
    try:
        return _layer(model, index)
    except InvalidKan as error:
        text = error.message if "layer" in error.message else f"layer {index}: {error.message}"
        raise type(error)(f"{model.config.path}: {text}", code=error.code, hint=error.hint) from error


def _layer(model: _Model, index: int) -> Layer:
    def part(name: str, *shape: int) -> layer_tensors.Array:
        return layer_tensors.tensor(model.tensors, f"act_fun.{index}.{name}", shape)

    coef, grid = (model.tensors.get(f"act_fun.{index}.{name}") for name in ("coef", "grid"))
    if coef is None or grid is None or coef.ndim != 3 or grid.ndim != 2:
        raise InvalidKan(f"layer {index} has no coef [n, m, G+k] and grid [n, G+2k+1]")
    n, m, count = coef.shape
    before, after = model.levels[index : index + 2]
    if (n, m) != (before.nodes, after.subnodes):
        raise InvalidKan(
            f"layer {index}: the config's width asks for {before.nodes} sources and {after.subnodes} "
            f"destinations, the weights have {n} and {m}"
        )
    knots = part("grid", n, grid.shape[1])
    spline = BSpline(knots, grid.shape[1] - count - 1, _repeated(model, index, knots))
    scaled = layer_tensors.scaled(part("coef", n, m, count), part("scale_sp", n, m)[:, :, None])
    return Layer(
        terms=(BasisTerm(spline, scaled), BasisTerm(model.base, part("scale_base", n, m)[:, :, None])),
        mask=part("mask", n, m),
        bias=np.zeros(m),
        symbolic=_symbolic(model, index, (n, m)),
        post_steps=_after(model.tensors, index, after),
        nan_spreads=_unset_edges(model, index, (n, m)),
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
            f"knots of source {named} repeat, and pykan before 0.2.2, which wrote this file, answers NaN in every row",
            hint=f"if the model is used with pykan 0.2.2 or later: --option {KNOTS}={ZERO}",
        )
    model.notes.append(
        f"layer {index}: knots of source {named} repeat, as grid updates on constant or discrete values leave them; "
        "as in pykan, the splines on a cell without width are zero everywhere"
        + (", and those on knots that decrease jump" if (gaps < 0).any() else "")
    )
    return Repeated.FUNCTION


def _after(tensors: Tensors, index: int, level: Level) -> tuple[Step, ...]:
    """Subnode affine, products, node affine; steps that change nothing are left out."""
    steps: list[Step] = []
    subnode = _affine(tensors, "subnode", index, level.subnodes)
    if subnode is not None and not subnode.trivial:
        steps.append(subnode)
    if level.arities:
        steps.append(Product((1,) * level.sums + level.arities))
    node = _affine(tensors, "node", index, level.nodes)
    if node is not None and not node.trivial:
        steps.append(node)
    return tuple(steps)


def _affine(tensors: Tensors, kind: str, index: int, count: int) -> Affine | None:
    """The affine step; None where `expand_depth` added the layer: pykan then stores no affine, and it is trivial."""
    names = (f"{kind}_scale_{index}", f"{kind}_bias_{index}")
    if not any(name in tensors for name in names):
        return None
    return Affine(*(layer_tensors.tensor(tensors, name, (count,)) for name in names))


def _symbolic(model: _Model, index: int, shape: tuple[int, int]) -> tuple[SymbolicEdge, ...]:
    """The edges of a layer [sources, destinations] whose symbolic function has a mask or a name."""
    n, m = shape
    mask = layer_tensors.tensor(model.tensors, f"symbolic_fun.{index}.mask", (m, n))
    affine = layer_tensors.tensor(model.tensors, f"symbolic_fun.{index}.affine", (m, n, 4))
    if model.functions is None:
        if mask.any():
            count = int(np.count_nonzero(mask))
            model.notes.append(
                f"layer {index}: {count} symbolic edges are off, because the checkpoint says symbolic_enabled: false"
            )
        return ()
    names = model.config.function_names(index, shape, model.functions)
    edges = []
    for j, i in np.ndindex(m, n):
        factor, name = float(mask[j, i]), names[j][i]
        if name == "0" and factor == 0:
            continue
        if factor == 0 and not model.functions.computes(name):
            model.notes.append(f"edge ({index},{i},{j}): its masked symbolic function {shorten(name)} is left out")
            continue
        a, b, c, d = affine[j, i].tolist()
        edges.append(SymbolicEdge(i, j, model.functions.function(name, (index, i, j)), a, b, c, d, factor))
    return tuple(edges)


def _unset_edges(model: _Model, index: int, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """[n, m]: edges without a symbolic function of their own. pykan multiplies the source by
    zero there, and so turns a non-finite one into NaN."""
    if model.functions is None:
        return np.zeros(shape, dtype=bool)
    names = model.config.function_names(index, shape, model.functions)
    return np.array([[name == "0" for name in row] for row in names], dtype=bool).T


def _selection(config: Config, options: Options, sources: int) -> tuple[int, Select | None]:
    """The model's own number of inputs, and which of them the network reads, where the user
    says so: `prune_input` keeps that in no file. Raises OptionError."""
    chosen, total = options.integers("input_id"), _total(options)
    if chosen is None:
        _refuse_unselected(config, total or options.width, sources)
        return sources, None
    total = total or options.width
    if len(chosen) != sources:
        raise OptionError(f"input_id has {len(chosen)} entries, the network reads {sources} inputs")
    if total is None:
        total = max(chosen) + 1
        options.assumed["n_inputs"] = str(total)
    if total > INPUT_LIMIT:
        raise OptionError(f"the model would have {total} inputs, more than {INPUT_LIMIT}")
    if max(chosen) >= total:
        raise OptionError(f"input_id names column {max(chosen)}, but n_inputs is {total}")
    return total, Select(chosen)


def _total(options: Options) -> int | None:
    """The number of inputs that the model had before pruning, if given. Raises OptionError."""
    numbers = options.integers("n_inputs")
    if numbers is not None and len(numbers) != 1:
        raise OptionError("option n_inputs is one number, such as n_inputs=4")
    return numbers[0] if numbers is not None else None


def _refuse_unselected(config: Config, total: int | None, sources: int) -> None:
    """Refuse a network without input_id that may have read more inputs than its `sources`. `total`: the inputs before
    pruning, where they are known. Raises OpenQuestion."""
    fits = total is None or total <= sources
    if fits and not config.lost_inputs:
        if total is not None and total != sources:
            raise OptionError(f"n_inputs is {total}, but the network reads {sources} inputs: give input_id too")
        return
    what = (
        "was written after prune_input, which keeps in no file which inputs remained"
        if config.lost_inputs
        else f"has a network that reads {sources} of {total} inputs, and input_id, which says which, is in no file"
    )
    raise OpenQuestion(
        f"{config.path}: the checkpoint {what}",
        "input_id",
        _selections(total, sources),
        hint=f"give model.input_id, {sources} numbers: --option input_id=0,2 (and --option n_inputs=N, the number of "
        "inputs before pruning); or --expected-outputs, which tells them where there are few",
    )


def _selections(total: int | None, sources: int) -> tuple[str, ...]:
    """All ways to take `sources` of `total` inputs in their order, where they are few."""
    if total is None or total > SELECTIONS or math.comb(total, sources) > SELECTIONS:
        return ()
    return tuple(",".join(map(str, columns)) for columns in itertools.combinations(range(total), sources))
