"""Functions of symbolic edges, by the name in the file or by the name that the user gives.

One edge is (layer, source, destination) everywhere, as in pykan.
"""

from __future__ import annotations

from typing import Any

from kanexport.errors import InvalidKan, OptionError, UnknownFunction
from kanexport.functions import elementwise, expression, regularized
from kanexport.options import Options

Edge = tuple[int, int, int]
# pykan's table without aliases of the same function, and without the zero function.
NAMES = tuple(name for name in elementwise.SYMBOLIC if name not in ("0", "x^0.5", "1/x^0.5"))
Y_TH_RANGE = (1e-3, 1e9)  # of the option y_th; float32 holds all thresholds and slopes between


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
        self._own = {name: _own(name, text) for name, text in options.functions().items()}
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

    def _avoiding(self, name: str, y_th: float, edge: Edge) -> elementwise.Unary:
        """The function without its singularities. Raises InvalidKan if it has no such variant."""
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
        return regularized.avoiding(name, y_th)

    def function(self, name: Any, edge: Edge) -> elementwise.Unary:
        """The function of an edge. Raises UnknownFunction, which names the edge, or InvalidKan if a variant without
        singularities is requested and does not exist."""
        if self.known(name):
            self._options.function(name)
            if self._y_th is not None:
                return self._avoiding(name, self._y_th, edge)
            return self._own[name] if name in self._own else elementwise.symbolic(name)
        usable = isinstance(name, str) and 0 < len(name) <= 80 and name.isprintable() and "=" not in name
        ways = f"--function {name}=..." if usable else f"--symbolic {edge_id(edge)}=NAME --function NAME=..."
        raise UnknownFunction(
            f"edge ({edge_id(edge)}) uses the symbolic function {shorten(name)}, which is not in the table of pykan",
            code="function-unknown",
            hint=f'define it with {ways}, an expression such as "x*sin(x)" of {expression.GRAMMAR}',
        )


def base(options: Options, name: str) -> elementwise.Unary:
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


def _own(name: str, text: str) -> elementwise.Unary:
    """A custom function. Raises OptionError."""
    if name in elementwise.SYMBOLIC:
        raise OptionError(
            f"--function {name}: the table of pykan already has that name",
            code="function-name-taken",
            hint="choose another name",
        )
    return expression.function(name, text)


def _y_th(options: Options) -> float | None:
    """`y_th` of pykan, the limit of the values, if singularities are to be avoided. Raises OptionError."""
    chosen = options.optional("singularity")
    if chosen not in (None, "plain", "avoid"):
        raise OptionError(
            f"option singularity is {chosen[:80]!r}, expected plain or avoid",
            code="option-value-unknown",
            hint="pass --option singularity=plain or avoid",
        )
    if chosen != "avoid":
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
