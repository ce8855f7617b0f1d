"""pykan's weights without the config that `saveckpt` writes beside them.

Training scripts save `model.state_dict()` alone, or with a model around it. Widths
follow from the shapes; the base function, and whether symbolic edges are on, are
assumed as pykan's constructor has them; names of symbolic functions are in no file.
A level with more subnodes than nodes multiplies: how many in each group is assumed too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from kanexport.errors import FamilyError, InvalidKan, MissingFunctions
from kanexport.files.checkpoint import Checkpoint
from kanexport.layers import symbolic
from kanexport.layers.parts import Tensors
from kanexport.layers.symbolic import Edge, place
from kanexport.options import SYMBOLIC, Options

Shape = tuple[int, ...]  # of a layer's coefficients: [sources, destinations, functions]

FIRST = "act_fun.0.coef"
NOTE = "the weights came without pykan's config: what it would have said follows from the shapes, or is assumed"
COPY_CONFIG = "copy PREFIX_config.yml beside it if the model was saved with saveckpt"


def roots(tensors: Tensors) -> list[str]:
    """The key prefixes of the pykan models in a state dict."""
    return [key.removesuffix(FIRST) for key, value in tensors.items() if key.endswith(FIRST) and value.ndim == 3]


def own(checkpoint: Checkpoint, options: Options, known: Sequence[str]) -> Checkpoint:
    """The model's tensors alone, under pykan's own names; `known` are the prefixes of such models. Raises
    FamilyError where the file holds more than one KAN, or something else as well, and no prefix is given."""
    prefix = options.optional("prefix")
    root = _root(known, prefix)
    tensors = {key.removeprefix(root): value for key, value in checkpoint.tensors.items() if key.startswith(root)}
    beside = [key for key in checkpoint.tensors if not key.startswith(root)]
    if beside and prefix is None:
        raise FamilyError(
            f"beside the KAN under {root!r} there are tensors of other modules, such as {beside[0]!r}",
            hint=f"the KAN alone is exported with --option prefix={root}, a whole module with --module",
        )
    return dataclasses.replace(checkpoint, tensors=tensors)


def _root(known: Sequence[str], prefix: str | None) -> str:
    """The user's prefix, or that of the only model. Raises FamilyError where there is no such model, or a choice."""
    if prefix is None and len(known) == 1:
        return known[0]
    if prefix is not None and prefix in known:
        return prefix
    listed = ", ".join(repr(root) for root in known[:6]) or "none"
    raise FamilyError(
        f"{FIRST} stands under {len(known)} prefixes: {listed}", hint="choose one with --option prefix=KEY_PREFIX"
    )


def config(checkpoint: Checkpoint, depth: int, options: Options) -> dict[str, Any]:
    """What the config of `depth` layers would say, under its own keys. Raises InvalidKan or OptionError."""
    shapes = _shapes(checkpoint.tensors, depth)
    width = _width(checkpoint.tensors, shapes, options)
    settings = {
        "width": width,
        "mult_arity": _arity(options) if any(products for _, products in width) else 2,
        "base_fun_name": options.text("base_fun", "silu"),
        "symbolic_enabled": options.choice("symbolic_enabled", ("true", "false"), "true") == "true",
    }
    if settings["symbolic_enabled"]:
        settings |= _function_names(checkpoint.tensors, shapes, options)
    return settings


def _shapes(tensors: Tensors, depth: int) -> list[Shape]:
    """Of every layer's coefficients. Raises InvalidKan."""
    shapes = []
    for at in range(depth):
        coef = tensors.get(f"act_fun.{at}.coef")
        if coef is None or coef.ndim != 3:
            raise InvalidKan(f"layer {at} has no coef [n, m, G+k]")
        shapes.append(coef.shape)
    return shapes


def _width(tensors: Tensors, shapes: list[Shape], options: Options) -> list[list[int]]:
    """Of every level, the sum nodes and the multiplication nodes. Raises InvalidKan or OptionError."""
    width = [[shapes[0][0], 0]]
    for at, (_, subnodes, _) in enumerate(shapes):
        scale = tensors.get(f"node_scale_{at}")
        last = scale.shape[0] if scale is not None and scale.ndim == 1 else subnodes
        nodes = shapes[at + 1][0] if at + 1 < len(shapes) else last
        width.append(_level(at, subnodes, nodes, options))
    return width


def _level(at: int, subnodes: int, nodes: int, options: Options) -> list[int]:
    """Sum nodes and multiplication nodes, where `nodes` came of `subnodes`."""
    if subnodes == nodes:
        return [nodes, 0]
    arity = _arity(options)
    products, rest = divmod(subnodes - nodes, arity - 1)
    if rest or not 0 < products <= nodes:
        raise InvalidKan(
            f"layer {at} has {subnodes} destinations and {nodes} nodes after it, which products of {arity} do not make",
            hint="give how many factors a product has with --option mult_arity=N",
        )
    return [nodes - products, products]


def _arity(options: Options) -> int:
    """How many factors a product has. Raises OptionError."""
    arity = options.integer("mult_arity", at_least=2)
    if arity is None:
        options.assumed["mult_arity"] = "2"
    return arity or 2


def _function_names(tensors: Tensors, shapes: list[Shape], options: Options) -> dict[str, Any]:
    """The config's function names, [destination][source], as --symbolic gives them. Raises
    OptionError listing the edges that are on and have none."""
    names: dict[str, Any] = {}
    nameless: list[Edge] = []
    for at, (n, m, functions) in enumerate(shapes):
        rows = [[options.symbolic((at, i, j)) for i in range(n)] for j in range(m)]
        nameless += [(at, i, j) for i, j in _edges_on(tensors, at, (n, m, functions)) if rows[j][i] is None]
        names[f"symbolic.funs_name.{at}"] = [["0" if name is None else name for name in row] for row in rows]
    _refuse_nameless(nameless)
    return names


def _refuse_nameless(edges: list[Edge]) -> None:
    if edges:
        listed = ", ".join(f"({place(edge)})" for edge in edges[:8]) + (" ..." if len(edges) > 8 else "")
        raise MissingFunctions(
            f"{len(edges)} symbolic edges (layer,source,destination) have no function, since no _config.yml stands "
            f"beside the weights: {listed}",
            tuple(SYMBOLIC + place(edge) for edge in edges),
            symbolic.NAMES,
            hint=" ".join(f"--symbolic {place(edge)}=NAME" for edge in edges[:3]) + f"; or {COPY_CONFIG}",
        )


def _edges_on(tensors: Tensors, at: int, shape: Shape) -> list[tuple[int, int]]:
    """Source and destination of the edges that the symbolic mask [m, n] of layer `at` switches on.
    None where it does not fit the layer's shape [n, m, G+k], which the reader refuses later."""
    mask = tensors.get(f"symbolic_fun.{at}.mask")
    if mask is None or mask.shape != shape[1::-1]:
        return []
    return [(int(i), int(j)) for j, i in np.argwhere(mask != 0)]
