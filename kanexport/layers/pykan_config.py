"""pykan's config: widths, names of functions and switches, each checked when it is asked for.

What stands there is a user's file: nothing is allocated from its numbers, and a width
that the weights do not bear out is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.bases.activation import Activation
from kanexport.errors import InvalidKan, OptionError
from kanexport.files.yamlfile import Tagged
from kanexport.functions import unary
from kanexport.layers import symbolic
from kanexport.layers.parts import Tensors
from kanexport.layers.symbolic import EdgeFunctions, short
from kanexport.options import Options

ZERO, NAN = "zero", "nan"  # what 0 / 0 counts as in the splines


@dataclass(frozen=True, slots=True)
class Level:
    """The nodes between two layers: `sums`, and after them one product for each of `arities`,
    its number of factors."""

    sums: int
    arities: tuple[int, ...] = ()

    @property
    def nodes(self) -> int:
        """What the next layer reads."""
        return self.sums + len(self.arities)

    @property
    def subnodes(self) -> int:
        """What the layer before it writes: a value for each sum, and for each factor."""
        return self.sums + sum(self.arities)


@dataclass(frozen=True, slots=True)
class Config:
    """The entries of one config, under pykan's own keys; `path` is for messages. `stored`:
    whether they stood in a file; else they follow from the weights, or are assumed."""

    entries: dict[str, Any]
    path: Path
    stored: bool = True

    @property
    def repeated_knots(self) -> str | None:
        """ZERO or NAN, as the version has it that wrote the file; None where there is no file.
        `round` came in 0.2.2, with `nan_to_num`."""
        return (ZERO if "round" in self.entries else NAN) if self.stored else None

    @property
    def symbolic_enabled(self) -> bool:
        """Whether symbolic edges are on. Raises InvalidKan."""
        enabled = self.entries.get("symbolic_enabled", True)
        if not isinstance(enabled, bool):
            raise InvalidKan(f"{self.path}: symbolic_enabled is {short(enabled)}, expected true or false")
        return enabled

    @property
    def lost_inputs(self) -> bool:
        """Whether `prune_input` wrote it: the base function is a SiLU object then, where a
        plain model has the name."""
        base = self.entries.get("base_fun_name")
        return isinstance(base, Tagged) and base.name.endswith("SiLU")

    def levels(self, tensors: Tensors, depth: int) -> list[Level]:
        """The nodes before `depth` layers, between them and after them. Raises InvalidKan."""
        width = self.entries.get("width")
        if not isinstance(width, list | tuple) or len(width) != depth + 1 or depth < 1:
            raise InvalidKan(
                f"{self.path}: width is {short(width)}, expected a list of {depth + 1} entries "
                f"for {depth} layers of weights"
            )
        bound = 1 + max(max(tensor.shape, default=0) for tensor in tensors.values())
        return [self._level(at, entry, bound) for at, entry in enumerate(width)]

    def _level(self, at: int, entry: Any, bound: int) -> Level:
        pair = [entry, 0] if isinstance(entry, int) else entry
        if not _integers(pair, bound) or len(pair) != 2:
            raise InvalidKan(
                f"{self.path}: width[{at}] is {short(entry)}, expected [sum nodes, multiplication nodes] "
                "that fit the weights"
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
                f"{self.path}: mult_arity is {short(arity)}, expected one number, or a list with "
                f"{count} numbers for level {at}"
            )
        return tuple(arities)

    def function_names(self, index: int, shape: tuple[int, int], functions: EdgeFunctions) -> list[list[Any]]:
        """[destination][source] names of the symbolic functions of a layer [sources, destinations];
        where they are absent every edge has "0". Raises InvalidKan or OptionError."""
        n, m = shape
        key = f"symbolic.funs_name.{index}"
        rows = self.entries.get(key, [["0"] * n for _ in range(m)])
        if not isinstance(rows, list) or len(rows) != m or not all(_has_length(row, n) for row in rows):
            raise InvalidKan(f"layer {index}: {key} is not a list of {m} rows with {n} names")
        return [
            [functions.name((index, i, j), _text(name)) for i, name in enumerate(row)] for j, row in enumerate(rows)
        ]

    def base_function(self, options: Options) -> Activation:
        """By `--option base_fun=`, by name, or by a Python name that is well known. Raises
        OptionError, or UnknownFunction for an option that is no function."""
        name = options.optional("base_fun")
        if name is not None:
            return Activation(symbolic.base(options, name))
        stored = self.entries.get("base_fun_name", "silu")
        known = _known_activation(stored)
        if known is not None:
            return Activation(unary.activation(known))
        raise OptionError(
            f"{self.path}: the base function {stored.name if isinstance(stored, Tagged) else short(stored)} is not "
            "in the file, only its name",
            hint="give it with --option base_fun=NAME, one of "
            + ", ".join(unary.ACTIVATIONS)
            + '; or a function of your own: --option base_fun=NAME --function NAME="x*tanh(x)"',
        )


def _known_activation(stored: Any) -> str | None:
    """The activation that a config's `base_fun_name` means: text, or one of torch's own as an object."""
    if isinstance(stored, str):
        return stored if stored in unary.ACTIVATIONS else None
    if not isinstance(stored, Tagged) or not stored.name.startswith("torch."):
        return None
    settings = stored.value if isinstance(stored.value, dict) else {}
    name = stored.name.rpartition(".")[2].lower()
    if settings.get("approximate") == "tanh":
        name = "gelu_tanh"
    return name if name in unary.ACTIVATIONS and settings.get("beta", 1) == 1 else None


def _text(name: Any) -> Any:
    """A function's name as text; an object stays what it is, and is in no table."""
    return name if isinstance(name, Tagged) else str(name)


def _has_length(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length


def _integers(value: Any, bound: int) -> bool:
    """Whether it is a list of integers from 0 to `bound`."""
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= bound for v in value)
