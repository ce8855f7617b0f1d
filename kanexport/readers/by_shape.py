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

import numpy as np

from kanexport.bases import Basis, polynomial, recurrence
from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.bases.fourier import Fourier
from kanexport.bases.gaussian import Gaussian
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.formats.checkpoint import Checkpoint
from kanexport.functions import elementwise, wavelets
from kanexport.functions.elementwise import Unary
from kanexport.ir.model import BasisTerm, EdgeTerm, Layer, Term
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers import pykan_0_0
from kanexport.readers.common import grid_steps, layer_tensors, roles
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.grid_steps import Argument
from kanexport.readers.common.layer_tensors import Array, Keys, Part
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
    chosen = _chosen(layer_roles, options)
    shapes = next(iter(layer_roles.layers.values()))
    keys = Keys({name: len(shape) for name, shape in shapes.items()}, {})
    return LayerKind(FAMILY, keys, functools.partial(_layer, chosen))


def _chosen(layer_roles: LayerRoles, options: Options) -> Roles:
    """The assignment that the option names, otherwise the most likely one, which `options` records. Raises
    OptionError."""
    by_text = {assignment.text: assignment for assignment in layer_roles.roles}
    fitting = [text for text, assignment in by_text.items() if _between(assignment, layer_roles, options)] or list(
        by_text
    )
    if len(by_text) == 1:
        return layer_roles.roles[0]
    if len(fitting) == 1 and options.optional(ROLES) is None:
        options.assume(ROLES, fitting[0])
        return by_text[fitting[0]]
    named = options.choice(ROLES, fitting, fitting[0], words=f"or {'; or '.join(fitting[1:])}")
    return by_text[named]


def _between(assignment: Roles, layer_roles: LayerRoles, options: Options) -> bool:
    """Whether the network takes rows as wide as the recorded ones, and returns as many outputs. True if no rows are
    recorded."""
    first, *_, last = [
        assignment.sizes(shapes) for shapes in (*layer_roles.layers.values(), *layer_roles.layers.values())
    ]
    if first is None or last is None:
        return False
    return options.width in (None, first.i) and options.outputs in (None, last.o)


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
    forward = _forward(chosen, sizes, shapes, part, options)
    kind, _, argument_name = forward.rpartition("-of-")
    coef = _coefficients(chosen, sizes, part)
    terms = list(
        _terms(kind, Argument.make(argument_name, sizes.i, options), coef, _Points(chosen, sizes, part), options)
    )
    if name := chosen.name(BASE):
        activation = Activation(layer_tensors.activation(options, "silu"))
        terms.append(BasisTerm(activation, _edges(part, name, chosen, sizes)[:, :, None]))
    bias = sum((part.tensor(name, *shapes[name]).reshape(-1) for name, role in chosen.others if role == BIAS), 0.0)
    spline = any(isinstance(term, BasisTerm) and isinstance(term.basis, BSpline) for term in terms)
    return Layer(
        tuple(terms),
        mask=np.ones((sizes.i, sizes.o)),
        bias=np.zeros(sizes.o) + bias,
        nan_spreads=np.full((sizes.i, sizes.o), spline and argument_name == "x"),
    )


def _forward(chosen: Roles, sizes: Sizes, shapes: roles.Shapes, part: Part, options: Options) -> str:
    """The name of the functions. Raises OpenQuestion if neither the user nor recorded outputs give it."""
    names = tuple(_forwards(chosen, sizes, shapes))
    what = POINTED if chosen.name(POINTS) else WORDS
    named = f"{part.prefix}{chosen.coef} {shapes[chosen.coef]}"
    return options.must_forward(names, f"the functions of {named} are ambiguous: names and shapes fit {what}")


def _forwards(chosen: Roles, sizes: Sizes, shapes: roles.Shapes) -> list[str]:
    """All forwards that the shapes allow, the most likely first."""
    points, widths = chosen.name(POINTS), chosen.name(WIDTHS)
    if chosen.axes in roles.FOURIER:
        return _with_arguments([FOURIER])
    if points is None:
        return _on_no_points(sizes, scaled=widths is not None)
    if shapes[points][-1] != sizes.k:
        return _with_arguments(["bspline"])
    if widths is None:
        return _with_arguments(["gaussian", "sech2"])
    return _with_arguments(AROUND_SOURCES if len(shapes[points]) == len(shapes[widths]) == 2 else AROUND)


def _on_no_points(sizes: Sizes, *, scaled: bool) -> list[str]:
    """Forwards without points: polynomials, and functions on a fixed grid or without a grid."""
    whole = (
        [] if scaled else [f"{name}-of-{argument}" for argument in Argument.NAMES for name in (*POLYNOMIALS, JACOBI)]
    )
    series = [FOURIER, SINES_FIRST] if sizes.k % 2 == 0 else []
    return whole + _with_arguments([*GRIDS, *([SPLINES] if sizes.k > DEGREE else []), *series])


def _with_arguments(kinds: list[str]) -> list[str]:
    """Each kind with each argument in FEW, first all of x."""
    return [f"{kind}-of-{argument}" for argument in FEW for kind in kinds]


def _coefficients(chosen: Roles, sizes: Sizes, part: Part) -> Array:
    """The coefficients [I, O, K], times the scale of the edges if there is one."""
    values = part.tensor(chosen.coef, *part.shape(chosen.coef))
    o, i, k = sizes.o, sizes.i, sizes.k
    match chosen.axes:
        case "o-ik":
            coef = values.reshape(o, i, k).transpose(1, 0, 2)
        case "o-ki":
            coef = values.reshape(o, k, i).transpose(2, 0, 1)
        case "ik-o":
            coef = values.reshape(i, k, o).transpose(0, 2, 1)
        case axes if len(axes) == 4:
            order = [axes.index(axis) for axis in "io2k"]
            coef = values.transpose(order).reshape(i, o, 2 * k)
        case axes:
            coef = values.transpose([axes.index(axis) for axis in "iok"])
    if name := chosen.name(SCALE):
        coef = layer_tensors.product(coef, _edges(part, name, chosen, sizes)[:, :, None])
    return np.ascontiguousarray(coef)


def _edges(part: Part, name: str, chosen: Roles, sizes: Sizes) -> Array:
    """One number per edge, [I, O]."""
    values = part.tensor(name, *part.shape(name))
    return values.T if chosen.turned(name, values.shape, sizes) else values


class _Points:
    """The points and widths of one layer."""

    def __init__(self, chosen: Roles, sizes: Sizes, part: Part) -> None:
        self.chosen, self.sizes, self.part = chosen, sizes, part
        self.has = chosen.name(POINTS) is not None

    def of(self, role: str) -> Array | None:
        """The tensor of a role as [], [K], [I, 1], [I, K] or [I, O, K]; None if there is none."""
        name = self.chosen.name(role)
        if name is None:
            return None
        values = self.part.tensor(name, *self.part.shape(name))
        if values.ndim == 3:
            return self._of_edges(name, values)
        if values.size == 1:
            return values.reshape(())
        if values.shape == (self.sizes.i,) and role == WIDTHS and self.sizes.i != self.sizes.k:
            return values[:, None]
        return values[0] if values.ndim == 2 and values.shape[0] == 1 else values

    def _of_edges(self, name: str, values: Array) -> Array:
        """The values as [I, O, K], or [K] if there is one row for all edges."""
        if values.shape[:2] == (1, 1) != (self.sizes.i, self.sizes.o):
            return np.asarray(values[0, 0])
        return values.transpose(1, 0, 2) if self.chosen.turned(name, values.shape[:2], self.sizes) else values


def _terms(kind: str, argument: Argument, coef: Array, points: _Points, options: Options) -> list[Term]:
    """The functions of the edges. Raises InvalidKan or OptionError."""
    if kind in (*POLYNOMIALS, JACOBI):
        return [_polynomials(kind, argument, coef, options)]
    pre_steps = argument.steps
    if kind in (FOURIER, SINES_FIRST):
        half = coef.shape[2] // 2
        ordered = coef if kind == FOURIER else np.concatenate([coef[:, :, half:], coef[:, :, :half]], axis=2)
        return [BasisTerm(Fourier(half), ordered, pre_steps)]
    if kind == SPLINES:
        return [BasisTerm(BSpline(_uniform(coef.shape[2], len(coef)), DEGREE), coef, pre_steps)]
    if kind in GRIDS:
        centres = np.linspace(*GRIDS[kind], coef.shape[2])
        return [BasisTerm(Gaussian(centres, grid_steps.denominator(centres, options)), coef, pre_steps)]
    if kind == "bspline":
        return _knotted(points, coef, pre_steps)
    return [_around(kind, points, coef, pre_steps, options)]


def _polynomials(kind: str, argument: Argument, coef: Array, options: Options) -> BasisTerm:
    degree = coef.shape[2] - 1
    if kind == JACOBI:
        a, b = (options.number(f"jacobi_{name}", NUMBERS[0], among=NUMBERS) for name in "ab")
        basis: Basis = polynomial.jacobi(degree, a, b)
    else:
        basis = POLYNOMIALS[kind](degree)
    return BasisTerm(argument.applied(basis), coef, argument.first)


def _uniform(functions: int, sources: int) -> Array:
    """Uniform knots from -1 to 1 for this number of functions, extended on both sides, one row per source."""
    step = 2.0 / (functions - DEGREE)
    return np.tile(-1.0 + step * np.arange(-DEGREE, functions + 1), (sources, 1))


def _knotted(points: _Points, coef: Array, pre_steps: tuple[Step, ...]) -> list[Term]:
    """B-splines on stored knots: a row for all, for each source or for each edge. Raises InvalidKan."""
    knots = points.of(POINTS)
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


def _around(kind: str, points: _Points, coef: Array, pre_steps: tuple[Step, ...], options: Options) -> Term:
    """Functions around centres. Raises InvalidKan or OptionError."""
    centres, widths = points.of(POINTS), points.of(WIDTHS)
    assert centres is not None
    if widths is None:
        return _alone(kind, centres, coef, pre_steps, options)
    name, _, form = kind.partition("-")
    if name == "mlp":
        return _hidden(form, centres, widths, coef, pre_steps)
    rate = _rate(kind, form, widths)
    if name == "gaussian" and centres.ndim < 3 and rate.ndim < 3:
        return BasisTerm(_gaussian(centres, 1 / rate), coef, pre_steps)
    function = elementwise.SYMBOLIC["gaussian"] if name == "gaussian" else wavelets.WAVELETS[name]
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


def _alone(kind: str, centres: Array, coef: Array, pre_steps: tuple[Step, ...], options: Options) -> Term:
    """Functions around centers without widths: the option `denominator` is one width for all."""
    row = np.sort(centres.reshape(-1, centres.shape[-1])[0])
    width = grid_steps.denominator(row, options)
    if not width:
        raise InvalidKan(
            "option denominator is 0, expected another number",
            code="option-out-of-range",
            hint="pass --option denominator=NUMBER",
        )
    if kind == "gaussian" and centres.ndim < 3:
        return BasisTerm(_gaussian(centres, np.asarray(width)), coef, pre_steps)
    function = elementwise.SYMBOLIC["gaussian"] if kind == "gaussian" else elementwise.SHAPES["sech2"]
    return _each(function, centres, np.asarray(1 / width), coef, pre_steps)


def _gaussian(centres: Array, widths: Array) -> Gaussian:
    """Gaussians with one row of centres and one width for all, or with a row of both for each source."""
    if centres.ndim == 1 and widths.ndim == 0:
        return Gaussian(centres, float(widths))
    if centres.ndim == 1 and widths.ndim == 1:
        return Gaussian(centres, widths)
    shape = np.broadcast_shapes(centres.shape, widths.shape)
    return Gaussian(np.array(np.broadcast_to(centres, shape)), np.array(np.broadcast_to(widths, shape)))


def _each(function: Unary, centres: Array, rate: Array, coef: Array, pre_steps: tuple[Step, ...]) -> EdgeTerm:
    """The same function for every edge and coefficient, each with a separate center."""
    centre, spread = (
        np.array(np.broadcast_to(part[:, None] if part.ndim == 2 else part, coef.shape)) for part in (centres, rate)
    )
    return EdgeTerm(function, centre, spread, coef, pre_steps)


def _hidden(name: str, shifts: Array, slopes: Array, coef: Array, pre_steps: tuple[Step, ...]) -> EdgeTerm:
    """sum_c C_ijc act(slope_ic x_i + shift_ic): the hidden units of an MLP of one source. Raises InvalidKan."""
    if (slopes == 0).any():
        raise InvalidKan(
            "a hidden unit of the MLP of a source has the weight 0",
            code="option-does-not-fit-weights",
            hint="select other functions with --option forward=NAME",
        )
    return _each(elementwise.activation(name), -shifts / slopes, slopes, coef, pre_steps)
