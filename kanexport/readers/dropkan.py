"""DropKAN: layers of pykan with dropout on their edges, which is off at inference.

Source: Ghaith81/dropkan, dropkan/DropKAN.py and DropKANLayer.py, forward in eval mode. For every layer:

    y_j = sum_i (scale_base_ij base(u_i) + scale_sp_ij sum_c coef_ijc B_c(u_i; grid_i)) + bias_j

u is x, or with input_preprocessing='ln' its normalised value, without weights. `neuron_fun` may take something else
than the sum (in no file; mean is the sum over n). The layers have no mask; `neuron_train` [1] is
stored and not used. Symbolic edges are off unless the constructor was told otherwise, and their functions'
names are in no file. A spline of a value that is not finite is zero there.

Options: neuron_fun, base_fun, input_preprocessing, symbolic_enabled, layernorm_eps, prefix
Edge classes: A, B
Recognized by: `act_fun.0.neuron_train` next to `act_fun.0.coef`
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kanexport.errors import USE_MODULE, FamilyError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import Kan, Layer
from kanexport.options import Options
from kanexport.readers import pykan_layer
from kanexport.readers.common import chain, pykan
from kanexport.readers.common.layer_tensors import Part, Tensors, layer_of, storage_dtype

FAMILY = "dropkan"
MARK = "act_fun.0.neuron_train"
NEURONS = ("sum", "mean", "min", "max", "multiply", "std", "var", "median", "norm", "attention")


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint belongs to this family, or an empty text."""
    roots = _roots(checkpoint.tensors)
    return f"{roots[0]}{MARK} next to act_fun.0.coef" if roots else ""


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """Read the state. Raises FamilyError, InvalidKan or OptionError."""
    tensors = checkpoint.tensors
    root = chain.only_root(tensors, _roots(tensors), MARK, options)
    depth = pykan.depth({key.removeprefix(root): value for key, value in tensors.items()})
    masks = [tensors.get(f"{root}symbolic_fun.{at}.mask") for at in range(depth)]
    on = sum(int(np.count_nonzero(mask)) for mask in masks if mask is not None)
    if on and options.choice("symbolic_enabled", ("false", "true"), "false") == "true":
        raise FamilyError(
            f"{on} symbolic edges are active, and the file does not store their functions",
            code="functions-not-recorded",
            hint=USE_MODULE,
        )
    layers = [_layer(Part(tensors, root), at, options) for at in range(depth)]
    return chain.chain(layers, storage_dtype([tensors[f"{root}act_fun.{at}.coef"] for at in range(depth)]))


def _roots(tensors: Tensors) -> list[str]:
    return [root for root in pykan.roots(tensors) if root + MARK in tensors]


def _layer(part: Part, at: int, options: Options) -> Layer:
    """Layer number `at`. Raises InvalidKan or OptionError."""
    neuron = options.choice("neuron_fun", NEURONS, NEURONS[0])
    if neuron not in ("sum", "mean"):
        raise FamilyError(
            f"neuron_fun={neuron} is not supported: a node is then not the sum of its edges",
            code="option-unsupported",
            hint=USE_MODULE,
        )
    layer = pykan_layer.layer(part.inside(f"act_fun.{at}"), options)
    n, m = layer.mask.shape
    share = 1 / n if neuron == "mean" else 1.0
    before = options.choice("input_preprocessing", ("none", "ln", "ls"), "none")
    if before == "ls":
        raise FamilyError(
            "input_preprocessing=ls is not supported: it scales a row by its smallest and largest value",
            code="option-unsupported",
            hint=USE_MODULE,
        )
    return layer_of(
        *(dataclasses.replace(term, coef=term.coef * share) for term in layer.terms),
        bias=part.optional(f"biases.{at}.weight", 1, m),
        pre_steps=(chain.without_tensors("layernorm", n, options),) if before == "ln" else (),
    )
