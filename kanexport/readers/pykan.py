"""pykan 0.1 and 0.2: `PREFIX_config.yml` and `PREFIX_state`, as `saveckpt` writes them,
or a state dict alone (`pykan_bare.py`).

Source: pykan 0.2.8, MultKAN.forward and its layers. For n sources, m subnodes:

    z_j = sum_i mask_ij (scale_base_ij base(x_i) + scale_sp_ij sum_c coef_ijc B_c(x_i))
        + sum_i symmask_ji (c f(a x_i + b) + d)              unless symbolic_enabled is off
    u   = subnode_scale * z + subnode_bias
    v   = the first n_sum of u, then products of consecutive groups of the rest
    x'  = node_scale * v + node_bias

G and k come from the shapes: the config's may be stale. `act_fun` arrays are
[source, destination], `symbolic_fun` arrays and names [destination, source].
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import InvalidKan, OptionError
from kanexport.files.checkpoint import Checkpoint
from kanexport.files.yamlfile import Tagged
from kanexport.form.ir import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.form.steps import Affine, Product, Select, Step
from kanexport.functions import unary
from kanexport.layers import parts, pykan_bare, symbolic
from kanexport.layers.symbolic import EdgeFunctions, short
from kanexport.options import Options

FAMILY = "pykan"

INPUT_LIMIT = 100_000  # of --option n_inputs: rows of that width are made to prove the graph


def matches(checkpoint: Checkpoint) -> str:
    found = pykan_bare.roots(checkpoint.tensors)
    return f"{found[0]}{pykan_bare.FIRST} has three axes" if found else ""


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """Read config and state. Raises FamilyError, InvalidKan or OptionError."""
    notes: list[str] = []
    if checkpoint.config is None:
        checkpoint = pykan_bare.own(checkpoint, options)
    depth = len([key for key in checkpoint.tensors if re.fullmatch(r"act_fun\.\d+\.coef", key)])
    config = checkpoint.config
    if config is None:
        config = pykan_bare.config(checkpoint, depth, options)
        checkpoint = dataclasses.replace(checkpoint, config=config)
        notes.append(pykan_bare.NOTE)
    widths = _widths(checkpoint, config, depth)
    base = _base_function(checkpoint, config, options)
    enabled = config.get("symbolic_enabled", True)
    if not isinstance(enabled, bool):
        raise InvalidKan(f"{checkpoint.path}: symbolic_enabled is {short(enabled)}, expected true or false")
    layers = []
    functions = EdgeFunctions(options, avoids=True) if enabled else None
    for index in range(depth):
        try:
            layers.append(_layer(checkpoint, index, widths, base, functions, notes))
        except InvalidKan as error:
            text = error.message if "layer" in error.message else f"layer {index}: {error.message}"
            raise type(error)(f"{checkpoint.path}: {text}", hint=error.hint) from error
    notes += functions.notes if functions is not None else []
    n_inputs, select = _selection(checkpoint, options, layers[0].sources)
    if select is not None:
        layers[0] = dataclasses.replace(layers[0], before=(select,))
    dtype = parts.storage_dtype([checkpoint.tensors[f"act_fun.{i}.coef"] for i in range(depth)])
    return Kan(n_inputs, tuple(layers), dtype, tuple(notes))


def _layer(
    checkpoint: Checkpoint,
    index: int,
    widths: list[tuple[int, tuple[int, ...]]],
    base: Activation,
    functions: EdgeFunctions | None,
    notes: list[str],
) -> Layer:
    def part(name: str, *shape: int) -> parts.Array:
        return parts.tensor(checkpoint.tensors, f"act_fun.{index}.{name}", shape)

    raw = {name: checkpoint.tensors.get(f"act_fun.{index}.{name}") for name in ("coef", "grid")}
    coef, grid = raw["coef"], raw["grid"]
    if coef is None or grid is None or coef.ndim != 3 or grid.ndim != 2:
        raise InvalidKan(f"layer {index} has no coef [n, m, G+k] and grid [n, G+2k+1]")
    n, m, count = coef.shape
    n_sum, arities = widths[index + 1]
    before = widths[index][0] + len(widths[index][1])
    if (n, m) != (before, n_sum + sum(arities)):
        raise InvalidKan(
            f"layer {index}: the config's width asks for {before} sources and {n_sum + sum(arities)} "
            f"destinations, the weights have {n} and {m}"
        )
    knots = part("grid", n, grid.shape[1])
    spline = BSpline(knots, grid.shape[1] - count - 1)
    scaled = parts.product(part("coef", n, m, count), part("scale_sp", n, m)[:, :, None])
    return Layer(
        terms=(BasisTerm(spline, scaled), BasisTerm(base, part("scale_base", n, m)[:, :, None])),
        mask=part("mask", n, m),
        bias=np.zeros(m),
        symbolic=_symbolic(checkpoint, index, (n, m), functions, notes),
        after=_after(checkpoint, index, n_sum, arities),
        nan_spreads=_spread(checkpoint, index, (n, m), functions),
    )


def _widths(checkpoint: Checkpoint, config: dict[str, Any], depth: int) -> list[tuple[int, tuple[int, ...]]]:
    """Per level: the number of sum nodes, and the arity of each multiplication node.

    Nothing is allocated from the config's numbers; a width that the weights do not
    bear out is refused.
    """
    width = config.get("width")
    if not isinstance(width, list | tuple) or len(width) != depth + 1 or depth < 1:
        raise InvalidKan(
            f"{checkpoint.path}: width is {short(width)}, expected a list of {depth + 1} entries "
            f"for {depth} layers of weights"
        )
    bound = 1 + max(max(t.shape, default=0) for t in checkpoint.tensors.values())
    levels = []
    for at, entry in enumerate(width):
        pair = [entry, 0] if isinstance(entry, int) else entry
        if not _integers(pair, bound) or len(pair) != 2:
            raise InvalidKan(
                f"{checkpoint.path}: width[{at}] is {short(entry)}, expected [sum nodes, multiplication nodes] "
                "that fit the weights"
            )
        levels.append((pair[0], _arities(checkpoint, config, at, pair[1], bound)))
    return levels


def _arities(checkpoint: Checkpoint, config: dict[str, Any], at: int, count: int, bound: int) -> tuple[int, ...]:
    """The number of subnodes of each multiplication node at a level."""
    arity = config.get("mult_arity", 2)
    if isinstance(arity, int) and not isinstance(arity, bool):
        found: Any = [arity] * count
    elif isinstance(arity, list | tuple) and at < len(arity):
        found = arity[at]
    else:
        found = None
    if not _integers(found, bound) or len(found) != count or any(a < 1 for a in found):
        raise InvalidKan(
            f"{checkpoint.path}: mult_arity is {short(arity)}, expected one number, or a list with "
            f"{count} numbers for level {at}"
        )
    return tuple(found)


def _integers(value: Any, bound: int) -> bool:
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= bound for v in value)


def _after(checkpoint: Checkpoint, index: int, n_sum: int, arities: tuple[int, ...]) -> tuple[Step, ...]:
    """Subnode affine, products, node affine; steps that change nothing are left out."""
    steps: list[Step] = []
    subnode = _affine(checkpoint, "subnode", index, n_sum + sum(arities))
    if subnode is not None and not subnode.trivial:
        steps.append(subnode)
    if arities:
        steps.append(Product((1,) * n_sum + arities))
    node = _affine(checkpoint, "node", index, n_sum + len(arities))
    if node is not None and not node.trivial:
        steps.append(node)
    return tuple(steps)


def _affine(checkpoint: Checkpoint, kind: str, index: int, count: int) -> Affine | None:
    """None where `expand_depth` added the layer: pykan then stores no affine, and it is trivial."""
    names = (f"{kind}_scale_{index}", f"{kind}_bias_{index}")
    if not any(name in checkpoint.tensors for name in names):
        return None
    return Affine(*(parts.tensor(checkpoint.tensors, name, (count,)) for name in names))


def _symbolic(
    checkpoint: Checkpoint, index: int, shape: tuple[int, int], functions: EdgeFunctions | None, notes: list[str]
) -> tuple[SymbolicEdge, ...]:
    n, m = shape
    mask = parts.tensor(checkpoint.tensors, f"symbolic_fun.{index}.mask", (m, n))
    affine = parts.tensor(checkpoint.tensors, f"symbolic_fun.{index}.affine", (m, n, 4))
    if functions is None:
        if mask.any():
            count = int(np.count_nonzero(mask))
            notes.append(
                f"layer {index}: {count} symbolic edges are off, because the checkpoint says symbolic_enabled: false"
            )
        return ()
    names = _names(checkpoint, index, shape, functions)
    edges = []
    for j in range(m):
        for i in range(n):
            factor, name = float(mask[j, i]), names[j][i]
            if name == "0" and factor == 0:
                continue
            if factor == 0 and not functions.computes(name):
                notes.append(f"edge ({index},{i},{j}): its masked symbolic function {short(name)} is left out")
                continue
            a, b, c, d = affine[j, i].tolist()
            edges.append(SymbolicEdge(i, j, functions.function(name, (index, i, j)), a, b, c, d, factor))
    return tuple(edges)


def _spread(
    checkpoint: Checkpoint, index: int, shape: tuple[int, int], functions: EdgeFunctions | None
) -> npt.NDArray[np.bool_]:
    """[n, m]: edges without a function of their own. pykan multiplies the source by
    zero there, and so turns a non-finite one into NaN."""
    if functions is None:
        return np.zeros(shape, dtype=bool)
    names = _names(checkpoint, index, shape, functions)
    return np.array([[name == "0" for name in row] for row in names], dtype=bool).T


def _names(checkpoint: Checkpoint, index: int, shape: tuple[int, int], functions: EdgeFunctions) -> list[list[Any]]:
    """[destination][source] function names; absent means that every edge has '0'."""
    n, m = shape
    assert checkpoint.config is not None
    names = checkpoint.config.get(f"symbolic.funs_name.{index}", [["0"] * n for _ in range(m)])
    fits = isinstance(names, list) and len(names) == m
    if not fits or not all(isinstance(row, list) and len(row) == n for row in names):
        raise InvalidKan(f"layer {index}: symbolic.funs_name.{index} is not a list of {m} rows with {n} names")
    found = [[name if isinstance(name, Tagged) else str(name) for name in row] for row in names]
    return [[functions.name((index, i, j), name) for i, name in enumerate(row)] for j, row in enumerate(found)]


def _base_function(checkpoint: Checkpoint, config: dict[str, Any], options: Options) -> Activation:
    """By name, by a Python name that is well known, or by `--option base_fun=`."""
    given = options.optional("base_fun")
    found = config.get("base_fun_name", "silu")
    if given is not None:
        return Activation(symbolic.base(options, given))
    if isinstance(found, str) and found in unary.ACTIVATIONS:
        return Activation(unary.activation(found))
    if isinstance(found, Tagged) and found.name.startswith("torch."):
        last = found.name.rpartition(".")[2].lower()
        settings = found.value if isinstance(found.value, dict) else {}
        if settings.get("approximate") == "tanh":
            last = "gelu_tanh"
        if last in unary.ACTIVATIONS and settings.get("beta", 1) == 1:
            return Activation(unary.activation(last))
    what = found.name if isinstance(found, Tagged) else short(found)
    raise OptionError(
        f"{checkpoint.path}: the base function {what} is not in the file, only its name",
        hint="give it with --option base_fun=NAME, one of "
        + ", ".join(unary.ACTIVATIONS)
        + '; or a function of your own: --option base_fun=NAME --function NAME="x*tanh(x)"',
    )


def _selection(checkpoint: Checkpoint, options: Options, sources: int) -> tuple[int, Select | None]:
    """The model's own number of inputs, and which of them the network reads.

    `prune_input` keeps the selection in no file. It does leave a trace: the base
    function is written as a SiLU object where a plain model has the name.
    """
    chosen = options.integers("input_id")
    total = options.integers("n_inputs")
    if total is not None and len(total) != 1:
        raise OptionError("option n_inputs is one number, such as n_inputs=4")
    if chosen is None:
        base = (checkpoint.config or {}).get("base_fun_name")
        if isinstance(base, Tagged) and base.name.endswith("SiLU"):
            raise OptionError(
                f"{checkpoint.path}: the checkpoint was written after prune_input, which keeps in no file "
                "which inputs remained",
                hint=f"give model.input_id, {sources} numbers: --option input_id=0,2 "
                "(and --option n_inputs=N, the number of inputs before pruning)",
            )
        if total is not None and total[0] != sources:
            raise OptionError(f"n_inputs is {total[0]}, but the network reads {sources} inputs: give input_id too")
        return sources, None
    if len(chosen) != sources:
        raise OptionError(f"input_id has {len(chosen)} entries, the network reads {sources} inputs")
    count = total[0] if total is not None else max(chosen) + 1
    if total is None:
        options.assumed["n_inputs"] = str(count)
    if count > INPUT_LIMIT:
        raise OptionError(f"the model would have {count} inputs, more than {INPUT_LIMIT}")
    if max(chosen) >= count:
        raise OptionError(f"input_id names column {max(chosen)}, but n_inputs is {count}")
    return count, Select(chosen)
