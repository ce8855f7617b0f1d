"""Candidates for KAN layers among the submodules, by the shapes of their tensors, not by their class.

A submodule is a candidate if a reader knows its tensors and leaves none over. `match.py` decides
its meaning."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.detection import registry
from kanexport.formats.checkpoint import Checkpoint
from kanexport.functions import elementwise
from kanexport.options import SYMBOLIC, KnownFacts, Options
from kanexport.readers.common import chain
from kanexport.readers.common.layer_tensors import Part
from kanexport.torch_export.capture import Call
from kanexport.torch_export.io_binding import Whole

LINEAR = "linear"
NAMED = 5  # submodules in a note

K = TypeVar("K")
V = TypeVar("V")
Tensors = dict[str, npt.NDArray[Any]]
Family = tuple[str, registry.Reader | None, Tensors]  # its name, its reader (none: a linear layer), what it reads


def shown(name: str) -> str:
    """The name of a submodule as the user knows it."""
    return name.replace("._orig_mod", "").removeprefix("body").removeprefix(".") or "(itself)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A submodule with tensors that some families know, each with the tensors that it reads."""

    module: nn.Module
    families: tuple[Family, ...]


def candidates(whole: Whole) -> dict[str, Candidate]:
    """The candidates by name, parents before children; a module with several names has the first."""
    by_name: dict[str, Candidate] = {}
    visited: set[int] = set()
    waiting = [("body", whole.body)]
    while waiting:
        name, module = waiting.pop(0)
        if id(module) in visited:
            continue
        visited.add(id(module))
        waiting += [(f"{name}.{child}", part) for child, part in module.named_children()]
        families = tuple(_families(module))
        if families:
            by_name[name] = Candidate(module, families)
    return by_name


def as_checkpoint(module: nn.Module, tensors: Tensors) -> Checkpoint:
    """A submodule in the form of a file of its library."""
    return Checkpoint(Path(type(module).__name__), "", tensors, pykan_config(module), ())


def _families(module: nn.Module) -> Iterator[Family]:
    """The families that know all tensors of a submodule."""
    if isinstance(module, nn.Linear):
        # As attributes, because a parametrised weight is stored in pieces.
        own = {"weight": module.weight} | ({} if module.bias is None else {"bias": module.bias})
        yield LINEAR, None, arrays(own)
        return
    state = {key: value for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    tensors = arrays(state)
    if not state or len(tensors) < len(state):
        return
    # A state dict lacks buffers that are not saved, and tensors that are plain attributes.
    buffers = arrays({name: value for name, value in module.named_buffers() if name not in state})
    attributes = arrays({name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)})
    is_known = False
    for family, reader in _all_readers().items():
        for mine in _readable(module, reader, tensors, buffers, attributes):
            is_known = True
            yield family, reader, mine
    if not is_known:
        yield from _one_group(module, tensors)


def _one_group(module: nn.Module, tensors: Tensors) -> Iterator[Family]:
    """The families of a layer of several groups that has only one, as the first axis of all its tensors."""
    if tensors and all(value.ndim > 1 and len(value) == 1 for value in tensors.values()):
        mine = {name: value[0] for name, value in tensors.items()}
        for family, reader in _all_readers().items():
            if isinstance(reader, registry.LayerReader):
                yield from ((family, reader, group) for group in _readable(module, reader, mine, {}, {}))


def _readable(
    module: nn.Module, reader: registry.Reader, tensors: Tensors, buffers: Tensors, attributes: Tensors
) -> Iterator[Tensors]:
    """The tensors of a submodule that a reader would read, if it knows all of them: a layer with the unsaved tensors
    that it needs, a whole network without and with the unsaved buffers."""
    if isinstance(reader, registry.LayerReader):
        unsaved = buffers | attributes
        needed = {key: unsaved[key] for key in reader.keys.names() if key in unsaved and key not in tensors}
        mine = needed | tensors
        is_lone_layer = set(mine) <= set(reader.keys.names()) and chain.prefixes(mine, reader.keys) == [""]
        if is_lone_layer and reader.fits(Part(mine, "")):
            yield mine
        return
    for mine in (tensors, tensors | buffers) if buffers else (tensors,):
        if reader.matches(as_checkpoint(module, mine)):
            yield mine


@functools.cache
def _all_readers() -> dict[str, registry.Reader]:
    return {name: reader for name, reader in registry.readers().items() if not registry.by_shape(reader)}


def parents(name: str) -> Iterator[str]:
    """The submodules that contain a submodule, from the inside."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def is_in(name: str, others: Container[str]) -> bool:
    """Whether a submodule is one of some, or in one of them."""
    return name in others or any(parent in others for parent in parents(name))


def overlaps(name: str, others: Collection[str]) -> bool:
    """Whether a submodule is one of some, is in one of them, or contains one."""
    return is_in(name, others) or any(is_in(other, (name,)) for other in others)


def listed(names: Iterable[str]) -> str:
    """The first names of submodules, each once, and the number of the others."""
    unique = [shown(name) for name in dict.fromkeys(names)]
    more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
    return ", ".join(unique[:NAMED]) + more


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """The values by key, from pairs of both, in their order."""
    by_key: dict[K, list[V]] = {}
    for key, value in pairs:
        by_key.setdefault(key, []).append(value)
    return by_key


# Where options are found that libraries call by another name.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "base_fun": ("base_fun", "base_activation"),
    "base_activation": ("base_activation", "base_fun", "activation", "act"),
    "jacobi_a": ("a", "alpha"),
    "jacobi_b": ("b", "beta"),
    "denominator": ("rbf.denominator", "rbf_linear.denominator", "denominator"),
    "grid": ("g", "grid_size", "G"),
    "grid_min": ("grid_range.0", "grid_min"),
    "grid_max": ("grid_range.1", "grid_max"),
    "k": ("k", "spline_order"),
    "w": ("spline_width", "w", "width"),
    "epsilon": ("epsilon", "eps"),
    "laguerre_alpha": ("alpha",),
    "gegenbauer_alpha": ("alpha_param", "alpha"),
    "charlier_a": ("a",),
    "cheby_epsilon": ("epsilon", "eps"),
    "hermite_eps": ("eps",),
}
NORMS: dict[str, type[nn.Module] | tuple[type[nn.Module], ...]] = {
    "layernorm_eps": nn.LayerNorm,
    "batchnorm_eps": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
}
BASES = ("base_activation", "base_fun")
# Options that speak of our files, not of a library's layers.
OURS = ("prefix", "order", "flow", "between", "before", "after", "norm", "vector", "scalar")
NO_FUNCTION = ("0", "")  # what pykan calls an edge without a symbolic function
CLASSES = {"swish": "silu"}


class Facts(Options):
    """Options of one submodule. A tested value has priority over one of the user, which has priority over one of the
    call or an attribute.

    choices  after reading: by option, the names of its choice
    """

    def __init__(
        self, user_options: Mapping[str, str], module: nn.Module, by_call: Mapping[str, str], tried: Mapping[str, str]
    ) -> None:
        super().__init__(KnownFacts(user_options))
        self._module, self._by_call, self._tried = module, by_call, tried
        self.choices: dict[str, tuple[str, ...]] = {}

    @property
    def consulted(self) -> set[str]:
        """All options that were used."""
        return self._known

    def optional(self, key: str) -> str | None:
        """The value of `Options.optional`, otherwise of the call, otherwise of an attribute."""
        value = super().optional(key)
        if key in BASES:
            self.choices[key] = tuple(elementwise.ACTIVATIONS)
        if key in self._tried:
            return self._tried[key]
        if value is not None:
            return value
        return self._by_call.get(key) or attribute(self._module, key)

    def text(self, key: str, default: str, stored: str | None = None, *, among: Iterable[str] = ()) -> str:
        """The value of `Options.text`; if no source gives the fact, all values of `among` are tested."""
        names = tuple(among)
        if names and stored is None and self.optional(key) is None:
            self.choices[key] = names
        return super().text(key, default, stored, among=names)

    def choice(self, key: str, known: Iterable[str], default: str, *, words: str = "") -> str:
        """The value of `Options.choice`; an attribute with an unknown name is ignored."""
        names = tuple(known)
        self.choices[key] = names
        value = self.optional(key)
        if value is not None and value.lower() not in names and key not in self.explicit:
            return default  # an attribute of that name is something else
        return super().choice(key, names, default, words=words)

    def must(self, key: str, known: Iterable[str], what: str) -> str:
        """The value of `Options.must`; if it is not given, all values are tested, the first one first."""
        names = self.choices[key] = tuple(known)
        return names[0] if self.optional(key) is None else super().must(key, names, what)


def attribute(module: nn.Module, key: str) -> str | None:
    """An option from an attribute of the module."""
    if key in OURS:
        return None
    if key in NORMS:
        epsilons = {part.eps for part in module.modules() if isinstance(part, NORMS[key])}
        return repr(epsilons.pop()) if len(epsilons) == 1 else None
    for path in ATTRIBUTES.get(key, (key,)):  # such as "rbf.denominator" or "grid_range.0"
        value: Any = module
        for name in path.split("."):
            if name.isdecimal():
                value = value[int(name)] if isinstance(value, list | tuple) and int(name) < len(value) else None
            else:
                value = getattr(value, name, None)
        text = _text(value)
        if text is not None:
            return text
    return None


def unknown_base(module: nn.Module) -> str:
    """The name of a base function that is not in the table, if the module has one."""
    for path in ATTRIBUTES["base_activation"]:
        value = getattr(module, path, None)
        if callable(value) and _text(value) is None:
            return getattr(value, "__name__", type(value).__name__)
    return ""


def _text(value: Any) -> str | None:
    """An attribute as the text of an option: numbers, names, and functions with a known name."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, torch.Tensor):
        return repr(value.item()) if value.numel() == 1 else None
    if isinstance(value, np.number):
        return repr(value.item())
    if isinstance(value, int | float):
        return repr(value)
    # An activation that is a function, a class or a module.
    name = (value.__name__ if inspect.isroutine(value) or inspect.isclass(value) else type(value).__name__).lower()
    if name == "gelu" and getattr(value, "approximate", "none") == "tanh":
        return "gelu_tanh"
    name = CLASSES.get(name, name)
    return name if name in elementwise.ACTIVATIONS else None


def arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Real, dense tensors as arrays of their type; bfloat16 has no numpy type and becomes float32."""
    real = {}
    for name, value in tensors.items():
        if not (value.is_complex() or value.is_sparse or value.is_quantized or value.is_meta):
            value = value.detach().cpu()
            real[name] = np.asarray((value.float() if value.dtype == torch.bfloat16 else value).numpy())
    return real


def pykan_config(module: nn.Module) -> dict[str, Any] | None:
    """The config that pykan would write with its weights, from a network in memory."""
    symbolic, width = _symbolic(module), getattr(module, "width", None)
    if not symbolic or not isinstance(width, list):
        return None
    base = getattr(module, "base_fun_name", "silu")
    config = {
        "width": [list(entry) if isinstance(entry, list | tuple) else entry for entry in width],
        "mult_arity": getattr(module, "mult_arity", 2),
        "base_fun_name": base if isinstance(base, str) else _text(base),
        "symbolic_enabled": bool(getattr(module, "symbolic_enabled", True)),
    }
    names = {
        f"symbolic.funs_name.{at}": part.funs_name for at, part in enumerate(symbolic) if hasattr(part, "funs_name")
    }
    return config | names


def _symbolic(module: nn.Module) -> list[nn.Module]:
    """The symbolic layers of a pykan network."""
    layers = getattr(module, "symbolic_fun", None)
    return list(layers) if isinstance(layers, nn.ModuleList) else []


def by_call(call: Call) -> dict[str, str]:
    """Options that a pykan network and its call determine: the functions of its edges, the inputs that it selects,
    and its handling of singularities."""
    options = {"symbolic_enabled": "false"} if getattr(call.module, "symbolic_enabled", True) is False else {}
    for at, part in enumerate(_symbolic(call.module)):
        for destination, row in enumerate(getattr(part, "funs_name", ())):
            for source, name in enumerate(row):
                if name not in NO_FUNCTION:
                    options[f"{SYMBOLIC}{at},{source},{destination}"] = name
    chosen = getattr(call.module, "input_id", None)
    if isinstance(chosen, torch.Tensor) and chosen.ndim == 1 and not chosen.is_floating_point():
        options |= {"input_id": ",".join(map(str, chosen.tolist())), "n_inputs": str(call.x.shape[-1])}
    return options | _singularities(call)


def _singularities(call: Call) -> dict[str, str]:
    """The setting of the call for singularities: arguments of the forward of pykan, given or by default."""
    try:
        bound = inspect.signature(call.module.forward).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return {}
    bound.apply_defaults()
    if not bound.arguments.get("singularity_avoiding"):
        return {}
    limit = _text(bound.arguments.get("y_th"))
    return {"singularity": "avoid"} | ({"y_th": limit} if limit is not None else {})
