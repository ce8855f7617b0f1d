"""Parts that the readers of pykan share: functions of symbolic edges, the config, and state dicts without a config.

A function of a symbolic edge has the name in the file, or the name that the user gives. One edge is (layer, source,
destination) everywhere, as in pykan.

`saveckpt` writes the config next to the weights. Training scripts save `model.state_dict()` alone, or with a model
around it. Widths then follow from the shapes; the base function, and whether symbolic edges are on, are assumed as
pykan's constructor has them; names of symbolic functions are in no file. A level with more subnodes than nodes
multiplies: how many in each group is assumed too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.errors import USE_MODULE, InvalidKan, MissingFunctions, OptionError, UnknownFunction
from kanexport.formats.checkpoint import Checkpoint
from kanexport.formats.yaml_config import Tagged
from kanexport.functions import elementwise, expression, regularized
from kanexport.options import SYMBOLIC, Options
from kanexport.readers.common import chain
from kanexport.readers.common.layer_tensors import Tensors

Shape = tuple[int, ...]  # of a layer's coefficients: [sources, destinations, functions]
Edge = tuple[int, int, int]
# pykan's table without aliases of the same function, and without the zero function.
NAMES = tuple(name for name in elementwise.SYMBOLIC if name not in ("0", "x^0.5", "1/x^0.5"))
Y_TH_RANGE = (1e-3, 1e9)  # of the option y_th; float32 holds all thresholds and slopes between

FIRST = "act_fun.0.coef"
NOTE = "the weights have no pykan config: its entries follow from the shapes, or are assumed"
SAME_SAVE = "copy the config and the weights from the same save"
COPY_CONFIG = "copy PREFIX_config.yml into the same folder if the model was saved with saveckpt"


def roots(tensors: Tensors) -> list[str]:
    """The key prefixes of the pykan models in a state dict."""
    return [root for root in chain.roots(tensors, FIRST) if tensors[root + FIRST].ndim == 3]


def depth(tensors: Tensors) -> int:
    """The number of layers of a model."""
    return len([key for key in tensors if re.fullmatch(r"act_fun\.\d+\.coef", key)])


def model_checkpoint(checkpoint: Checkpoint, options: Options, known: Sequence[str]) -> Checkpoint:
    """The tensors of the model only, under the names of pykan. `known`: the prefixes of such models. Raises
    FamilyError, as `chain.only_root`."""
    root = chain.only_root(checkpoint.tensors, known, FIRST, options)
    tensors = {key.removeprefix(root): value for key, value in checkpoint.tensors.items() if key.startswith(root)}
    return dataclasses.replace(checkpoint, tensors=tensors)


def config(checkpoint: Checkpoint, depth: int, options: Options) -> dict[str, Any]:
    """The config that pykan would write for `depth` layers, under its keys. Raises InvalidKan or OptionError."""
    tensors, shapes = checkpoint.tensors, []
    for at in range(depth):
        coef = tensors.get(f"act_fun.{at}.coef")
        if coef is None or coef.ndim != 3:
            raise InvalidKan(f"layer {at} has no coef [n, m, G+k]", code="tensor-missing", hint=USE_MODULE)
        shapes.append(coef.shape)
    width = [[shapes[0][0], 0]]
    for at, (_, subnodes, _) in enumerate(shapes):
        scale = tensors.get(f"node_scale_{at}")
        last = scale.shape[0] if scale is not None and scale.ndim == 1 else subnodes
        width.append(_level(at, subnodes, shapes[at + 1][0] if at + 1 < depth else last, options))
    settings = {
        "width": width,
        "mult_arity": _arity(options) if any(products for _, products in width) else 2,
        "base_fun_name": options.text("base_fun", "silu"),
        "symbolic_enabled": options.choice("symbolic_enabled", ("true", "false"), "true") == "true",
    }
    if settings["symbolic_enabled"]:
        settings |= _function_names(tensors, shapes, options)
    return settings


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
        options.assume("mult_arity", "2")
    return arity or 2


# radon: names of the user, then edges without one.
def _function_names(tensors: Tensors, shapes: list[Shape], options: Options) -> dict[str, Any]:
    """The function names of the config, [destination][source], from --symbolic. Raises OptionError, which lists the
    active edges without a name."""
    names: dict[str, Any] = {}
    nameless: list[Edge] = []
    for at, (n, m, _) in enumerate(shapes):
        rows = [[options.symbolic((at, i, j)) for i in range(n)] for j in range(m)]
        mask = tensors.get(f"symbolic_fun.{at}.mask")
        if mask is not None and mask.shape == (m, n):  # the reader rejects others later
            nameless += [(at, int(i), int(j)) for j, i in np.argwhere(mask != 0) if rows[j][i] is None]
        names[f"symbolic.funs_name.{at}"] = [["0" if name is None else name for name in row] for row in rows]
    if nameless:
        listed = ", ".join(f"({edge_id(edge)})" for edge in nameless[:8]) + (" ..." if len(nameless) > 8 else "")
        raise MissingFunctions(
            f"{len(nameless)} symbolic edges (layer,source,destination) have no function, because the weights have no "
            f"_config.yml: {listed}",
            tuple(SYMBOLIC + edge_id(edge) for edge in nameless),
            NAMES,
            hint="pass "
            + " ".join(f"--symbolic {edge_id(edge)}=NAME" for edge in nameless[:3])
            + f"; or {COPY_CONFIG}",
        )
    return names


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
        sums, count = pair
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
        return Level(sums, tuple(arities))

    def function_names(self, index: int, shape: tuple[int, int], functions: EdgeFunctions) -> list[list[Any]]:
        """Names of the symbolic functions of a layer [sources, destinations], [destination][source]; without names
        every edge has "0". Raises InvalidKan or OptionError."""
        n, m = shape
        key = f"symbolic.funs_name.{index}"
        rows = self.entries.get(key, [["0"] * n for _ in range(m)])
        fits = isinstance(rows, list) and len(rows) == m
        if not fits or not all(isinstance(row, list) and len(row) == n for row in rows):
            raise InvalidKan(
                f"layer {index}: {key} is not a list of {m} rows with {n} names",
                code="config-does-not-fit-weights",
                hint=SAME_SAVE,
            )
        # An object in place of a name stays as it is, and is not in the table.
        texts = [[name if isinstance(name, Tagged) else str(name) for name in row] for row in rows]
        return [[functions.name((index, i, j), name) for i, name in enumerate(row)] for j, row in enumerate(texts)]

    def base_function(self, options: Options) -> Activation:
        """The base function of `--option base_fun=`, by its name, or by a well-known Python name. Raises
        OptionError, or UnknownFunction for an unknown name."""
        name = options.optional("base_fun")
        if name is not None:
            return Activation(base_activation(options, name))
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


def _integers(value: Any, bound: int) -> bool:
    """Whether it is a list of integers from 0 to `bound`."""
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= bound for v in value)


def edge_id(edge: Edge) -> str:
    """An edge in the form of errors and options: "1,3,0"."""
    return ",".join(map(str, edge))


class EdgeFunctions:
    """Names and functions of the symbolic edges of one export. Raises OptionError.

    avoids  whether the library has variants without singularities, which --option singularity=avoid chooses
    """

    def __init__(self, options: Options, *, avoids: bool = False) -> None:
        self._options = options
        self._y_th = _y_th(options) if avoids else None
        self._own: dict[str, elementwise.Unary] = {}
        for name, text in options.facts.functions().items():
            if name in elementwise.SYMBOLIC:
                raise OptionError(
                    f"--function {name}: the table of pykan already has that name",
                    code="function-name-taken",
                    hint="choose another name",
                )
            self._own[name] = expression.function(name, text)
        self.notes: list[str] = []

    def name(self, edge: Edge, stored: Any) -> Any:
        """The name of the function of the edge: from the file (None: it has no names), or from --symbolic. Raises
        OptionError if the two differ for a known function."""
        by_user = self._options.symbolic(edge)
        if by_user is None or by_user == stored:
            return stored
        if isinstance(stored, str) and stored in elementwise.SYMBOLIC:
            raise OptionError(
                f"edge ({edge_id(edge)}) is {stored!r} in the file, --symbolic gives {by_user[:80]!r}",
                code="symbolic-edge-conflict",
                hint="remove --symbolic for this edge",
            )
        return by_user

    def known(self, name: Any) -> bool:
        """Whether there is a function of that name."""
        return isinstance(name, str) and (name in elementwise.SYMBOLIC or name in self._own)

    def computes(self, name: Any) -> bool:
        """Whether the function is known, and has the requested variant."""
        return self.known(name) and (self._y_th is None or name not in (regularized.BROKEN, *self._own))

    def function(self, name: Any, edge: Edge) -> elementwise.Unary:
        """The function of an edge. Raises UnknownFunction, which names the edge, or InvalidKan if a variant without
        singularities is requested and does not exist."""
        if not self.known(name):
            usable = isinstance(name, str) and 0 < len(name) <= 80 and name.isprintable() and "=" not in name
            ways = f"--function {name}=..." if usable else f"--symbolic {edge_id(edge)}=NAME --function NAME=..."
            raise UnknownFunction(
                f"edge ({edge_id(edge)}) uses the symbolic function {shorten(name)}, which is not in the table of "
                "pykan",
                code="function-unknown",
                hint=f'define it with {ways}, an expression such as "x*sin(x)" of {expression.GRAMMAR}',
            )
        self._options.function(name)
        if self._y_th is None:
            return self._own[name] if name in self._own else elementwise.symbolic(name)
        if name in self._own:
            raise InvalidKan(
                f"edge ({edge_id(edge)}) uses {name!r}, a custom function, which has no variant without singularities",
                code="singularity-variant-missing",
                hint="export without --option singularity=avoid",
            )
        if name == regularized.BROKEN:
            raise InvalidKan(
                f"edge ({edge_id(edge)}) uses {name}: pykan's variant without singularities fails, or returns the "
                "value of another row",
                code="singularity-variant-missing",
                hint="export without --option singularity=avoid, or refit the edge with another function",
            )
        if name == regularized.FAILING:
            self.notes.append(
                f"edge ({edge_id(edge)}): pykan cannot compute {name} without its singularities (its function returns "
                "three values, pykan expects two); the export uses the last value, which is the intended one"
            )
        return regularized.avoiding(name, self._y_th)


def base_activation(options: Options, name: str) -> elementwise.Unary:
    """A base function of that name: a custom one, or one of the table. Raises OptionError or UnknownFunction."""
    text = options.function(name)
    if text is None:
        return elementwise.activation(name.lower())
    if name.lower() in elementwise.ACTIVATIONS:
        raise OptionError(
            f"--function {name}: a base function already has that name",
            code="function-name-taken",
            hint="choose another name",
        )
    return expression.function(name, text)


def _y_th(options: Options) -> float | None:
    """`y_th` of pykan, the limit of the values, if singularities are to be avoided. Raises OptionError."""
    by_user = options.optional("singularity") is not None  # nothing is assumed
    if not by_user or options.choice("singularity", ("plain", "avoid"), "plain") != "avoid":
        if options.optional("y_th") is not None:
            raise OptionError(
                "option y_th needs --option singularity=avoid",
                code="option-needs-other",
                hint="add --option singularity=avoid, or remove y_th",
            )
        return None
    limit = options.number("y_th", "10")
    low, high = Y_TH_RANGE
    if not low <= limit <= high:
        raise OptionError(
            f"option y_th is {limit:g}, expected a number from {low:g} to {high:g}",
            code="option-out-of-range",
            hint=f"pass --option y_th=NUMBER, from {low:g} to {high:g}",
        )
    return limit


def shorten(value: Any) -> str:
    """A value of the file, for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
