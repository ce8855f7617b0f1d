"""FC-KAN: several functions with the same weights, and a combination of their outputs.

Source: hoangthangta/FC_KAN, models/fc_kan.py, FC_KAN.forward. For F functions, F rows X_f are carried
from layer to layer, all of them the input at first; for n inputs, m outputs and C = G + k:

    h_f = LayerNorm(X_f),   X_fj <- sum_i phi_f,ji(h_fi)

    bs    sum_c V[j, i C + c] B_c(h)                    rbf   sum_c V[j, i C + c] exp(-((h - g_c) / d)^2)
    dog   W_ji psi((h - t_ji) / s_ji), psi(u) = -u exp(-u^2 / 2)      base  W_ji act(h)
    sin, cos, arctan    W_ji f(h)

with V `spline_weight` [m, n C], W `base_weight` [m, n], t `translation`, s `scale`, g `rbf.grid` [C] and extended
knots `grid`. How the last X_f become the outputs is `combined_type`, by default quadratic:
sum_f X_f + prod_f X_f + sum_f X_f^2. Neither it nor `func_list` is in a file; F follows from
`concat_weight` [m, F m]. Here the F rows lie side by side in one vector, and a layer's edges stay in their block.

Options: func_list, combined_type, denominator, base_activation, layernorm_eps, prefix
Edge classes: B
Recognized by: `concat_weight` next to `translation` and `rbf.grid`
"""

from __future__ import annotations

import itertools
import re

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.bases.gaussian import Gaussian
from kanexport.errors import USE_MODULE, FamilyError, InvalidKan, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.functions import elementwise, wavelets
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer, Term
from kanexport.ir.norms import LayerNorm, NormOfGroups
from kanexport.ir.steps import Product, Select, Step
from kanexport.options import Options
from kanexport.readers.common import chain, grid_steps, layer_tensors, module_kinds
from kanexport.readers.common.layer_tensors import (
    Array,
    Part,
    Tensors,
    activation,
    branch,
    layer_of,
    natural,
    storage_dtype,
)

FAMILY = "fc-kan"
CONCAT = "concat_weight"
MARK = CONCAT
LAYER = re.compile(r"layers\.\d+\.")
OWN = ("base_weight", "spline_weight", "scale", "translation", "rbf.grid", "grid")
FUNCTIONS = ("bs", "dog", "rbf", "base", "sin", "cos", "arctan")
USUAL = FUNCTIONS[:4]
PARAMETRIC = ("shifted_softplus", "relu", "elu", "gelup", "leaky_relu", "swish", "softplus", "sigmoid", "hard_sigmoid")
POLYNOMIAL = ("quadratic", "sum", "product", "sum_product", "quadratic2", "quadratic3", "cubic")
COMBINED = (*POLYNOMIAL, "mean", "concat", "concat_linear")
# For the outputs X_f: the factors of sum_f X_f, of prod_f X_f and of sum_f X_f^2.
SHARES = {
    "quadratic": (1, 1, 1), "sum": (1, 0, 0), "sum_product": (1, 1, 0), "quadratic2": (0, 1, 1),
    "quadratic3": (0, 0, 1), "cubic": (1, 1, 1),
}  # fmt: skip


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint belongs to this family, or an empty text."""
    roots = _roots(checkpoint.tensors)
    return f"{roots[0]}{CONCAT} next to translation and rbf.grid" if roots else ""


# radon: the checks of a file, then its layers.
def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """The layers, each with a block for every function. Raises ExportError."""
    root = chain.only_root(checkpoint.tensors, _roots(checkpoint.tensors), CONCAT, options)
    tensors = {key.removeprefix(root): value for key, value in checkpoint.tensors.items() if key.startswith(root)}
    prefixes = sorted({match[0] for key in tensors if (match := LAYER.match(key))}, key=natural)
    others = [key for key in tensors if key != CONCAT and not LAYER.match(key)]
    if others:
        raise FamilyError(
            f"the file has an FC_KAN and tensors of other modules, such as {others[0]!r}",
            code="other-modules-in-file",
            hint="export the FC_KAN by itself with --option prefix=KEY_PREFIX, or the whole module with --module",
        )
    concat = layer_tensors.tensor(tensors, CONCAT, (None, None))
    m = len(concat)
    count = concat.shape[1] // m
    if count < 1 or count * m != concat.shape[1]:
        raise InvalidKan(
            f"{CONCAT} has shape {concat.shape}, expected (outputs, functions * outputs)",
            code="tensor-wrong-shape",
            hint=USE_MODULE,
        )
    functions = _functions(options, count)
    layers = [_layer(Part(tensors, prefix), functions, options) for prefix in prefixes]
    links: list[Layer | Step] = [*layers]
    if count > 1:
        links.insert(0, Select(tuple(range(layers[0].sources // count)) * count))
        links += _combined(options.choice("combined_type", COMBINED, COMBINED[0]), concat, count)
    used = [tensors[prefix + name] for prefix in prefixes for name in OWN]
    return chain.chain(links, storage_dtype(used), n_inputs=layers[0].sources // count)


def _roots(tensors: Tensors) -> list[str]:
    return [root for root in chain.roots(tensors, CONCAT) if all(f"{root}layers.0.{name}" in tensors for name in OWN)]


def _functions(options: Options, count: int) -> tuple[str, ...]:
    """The names in `func_list`. Raises OptionError, and FamilyError for functions that an edge cannot have."""
    known = [",".join(names) for names in itertools.combinations(USUAL, count)]
    default = known[0] if known else ",".join(FUNCTIONS[:count])
    names = tuple(name.strip() for name in options.text("func_list", default, among=known).split(","))
    if parametric := [name for name in PARAMETRIC if name in names]:
        raise FamilyError(
            f"func_list has {', '.join(parametric)}, with the weight inside the function, which is not supported",
            code="option-unsupported",
            hint=USE_MODULE,
        )
    if len(names) != count or not set(names) <= set(FUNCTIONS):
        raise OptionError(
            f"option func_list is {','.join(names)[:80]!r}, expected {count} of {', '.join(FUNCTIONS)}",
            code="option-value-unknown",
            hint="write the names with commas between them",
        )
    return names


def _layer(part: Part, functions: tuple[str, ...], options: Options) -> Layer:
    """One FC_KANLayer for all functions. Raises InvalidKan or OptionError."""
    m, n = part.tensor("base_weight", None, None).shape
    count = len(functions)
    terms = tuple(_term(part, name, at, count, options) for at, name in enumerate(functions))
    block = np.asarray(np.kron(np.eye(count), np.ones((n, m))), dtype=np.float64)
    norm = module_kinds.step(part.inside("layernorm"), options, "layernorm", n)
    assert isinstance(norm, LayerNorm)
    return Layer(
        terms=terms,
        mask=block,
        bias=np.zeros(m * count),
        nan_spreads=block > 0,
        pre_steps=(NormOfGroups(norm, count),) if count > 1 else (norm,),
    )


def _term(part: Part, name: str, at: int, count: int, options: Options) -> Term:
    """One function in block `at` of `count`."""
    base = part.tensor("base_weight", None, None)
    m, n = base.shape

    def block(values: Array, rest: float = 0.0) -> Array:
        """[n, m, K] as a block of [n count, m count, K]."""
        wide = np.full((n * count, m * count, values.shape[2]), rest)
        wide[n * at : n * (at + 1), m * at : m * (at + 1)] = values
        return wide

    if name in ("bs", "rbf"):
        centres = part.tensor("rbf.grid", None)
        coef = part.tensor("spline_weight", m, n * len(centres)).reshape(m, n, -1).transpose(1, 0, 2)
        if name == "rbf":
            return BasisTerm(Gaussian(centres, grid_steps.denominator(centres, options)), block(coef))
        grid = part.tensor("grid", n, None)
        return BasisTerm(BSpline(np.tile(grid, (count, 1)), grid.shape[1] - len(centres) - 1), block(coef))
    weight = block(base.T[:, :, None])
    if name == "dog":
        centre = block(part.tensor("translation", m, n).T[:, :, None])
        rate = block(wavelets.rates(part.tensor("scale", m, n)[:, :, None]), 1.0)
        return EdgeTerm(wavelets.WAVELETS["dog"], centre=centre, rate=rate, coef=weight)
    if name == "base":
        return BasisTerm(Activation(activation(options, "silu")), weight)
    return BasisTerm(Activation(elementwise.symbolic(name)), weight)


def _combined(kind: str, concat: Array, count: int) -> list[Layer | Step]:
    """The layers from the rows of all functions, concatenated, to the outputs."""
    m = len(concat)
    if kind == "concat":
        return []
    groups = tuple(f * m + j for j in range(m) for f in range(count))  # output by output
    if kind == "product":
        return [Select(groups), Product((count,) * m)]
    if kind in ("concat_linear", "mean"):
        weight = concat.T if kind == "concat_linear" else np.tile(np.eye(m), (count, 1)) / count
        return [_polynomial(weight, np.zeros_like(weight))]
    straight, product, square = SHARES[kind]
    each = np.tile(np.eye(m), (count, 1))  # [count m, m]
    linear = np.concatenate([straight * each, product * np.eye(m)])
    squares = np.concatenate([square * each, np.zeros((m, m))])
    with_products: list[Layer | Step] = [
        Select((*range(count * m), *groups)),
        Product((1,) * (count * m) + (count,) * m),
    ]
    if kind != "cubic":
        return [*with_products, _polynomial(linear, squares)]
    sums = np.concatenate([each, np.zeros((m, m))])
    both = _polynomial(np.concatenate([linear, sums], axis=1), np.concatenate([squares, 0 * sums], axis=1))
    return [*with_products, both, Select(tuple(at for j in range(m) for at in (j, m + j))), Product((2,) * m)]


def _polynomial(linear: Array, squares: Array) -> Layer:
    """The layer of edges a x + b x^2, with a and b [I, O]."""
    terms = [branch(elementwise.activation("identity"), linear.T)]
    if squares.any():
        terms.append(branch(elementwise.symbolic("x^2"), squares.T))
    return layer_of(*terms, name="combined_type")
