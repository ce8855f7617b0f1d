"""FastKAN, and libraries with its tensors: Gaussians on normalized inputs and a base branch on raw inputs.

Source: ZiyaoLi/fast-kan, FastKANLayer.forward, for n inputs, m outputs, K centres g:

    h   = LayerNorm(x)                       (absent with use_layernorm=False)
    y_j = sum_i sum_c V[j, i K + c] exp(-((h_i - g_c) / d)^2)
        + sum_i W_ji act(x_i) + beta_j       (absent with use_base_update=False)

`d` is a Python number and in no file; the library's default is the centres' spacing,
(g_max - g_min) / (K - 1). `base_activation` is a function, SiLU by default. Whether the LayerNorm
is used is an argument of the call; some copies feed the base branch with h. Copies of the layer
are read as well where `base_linear` has no bias.

Without a base branch, the tensors are also those of FasterKAN before `inv_denominator`
(AthanasiosDelis/faster-kan, commit ffb79dc; its copies in Vision-KAN and PyPI's visionkan), which has
1 - tanh((h_i - g_c) / d)^2 in the place of the Gaussians, with d = 0.33 by default.

`first-fastkan` is FastKAN before SplineLinear (commits 5eecf95 to b8f617f), and X-KANeRF's
GRBFKANLayer (lif314/X-KANeRF, grbf_kan.py): V is `spline_weight` [m, n, K]. X-KANeRF's layer, like
the first two commits, has d = 1.

Options: forward, denominator, layernorm, base_activation, layernorm_eps
Edge classes: A, B
"""

from __future__ import annotations

from kanexport.bases import Basis
from kanexport.bases.gaussian import Gaussian
from kanexport.bases.sech2 import Sech2
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import grid_steps, module_kinds
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Array, Keys, Part, activation, branch, layer_of

NORM_AND_BASE = {"layernorm.weight": 1, "layernorm.bias": 1, "base_linear.weight": 2, "base_linear.bias": 1}
KEYS = Keys(
    required={"rbf.grid": 1, "spline_linear.weight": 2},
    optional=NORM_AND_BASE,
    absent=("rbf.inv_denominator",),  # FasterKAN's
)
FIRST_KEYS = Keys(required={"rbf.grid": 1, "spline_weight": 3}, optional=NORM_AND_BASE)

SECANTS = {"fasterkan": "FasterKAN before inv_denominator (Vision-KAN, visionkan), which has squared secants"}
UNIT = {"grbf": "GRBFKANLayer of X-KANeRF and the first commits of FastKAN, with Gaussians of width 1"}
NORM_WORDS = (
    "or unused, if the model calls the layer with use_layernorm=False, or both, if a copy passes the normalized inputs "
    "to the base branch too"
)


def layer(part: Part, options: Options) -> Layer:
    """One FastKANLayer. Raises InvalidKan or OptionError."""
    centres = part.tensor("rbf.grid", None)
    coef = part.blocks("spline_linear.weight", len(centres))
    based = part.has("base_linear.weight")
    forward = "fastkan" if based else options.forward("fastkan", SECANTS)
    if forward == "fasterkan":
        basis: Basis = Sech2(centres, grid_steps.secant_rate(centres, options))
    else:
        basis = Gaussian(centres, grid_steps.denominator(centres, options))
    return _assembled(part, options, basis, coef)


def first_layer(part: Part, options: Options) -> Layer:
    """One layer of FastKAN before SplineLinear, or of X-KANeRF. Raises InvalidKan or OptionError."""
    centres = part.tensor("rbf.grid", None)
    coef = part.tensor("spline_weight", None, None, len(centres)).transpose(1, 0, 2)
    unit = options.forward("first-fastkan", UNIT) == "grbf"
    return _assembled(part, options, Gaussian(centres, 1.0 if unit else grid_steps.denominator(centres, options)), coef)


def _assembled(part: Part, options: Options, basis: Basis, coef: Array) -> Layer:
    """The layer of a basis with coefficients [I, O, K], and the branch and the norm of the file."""
    n, m, _ = coef.shape
    norms: tuple[Step, ...] = ()
    used = "unused"
    based = part.has("base_linear.weight")
    if part.has("layernorm.weight"):
        places = ("spline", "both", "unused") if based else ("spline", "unused")
        used = options.choice("layernorm", places, "spline", words=NORM_WORDS if based else "")
    if used != "unused":
        norms = module_kinds.layer_norm(part.inside("layernorm"), options, n)
    splines = BasisTerm(basis, coef, norms)
    if not based:
        return layer_of(splines)
    base = branch(activation(options, "silu"), part.tensor("base_linear.weight", m, n), norms if used == "both" else ())
    return layer_of(splines, base, bias=part.optional("base_linear.bias", m))


FAMILIES = (LayerKind("fastkan", KEYS, layer), LayerKind("first-fastkan", FIRST_KEYS, first_layer))
