"""Safe interpreter of the small pickle in a torch.save file. It reads the pickle as data.

This is no unpickler: `pickletools.genops` splits the stream into opcodes, and a
stack machine below knows those that build dictionaries, lists, tuples, text and
numbers. A name is only ever a `Name`, an object of a script's own only ever an
`Opaque` (see `inert`). No import, no call into what a file names, no attribute
set on anything.
"""

from __future__ import annotations

import functools
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kanexport.errors import CheckpointError, DamagedCheckpoint, UnsafeCheckpoint

OPCODE_LIMIT = 1_000_000  # a state dict needs about thirty for each tensor


_MARK = object()  # on the stack


class _Machine:
    """Stack, memo and marks of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise DamagedCheckpoint("the pickle pops a value from an empty stack")
        return self.stack.pop()

    def drop(self) -> None:
        """Drop the top of the stack, which may be a mark."""
        if not self.stack:
            raise DamagedCheckpoint("the pickle drops a value from an empty stack")
        del self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise DamagedCheckpoint("the pickle has no mark where it needs one")

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise DamagedCheckpoint(f"the pickle adds to something that is not a {kind.__name__}")
        return self.stack[-1]

    def put(self, items: list[Any]) -> None:
        """Put items into the dictionary on top. Items with a key that is neither text nor a number cannot name a
        tensor, and are dropped. The contents of objects of a script are dropped, too."""
        if len(items) % 2:
            raise DamagedCheckpoint("the pickle has a key without a value")
        if self._holds_object():
            return
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # No tuples: hashing one that nests deeply, or holds itself many times, never ends.
            if isinstance(key, str) or (isinstance(key, int) and abs(key) < MAX_NUMBER_MAGNITUDE):
                target[key] = value
            elif isinstance(key, int | list | dict):
                raise DamagedCheckpoint(f"the pickle has a key of type {type(key).__name__}, expected text")

    def dictionary(self, items: list[Any]) -> None:
        self.stack.append({})
        self.put(items)

    def append(self, items: list[Any]) -> None:
        """Append an item to the list on top. An object on top ignores it."""
        if not self._holds_object():
            self.top(list).extend(items)

    def _holds_object(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1], Opaque)

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedCheckpoint("the pickle refers to a name that is not text")
        self.stack.append(Name(module, name))

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise DamagedCheckpoint("the pickle calls a function without arguments")
        self.stack.append(interpret_call(function, args))

    def reduce(self, *, keywords: bool = False) -> None:
        """REDUCE, NEWOBJ and NEWOBJ_EX: a call of a function or a class."""
        if keywords:
            self.pop()
        args, function = self.pop(), self.pop()
        self.call(function, args)

    def call_marked(self, function: Any = None) -> None:
        """INST, with the class as its argument, and OBJ, with the class above the mark."""
        items = self.pop_to_mark()
        if function is None:
            if not items:
                raise DamagedCheckpoint("the pickle makes an object without a class")
            function, *items = items
        self.call(function, tuple(items))

    def build(self) -> None:
        """Drop the state. On an OrderedDict it is `_metadata` of torch: version numbers, not weights."""
        self.pop()
        if not (self.stack and isinstance(self.stack[-1], Opaque | Name)):
            self.top(dict)

    def drop_marked(self, name: str) -> None:
        """A set; weights do not need it."""
        self.pop_to_mark()
        self.stack.append(Opaque(name))

    def add_marked(self) -> None:
        self.pop_to_mark()
        self.top(Opaque)

    def double(self) -> None:
        value = self.pop()
        self.stack += [value, value]

    def persistent(self) -> None:
        value = self.pop()
        if not (isinstance(value, tuple) and len(value) >= 5 and value[0] == "storage"):
            raise DamagedCheckpoint("the pickle refers to something that is not a storage")
        _, kind, key, _, count = value[:5]
        if not (
            isinstance(kind, Name) and isinstance(key, str) and type(count) is int and 0 <= count < MAX_NUMBER_MAGNITUDE
        ):
            raise DamagedCheckpoint("a storage in the pickle has no type, key or length")
        self.stack.append(Storage(kind.name, key, count))

    def recall(self, at: Any) -> None:
        if at not in self.memo:
            raise DamagedCheckpoint(f"the pickle recalls entry {at}, which was not stored")
        self.stack.append(self.memo[at])


# Opcodes by effect; `m` is the machine, `a` the opcode's argument.
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "STRING")
_NUMBERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT")
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING", "BYTEARRAY8")
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
    "LIST": lambda m, a: m.stack.append(m.pop_to_mark()),
    "DICT": lambda m, a: m.dictionary(m.pop_to_mark()),
    "EMPTY_SET": lambda m, a: m.stack.append(Opaque("builtins.set")),
    "FROZENSET": lambda m, a: m.drop_marked("builtins.frozenset"),
    "ADDITEMS": lambda m, a: m.add_marked(),
    "DUP": lambda m, a: m.double(),
    "APPEND": lambda m, a: m.append([m.pop()]),
    "APPENDS": lambda m, a: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, a: m.put([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, a: m.put(m.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT"), lambda m, a: m.memo.update({a: m.stack[-1]})),
    "MEMOIZE": lambda m, a: m.memo.update({len(m.memo): m.stack[-1]}),
    **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda m, a: m.recall(a)),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.name(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, a: m.reduce(),
    "NEWOBJ": lambda m, a: m.reduce(),
    "NEWOBJ_EX": lambda m, a: m.reduce(keywords=True),
    "OBJ": lambda m, a: m.call_marked(),
    "INST": lambda m, a: m.call_marked(Name(*a.split(" ", 1))),
    "BUILD": lambda m, a: m.build(),
    "BINPERSID": lambda m, a: m.persistent(),
}


def read(data: bytes) -> Any:
    """The value that a pickle describes, as plain data, `Name`, `TensorRef` and `Opaque`.

    Raises UnsafeCheckpoint for a call of what runs commands or code, and for opcodes that no
    checkpoint needs, CheckpointError for a stream that is no pickle.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > OPCODE_LIMIT:
                raise checkpoint_too_large(f"the pickle has more than {OPCODE_LIMIT} opcodes")
            if opcode.name == "STOP":
                return machine.pop()
            effect = _EFFECTS.get(opcode.name)
            if effect is None:
                raise pickle_runs_code(
                    f"the pickle uses {opcode.name}, which is not allowed in a checkpoint; nothing was executed"
                )
            effect(machine, argument)
    except (ValueError, IndexError, OverflowError, RecursionError, TypeError, Warning) as error:
        raise DamagedCheckpoint(f"the pickle is damaged: {type(error).__name__}") from error
    raise DamagedCheckpoint("the pickle is cut off before its end")


MAX_NUMBER_MAGNITUDE = 2**48  # an offset, size or stride beyond this is nonsense
AXIS_LIMIT = 16  # of a tensor; layers have up to four
MAX_NAME_CHARACTERS = 200  # of a name that an error repeats, so that it fits a screen

SAVE_STATE_DICT = (
    "save only the weights: torch.save(model.state_dict(), 'model.pt') in the training environment, "
    "or safetensors.torch.save_file"
)
checkpoint_too_large = functools.partial(CheckpointError, code="checkpoint-too-large", hint=SAVE_STATE_DICT)
checkpoint_without_tensors = functools.partial(CheckpointError, code="checkpoint-without-tensors", hint=SAVE_STATE_DICT)
pickle_runs_code = functools.partial(UnsafeCheckpoint, code="pickle-runs-code", hint=SAVE_STATE_DICT)


@dataclass(frozen=True, slots=True)
class Name:
    """A global that the pickle names, as text."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:MAX_NAME_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Storage:
    """A reference to raw bytes in the zip: the storage class of torch, the key, the number of elements."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided view of a storage; offset and strides count elements.

    negative   whether its values are those of the storage, negated
    conjugate  whether its values are those of the storage, conjugated
    """

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool = False
    conjugate: bool = False


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object that is not rebuilt: its name, without its content.

    weights  the reason why possible weights are not read, such as a sparse tensor; empty for any other object
    """

    name: str
    weights: str = ""

    def __str__(self) -> str:
        return self.name[:MAX_NAME_CHARACTERS]


def interpret_call(function: Any, args: tuple[Any, ...]) -> Any:
    """The data that a call in the pickle describes. Raises UnsafeCheckpoint for calls that would run commands or
    code, CheckpointError for arguments that do not make a tensor."""
    if isinstance(function, Opaque):
        return function
    if not isinstance(function, Name):
        raise pickle_runs_code(f"the pickle calls a {type(function).__name__}; nothing was executed")
    if str(function) in REBUILDERS:
        try:
            return REBUILDERS[str(function)](args)
        except (IndexError, ValueError, TypeError) as error:
            raise DamagedCheckpoint(f"the pickle calls {function} with invalid arguments") from error
    # A call that would run commands, code or another pickle, or access attributes of objects.
    runs = function.module.partition(".")[0] in RUNNERS or str(function).startswith(LOADERS)
    if function.module in BUILTINS:
        runs = function.name not in DATA and not function.name.endswith(("Error", "Exception", "Warning"))
    if runs:
        raise UnsafeCheckpoint(
            f"the pickle calls {function}, which is not allowed in a checkpoint; nothing was executed",
            code="pickle-runs-code",
            hint=f"do not load this file with torch.load or pickle; {SAVE_STATE_DICT}",
        )
    weights = f"rebuilt by {function}, which is not supported" if str(function).startswith(REBUILT) else ""
    return Opaque(str(function), weights)


# Modules whose functions run commands, or code that a file brings.
RUNNERS = {
    "os", "posix", "nt", "subprocess", "commands", "pty", "sys", "runpy", "importlib", "imp", "shutil", "socket",
    "ctypes", "code", "codeop", "pickle", "_pickle", "cPickle", "marshal", "shelve", "webbrowser", "pdb", "timeit",
}  # fmt: skip
BUILTINS = ("builtins", "__builtin__")
DATA = {  # of BUILTINS
    "set", "frozenset", "bytearray", "bytes", "complex", "slice", "range", "xrange", "object", "dict", "list", "tuple",
    "int", "long", "float", "str", "unicode", "bool", "Ellipsis", "NotImplemented", "type", "reversed", "enumerate",
    "zip", "map", "filter",
}  # fmt: skip
LOADERS = (
    *("torch.load", "torch.save", "torch.serialization.load", "torch.serialization._load", "torch.hub.", "torch.jit."),
    *("torch.package.", "torch.compile", "torch._dynamo."),
)
REBUILT = ("torch._utils._rebuild", "torch._tensor._rebuild", "torch.nn.parameter.", "torch.storage.")


def _tensor(args: tuple[Any, ...]) -> TensorRef:
    storage, offset, size, stride = args[:4]
    numbers = [offset, *_tuple(size), *_tuple(stride)]
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < MAX_NUMBER_MAGNITUDE for n in numbers):
        raise DamagedCheckpoint("a tensor in the pickle has an invalid storage, offset, size or stride")
    # The metadata may mark a tensor as a negative view, or as a conjugate view.
    known = args[6] if len(args) > 6 and args[6] is not None else {}
    if not isinstance(known, dict) or not known.keys() <= {"neg", "conj"}:
        raise CheckpointError(
            "a tensor in the pickle has metadata that is not supported",
            code="tensor-kind-unsupported",
            hint=SAVE_STATE_DICT,
        )
    negative, conjugate = known.get("neg") is True, known.get("conj") is True
    return TensorRef(storage, offset, _tuple(size), _tuple(stride), negative, conjugate)


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) > AXIS_LIMIT:
        raise DamagedCheckpoint(f"the size or stride of a tensor is not a tuple of at most {AXIS_LIMIT} numbers")
    return value


def _first(args: tuple[Any, ...]) -> Any:
    if not isinstance(args[0], TensorRef | Opaque):
        raise DamagedCheckpoint("a parameter in the pickle does not contain a tensor")
    return args[0]


def _typed(args: tuple[Any, ...]) -> Any:
    """A tensor with attributes, or of a subclass: `(rebuilder, class, its arguments, state)`."""
    function, kind, inner = args[:3]
    if not isinstance(kind, Name) or not isinstance(inner, tuple):
        raise DamagedCheckpoint("the pickle rebuilds a tensor without a class")
    if str(kind) not in TENSORS:
        return Opaque(str(kind), f"a {kind}, which is not supported")
    return interpret_call(function, inner)


def _pickled_dictionary(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args and args != ([],):
        raise DamagedCheckpoint("an OrderedDict in the pickle is built from more than its items")
    return {}


def _attribute(args: tuple[Any, ...]) -> Name | Opaque:
    """A class in a class, pickled as `getattr` of two names."""
    owner, name = args
    if not isinstance(name, str):
        raise DamagedCheckpoint("the pickle refers to an attribute without a name")
    return Name(owner.module, f"{owner.name}.{name}") if isinstance(owner, Name) else Opaque("an attribute")


def _object(args: tuple[Any, ...]) -> Opaque:
    """`copyreg._reconstructor(class, base, state)`."""
    return Opaque(str(args[0]) if isinstance(args[0], Name) else "object")


def _numpy(name: str) -> Callable[[tuple[Any, ...]], Opaque]:
    """Numbers and arrays of numpy, and the functions in their pickles."""
    weights = "a numpy array, expected a tensor" if name.endswith(("_reconstruct", "_frombuffer")) else ""

    def rebuilt(args: tuple[Any, ...]) -> Opaque:
        if len(args) < 2:
            raise DamagedCheckpoint(f"the pickle calls {name} with invalid arguments")
        return Opaque(name, weights)

    return rebuilt


NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
NUMPY += ["numpy.dtype", "_codecs.encode", *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core"))]
TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")  # classes of plain tensors
# Interpretations of a call. Each takes the argument tuple and returns inert data.
REBUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _pickled_dictionary,
    "collections.defaultdict": lambda args: {},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.Size": lambda args: tuple(args[0]) if isinstance(args[0], list | tuple) else (),
    "torch.device": lambda args: args[0] if isinstance(args[0], str) else "",
    **{f"{module}.getattr": _attribute for module in BUILTINS},
    **{f"{module}._reconstructor": _object for module in ("copyreg", "copy_reg")},
    **{name: _numpy(name) for name in NUMPY},
}
