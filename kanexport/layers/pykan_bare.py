"""pykan's weights without the config that `saveckpt` writes beside them.

Training scripts save `model.state_dict()` alone, or with a model around it. Widths
follow from the shapes; the base function, and whether symbolic edges are on, are
assumed as pykan's constructor has them; names of symbolic functions are in no file.
A level with more subnodes than nodes multiplies: how many in each group is assumed too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.files.checkpoint import Checkpoint
from kanexport.layers.parts import Tensors
from kanexport.layers.symbolic import place
from kanexport.options import Options

FIRST = "act_fun.0.coef"
NOTE = "the weights came without pykan's config: what it would have said follows from the shapes, or is assumed"
COPY_CONFIG = "copy PREFIX_config.yml beside it if the model was saved with saveckpt"


def roots(tensors: Tensors) -> list[str]:
    """The key prefixes of the pykan models in a state dict."""
    return [key.removesuffix(FIRST) for key, value in tensors.items() if key.endswith(FIRST) and value.ndim == 3]


def own(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """The model's tensors alone, under pykan's own names. Raises FamilyError where the
    file holds more than one KAN, or something else as well, and no prefix is given."""
    found, given = roots(checkpoint.tensors), options.optional("prefix")
    chosen = given if given is not None else found[0] if len(found) == 1 else None
    if chosen is None or chosen not in found:
        listed = ", ".join(repr(root) for root in found[:6]) or "none"
        raise FamilyError(
            f"{FIRST} stands under {len(found)} prefixes: {listed}", hint="choose one with --option prefix=KEY_PREFIX"
        )
    tensors = {key.removeprefix(chosen): value for key, value in checkpoint.tensors.items() if key.startswith(chosen)}
    beside = [key for key in checkpoint.tensors if not key.startswith(chosen)]
    if beside and given is None:
        raise FamilyError(
            f"beside the KAN under {chosen!r} there are tensors of other modules, such as {beside[0]!r}",
            hint=f"the KAN alone is exported with --option prefix={chosen}, a whole module with --module",
        )
    return dataclasses.replace(checkpoint, tensors=tensors)


def config(checkpoint: Checkpoint, depth: int, options: Options) -> dict[str, Any]:
    """What the config would say. Raises InvalidKan or OptionError."""
    shapes = []
    for at in range(depth):
        coef = checkpoint.tensors.get(f"act_fun.{at}.coef")
        if coef is None or coef.ndim != 3:
            raise InvalidKan(f"layer {at} has no coef [n, m, G+k]")
        shapes.append(coef.shape)
    width: list[list[int]] = [[shapes[0][0], 0]]
    for at, (_, subnodes, _) in enumerate(shapes):
        scale = checkpoint.tensors.get(f"node_scale_{at}")
        last = scale.shape[0] if scale is not None and scale.ndim == 1 else subnodes
        nodes = shapes[at + 1][0] if at + 1 < depth else last
        width.append(_level(at, subnodes, nodes, options))
    made = {
        "width": width,
        "mult_arity": _arity(options) if any(pair[1] for pair in width) else 2,
        "base_fun_name": options.text("base_fun", "silu"),
        "symbolic_enabled": options.choice("symbolic_enabled", ("true", "false"), "true") == "true",
    }
    names = _names(checkpoint, shapes, options) if made["symbolic_enabled"] else {}
    return {**made, **names}


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
    given = options.integer("mult_arity", at_least=2)
    if given is None:
        options.assumed["mult_arity"] = "2"
    return given or 2


def _names(checkpoint: Checkpoint, shapes: list[tuple[int, ...]], options: Options) -> dict[str, Any]:
    """The config's function names, [destination][source], as --symbolic gives them. Raises
    OptionError listing the edges that are on and have none."""
    names = {
        at: [[options.symbolic((at, i, j)) for i in range(n)] for j in range(m)] for at, (n, m, _) in enumerate(shapes)
    }
    nameless = []
    for at in names:
        mask = checkpoint.tensors.get(f"symbolic_fun.{at}.mask")
        if mask is not None and mask.shape == shapes[at][1::-1]:
            nameless += [(at, int(i), int(j)) for j, i in np.argwhere(mask != 0) if names[at][j][i] is None]
    if nameless:
        listed = ", ".join(f"({place(edge)})" for edge in nameless[:8]) + (" ..." if len(nameless) > 8 else "")
        raise OptionError(
            f"{len(nameless)} symbolic edges (layer,source,destination) have no function, since no _config.yml stands "
            f"beside the weights: {listed}",
            hint=" ".join(f"--symbolic {place(edge)}=NAME" for edge in nameless[:3]) + f"; or {COPY_CONFIG}",
        )
    return {
        f"symbolic.funs_name.{at}": [["0" if name is None else name for name in row] for row in rows]
        for at, rows in names.items()
    }
