"""The small pickle inside a torch zip, interpreted as data.

This is no unpickler: `pickletools.genops` splits the stream into opcodes, and a
stack machine below knows the few that build dictionaries, lists, tuples, text
and numbers. A name is only ever a `Name`; the handful of torch's rebuilders in
`REBUILDERS` become plain values, and everything else is refused by name. No
import, no call into what a file names, no attribute set on anything.
"""

from __future__ import annotations

import functools
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kanexport.errors import CheckpointError, UnsafeCheckpoint

OPCODE_LIMIT = 1_000_000  # a state dict needs about thirty for each tensor
MAX_NUMBER_MAGNITUDE = 2**48  # an offset, size or stride beyond this is nonsense
AXIS_LIMIT = 16  # of a tensor; layers have up to four
MAX_NAME_CHARACTERS = 200  # of a name that an error repeats, so that it fits a screen

SAVE_STATE_DICT = (
    "save the weights alone, with torch.save(model.state_dict(), 'model.pt') where the model lives, "
    "or with safetensors.torch.save_file"
)


@dataclass(frozen=True, slots=True)
class Name:
    """A global the pickle mentions, as text."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:MAX_NAME_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Storage:
    """A reference to raw bytes in the zip: torch's storage class, key, elements."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided view of a storage; offset and strides are in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value of a known harmless kind that no weights need, such as a numpy number
    among a training script's losses: its name, and nothing of what it is made of."""

    name: str


class _Mark:
    """The stack marker."""


_MARK = _Mark()


def _rebuild_tensor(args: tuple[Any, ...]) -> TensorRef:
    storage, offset, size, stride = args[:4]
    numbers = [offset, *_tuple(size), *_tuple(stride)]
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < MAX_NUMBER_MAGNITUDE for n in numbers):
        raise CheckpointError("a tensor in the pickle has no valid storage, offset, size or stride")
    return TensorRef(storage, offset, _tuple(size), _tuple(stride))


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) > AXIS_LIMIT:
        raise CheckpointError(f"a tensor's size or stride is not a tuple of at most {AXIS_LIMIT} numbers")
    return value


def _first(args: tuple[Any, ...]) -> Any:
    if not isinstance(args[0], TensorRef):
        raise CheckpointError("a parameter in the pickle wraps no tensor")
    return args[0]


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args and args != ([],):
        raise CheckpointError("an OrderedDict in the pickle is built from more than its items")
    return {}


# Numpy's numbers and arrays, and what their pickles are made with.
OPAQUE = frozenset(
    f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")
) | {"numpy.dtype", "_codecs.encode"}
ARRAY = Name("numpy", "ndarray")  # an argument of `_reconstruct`


def _opaque(name: str, args: tuple[Any, ...]) -> Opaque:
    if len(args) < 2:
        raise CheckpointError(f"the pickle calls {name} with unfit arguments")
    return Opaque(name)


# What REDUCE may mean. Each takes the argument tuple and returns inert data.
REBUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch.Size": lambda args: tuple(args[0]) if isinstance(args[0], list | tuple) else (),
    "torch.device": lambda args: args[0] if isinstance(args[0], str) else "",
    **{name: functools.partial(_opaque, name) for name in OPAQUE},
}
# Names that may stand as values: dtypes and storage classes.
VALUE_MODULES = ("torch", "torch.storage")
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
VALUE_NAMES = frozenset(_DTYPES) | {name + "Storage" for name in _STORAGES}


def _allowed(name: Name) -> bool:
    if str(name) in REBUILDERS or name == ARRAY:
        return True
    return name.module in VALUE_MODULES and name.name in VALUE_NAMES


class _Machine:
    """Stack, memo and marks of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise CheckpointError("the pickle takes a value that is not there")
        return self.stack.pop()

    def drop(self) -> None:
        """Forget the top of the stack, a mark included."""
        if not self.stack:
            raise CheckpointError("the pickle drops a value that is not there")
        del self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise CheckpointError("the pickle has no mark where one is needed")

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise CheckpointError(f"the pickle adds to something that is no {kind.__name__}")
        return self.stack[-1]

    def put(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise CheckpointError("the pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # No tuples: hashing one that nests deeply, or holds itself many times, never ends.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < MAX_NUMBER_MAGNITUDE):
                raise CheckpointError(f"the pickle has a key of type {type(key).__name__}, expected text")
            target[key] = value

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise CheckpointError("the pickle asks for a name that is no text")
        wanted = Name(module, name)
        if not _allowed(wanted):
            raise UnsafeCheckpoint(
                f"the pickle asks for {wanted}, which is not a tensor; nothing was executed",
                hint=f"if this is a whole module or a training script's state, {SAVE_STATE_DICT}",
            )
        self.stack.append(wanted)

    def reduce(self) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Name) or str(function) not in REBUILDERS:
            called = str(function) if isinstance(function, Name) else f"a {type(function).__name__}"
            raise UnsafeCheckpoint(f"the pickle calls {called}; nothing was executed", hint=SAVE_STATE_DICT)
        if not isinstance(args, tuple):
            raise CheckpointError("the pickle calls a rebuilder without arguments")
        try:
            self.stack.append(REBUILDERS[str(function)](args))
        except (IndexError, ValueError, TypeError) as error:
            raise CheckpointError(f"the pickle calls {function} with unfit arguments") from error

    def build(self) -> None:
        # State on an OrderedDict is torch's `_metadata`: version numbers, not weights.
        self.pop()
        if not (self.stack and isinstance(self.stack[-1], Opaque)):
            self.top(dict)

    def persistent(self) -> None:
        value = self.pop()
        if not (isinstance(value, tuple) and len(value) >= 5 and value[0] == "storage"):
            raise CheckpointError("the pickle refers to something that is no storage")
        _, kind, key, _, count = value[:5]
        if not (
            isinstance(kind, Name) and isinstance(key, str) and type(count) is int and 0 <= count < MAX_NUMBER_MAGNITUDE
        ):
            raise CheckpointError("a storage in the pickle has no type, key or length")
        self.stack.append(Storage(kind.name, key, count))

    def recall(self, at: Any) -> None:
        if at not in self.memo:
            raise CheckpointError(f"the pickle recalls entry {at}, which was never stored")
        self.stack.append(self.memo[at])


# Opcodes by effect; `m` is the machine, `a` the opcode's argument.
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
_NUMBERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT")
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING")
_EFFECTS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, a: None),
    **dict.fromkeys(_TEXTS + _NUMBERS + _BYTES, lambda m, a: m.stack.append(a)),
    "NONE": lambda m, a: m.stack.append(None),
    "NEWTRUE": lambda m, a: m.stack.append(True),
    "NEWFALSE": lambda m, a: m.stack.append(False),
    "MARK": lambda m, a: m.stack.append(_MARK),
    "POP": lambda m, a: m.drop(),
    "POP_MARK": lambda m, a: m.pop_to_mark().clear(),
    "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "EMPTY_LIST": lambda m, a: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, a: m.stack.append(()),
    "TUPLE": lambda m, a: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, a: m.stack.append((m.pop(),)),
    "TUPLE2": lambda m, a: m.stack.append((m.pop(), m.pop())[::-1]),
    "TUPLE3": lambda m, a: m.stack.append((m.pop(), m.pop(), m.pop())[::-1]),
    "APPEND": lambda m, a: _append(m, [m.pop()]),
    "APPENDS": lambda m, a: _append(m, m.pop_to_mark()),
    "SETITEM": lambda m, a: m.put([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, a: m.put(m.pop_to_mark()),
    "BINPUT": lambda m, a: m.memo.update({a: m.stack[-1]}),
    "LONG_BINPUT": lambda m, a: m.memo.update({a: m.stack[-1]}),
    "PUT": lambda m, a: m.memo.update({a: m.stack[-1]}),
    "MEMOIZE": lambda m, a: m.memo.update({len(m.memo): m.stack[-1]}),
    "BINGET": lambda m, a: m.recall(a),
    "LONG_BINGET": lambda m, a: m.recall(a),
    "GET": lambda m, a: m.recall(a),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.name(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, a: m.reduce(),
    "BUILD": lambda m, a: m.build(),
    "BINPERSID": lambda m, a: m.persistent(),
}


def _append(machine: _Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def read(data: bytes) -> Any:
    """The value a pickle describes, made of plain data, `Name` and `TensorRef`.

    Raises UnsafeCheckpoint for a name outside the list, CheckpointError for a
    stream that is no pickle or uses other opcodes.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > OPCODE_LIMIT:
                raise CheckpointError(f"the pickle has more than {OPCODE_LIMIT} opcodes")
            if opcode.name == "STOP":
                return machine.pop()
            effect = _EFFECTS.get(opcode.name)
            if effect is None:
                raise UnsafeCheckpoint(
                    f"the pickle uses {opcode.name}, which no state dict needs; nothing was executed",
                    hint=SAVE_STATE_DICT,
                )
            effect(machine, argument)
    except (ValueError, IndexError, OverflowError, RecursionError, TypeError, Warning) as error:
        raise CheckpointError(f"the pickle is damaged: {type(error).__name__}") from error
    raise CheckpointError("the pickle is cut off before its end")
