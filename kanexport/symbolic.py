"""Which function a symbolic edge means: the file's name for it, or the user's.

One edge is (layer, source, destination) everywhere, as in pykan.
"""

from __future__ import annotations

from typing import Any

from kanexport import unary
from kanexport.errors import OptionError, UnknownFunction
from kanexport.options import Options

Edge = tuple[int, int, int]


def place(edge: Edge) -> str:
    """An edge as errors and options write it: "1,3,0"."""
    return ",".join(map(str, edge))


class Library:
    """Names and functions of one export."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def name(self, edge: Edge, found: Any) -> Any:
        """What the edge's function is called: as the file has it (None: it has no names), or as
        --symbolic says. Raises OptionError where the two disagree about a known function."""
        given = self._options.symbolic(edge)
        if given is None or given == found:
            return found
        if isinstance(found, str) and found in unary.SYMBOLIC:
            raise OptionError(f"edge ({place(edge)}) is {found!r} in the file, --symbolic says {given[:80]!r}")
        return given

    def known(self, name: Any) -> bool:
        """Whether there is a function of that name."""
        return isinstance(name, str) and name in unary.SYMBOLIC

    def function(self, name: Any, edge: Edge) -> unary.Unary:
        """The function of an edge. Raises UnknownFunction, naming the edge."""
        if self.known(name):
            return unary.symbolic(name)
        raise UnknownFunction(
            f"edge ({place(edge)}) uses symbolic function {short(name)}, which is not in pykan's table",
            hint="functions added with add_symbolic are in no file; refit the edge with a function of the table: "
            + ", ".join(unary.SYMBOLIC),
        )


def short(value: Any) -> str:
    """A value of the file, for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
