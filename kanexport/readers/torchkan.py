"""torchkan: whole models with layers in parallel lists, `base_weights.0` and so on.

Source: 1ssb/torchkan, torchkan.KAN.forward (the PyPI package torchkan 0.1.1 is empty), for
every layer l, also the last:

    z_j = sum_i W_ji act(x_i) + sum_i sum_c S_jic B_c(x_i; grid_i),   x <- PReLU(LayerNorm(z))

with W `base_weights.l` [m, n], S `spline_weights.l` [m, n, G + k], extended knots `grid_l`
[n, G + 2k + 1]; act is GELU by default. And KALnet.KAL_Net.forward (KACnet.KAC_Net with
Chebyshev polynomials), with D + 1 polynomials in `poly_weights.l` [m, n (D + 1)]:

    z_j = sum_i W_ji act(x_i) + sum_i sum_d P_jid L_d(u_i),   x <- act(LayerNorm(z))

with act SiLU by default and u = 2 (x - lowest) / (highest - lowest) - 1, where lowest and
highest are taken over all sources and all rows of the batch: a row's output depends on the
other rows. It is read only with ranges that the user freezes.

Options: base_activation, x_min, x_max, polynomial, layernorm_eps, prefix
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kanexport.bases import polynomial
from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import SAVE_AGAIN, FamilyError, InvalidKan
from kanexport.formats.checkpoint import Checkpoint
from kanexport.functions.domain_maps import frozen
from kanexport.functions.elementwise import Unary
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.steps import Elementwise, Step
from kanexport.options import Options
from kanexport.readers.common import chain, layer_tensors
from kanexport.readers.common.layer_tensors import Part, Tensors, storage_dtype


@dataclass(frozen=True, slots=True)
class Lists:
    """A model with tensors in parallel lists.

    keys   tensors of one layer, {} for its number; the first key names the family
    layer  function `layer(part, at, count, options)` that reads one layer
    """

    FAMILY: str
    keys: tuple[str, ...]
    layer: Callable[[Part, int, int, Options], Layer]
    notes: tuple[str, ...] = ()

    def matches(self, checkpoint: Checkpoint) -> str:
        """The reason why the checkpoint belongs to this family, or an empty text."""
        roots = self._roots(checkpoint.tensors, "")
        return f"{self.keys[0].format(0)} beside {self.keys[1].format(0)}" if roots else ""

    def read(self, checkpoint: Checkpoint, options: Options) -> Kan:
        """The layers by their numbers. Raises ExportError."""
        tensors, start = checkpoint.tensors, options.optional("prefix") or ""
        root = self._root(tensors, start)
        count = self._count(tensors, root)
        own = [root + key.format(at) for at in range(count) for key in self.keys]
        missing = [key for key in own if key not in tensors]
        if missing:
            raise InvalidKan(f"tensor {missing[0]!r} is missing", code="tensor-missing", hint=SAVE_AGAIN)
        self._refuse_others(tensors, start, own, count)
        layers = [self.layer(Part(tensors, root), at, count, options) for at in range(count)]
        return chain.chain(layers, storage_dtype([tensors[key] for key in own]), self.notes)

    def _count(self, tensors: Tensors, root: str) -> int:
        """The number of consecutive layers, from number 0 on."""
        count = 0
        while root + self.keys[0].format(count) in tensors:
            count += 1
        return count

    def _refuse_others(self, tensors: Tensors, start: str, own: list[str], count: int) -> None:
        """Raises FamilyError for tensors under `start` that do not belong to the layers."""
        others = [key for key in tensors if key.startswith(start) and key not in own]
        if others:
            raise FamilyError(
                f"the file has {count} layers of {self.FAMILY} and other tensors, such as "
                f"{others[0]!r} {tensors[others[0]].shape}",
                code="other-modules-in-file",
                hint="export the KAN by itself with --option prefix=KEY_PREFIX, or the whole module with --module",
            )

    def _root(self, tensors: Tensors, start: str) -> str:
        """The prefix of the only model under `start`. Raises FamilyError if there is none, or more than one."""
        roots = self._roots(tensors, start)
        if len(roots) != 1:
            raise FamilyError(
                f"{self.keys[0].format(0)} occurs under {len(roots)} prefixes"
                + (f" in {start[:80]!r}" if start else "")
                + ", expected one",
                code="model-ambiguous",
                hint="select one with --option prefix=KEY_PREFIX",
            )
        return roots[0]

    def _roots(self, tensors: Tensors, start: str) -> list[str]:
        """The prefixes of all such models under `start`."""
        first, second = (key.format(0) for key in self.keys[:2])
        prefixes = (key.removesuffix(first) for key in tensors if key.endswith(first) and key.startswith(start))
        return [root for root in prefixes if re.fullmatch(r"|.*\.", root) and root + second in tensors]


def spline_layer(part: Part, at: int, count: int, options: Options) -> Layer:
    """Layer `at` of torchkan.KAN. Raises InvalidKan or OptionError."""
    base = part.tensor(f"base_weights.{at}", None, None)
    m, n = base.shape
    coef = part.tensor(f"spline_weights.{at}", m, n, None)
    grid = part.tensor(f"grid_{at}", n, None)
    basis = BSpline(grid, grid.shape[1] - coef.shape[2] - 1)
    activation = layer_tensors.activation(options, "gelu")
    prelu = chain.norm(Part(part.tensors, f"{part.prefix}prelus.{at}."), options, "prelu", m)
    return Layer(
        terms=(BasisTerm(basis, coef.transpose(1, 0, 2)), _base(activation, base)),
        mask=np.ones((n, m)),
        bias=np.zeros(m),
        # The basis of a non-finite value is NaN there, and its product reaches every sum.
        nan_spreads=np.ones((n, m), dtype=bool),
        post_steps=(_norm(part, at, options, m), prelu),
    )


def polynomial_layer(part: Part, at: int, count: int, options: Options) -> Layer:
    """Layer `at` of KAL_Net or KAC_Net. Raises InvalidKan or OptionError."""
    scaled = frozen(options, at, count)
    make = POLYNOMIALS[options.choice("polynomial", POLYNOMIALS, "legendre")]
    activation = layer_tensors.activation(options, "silu")
    base = part.tensor(f"base_weights.{at}", None, None)
    m, n = base.shape
    weights = part.tensor(f"poly_weights.{at}", m, None)
    degree = max(1, weights.shape[1] // n) - 1
    coef = part.tensor(f"poly_weights.{at}", m, n * (degree + 1)).reshape(m, n, degree + 1)
    return Layer(
        terms=(BasisTerm(make(degree, scaled), coef.transpose(1, 0, 2)), _base(activation, base)),
        mask=np.ones((n, m)),
        bias=np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
        post_steps=(_norm(part, at, options, m), Elementwise(activation)),
    )


POLYNOMIALS = {"legendre": polynomial.legendre, "chebyshev": polynomial.chebyshev}


def _base(activation: Unary, weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> BasisTerm:
    return BasisTerm(Activation(activation), weights.T[:, :, None])


def _norm(part: Part, at: int, options: Options, width: int) -> Step:
    return chain.norm(Part(part.tensors, f"{part.prefix}layer_norms.{at}."), options, "layernorm", width)


FAMILIES = (
    Lists(
        "torchkan",
        (
            "spline_weights.{}",
            "base_weights.{}",
            "grid_{}",
            "layer_norms.{}.weight",
            "layer_norms.{}.bias",
            "prelus.{}.weight",
        ),
        spline_layer,
    ),
    Lists(
        "kal-net",
        ("poly_weights.{}", "base_weights.{}", "layer_norms.{}.weight", "layer_norms.{}.bias"),
        polynomial_layer,
        (
            "the library takes the range of the sources of each layer from the batch; the export has a fixed range, so "
            "that rows are independent; results differ for a batch with another range",
        ),
    ),
)
