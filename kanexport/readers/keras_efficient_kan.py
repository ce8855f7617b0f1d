"""keras-efficient-kan: `KANLinear` layers in a `.keras` file, with a config that records their order.

Source: keras-efficient-kan 0.1.10 (PyPI), kan.py, KANLinear.call, for n inputs, m units, C = G + k:

    h   = LayerNormalization(x)              (absent with use_layernorm=False)
    y_j = sum_i W_ij act(h_i) + b_j + sum_i sum_c S[i C + c, j] B_c(h_i; grid_i)

with W [n, m], b [m] (absent with use_bias=False), S [n C, m] and extended knots `grid` [1, n, G + 2k + 1], in this
order; act is keras.ops' function of the name in the config (relu by default; its gelu is the approximation by
tanh). The layer's dropout is off at inference. The epsilon of its own normalisation is Keras' default, 1e-3, and not
in the file. Between the layers, Dense, Activation, ReLU, LayerNormalization, BatchNormalization, Dropout and a
Flatten of vectors are read; the reader rejects other models.

Options: layernorm_eps
Recognized by: layers of class KANLinear in the config of a `.keras` file
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.bases.bspline import BSpline
from kanexport.errors import REPAIR, FamilyError, InvalidKan
from kanexport.formats.checkpoint import Checkpoint
from kanexport.formats.keras import BESIDE, OTHER_WAYS, class_name, layers
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.norms import LayerNorm
from kanexport.ir.steps import Affine, Elementwise, Step
from kanexport.options import EPSILONS, Options
from kanexport.readers.common import chain, layer_tensors
from kanexport.readers.common.layer_tensors import Part, branch, layer_of, storage_dtype

FAMILY = "keras-efficient-kan"
MARK = BESIDE
LAYER_EPSILON = "1e-3"  # of Keras' LayerNormalization
IDLE = ("InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "Flatten")
OPS = {"gelu": "gelu_tanh", "swish": "silu"}  # keras.ops' names, where ours differ
ACTIVATIONS = {"linear": "identity", "swish": "silu"}  # keras.activations' names


@dataclass(frozen=True, slots=True)
class _Module:
    """One layer of the model: its class, its config and the place of its weights, such as "layers/dense_1/"."""

    kind: str
    config: Mapping[str, Any]
    part: Part

    def flag(self, key: str) -> bool:
        """A switch of the constructor; on if the config lacks it, as in Keras."""
        return bool(self.config.get(key, True))

    def number(self, key: str, default: float) -> float:
        """A number of the config. Raises InvalidKan."""
        value = self.config.get(key, default)
        if not isinstance(value, int | float):
            raise InvalidKan(
                f"{key} of {self.kind} in the config is not a number",
                code="config-malformed",
                hint="copy or download the file again",
            )
        return float(value)


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint belongs to this family, or an empty text."""
    count = sum(class_name(layer) == "KANLinear" for layer in layers(checkpoint.beside))
    return f"{count} layers of class KANLinear in config.json" if count else ""


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """The layers in the order of the config. Raises FamilyError, InvalidKan or OptionError."""
    described = layers(checkpoint.beside)
    if not described:
        raise FamilyError("the file has no config of a Keras model", code="config-missing", hint="pass a .keras file")
    _refuse_no_chain(checkpoint.beside[BESIDE], described)
    counts: dict[str, int] = {}  # Keras numbers the weights of layers by class, not by name
    links: list[Layer | Step] = []
    for item in described:
        kind = class_name(item)
        # "KANLinear" as "kan_linear", as in to_snake_case of Keras.
        name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
        name = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
        at = counts.get(name, 0)
        counts[name] = at + 1
        part = Part(checkpoint.tensors, f"layers/{name}{f'_{at}' * bool(at)}/")
        links += _links(_Module(kind, _config(item), part), options)
    return chain.chain(links, storage_dtype(list(checkpoint.tensors.values())))


def _config(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    config = layer.get("config")
    return config if isinstance(config, dict) else {}


def _refuse_no_chain(model: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> None:
    """Check that each layer takes the output of the layer before it. A Sequential is a chain by definition."""
    if class_name(model) == "Sequential":
        return
    # A place such as ["dense", 0, 0], or a list of such places.
    outputs = _config(model).get("output_layers")
    if isinstance(outputs, list) and outputs:
        places = outputs if isinstance(outputs[0], list) else [outputs]
        outputs = [place[0] for place in places if isinstance(place, list) and place]
    if outputs != [_config(layers[-1]).get("name")]:
        raise FamilyError(
            f"the output of the {class_name(model) or 'model'} is not the output of its last layer",
            code="layers-not-a-chain",
            hint=OTHER_WAYS,
        )
    for before, layer in zip([None, *layers[:-1]], layers, strict=True):
        expected = [] if before is None else [_config(before).get("name", before.get("name"))]
        if _sources(layer.get("inbound_nodes")) != expected:
            raise FamilyError(
                f"the layers of the {class_name(model) or 'model'} are not a chain: "
                f"{str(_config(layer).get('name', '?'))[:80]} does not take exactly the output of the layer before it",
                code="layers-not-a-chain",
                hint=OTHER_WAYS,
            )


def _sources(nodes: Any) -> list[Any]:
    """The names of all layers whose outputs are arguments of these calls."""
    if isinstance(nodes, dict):
        history = nodes.get("keras_history")
        if isinstance(history, list) and history:
            return [history[0]]
        return [name for value in nodes.values() for name in _sources(value)]
    return [name for value in nodes for name in _sources(value)] if isinstance(nodes, list) else []


def _links(module: _Module, options: Options) -> list[Layer | Step]:
    """The links of a module. Raises FamilyError, InvalidKan or OptionError."""
    if module.kind == "InputLayer" and len(module.config.get("batch_shape") or [0, 0]) != 2:
        raise FamilyError("the inputs of the model are not vectors", code="layer-unsupported", hint=OTHER_WAYS)
    if module.kind in IDLE:
        return []
    makers = {
        "KANLinear": _kan,
        "Dense": _dense,
        "Activation": _activation,
        "ReLU": _relu,
        "LayerNormalization": _layer_norm,
        "BatchNormalization": _batch_norm,
    }
    if module.kind not in makers:
        raise FamilyError(
            f"the model has a layer of class {module.kind[:80]!r}, which is not supported",
            code="layer-unsupported",
            hint=OTHER_WAYS,
        )
    return makers[module.kind](module, options)


def _kan(module: _Module, options: Options) -> list[Layer | Step]:
    """One KANLinear."""
    part, biased = module.part, module.flag("use_bias")
    base = part.tensor("vars/0", None, None)
    n, m = base.shape
    bias = part.tensor("vars/1", m) if biased else None
    flat = part.tensor(f"vars/{1 + biased}", None, m)
    grid = part.tensor(f"vars/{2 + biased}", 1, n, None)[0]
    functions = len(flat) // n
    if functions * n != len(flat) or grid.shape[1] <= functions + 1:
        raise InvalidKan(
            f"{part.prefix}: weights of {len(flat)} rows do not fit {n} inputs and a grid of {grid.shape}",
            code="tensor-wrong-shape",
            hint=OTHER_WAYS,
        )
    name = str(module.config.get("base_activation", "relu")).lower()
    pre_steps: tuple[Step, ...] = ()
    if module.flag("use_layernorm"):
        epsilon = options.number("layernorm_eps", LAYER_EPSILON, among=EPSILONS)
        pre_steps = (LayerNorm(part.tensor("layer_norm/vars/0", n), part.tensor("layer_norm/vars/1", n), epsilon),)
    layer = layer_of(
        BasisTerm(BSpline(grid, grid.shape[1] - functions - 1), flat.reshape(n, functions, m).transpose(0, 2, 1)),
        branch(elementwise.activation(OPS.get(name, name)), base.T),
        bias=bias,
        # The basis of a non-finite value is NaN there, and its product reaches every sum.
        nan_spreads=True,
        pre_steps=pre_steps,
        name=str(module.config.get("name", ""))[:100],
    )
    return [layer]


def _dense(module: _Module, options: Options) -> list[Layer | Step]:
    kernel = module.part.tensor("vars/0", None, None)
    layer = layer_of(
        branch(elementwise.activation("identity"), kernel.T),
        bias=module.part.tensor("vars/1", kernel.shape[1]) if module.flag("use_bias") else None,
        name=str(module.config.get("name", ""))[:100],
    )
    return [layer, *_activation(module, options)]


def _activation(module: _Module, options: Options) -> list[Layer | Step]:
    name = str(module.config.get("activation", "linear"))
    name = ACTIVATIONS.get(name, name)
    return [] if name == "identity" else [Elementwise(elementwise.activation(name))]


def _relu(module: _Module, options: Options) -> list[Layer | Step]:
    odd = [key for key in ("max_value", "negative_slope", "threshold") if module.config.get(key)]
    if odd:
        raise FamilyError(
            f"the model has a ReLU with {odd[0]}, which is not supported", code="layer-unsupported", hint=OTHER_WAYS
        )
    return [Elementwise(elementwise.activation("relu"))]


def _layer_norm(module: _Module, options: Options) -> list[Layer | Step]:
    width = module.part.shape("vars/0")
    if len(width) != 1 or module.config.get("rms_scaling"):
        raise FamilyError(
            "the model has a LayerNormalization without weights, or with rms_scaling, which is not supported",
            code="layer-unsupported",
            hint=OTHER_WAYS,
        )
    scaled, centred = module.flag("scale"), module.flag("center")
    scale = module.part.tensor("vars/0", *width) if scaled else np.ones(width)
    bias = module.part.tensor(f"vars/{int(scaled)}", *width) if centred else np.zeros(width)
    return [LayerNorm(scale, bias, module.number("epsilon", 1e-3))]


def _batch_norm(module: _Module, options: Options) -> list[Layer | Step]:
    scaled, centred = module.flag("scale"), module.flag("center")
    at = int(scaled) + int(centred)
    mean = module.part.tensor(f"vars/{at}", None)
    variance = module.part.tensor(f"vars/{at + 1}", *mean.shape) + module.number("epsilon", 1e-3)
    if not ((variance > 0) & np.isfinite(variance)).all():  # divided by infinity, all is zero
        raise InvalidKan(
            f"{module.part.prefix} has an invalid variance, expected finite and positive values",
            code="weights-not-finite",
            hint=REPAIR,
        )
    scale = (module.part.tensor("vars/0", *mean.shape) if scaled else 1.0) / np.sqrt(variance)
    bias = module.part.tensor(f"vars/{int(scaled)}", *mean.shape) if centred else np.zeros(mean.shape)
    return [Affine(scale, bias - layer_tensors.product(mean, scale))]
