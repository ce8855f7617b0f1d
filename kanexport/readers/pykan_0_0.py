"""pykan 0.0.x: a bare state dict, as `save_ckpt` writes it; one grid an edge, not extended.

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

import re
from collections.abc import Callable

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import InvalidKan, MissingFunctions, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.options import SYMBOLIC, Options
from kanexport.readers.common import layer_tensors, pykan, symbolic
from kanexport.readers.common.layer_tensors import Array, Tensors
from kanexport.readers.common.symbolic import Edge, EdgeFunctions, edge_id

FAMILY = "pykan-0.0"

LOCK_NOTE = (
    "pykan 0.0 stores nowhere which edges `lock` made share one function; every edge was read with its own, "
    "so a model with locked edges differs from this export"
)


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint is of this family, or an empty text."""
    roots = _roots(checkpoint.tensors)
    return f"{roots[0]}act_fun.0.coef has two axes, {roots[0]}act_fun.0.mask one" if roots else ""


def _roots(tensors: Tensors) -> list[str]:
    """The key prefixes of the models of this family in a state dict."""
    roots = []
    for root in [key.removesuffix("coef") for key in tensors if key.endswith(pykan.FIRST)]:
        coef, mask = tensors[root + "coef"], tensors.get(root + "mask")
        if mask is not None and (coef.ndim, mask.ndim) == (2, 1):
            roots.append(root.removesuffix("act_fun.0."))
    return roots


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """Read the state. Raises InvalidKan or OptionError."""
    checkpoint = pykan.model_checkpoint(checkpoint, options, _roots(checkpoint.tensors) or [""])
    tensors = checkpoint.tensors
    depth = len([key for key in tensors if re.fullmatch(r"act_fun\.\d+\.coef", key)])
    if not depth:
        raise InvalidKan("there is no act_fun.0.coef")
    base = Activation(symbolic.base(options, options.text("base_fun", "silu")))
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
        raise InvalidKan(f"act_fun.{index}.coef has {size} edges, no multiple of the {m} biases")
    n = size // m

    def edges(name: str, *columns: int | None) -> Array:
        """[m n, ...] -> [n, m, ...]"""
        flat = layer_tensors.tensor(tensors, f"act_fun.{index}.{name}", (size, *columns))
        return flat.reshape(m, n, *flat.shape[1:]).swapaxes(0, 1)

    scaled = layer_tensors.product(edges("coef", coef.shape[1]), edges("scale_sp")[:, :, None])
    return Layer(
        terms=(*splines(edges("grid", None), scaled), BasisTerm(base, edges("scale_base")[:, :, None])),
        mask=edges("mask"),
        bias=bias,
        symbolic=symbolic_edges.edges(index, (n, m)),
        nan_spreads=np.ones((n, m), dtype=bool),
    )


def splines(grid: Array, coef: Array) -> list[BasisTerm]:
    """Terms, as many as a source has different grids: term t has every source's t-th, and the
    coefficients of the edges with that grid. Grids [n, m, G + 1], coefficients [n, m, G + k]."""
    degree = coef.shape[2] - grid.shape[2] + 1
    if degree < 1 or grid.shape[2] < 2:
        raise InvalidKan(
            f"grids of {grid.shape[2]} knots and {coef.shape[2]} coefficients an edge are no spline: "
            "expected G + 1 and G + k, with k >= 1 and G >= 1"
        )
    return terms_by_grid(grid, coef, degree, lambda rows: _extend(rows, degree))


def terms_by_grid(
    grid: Array, coef: Array, degree: int, extended: Callable[[Array], Array] = lambda rows: rows
) -> list[BasisTerm]:
    """The same as `splines`, for grids [n, m, T] of any kind. `extended` makes the knots of rows [n, T]."""
    grids = [np.unique(rows, axis=0, return_inverse=True) for rows in grid]
    which = np.stack([inverse.reshape(-1) for _, inverse in grids])  # [n, m]
    terms = []
    for at in range(int(which.max()) + 1):
        # A source with fewer grids repeats its first, with coefficients of zero.
        rows = np.stack([different[at if at < len(different) else 0] for different, _ in grids])
        terms.append(BasisTerm(BSpline(extended(rows), degree), coef * (which == at)[:, :, None]))
    return terms


def _extend(grid: Array, degree: int) -> Array:
    """[n, G + 1] -> [n, G + 2k + 1]: one mean step at a time, as `B_batch` does."""
    with np.errstate(over="ignore", invalid="ignore"):  # the spline refuses what is not finite
        step = (grid[:, -1:] - grid[:, :1]) / (grid.shape[1] - 1)
        for _ in range(degree):
            grid = np.concatenate([grid[:, :1] - step, grid, grid[:, -1:] + step], axis=1)
    return grid


class _SymbolicEdges:
    """The symbolic edges of all layers. Raises OptionError listing those without a name."""

    def __init__(self, tensors: Tensors, depth: int, options: Options) -> None:
        self._tensors, self._functions = tensors, EdgeFunctions(options)
        self.notes: list[str] = []
        on = _edges_on(tensors, depth)
        self._enabled = _enabled(options, needed=bool(on))
        if self._enabled:
            _refuse_nameless([edge for edge in on if self._functions.name(edge, None) is None])
        else:
            self.notes.append(f"{len(on)} symbolic edges are off, as --option symbolic_enabled=false says")

    def edges(self, index: int, shape: tuple[int, int]) -> tuple[SymbolicEdge, ...]:
        """The edges of one layer [n, m]; the tensors are [m, n]. A masked edge is kept if it has a
        name: pykan multiplies by the mask, so that it still gives NaN where its function does."""
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


def _edges_on(tensors: Tensors, depth: int) -> list[Edge]:
    """The edges that the symbolic masks [m, n] switch on."""
    masks = {at: tensors.get(f"symbolic_fun.{at}.mask") for at in range(depth)}
    places = {at: np.argwhere(mask) for at, mask in masks.items() if mask is not None and mask.ndim == 2}
    return [(at, int(i), int(j)) for at, rows in places.items() for j, i in rows]


def _enabled(options: Options, *, needed: bool) -> bool:
    """Whether symbolic edges are on; recorded as assumed where that is `needed`. Raises OptionError."""
    text = options.text("symbolic_enabled", "true") if needed else options.optional("symbolic_enabled")
    if text not in (None, "true", "false"):
        raise OptionError(f"option symbolic_enabled is {text!r:.80}, expected true or false")
    return text != "false"


def _refuse_nameless(edges: list[Edge]) -> None:
    if edges:
        raise MissingFunctions(
            f"{len(edges)} symbolic edges (layer,source,destination) have no function, since pykan 0.0 stores "
            f"no names: {', '.join(f'({edge_id(edge)})' for edge in edges)}",
            tuple(SYMBOLIC + edge_id(edge) for edge in edges),
            symbolic.NAMES,
            hint=" ".join(f"--symbolic {edge_id(edge)}=NAME" for edge in edges[:3])
            + (" ..." if len(edges) > 3 else "")
            + ", with NAME one of "
            + ", ".join(elementwise.SYMBOLIC),
        )
