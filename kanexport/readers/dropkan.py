"""DropKAN: pykan's layers with dropout on their edges, which is off at inference.

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

import re

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import FamilyError, InvalidKan
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.norms import LayerNorm
from kanexport.ir.steps import Step
from kanexport.options import EPSILONS, Options
from kanexport.readers.common import chain, layer_tensors
from kanexport.readers.common.layer_tensors import Part, Tensors, storage_dtype

FAMILY = "dropkan"
MARK = "act_fun.0.neuron_train"
NEURONS = ("sum", "mean", "min", "max", "multiply", "std", "var", "median", "norm", "attention")
USE_MODULE = "export the whole module with --module"


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint is of this family, or an empty text."""
    roots = _roots(checkpoint.tensors, "")
    return f"{roots[0]}{MARK} beside act_fun.0.coef" if roots else ""


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """Read the state. Raises FamilyError, InvalidKan or OptionError."""
    tensors, root = checkpoint.tensors, _root(checkpoint.tensors, options.optional("prefix"))
    pattern = re.compile(re.escape(root) + r"act_fun\.\d+\.coef")
    depth = len([key for key in tensors if pattern.fullmatch(key)])
    _refuse_symbolic(tensors, root, depth, options)
    layers = [_layer(Part(tensors, root), at, options) for at in range(depth)]
    return chain.chain(layers, storage_dtype([tensors[f"{root}act_fun.{at}.coef"] for at in range(depth)]))


def _roots(tensors: Tensors, start: str) -> list[str]:
    roots = [key.removesuffix(MARK) for key in tensors if key.endswith(MARK) and key.startswith(start)]
    return [root for root in roots if (coef := tensors.get(root + "act_fun.0.coef")) is not None and coef.ndim == 3]


def _root(tensors: Tensors, prefix: str | None) -> str:
    """The prefix of the only DropKAN. Raises FamilyError where there is a choice, or something beside it."""
    roots = _roots(tensors, prefix or "")
    if len(roots) != 1:
        raise FamilyError(f"{MARK} is there {len(roots)} times", hint="choose one with --option prefix=KEY_PREFIX")
    others = [key for key in tensors if not key.startswith(roots[0])]
    if others and prefix is None:
        raise FamilyError(
            f"beside the DropKAN under {roots[0]!r} there are tensors of other modules, such as {others[0]!r}",
            hint=f"the DropKAN alone is exported with --option prefix={roots[0]}, a whole module with --module",
        )
    return roots[0]


def _layer(part: Part, at: int, options: Options) -> Layer:
    """Layer number `at`. Raises InvalidKan or OptionError."""
    own = Part(part.tensors, f"{part.prefix}act_fun.{at}.")
    coef = own.tensor("coef", None, None, None)
    n, m, functions = coef.shape
    grid = own.tensor("grid", n, None)
    if grid.shape[1] <= functions + 1:
        raise InvalidKan(f"layer {at}: grid has shape {grid.shape}, expected ({n}, {functions} + k + 1) with k >= 1")
    share = 1 / n if _neuron(options) == "mean" else 1.0
    scaled = layer_tensors.product(coef, own.tensor("scale_sp", n, m)[:, :, None]) * share
    base = Activation(layer_tensors.activation(options, "silu", "base_fun"))
    bias = f"biases.{at}.weight"
    return Layer(
        terms=(
            BasisTerm(BSpline(grid, grid.shape[1] - functions - 1), scaled),
            BasisTerm(base, own.tensor("scale_base", n, m)[:, :, None] * share),
        ),
        mask=np.ones((n, m)),
        bias=part.tensor(bias, 1, m)[0] if part.has(bias) else np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
        pre_steps=_before(options, n),
    )


def _neuron(options: Options) -> str:
    """The step that replaces the sum. Raises FamilyError for an unknown one."""
    kind = options.choice("neuron_fun", NEURONS, NEURONS[0])
    if kind not in ("sum", "mean"):
        raise FamilyError(f"with neuron_fun={kind} a node is no sum of its edges", hint=USE_MODULE)
    return kind


def _before(options: Options, n: int) -> tuple[Step, ...]:
    kind = options.choice("input_preprocessing", ("none", "ln", "ls"), "none")
    if kind == "ls":
        raise FamilyError("input_preprocessing=ls scales a row by its smallest and largest value", hint=USE_MODULE)
    if kind == "none":
        return ()
    return (LayerNorm(np.ones(n), np.zeros(n), options.number("layernorm_eps", EPSILONS[0], among=EPSILONS)),)


def _refuse_symbolic(tensors: Tensors, root: str, depth: int, options: Options) -> None:
    """Raises FamilyError where symbolic edges are on: their functions' names are in no file."""
    masks = [tensors.get(f"{root}symbolic_fun.{at}.mask") for at in range(depth)]
    on = sum(int(np.count_nonzero(mask)) for mask in masks if mask is not None)
    if on and options.choice("symbolic_enabled", ("false", "true"), "false") == "true":
        raise FamilyError(f"{on} symbolic edges are on, and their functions are in no file", hint=USE_MODULE)
