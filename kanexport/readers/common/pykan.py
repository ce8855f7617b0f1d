"""State dicts of pykan without the config that `saveckpt` writes next to them.

Training scripts save `model.state_dict()` alone, or with a model around it. Widths
follow from the shapes; the base function, and whether symbolic edges are on, are
assumed as pykan's constructor has them; names of symbolic functions are in no file.
A level with more subnodes than nodes multiplies: how many in each group is assumed too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.errors import USE_MODULE, FamilyError, InvalidKan, MissingFunctions, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.formats.yaml_config import Tagged
from kanexport.functions import elementwise
from kanexport.options import SYMBOLIC, Options
from kanexport.readers.common import symbolic
from kanexport.readers.common.layer_tensors import Tensors
from kanexport.readers.common.symbolic import Edge, EdgeFunctions, edge_id, shorten

Shape = tuple[int, ...]  # of a layer's coefficients: [sources, destinations, functions]

FIRST = "act_fun.0.coef"
NOTE = "the weights have no pykan config: its entries follow from the shapes, or are assumed"
SAME_SAVE = "copy the config and the weights from the same save"
COPY_CONFIG = "copy PREFIX_config.yml into the same folder if the model was saved with saveckpt"


def roots(tensors: Tensors) -> list[str]:
    """The key prefixes of the pykan models in a state dict."""
    return [key.removesuffix(FIRST) for key, value in tensors.items() if key.endswith(FIRST) and value.ndim == 3]


def model_checkpoint(checkpoint: Checkpoint, options: Options, known: Sequence[str]) -> Checkpoint:
    """The tensors of the model only, under the names of pykan. `known`: the prefixes of such models. Raises
    FamilyError if the file has more than one KAN, or other tensors, and the user gave no prefix."""
    prefix = options.optional("prefix")
    root = _root(known, prefix)
    tensors = {key.removeprefix(root): value for key, value in checkpoint.tensors.items() if key.startswith(root)}
    others = [key for key in checkpoint.tensors if not key.startswith(root)]
    if others and prefix is None:
        raise FamilyError(
            f"the file has a KAN under {root!r} and tensors of other modules, such as {others[0]!r}",
            code="other-modules-in-file",
            hint=f"export the KAN by itself with --option prefix={root}, or the whole module with --module",
        )
    return dataclasses.replace(checkpoint, tensors=tensors)


def _root(known: Sequence[str], prefix: str | None) -> str:
    """The prefix of the user, or that of the only model. Raises FamilyError if there is no such model, or more than
    one."""
    if prefix is None and len(known) == 1:
        return known[0]
    if prefix is not None and prefix in known:
        return prefix
    listed = ", ".join(repr(root) for root in known[:6]) or "none"
    raise FamilyError(
        f"{FIRST} occurs under {len(known)} prefixes: {listed}",
        code="model-ambiguous",
        hint="select one with --option prefix=KEY_PREFIX",
    )


def config(checkpoint: Checkpoint, depth: int, options: Options) -> dict[str, Any]:
    """The config that pykan would write for `depth` layers, under its keys. Raises InvalidKan or OptionError."""
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
    """The shapes of the coefficients of every layer. Raises InvalidKan."""
    shapes = []
    for at in range(depth):
        coef = tensors.get(f"act_fun.{at}.coef")
        if coef is None or coef.ndim != 3:
            raise InvalidKan(f"layer {at} has no coef [n, m, G+k]", code="tensor-missing", hint=USE_MODULE)
        shapes.append(coef.shape)
    return shapes


def _width(tensors: Tensors, shapes: list[Shape], options: Options) -> list[list[int]]:
    """The sum nodes and the multiplication nodes of every level. Raises InvalidKan or OptionError."""
    width = [[shapes[0][0], 0]]
    for at, (_, subnodes, _) in enumerate(shapes):
        scale = tensors.get(f"node_scale_{at}")
        last = scale.shape[0] if scale is not None and scale.ndim == 1 else subnodes
        nodes = shapes[at + 1][0] if at + 1 < len(shapes) else last
        width.append(_level(at, subnodes, nodes, options))
    return width


def _level(at: int, subnodes: int, nodes: int, options: Options) -> list[int]:
    """Sum nodes and multiplication nodes, for `nodes` computed from `subnodes`."""
    if subnodes == nodes:
        return [nodes, 0]
    arity = _arity(options)
    products, rest = divmod(subnodes - nodes, arity - 1)
    if rest or not 0 < products <= nodes:
        raise InvalidKan(
            f"layer {at} has {subnodes} destinations and {nodes} nodes after it, which do not fit products of {arity} "
            "factors",
            code="config-does-not-fit-weights",
            hint="pass the number of factors of a product with --option mult_arity=N",
        )
    return [nodes - products, products]


def _arity(options: Options) -> int:
    """The number of factors of a product. Raises OptionError."""
    arity = options.integer("mult_arity", at_least=2)
    if arity is None:
        options.assumed["mult_arity"] = "2"
    return arity or 2


def _function_names(tensors: Tensors, shapes: list[Shape], options: Options) -> dict[str, Any]:
    """The function names of the config, [destination][source], from --symbolic. Raises OptionError, which lists the
    active edges without a name."""
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
        listed = ", ".join(f"({edge_id(edge)})" for edge in edges[:8]) + (" ..." if len(edges) > 8 else "")
        raise MissingFunctions(
            f"{len(edges)} symbolic edges (layer,source,destination) have no function, because the weights have no "
            f"_config.yml: {listed}",
            tuple(SYMBOLIC + edge_id(edge) for edge in edges),
            symbolic.NAMES,
            hint="pass " + " ".join(f"--symbolic {edge_id(edge)}=NAME" for edge in edges[:3]) + f"; or {COPY_CONFIG}",
        )


def _edges_on(tensors: Tensors, at: int, shape: Shape) -> list[tuple[int, int]]:
    """Source and destination of the edges that the symbolic mask [m, n] of layer `at` switches on. None if it does
    not fit the shape [n, m, G+k] of the layer, which the reader rejects later."""
    mask = tensors.get(f"symbolic_fun.{at}.mask")
    if mask is None or mask.shape != shape[1::-1]:
        return []
    return [(int(i), int(j)) for j, i in np.argwhere(mask != 0)]


ZERO, NAN = "zero", "nan"  # what 0 / 0 counts as in the splines


@dataclass(frozen=True, slots=True)
class Level:
    """The nodes between two layers.

    sums     number of sum nodes
    arities  number of factors of each product node, which follow the sums
    """

    sums: int
    arities: tuple[int, ...] = ()

    @property
    def nodes(self) -> int:
        """The number of nodes that the next layer reads."""
        return self.sums + len(self.arities)

    @property
    def subnodes(self) -> int:
        """The number of values that the layer before it writes: one per sum, and one per factor."""
        return self.sums + sum(self.arities)


@dataclass(frozen=True, slots=True)
class Config:
    """The entries of one config, under the keys of pykan.

    path    path for messages
    stored  whether the entries are in a file; otherwise they follow from the weights, or are assumed
    """

    entries: dict[str, Any]
    path: Path
    stored: bool = True

    @property
    def repeated_knots(self) -> str | None:
        """ZERO or NAN, as the version of pykan that wrote the file has it; None if there is no file. `round`
        appeared in 0.2.2, with `nan_to_num`."""
        return (ZERO if "round" in self.entries else NAN) if self.stored else None

    @property
    def symbolic_enabled(self) -> bool:
        """Whether symbolic edges are on. Raises InvalidKan."""
        enabled = self.entries.get("symbolic_enabled", True)
        if not isinstance(enabled, bool):
            raise InvalidKan(
                f"{self.path}: symbolic_enabled is {shorten(enabled)}, expected true or false",
                code="config-malformed",
                hint="copy or download the file again",
            )
        return enabled

    @property
    def lost_inputs(self) -> bool:
        """Whether `prune_input` wrote it: the base function is then a SiLU object, and a name in a plain model."""
        base = self.entries.get("base_fun_name")
        return isinstance(base, Tagged) and base.name.endswith("SiLU")

    def levels(self, tensors: Tensors, depth: int) -> list[Level]:
        """The nodes before `depth` layers, between them and after them. Raises InvalidKan."""
        width = self.entries.get("width")
        if not isinstance(width, list | tuple) or len(width) != depth + 1 or depth < 1:
            raise InvalidKan(
                f"{self.path}: width is {shorten(width)}, expected a list of {depth + 1} entries "
                f"for {depth} layers of weights",
                code="config-does-not-fit-weights",
                hint=SAME_SAVE,
            )
        bound = 1 + max(max(tensor.shape, default=0) for tensor in tensors.values())
        return [self._level(at, entry, bound) for at, entry in enumerate(width)]

    def _level(self, at: int, entry: Any, bound: int) -> Level:
        pair = [entry, 0] if isinstance(entry, int) else entry
        if not _integers(pair, bound) or len(pair) != 2:
            raise InvalidKan(
                f"{self.path}: width[{at}] is {shorten(entry)}, expected [sum nodes, multiplication nodes] "
                "that fit the weights",
                code="config-does-not-fit-weights",
                hint=SAME_SAVE,
            )
        return Level(pair[0], self._arities(at, pair[1], bound))

    def _arities(self, at: int, count: int, bound: int) -> tuple[int, ...]:
        """The number of factors of each of the `count` multiplication nodes at a level."""
        arity = self.entries.get("mult_arity", 2)
        arities: Any = None
        if isinstance(arity, int) and not isinstance(arity, bool):
            arities = [arity] * count
        elif isinstance(arity, list | tuple) and at < len(arity):
            arities = arity[at]
        if not _integers(arities, bound) or len(arities) != count or 0 in arities:
            raise InvalidKan(
                f"{self.path}: mult_arity is {shorten(arity)}, expected one number, or a list with "
                f"{count} numbers for level {at}",
                code="config-does-not-fit-weights",
                hint=SAME_SAVE,
            )
        return tuple(arities)

    def function_names(self, index: int, shape: tuple[int, int], functions: EdgeFunctions) -> list[list[Any]]:
        """Names of the symbolic functions of a layer [sources, destinations], [destination][source]; without names
        every edge has "0". Raises InvalidKan or OptionError."""
        n, m = shape
        key = f"symbolic.funs_name.{index}"
        rows = self.entries.get(key, [["0"] * n for _ in range(m)])
        if not isinstance(rows, list) or len(rows) != m or not all(_has_length(row, n) for row in rows):
            raise InvalidKan(
                f"layer {index}: {key} is not a list of {m} rows with {n} names",
                code="config-does-not-fit-weights",
                hint=SAME_SAVE,
            )
        return [
            [functions.name((index, i, j), _text(name)) for i, name in enumerate(row)] for j, row in enumerate(rows)
        ]

    def base_function(self, options: Options) -> Activation:
        """The base function of `--option base_fun=`, by its name, or by a well-known Python name. Raises
        OptionError, or UnknownFunction for an unknown name."""
        name = options.optional("base_fun")
        if name is not None:
            return Activation(symbolic.base(options, name))
        stored = self.entries.get("base_fun_name", "silu")
        known = _known_activation(stored)
        if known is not None:
            return Activation(elementwise.activation(known))
        raise OptionError(
            f"{self.path}: the file stores only the name of the base function, "
            f"{stored.name if isinstance(stored, Tagged) else shorten(stored)}, not its definition",
            code="base-function-unknown",
            hint="pass --option base_fun=NAME, one of "
            + ", ".join(elementwise.ACTIVATIONS)
            + '; or a custom function: --option base_fun=NAME --function NAME="x*tanh(x)"',
        )


def _known_activation(stored: Any) -> str | None:
    """The activation of the `base_fun_name` of a config: text, or an activation object of torch."""
    if isinstance(stored, str):
        return stored if stored in elementwise.ACTIVATIONS else None
    if not isinstance(stored, Tagged) or not stored.name.startswith("torch."):
        return None
    settings = stored.value if isinstance(stored.value, dict) else {}
    name = stored.name.rpartition(".")[2].lower()
    if settings.get("approximate") == "tanh":
        name = "gelu_tanh"
    return name if name in elementwise.ACTIVATIONS and settings.get("beta", 1) == 1 else None


def _text(name: Any) -> Any:
    """The name of a function as text. An object stays as it is, and is not in the table."""
    return name if isinstance(name, Tagged) else str(name)


def _has_length(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length


def _integers(value: Any, bound: int) -> bool:
    """Whether it is a list of integers from 0 to `bound`."""
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= bound for v in value)
