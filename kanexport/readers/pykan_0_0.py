"""pykan 0.0.x: a bare state dict of `save_ckpt`, with one grid per edge, not extended.

Source: pykan 0.0.5, KAN.forward and its layers, the same in 0.0.1 to 0.0.3. For n sources,
m destinations, the flat edge e = j n + i, and base SiLU unless told otherwise:

    y_j = sum_i mask_e (scale_base_e base(x_i) + scale_sp_e sum_c coef_ec B_c(x_i; grid_e))
        + sum_i symmask_ji (c f(a x_i + b) + d) + bias_j

`grid` [m n, G + 1] is extended when it is used, by k steps of its mean width on each side.
A value that is not finite makes the basis NaN, which reaches every sum, masked or not.
The names of symbolic functions, and which edges `lock` made share one function, are in no file;
nor is whether symbolic edges are on at all (`symbolic_enabled`, a constructor argument).

Options: base_fun, symbolic_enabled, prefix
Recognized by: `act_fun.0.coef` with two axes, `act_fun.0.mask` with one
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import USE_MODULE, InvalidKan, MissingFunctions, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.options import SYMBOLIC, Options
from kanexport.readers.common import chain, layer_tensors, pykan
from kanexport.readers.common.layer_tensors import Array, Part, Tensors
from kanexport.readers.common.pykan import EdgeFunctions, edge_id

FAMILY = "pykan-0.0"
MARK = pykan.FIRST

LOCK_NOTE = (
    "pykan 0.0 does not record which edges share one function after `lock`; the export has a separate function for "
    "each edge, so a model with locked edges differs from it"
)


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint belongs to this family, or an empty text."""
    roots = _roots(checkpoint.tensors)
    return f"{roots[0]}act_fun.0.coef has two axes, {roots[0]}act_fun.0.mask one" if roots else ""


def _roots(tensors: Tensors) -> list[str]:
    """The key prefixes of the models of this family in a state dict."""
    candidates = {root: Part(tensors, f"{root}act_fun.0.") for root in chain.roots(tensors, pykan.FIRST)}
    return [root for root, part in candidates.items() if (len(part.shape("coef")), len(part.shape("mask"))) == (2, 1)]


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """Read the state. Raises InvalidKan or OptionError."""
    checkpoint = pykan.model_checkpoint(checkpoint, options, _roots(checkpoint.tensors) or [""])
    tensors = checkpoint.tensors
    depth = pykan.depth(tensors)
    if not depth:
        raise InvalidKan("tensor 'act_fun.0.coef' is missing", code="tensor-missing", hint=USE_MODULE)
    base = Activation(pykan.base_activation(options, options.text("base_fun", "silu")))
    symbolic_edges = _SymbolicEdges(tensors, depth, options)
    layers = []
    for index in range(depth):
        try:
            layers.append(_layer(checkpoint, index, base, symbolic_edges))
        except InvalidKan as error:
            text = error.message if error.message.startswith("edge (") else f"layer {index}: {error.message}"
            raise type(error)(text, code=error.code, hint=error.hint) from error
    dtype = layer_tensors.storage_dtype([tensors[f"act_fun.{index}.coef"] for index in range(depth)])
    return Kan(layers[0].sources, tuple(layers), dtype, (LOCK_NOTE, *symbolic_edges.notes))


def _layer(checkpoint: Checkpoint, index: int, base: Activation, symbolic_edges: _SymbolicEdges) -> Layer:
    tensors = checkpoint.tensors
    bias = layer_tensors.tensor(tensors, f"biases.{index}.weight", (1, None))[0]
    coef = layer_tensors.tensor(tensors, f"act_fun.{index}.coef", (None, None))
    size, m = len(coef), len(bias)
    if size % m:
        raise InvalidKan(
            f"act_fun.{index}.coef has {size} edges, expected a multiple of the {m} biases",
            code="tensor-wrong-shape",
            hint=USE_MODULE,
        )
    n = size // m

    part = Part(tensors, f"act_fun.{index}.")
    return Layer(
        terms=flat_terms(part, n, m, base),
        mask=by_edge(part, "mask", n, m),
        bias=bias,
        symbolic=symbolic_edges.edges(index, (n, m)),
        nan_spreads=np.ones((n, m), dtype=bool),
    )


def by_edge(part: Part, name: str, n: int, m: int, *columns: int | None) -> Array:
    """[n, m, ...]: a tensor of the flat edges, [m n, ...] in the file. Raises InvalidKan."""
    flat = part.tensor(name, m * n, *columns)
    return flat.reshape(m, n, *flat.shape[1:]).swapaxes(0, 1)


def flat_terms(part: Part, n: int, m: int, base: Activation) -> tuple[BasisTerm, ...]:
    """The splines and the base branch of a layer of flat edges. Raises InvalidKan."""
    scale = by_edge(part, "scale_sp", n, m)[:, :, None]
    scaled = layer_tensors.product(by_edge(part, "coef", n, m, None), scale)
    grid = by_edge(part, "grid", n, m, None)
    return (*splines(grid, scaled), BasisTerm(base, by_edge(part, "scale_base", n, m)[:, :, None]))


def splines(grid: Array, coef: Array) -> list[BasisTerm]:
    """Terms, as many as a source has different grids: term t has the t-th grid of every source, and the coefficients
    of the edges with that grid. Grids [n, m, G + 1], coefficients [n, m, G + k]."""
    degree = coef.shape[2] - grid.shape[2] + 1
    if degree < 1 or grid.shape[2] < 2:
        raise InvalidKan(
            f"grids of {grid.shape[2]} knots and {coef.shape[2]} coefficients per edge do not make a spline, expected "
            "G + 1 and G + k, with k >= 1 and G >= 1",
            code="grid-wrong-shape",
            hint=USE_MODULE,
        )

    def extended(rows: Array) -> Array:
        """[n, G + 1] -> [n, G + 2k + 1]: one mean step at a time, as in `B_batch`."""
        with np.errstate(over="ignore", invalid="ignore"):  # the spline refuses what is not finite
            step = (rows[:, -1:] - rows[:, :1]) / (rows.shape[1] - 1)
            for _ in range(degree):
                rows = np.concatenate([rows[:, :1] - step, rows, rows[:, -1:] + step], axis=1)
        return rows

    return terms_by_grid(grid, coef, degree, extended)


def terms_by_grid(
    grid: Array, coef: Array, degree: int, extended: Callable[[Array], Array] = lambda rows: rows
) -> list[BasisTerm]:
    """The same as `splines`, for grids [n, m, T] of any kind. `extended` extends the knots of rows [n, T]."""
    grids = [np.unique(rows, axis=0, return_inverse=True) for rows in grid]
    which = np.stack([inverse.reshape(-1) for _, inverse in grids])  # [n, m]
    terms = []
    for at in range(int(which.max()) + 1):
        # A source with fewer grids repeats its first, with coefficients of zero.
        rows = np.stack([different[at if at < len(different) else 0] for different, _ in grids])
        terms.append(BasisTerm(BSpline(extended(rows), degree), coef * (which == at)[:, :, None]))
    return terms


class _SymbolicEdges:
    """The symbolic edges of all layers. Raises OptionError, which lists the edges without a name."""

    # radon: the masks, then the names of their edges.
    def __init__(self, tensors: Tensors, depth: int, options: Options) -> None:
        self._tensors, self._functions = tensors, EdgeFunctions(options)
        self.notes: list[str] = []
        masks = {at: tensors.get(f"symbolic_fun.{at}.mask") for at in range(depth)}
        places = {at: np.argwhere(mask) for at, mask in masks.items() if mask is not None and mask.ndim == 2}
        on = [(at, int(i), int(j)) for at, rows in places.items() for j, i in rows]
        self._enabled = _enabled(options, needed=bool(on))
        nameless = [edge for edge in on if self._functions.name(edge, None) is None] if self._enabled else []
        if nameless:
            raise MissingFunctions(
                f"{len(nameless)} symbolic edges (layer,source,destination) have no function, because pykan 0.0 does "
                f"not store names: {', '.join(f'({edge_id(edge)})' for edge in nameless)}",
                tuple(SYMBOLIC + edge_id(edge) for edge in nameless),
                pykan.NAMES,
                hint="pass "
                + " ".join(f"--symbolic {edge_id(edge)}=NAME" for edge in nameless[:3])
                + (" ..." if len(nameless) > 3 else "")
                + ", with NAME one of "
                + ", ".join(elementwise.SYMBOLIC),
            )
        if not self._enabled:
            self.notes.append(f"{len(on)} symbolic edges are off, because of --option symbolic_enabled=false")

    def edges(self, index: int, shape: tuple[int, int]) -> tuple[SymbolicEdge, ...]:
        """The edges of one layer [n, m]; the tensors are [m, n]. A masked edge is included if it has a name: pykan
        multiplies by the mask, so that it still returns NaN if its function does."""
        n, m = shape
        if not self._enabled or f"symbolic_fun.{index}.mask" not in self._tensors:
            return ()
        mask = layer_tensors.tensor(self._tensors, f"symbolic_fun.{index}.mask", (m, n))
        affine = layer_tensors.tensor(self._tensors, f"symbolic_fun.{index}.affine", (m, n, 4))
        edges = []
        for j, i in np.ndindex(m, n):
            name = self._functions.name((index, i, j), None)
            if name is not None:
                a, b, c, d = affine[j, i].tolist()
                function = self._functions.function(name, (index, i, j))
                edges.append(SymbolicEdge(i, j, function, a, b, c, d, float(mask[j, i])))
        return tuple(edges)


def _enabled(options: Options, *, needed: bool) -> bool:
    """Whether symbolic edges are on; recorded as assumed if that is `needed`. Raises OptionError."""
    text = options.text("symbolic_enabled", "true") if needed else options.optional("symbolic_enabled")
    if text not in (None, "true", "false"):
        raise OptionError(
            f"option symbolic_enabled is {text!r:.80}, expected true or false",
            code="option-value-unknown",
            hint="pass --option symbolic_enabled=true or false",
        )
    return text != "false"
