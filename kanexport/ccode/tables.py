"""Constants of the generated C: one table for each piece of memory, however many views and functions read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kanexport.ccode.nodes import Array, Index

PER_LINE = 12
SPARSE = 2  # a view of so much more memory than it shows has a table of its elements only


@dataclass(slots=True)
class Table:
    """Array in the generated C.

    type   of its elements in C
    users  the functions that read it
    """

    name: str
    type: str
    values: Array
    users: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        """Bytes, on a machine with 4-byte float."""
        return int(self.values.size) * SIZES[self.type]

    def text(self) -> Iterator[str]:
        """The definition, line by line."""
        numbers = [literal(value) if self.type == "float" else str(int(value)) for value in self.values.tolist()]
        yield f"static const {self.type} {self.name}[{len(numbers)}] = {{"
        for at in range(0, len(numbers), PER_LINE):
            yield "    " + ", ".join(numbers[at : at + PER_LINE]) + ","
        yield "};"


STORED = {np.dtype(np.int8): "signed char", np.dtype(np.int16): "short"}  # of coefficients, whatever their values
SIZES = {"float": 4, "unsigned char": 1, "signed char": 1, "short": 2, "unsigned short": 2, "int": 4}


def literal(value: float) -> str:
    """A float constant in C, which reads back as the same float32."""
    if np.isnan(value):
        return "NAN"
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = str(np.float32(value))
    return f"{text}f" if any(mark in text for mark in ".e") else f"{text}.0f"


class Tables:
    """Tables of one C file. `user`: the function that is being written."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._by_content: dict[tuple[str, bytes], Table] = {}
        self._kept: list[Array] = []  # arrays whose addresses are keys
        self._names: dict[int, Table] = {}
        self.user = ""

    def __iter__(self) -> Iterator[Table]:
        return iter(self._by_content.values())

    def element(self, array: Array, index: Sequence[Index]) -> str:
        """C of one element of a constant."""
        first = array.reshape(-1)[:1]
        if array.size == 1 or (array == first).all():
            return literal(float(first[0])) if array.dtype.kind == "f" else str(int(first[0]))
        # The table of the memory that the array shows, its first element there, and its strides.
        whole = array
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        fits = whole.flags.c_contiguous and whole.dtype == array.dtype and min((*array.strides, 0)) >= 0
        if not fits or whole.size > SPARSE * array.size:
            array = whole = np.ascontiguousarray(array)
        start = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        place = Index(start // array.dtype.itemsize)
        for at, stride in zip(index, array.strides, strict=True):
            place += at.times(stride // array.dtype.itemsize)
        return f"{self._of(whole).name}[{place}]"

    def table(self, values: Array) -> str:
        """The name of the table with these values, in order."""
        return self._of(np.ascontiguousarray(values).reshape(-1)).name

    def _of(self, whole: Array) -> Table:
        table = self._names.get(id(whole))
        if table is None:
            flat = whole.reshape(-1)
            key = (flat.dtype.str, hashlib.blake2b(flat.tobytes(), digest_size=32).digest())
            name = f"{self._prefix}_k{len(self._by_content)}"
            table = self._by_content.setdefault(key, Table(name, _type(flat), flat))
            self._names[id(whole)] = table
            self._kept.append(whole)
        table.users.add(self.user)
        return table


def _type(flat: Array) -> str:
    """The smallest C type for the values of a table."""
    if flat.dtype.kind == "f":
        return "float"
    if flat.dtype in STORED:
        return STORED[flat.dtype]
    low, high = int(flat.min(initial=0)), int(flat.max(initial=0))
    limits: Iterable[tuple[str, int, int]] = (
        ("unsigned char", 0, 255),
        ("unsigned short", 0, 65_535),
        ("short", -32_767, 32_767),
    )
    return next((name for name, least, most in limits if least <= low and high <= most), "int")
