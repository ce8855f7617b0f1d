"""What a pickle's names and calls become here: plain data, tensors by reference, or nothing but a name.

Nothing is imported and nothing is called. A handful of torch's rebuilders, listed below, say how a
tensor lies in its storage; every other call, of a script's own classes too, leaves an `Opaque` with
the name of what was called. Only a call of what runs commands or code, such as `os.system`, is refused:
no training script saves that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kanexport.errors import CheckpointError, UnsafeCheckpoint

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
    """A strided view of a storage; offset and strides are in elements. `negative`, `conjugate`:
    whether its values are those of the storage with that done to them."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool = False
    conjugate: bool = False


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object that is not rebuilt: its name, and nothing of what it is made of. `weights`: why
    what may be weights is not read, such as a sparse tensor; empty for any other object."""

    name: str
    weights: str = ""

    def __str__(self) -> str:
        return self.name[:MAX_NAME_CHARACTERS]


def called(function: Any, args: tuple[Any, ...]) -> Any:
    """What a call in the pickle stands for. Raises UnsafeCheckpoint for what would run commands or
    code, CheckpointError for arguments that make no tensor."""
    if isinstance(function, Opaque):
        return function
    if not isinstance(function, Name):
        raise UnsafeCheckpoint(
            f"the pickle calls a {type(function).__name__}; nothing was executed", hint=SAVE_STATE_DICT
        )
    if str(function) in REBUILDERS:
        try:
            return REBUILDERS[str(function)](args)
        except (IndexError, ValueError, TypeError) as error:
            raise CheckpointError(f"the pickle calls {function} with unfit arguments") from error
    if _runs(function):
        raise UnsafeCheckpoint(
            f"the pickle calls {function}, which no checkpoint needs; nothing was executed",
            hint=f"do not load this file with torch.load or pickle; {SAVE_STATE_DICT}",
        )
    return Opaque(str(function), _weights(function))


# Modules whose functions run commands, or code that a file brings.
RUNNERS = frozenset(
    (
        "os",
        "posix",
        "nt",
        "subprocess",
        "commands",
        "pty",
        "sys",
        "runpy",
        "importlib",
        "imp",
        "shutil",
        "socket",
        "ctypes",
        "code",
        "codeop",
        "pickle",
        "_pickle",
        "cPickle",
        "marshal",
        "shelve",
        "webbrowser",
        "pdb",
        "timeit",
    )
)
BUILTINS = ("builtins", "__builtin__")
DATA = frozenset(
    (
        "set",
        "frozenset",
        "bytearray",
        "bytes",
        "complex",
        "slice",
        "range",
        "xrange",
        "object",
        "dict",
        "list",
        "tuple",
        "int",
        "long",
        "float",
        "str",
        "unicode",
        "bool",
        "Ellipsis",
        "NotImplemented",
        "type",
        "reversed",
        "enumerate",
        "zip",
        "map",
        "filter",
    )
)  # of BUILTINS
LOADERS = (
    *("torch.load", "torch.save", "torch.serialization.load", "torch.serialization._load", "torch.hub.", "torch.jit."),
    *("torch.package.", "torch.compile", "torch._dynamo."),
)
REBUILT = ("torch._utils._rebuild", "torch._tensor._rebuild", "torch.nn.parameter.", "torch.storage.")


def _runs(name: Name) -> bool:
    """Whether a call of it would run commands, code, or another pickle, or reach into objects."""
    if name.module in BUILTINS:
        return name.name not in DATA and not name.name.endswith(("Error", "Exception", "Warning"))
    return name.module.partition(".")[0] in RUNNERS or str(name).startswith(LOADERS)


def _weights(name: Name) -> str:
    """Why what it rebuilds is not read as weights, if it may be weights."""
    return f"rebuilt by {name}, which is not read" if str(name).startswith(REBUILT) else ""


def _tensor(args: tuple[Any, ...]) -> TensorRef:
    storage, offset, size, stride = args[:4]
    numbers = [offset, *_tuple(size), *_tuple(stride)]
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < MAX_NUMBER_MAGNITUDE for n in numbers):
        raise CheckpointError("a tensor in the pickle has no valid storage, offset, size or stride")
    return TensorRef(storage, offset, _tuple(size), _tuple(stride), *_views(args[6:7]))


def _views(metadata: tuple[Any, ...]) -> tuple[bool, bool]:
    """Whether torch's metadata of a tensor says that it is a negative, and a conjugate, view."""
    known = metadata[0] if metadata and metadata[0] is not None else {}
    if not isinstance(known, dict) or not known.keys() <= {"neg", "conj"}:
        raise CheckpointError("a tensor in the pickle has metadata of a kind that is not read")
    return known.get("neg") is True, known.get("conj") is True


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) > AXIS_LIMIT:
        raise CheckpointError(f"a tensor's size or stride is not a tuple of at most {AXIS_LIMIT} numbers")
    return value


def _first(args: tuple[Any, ...]) -> Any:
    if not isinstance(args[0], TensorRef | Opaque):
        raise CheckpointError("a parameter in the pickle wraps no tensor")
    return args[0]


def _typed(args: tuple[Any, ...]) -> Any:
    """A tensor with attributes of its own, or of another class, `(rebuilder, class, its arguments, state)`."""
    function, kind, inner = args[:3]
    if not isinstance(kind, Name) or not isinstance(inner, tuple):
        raise CheckpointError("the pickle rebuilds a tensor of no class")
    if str(kind) not in TENSORS:
        return Opaque(str(kind), f"a {kind}, which is not read")
    return called(function, inner)


def _dictionary(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args and args != ([],):
        raise CheckpointError("an OrderedDict in the pickle is built from more than its items")
    return {}


def _attribute(args: tuple[Any, ...]) -> Name | Opaque:
    """A class inside a class: what `getattr` of two names is pickled for."""
    owner, name = args
    if not isinstance(name, str):
        raise CheckpointError("the pickle asks for an attribute without a name")
    return Name(owner.module, f"{owner.name}.{name}") if isinstance(owner, Name) else Opaque("an attribute")


def _object(args: tuple[Any, ...]) -> Opaque:
    """`copyreg._reconstructor(class, base, state)`."""
    return Opaque(str(args[0]) if isinstance(args[0], Name) else "object")


def _numpy(name: str) -> Callable[[tuple[Any, ...]], Opaque]:
    """numpy's numbers and arrays, and what their pickles are made with."""
    weights = "a numpy array, expected a tensor" if name.endswith(("_reconstruct", "_frombuffer")) else ""

    def rebuilt(args: tuple[Any, ...]) -> Opaque:
        if len(args) < 2:
            raise CheckpointError(f"the pickle calls {name} with unfit arguments")
        return Opaque(name, weights)

    return rebuilt


NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
NUMPY += ["numpy.dtype", "_codecs.encode", *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core"))]
TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")  # classes of plain tensors
# What a call may mean. Each takes the argument tuple and returns inert data.
REBUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _dictionary,
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
