"""What the tensors of a layer do not tell, read off the living module.

A base activation, an epsilon, a wavelet's name are attributes, and sometimes arguments
of the call. They are only ever proposals: what the module computes decides.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.functions import unary
from kanexport.hybrid.capture import Call
from kanexport.options import SYMBOLIC, Options

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
OURS = (
    "prefix",
    "order",
    "flow",
    "between",
    "before",
    "after",
    "norm",
    "vector",
    "scalar",
)  # options that speak of our files, not of a library's layers
NO_FUNCTION = ("0", "")  # what pykan calls an edge without a symbolic function
CLASSES = {"swish": "silu"}


class Facts(Options):
    """Options of one submodule: what is tried, else what the user gave, else what the
    call or an attribute tells. Knows afterwards between which names there was a choice."""

    def __init__(
        self, given: Mapping[str, str], module: nn.Module, by_call: Mapping[str, str], tried: Mapping[str, str]
    ) -> None:
        super().__init__(dict(given))
        self._module, self._by_call, self._tried = module, by_call, tried
        self.choices: dict[str, tuple[str, ...]] = {}

    @property
    def asked(self) -> set[str]:
        """All options that were of use."""
        return self._known

    def optional(self, key: str) -> str | None:
        """As `Options.optional`, with the call and the attributes asked last."""
        value = super().optional(key)
        if key in BASES:
            self.choices[key] = tuple(unary.ACTIVATIONS)
        if key in self._tried:
            return self._tried[key]
        if value is not None:
            return value
        return self._by_call.get(key) or attribute(self._module, key)

    def text(self, key: str, default: str, stored: str | None = None, *, among: Iterable[str] = ()) -> str:
        """As `Options.text`; what nothing tells may be any of `among`, which are tried."""
        names = tuple(among)
        if names and stored is None and self.optional(key) is None:
            self.choices[key] = names
        return super().text(key, default, stored, among=names)

    def choice(self, key: str, known: Iterable[str], default: str, *, words: str = "") -> str:
        """As `Options.choice`; an attribute that is none of the known names counts for nothing."""
        names = tuple(known)
        self.choices[key] = names
        value = self.optional(key)
        if value is not None and value.lower() not in names and key not in self.given:
            return default  # an attribute of that name is something else
        return super().choice(key, names, default, words=words)

    def must(self, key: str, known: Iterable[str], what: str) -> str:
        """As `Options.must`, but every value is tried, the first one first."""
        names = self.choices[key] = tuple(known)
        return names[0] if self.optional(key) is None else super().must(key, names, what)


def attribute(module: nn.Module, key: str) -> str | None:
    """An option as an attribute of the module has it."""
    if key in OURS:
        return None
    if key in NORMS:
        epsilons = {part.eps for part in module.modules() if isinstance(part, NORMS[key])}
        return repr(epsilons.pop()) if len(epsilons) == 1 else None
    texts = (_text(_follow(module, path)) for path in ATTRIBUTES.get(key, (key,)))
    return next((text for text in texts if text is not None), None)


def _follow(module: nn.Module, path: str) -> Any:
    """What a path such as "rbf.denominator" or "grid_range.0" leads to, or None."""
    value: Any = module
    for name in path.split("."):
        value = _item(value, int(name)) if name.isdecimal() else getattr(value, name, None)
    return value


def unknown_base(module: nn.Module) -> str:
    """The name of a base function that is in no table, if the module has one."""
    for path in ATTRIBUTES["base_activation"]:
        value = getattr(module, path, None)
        if callable(value) and _text(value) is None:
            return getattr(value, "__name__", type(value).__name__)
    return ""


def _item(value: Any, at: int) -> Any:
    return value[at] if isinstance(value, list | tuple) and at < len(value) else None


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
    return repr(value) if isinstance(value, int | float) else _activation(value)


def _activation(value: Any) -> str | None:
    """Our name of an activation that is a function, a class or a module."""
    name = (value.__name__ if inspect.isroutine(value) or inspect.isclass(value) else type(value).__name__).lower()
    if name == "gelu" and getattr(value, "approximate", "none") == "tanh":
        return "gelu_tanh"
    name = CLASSES.get(name, name)
    return name if name in unary.ACTIVATIONS else None


def arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Real, dense tensors as arrays of the type they have; bfloat16 has none and becomes float32."""
    real = {}
    for name, value in tensors.items():
        if not (value.is_complex() or value.is_sparse or value.is_quantized or value.is_meta):
            value = value.detach().cpu()
            real[name] = np.asarray((value.float() if value.dtype == torch.bfloat16 else value).numpy())
    return real


def pykan_config(module: nn.Module) -> dict[str, Any] | None:
    """What pykan would write beside its weights, from a living network of it."""
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
    """What a pykan network and its call say of options: the functions of its edges, the
    inputs that it selects, and its way around singularities."""
    off = {"symbolic_enabled": "false"} if getattr(call.module, "symbolic_enabled", True) is False else {}
    return off | _edge_functions(call.module) | _selected_inputs(call) | _singularities(call)


def _edge_functions(module: nn.Module) -> dict[str, str]:
    return {
        f"{SYMBOLIC}{at},{source},{destination}": name
        for at, part in enumerate(_symbolic(module))
        for destination, row in enumerate(getattr(part, "funs_name", ()))
        for source, name in enumerate(row)
        if name not in NO_FUNCTION
    }


def _selected_inputs(call: Call) -> dict[str, str]:
    chosen = getattr(call.module, "input_id", None)
    if not isinstance(chosen, torch.Tensor) or chosen.ndim != 1 or chosen.is_floating_point():
        return {}
    return {"input_id": ",".join(map(str, chosen.tolist())), "n_inputs": str(call.x.shape[-1])}


def _singularities(call: Call) -> dict[str, str]:
    """How the call goes around them: arguments of pykan's forward, given or by default."""
    try:
        bound = inspect.signature(call.module.forward).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return {}
    bound.apply_defaults()
    if not bound.arguments.get("singularity_avoiding"):
        return {}
    limit = _text(bound.arguments.get("y_th"))
    return {"singularity": "avoid"} | ({"y_th": limit} if limit is not None else {})
