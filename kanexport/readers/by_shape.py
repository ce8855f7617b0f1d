"""Reader of layers with names that do not identify a library. The functions are open.

Shapes decide the tensors' roles (`readers/common/roles.py`). The layer computes

    y_j = sum_i sum_c C_ijc f_c(g(x_i)) + sum_i W_ij act(x_i) + b_j

C are the coefficients. If the file has them, there are also the base weight W, the bias b, a scale of every edge's
coefficients, and points. Points are centres of Gaussians or knots of splines: one row for all, one per source or one
per edge. Without points, f are polynomials, a Fourier series, or Gaussians and splines on a fixed grid. With points and
widths per source, f may be the hidden units of one small MLP per source.

Source: public copies of KAN layers under names of their own, and layers of no library.

The reader accepts a file only if its user names the functions with the option `forward`, or if recorded outputs decide
them. Values of `forward` are chebyshev-of-tanh, gaussian-width-of-x, bspline-of-x and others. If shapes allow more than
one assignment of tensors, the option `roles` names one.

Options: forward, roles, base_activation, denominator, squash_eps, jacobi_a, jacobi_b, layernorm_eps
Edge classes: A, B
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kanexport.bases import Basis, polynomial, recurrence
from kanexport.bases.bspline import BSpline
from kanexport.bases.fourier import Fourier
from kanexport.bases.gaussian import Gaussian
from kanexport.bases.polynomial import Polynomial
from kanexport.bases.recurrence import Recurrence
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.formats.checkpoint import Checkpoint
from kanexport.functions import domain_maps, elementwise, wavelets
from kanexport.functions.domain_maps import Bounded, Raw, Sigmoid, Squash
from kanexport.functions.elementwise import Unary
from kanexport.ir.model import BasisTerm, EdgeTerm, Layer, Term
from kanexport.ir.steps import Elementwise, RowRange, Step
from kanexport.options import Options
from kanexport.readers import pykan_0_0
from kanexport.readers.common import chain, grid_steps, layer_tensors, roles
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Array, Keys, Part, branch, layer_of
from kanexport.readers.common.roles import BASE, BIAS, POINTS, SCALE, WIDTHS, LayerRoles, Roles, Sizes

FAMILY = "by-shape"

ROLES = "roles"  # the option
POLYNOMIALS: dict[str, Callable[[int], Basis]] = {
    "chebyshev": polynomial.chebyshev,
    "legendre": polynomial.legendre,
    "monomials": recurrence.monomials,
    "hermite": polynomial.hermite,
    "hermite-prob": polynomial.hermite_prob,
    "chebyshev2": polynomial.chebyshev2,
    "laguerre": lambda degree: polynomial.laguerre(degree, 0.0),
}
JACOBI = "jacobi"
NUMBERS = ("1.0", "0.0", "0.5", "-0.5", "2.0")  # values of Jacobi's a and b
GRIDS = {"gaussians": (-1.0, 1.0), "gaussians-2": (-2.0, 2.0), "gaussians-01": (0.0, 1.0)}  # ends of the fixed centres
SPLINES, DEGREE = "splines", 3  # on a fixed grid from -1 to 1
FOURIER, SINES_FIRST = "fourier", "fourier-sines-first"
FORMS: dict[str, Callable[[Array], Array]] = {  # from a width to the factor of the distance from a centre
    "width": lambda w: 1 / w,
    "sigma": lambda w: 1 / (math.sqrt(2) * w),
    "beta": np.sqrt,
    "rate": lambda w: w,
}
CHANGED: dict[str, Callable[[Array], Array]] = {
    "": lambda w: w,
    "exp-": np.exp,
    "softplus-": lambda w: np.logaddexp(0, w),
    "abs-": np.abs,
}
WAVES = ("mexican_hat", "ricker", "morlet", "dog")
HIDDEN = ("relu", "silu", "tanh", "gelu", "sigmoid")  # activations of small MLPs
AROUND = [
    *(f"gaussian-{change}{form}" for change in CHANGED for form in FORMS),
    *(f"{wave}-{change}width" for wave in WAVES for change in ("", "exp-")),
]
AROUND_SOURCES = [*AROUND, *(f"mlp-{name}" for name in HIDDEN)]
FEW = ("x", "tanh", "clip", "sigmoid", "layernorm")  # arguments of functions that are not polynomials
WORDS = (
    "Chebyshev, Legendre, Taylor (monomials), Hermite, Laguerre or Jacobi polynomials, a Fourier series, Gaussians or "
    "splines on a fixed grid; of x, tanh(x), x clamped to -1 and 1, and others"
)
POINTED = "Gaussians or wavelets around centers, with widths in one of several forms, splines on knots, or small MLPs"


# The squash of each source in the arguments of functions. A layernorm has no weights; row-range scales by the extremes
# of the row.
ARGUMENTS: dict[str, Callable[[Options], Squash]] = {
    "tanh": grid_steps.SQUASHES["tanh"],
    "x": grid_steps.SQUASHES["raw"],
    "clip": grid_steps.SQUASHES["clip"],
    "sigmoid": lambda options: Sigmoid(),
    "clip-eps": grid_steps.SQUASHES["clip-eps"],
    "tanh-eps": grid_steps.SQUASHES["tanh-eps"],
    "arctan": grid_steps.SQUASHES["arctan"],
    "arctan-1": lambda options: Bounded(elementwise.SYMBOLIC["arctan"]),
    "softsign": grid_steps.SQUASHES["softsign"],
    "sigmoid-2": grid_steps.SQUASHES["sigmoid"],
    "tanh-twice": grid_steps.SQUASHES["tanh-twice"],
    "row-range": grid_steps.SQUASHES["raw"],
    "layernorm": grid_steps.SQUASHES["raw"],
    "layernorm-tanh": grid_steps.SQUASHES["tanh"],
}


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the tensors may be those of a KAN: the coefficients of one candidate."""
    layer_roles = roles.find(checkpoint.tensors)
    if layer_roles is None:
        return ""
    prefix, shapes = next(iter(layer_roles.layers.items()))
    name, count = layer_roles.roles[0].coef, len(layer_roles.layers)
    return f"by shape: {prefix + name} {shapes[name]} in {count} layer{'s' * (count > 1)}"


def kind(checkpoint: Checkpoint, options: Options) -> LayerKind:
    """The kind of layers in this checkpoint, and how to read them. Raises InvalidKan and OptionError."""
    root = options.optional("prefix") or ""
    layer_roles = roles.find({key: value for key, value in checkpoint.tensors.items() if key.startswith(root)})
    if layer_roles is None:
        raise InvalidKan(
            "no tensor has the shape of the coefficients of a KAN layer", code="layers-not-found", hint=USE_MODULE
        )
    by_text = {assignment.text: assignment for assignment in layer_roles.roles}
    fitting = [text for text, assignment in by_text.items() if _fits_rows(assignment, layer_roles, options)]
    chosen = next(iter(by_text))
    if len(by_text) > 1 and len(fitting) == 1 and options.optional(ROLES) is None:
        chosen = fitting[0]
        options.assume(ROLES, chosen)
    elif len(by_text) > 1:
        likely = fitting or list(by_text)
        chosen = options.choice(ROLES, likely, likely[0], words=f"or {'; or '.join(likely[1:])}")
    shapes = next(iter(layer_roles.layers.values()))
    keys = Keys({name: len(shape) for name, shape in shapes.items()}, {})
    return LayerKind(FAMILY, keys, functools.partial(_layer, by_text[chosen]))


def _fits_rows(assignment: Roles, layer_roles: LayerRoles, options: Options) -> bool:
    """Whether the network takes rows as wide as the recorded ones, and returns as many outputs. True if no rows are
    recorded."""
    layers = list(layer_roles.layers.values())
    first, last = assignment.sizes(layers[0]), assignment.sizes(layers[-1])
    if first is None or last is None:
        return False
    return options.facts.width in (None, first.i) and options.facts.outputs in (None, last.o)


def _layer(chosen: Roles, part: Part, options: Options) -> Layer:
    """One layer. Raises InvalidKan or OptionError."""
    shapes = {name: part.shape(name) for name in (chosen.coef, *(name for name, _ in chosen.others))}
    sizes = chosen.sizes(shapes)
    if sizes is None:
        raise InvalidKan(
            f"{chosen.coef} has shape {shapes[chosen.coef]}, which does not fit {chosen.text}",
            code="tensor-wrong-shape",
            hint="assign the tensors with --option roles=...",
        )
    what = POINTED if chosen.name(POINTS) else WORDS
    named = f"{part.prefix}{chosen.coef} {shapes[chosen.coef]}"
    forward = options.must_forward(
        _forwards(chosen, sizes, shapes), f"the functions of {named} are ambiguous: names and shapes fit {what}"
    )
    kind, _, argument_name = forward.rpartition("-of-")
    coef = _coefficients(chosen, sizes, part)
    squash = ARGUMENTS[argument_name](options)
    first: tuple[Step, ...] = (RowRange(),) if argument_name == "row-range" else ()
    if argument_name.startswith("layernorm"):
        first = (chain.without_tensors("layernorm", sizes.i, options),)
    terms = _terms(kind, squash, first, coef, functools.partial(_points, chosen, sizes, part), options)
    spline = any(isinstance(term, BasisTerm) and isinstance(term.basis, BSpline) for term in terms)
    if name := chosen.name(BASE):
        terms.append(branch(layer_tensors.activation(options, "silu"), _edges(part, name, chosen, sizes).T))
    bias = sum((part.tensor(name, *shapes[name]).reshape(-1) for name, role in chosen.others if role == BIAS), 0.0)
    return layer_of(*terms, bias=np.zeros(sizes.o) + bias, nan_spreads=spline and argument_name == "x")


def _forwards(chosen: Roles, sizes: Sizes, shapes: roles.Shapes) -> list[str]:
    """All forwards that the shapes allow, the most likely first."""
    points, widths = chosen.name(POINTS), chosen.name(WIDTHS)
    if chosen.axes in roles.FOURIER:
        return _with_arguments([FOURIER])
    if points is None:  # polynomials, and functions on a fixed grid or without a grid
        names = [f"{name}-of-{argument}" for argument in ARGUMENTS for name in (*POLYNOMIALS, JACOBI)]
        series = [FOURIER, SINES_FIRST] if sizes.k % 2 == 0 else []
        others = _with_arguments([*GRIDS, *([SPLINES] if sizes.k > DEGREE else []), *series])
        return names + others if widths is None else others
    if shapes[points][-1] != sizes.k:
        return _with_arguments(["bspline"])
    if widths is None:
        return _with_arguments(["gaussian", "sech2"])
    return _with_arguments(AROUND_SOURCES if len(shapes[points]) == len(shapes[widths]) == 2 else AROUND)


def _with_arguments(kinds: list[str]) -> list[str]:
    """Each kind with each argument in FEW, first all of x."""
    return [f"{kind}-of-{argument}" for argument in FEW for kind in kinds]


def _coefficients(chosen: Roles, sizes: Sizes, part: Part) -> Array:
    """The coefficients [I, O, K], times the scale of the edges if there is one."""
    axes = chosen.axes.replace("-", "")
    lengths = {"o": sizes.o, "i": sizes.i, "k": sizes.k, "2": 2}
    values = part.tensor(chosen.coef, *part.shape(chosen.coef)).reshape([lengths[axis] for axis in axes])
    order = [axes.index(axis) for axis in "io2k" if axis in axes]
    coef = values.transpose(order).reshape(sizes.i, sizes.o, -1)
    if name := chosen.name(SCALE):
        coef = layer_tensors.product(coef, _edges(part, name, chosen, sizes)[:, :, None])
    return np.ascontiguousarray(coef)


def _edges(part: Part, name: str, chosen: Roles, sizes: Sizes) -> Array:
    """One number per edge, [I, O]."""
    values = part.tensor(name, *part.shape(name))
    return values.T if chosen.turned(name, values.shape, sizes) else values


def _points(chosen: Roles, sizes: Sizes, part: Part, role: str) -> Array | None:
    """The points or widths of a layer as [], [K], [I, 1], [I, K] or [I, O, K]; None if there are none."""
    name = chosen.name(role)
    if name is None:
        return None
    values = part.tensor(name, *part.shape(name))
    if values.ndim == 3 and values.shape[:2] == (1, 1) != (sizes.i, sizes.o):
        return np.asarray(values[0, 0])  # one row for all edges
    if values.ndim == 3:
        return values.transpose(1, 0, 2) if chosen.turned(name, values.shape[:2], sizes) else values
    if values.size == 1:
        return values.reshape(())
    if values.shape == (sizes.i,) and role == WIDTHS and sizes.i != sizes.k:
        return values[:, None]
    return values[0] if values.ndim == 2 and values.shape[0] == 1 else values


PointsOf = Callable[[str], Array | None]  # from a role, as `_points`


def _terms(
    kind: str, squash: Squash, first: tuple[Step, ...], coef: Array, points: PointsOf, options: Options
) -> list[Term]:
    """The functions of the edges, of the squashed sources after the steps `first`. Raises InvalidKan or OptionError."""
    n, _, count = coef.shape
    if kind in (*POLYNOMIALS, JACOBI):
        if kind == JACOBI:
            a, b = (options.number(f"jacobi_{name}", NUMBERS[0], among=NUMBERS) for name in "ab")
            basis: Basis = polynomial.jacobi(count - 1, a, b)
        else:
            basis = POLYNOMIALS[kind](count - 1)
        if isinstance(basis, Polynomial):
            basis = polynomial.squashed(basis, squash)
        else:
            assert isinstance(basis, Recurrence)
            basis = replace(basis, squash=squash)
        return [BasisTerm(basis, coef, first)]
    pre_steps = first if isinstance(squash, Raw) else (*first, Elementwise(domain_maps.function(squash)))
    if kind in (FOURIER, SINES_FIRST):
        half = count // 2
        ordered = coef if kind == FOURIER else np.concatenate([coef[:, :, half:], coef[:, :, :half]], axis=2)
        return [BasisTerm(Fourier(half), ordered, pre_steps)]
    if kind == SPLINES:  # uniform knots from -1 to 1, extended on both sides
        row = -1.0 + 2.0 / (count - DEGREE) * np.arange(-DEGREE, count + 1)
        return [BasisTerm(BSpline(np.tile(row, (n, 1)), DEGREE), coef, pre_steps)]
    if kind in GRIDS:
        centres = np.linspace(*GRIDS[kind], count)
        return [BasisTerm(Gaussian(centres, grid_steps.denominator(centres, options)), coef, pre_steps)]
    if kind == "bspline":
        return _knotted(points, coef, pre_steps)
    return [_around(kind, points, coef, pre_steps, options)]


def _knotted(points: PointsOf, coef: Array, pre_steps: tuple[Step, ...]) -> list[Term]:
    """B-splines on stored knots: a row for all, for each source or for each edge. Raises InvalidKan."""
    knots = points(POINTS)
    assert knots is not None
    n, m, functions = coef.shape
    count = knots.shape[-1]
    rows = knots[:, :, :] if knots.ndim == 3 else np.broadcast_to(np.atleast_2d(knots)[:, None], (n, m, count))
    terms = (
        pykan_0_0.terms_by_grid(rows, coef, count - functions - 1)
        if count > functions
        else pykan_0_0.splines(np.ascontiguousarray(rows), coef)
    )
    return [BasisTerm(term.basis, term.coef, pre_steps) for term in terms]


def _around(kind: str, points: PointsOf, coef: Array, pre_steps: tuple[Step, ...], options: Options) -> Term:
    """Functions around centres. Without widths in the file, the option `denominator` is one width for all. Raises
    InvalidKan or OptionError."""
    centres, widths = points(POINTS), points(WIDTHS)
    assert centres is not None
    name, _, form = kind.partition("-")
    if widths is None:
        width = grid_steps.denominator(np.sort(centres.reshape(-1, centres.shape[-1])[0]), options)
        if not width:
            raise InvalidKan(
                "option denominator is 0, expected another number",
                code="option-out-of-range",
                hint="pass --option denominator=NUMBER",
            )
        spread, rate = np.asarray(width), np.asarray(1 / width)
    elif name == "mlp":  # sum_c C_ijc act(slope_ic x_i + shift_ic): the hidden units of an MLP of one source
        if (widths == 0).any():
            raise InvalidKan(
                "a hidden unit of the MLP of a source has the weight 0",
                code="option-does-not-fit-weights",
                hint="select other functions with --option forward=NAME",
            )
        return _each(elementwise.activation(form), -centres / widths, widths, coef, pre_steps)
    else:
        rate = _rate(kind, form, widths)
        spread = 1 / rate
    if name == "gaussian" and centres.ndim < 3 and rate.ndim < 3:
        return BasisTerm(_gaussian(centres, spread), coef, pre_steps)
    if name == "gaussian":
        function = elementwise.SYMBOLIC["gaussian"]
    else:
        function = elementwise.SHAPES["sech2"] if name == "sech2" else wavelets.WAVELETS[name]
    return _each(function, centres, rate, coef, pre_steps)


def _rate(kind: str, form: str, widths: Array) -> Array:
    """The factors of the distances from the centres. Raises InvalidKan."""
    change = next(start for start in sorted(CHANGED, key=len, reverse=True) if form.startswith(start))
    with np.errstate(all="ignore"):
        rate = FORMS[form.removeprefix(change)](CHANGED[change](widths))
    if not np.isfinite(rate).all() or (rate == 0).any():
        raise InvalidKan(
            f"the widths of {kind} are invalid: some are 0, negative or not finite",
            code="option-does-not-fit-weights",
            hint="assign the tensors with --option roles=..., or select the functions with --option forward=NAME",
        )
    return rate


def _gaussian(centres: Array, widths: Array) -> Gaussian:
    """Gaussians with one row of centres and one width for all, or with a row of both for each source."""
    if centres.ndim == 1 and widths.ndim < 2:
        return Gaussian(centres, widths if widths.ndim else float(widths))
    shape = np.broadcast_shapes(centres.shape, widths.shape)
    return Gaussian(np.array(np.broadcast_to(centres, shape)), np.array(np.broadcast_to(widths, shape)))


def _each(function: Unary, centres: Array, rate: Array, coef: Array, pre_steps: tuple[Step, ...]) -> EdgeTerm:
    """The same function for every edge and coefficient, each with a separate center."""
    centre, spread = (
        np.array(np.broadcast_to(part[:, None] if part.ndim == 2 else part, coef.shape)) for part in (centres, rate)
    )
    return EdgeTerm(function, centre, spread, coef, pre_steps)
