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

from collections.abc import Callable
from dataclasses import dataclass

from kanexport.bases import polynomial
from kanexport.bases.bspline import BSpline
from kanexport.errors import SAVE_AGAIN, FamilyError, InvalidKan
from kanexport.formats.checkpoint import Checkpoint
from kanexport.functions.domain_maps import frozen
from kanexport.ir.model import Kan, Layer
from kanexport.options import Options
from kanexport.readers.common import chain
from kanexport.readers.common.layer_tensors import Part, Tensors, storage_dtype
from kanexport.readers.torch_conv_kan import flat_coefficients, normed_layer


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
        roots = self._roots(checkpoint.tensors)
        return f"{self.keys[0].format(0)} beside {self.keys[1].format(0)}" if roots else ""

    # radon: the checks of a file, then its layers.
    def read(self, checkpoint: Checkpoint, options: Options) -> Kan:
        """The layers by their numbers. Raises ExportError."""
        tensors = checkpoint.tensors
        root = chain.only_root(tensors, self._roots(tensors), self.keys[0].format(0), options)
        count = 0
        while root + self.keys[0].format(count) in tensors:
            count += 1
        own = [root + key.format(at) for at in range(count) for key in self.keys]
        missing = [key for key in own if key not in tensors]
        if missing:
            raise InvalidKan(f"tensor {missing[0]!r} is missing", code="tensor-missing", hint=SAVE_AGAIN)
        others = [key for key in tensors if key.startswith(root) and key not in own]
        if others:
            raise FamilyError(
                f"the file has {count} layers of {self.FAMILY} and other tensors, such as "
                f"{others[0]!r} {tensors[others[0]].shape}",
                code="other-modules-in-file",
                hint="export the KAN by itself with --option prefix=KEY_PREFIX, or the whole module with --module",
            )
        layers = [self.layer(Part(tensors, root), at, count, options) for at in range(count)]
        return chain.chain(layers, storage_dtype([tensors[key] for key in own]), self.notes)

    def _roots(self, tensors: Tensors) -> list[str]:
        """The prefixes of all such models."""
        first, second = (key.format(0) for key in self.keys[:2])
        return [root for root in chain.roots(tensors, first) if root + second in tensors]


def spline_layer(part: Part, at: int, count: int, options: Options) -> Layer:
    """Layer `at` of torchkan.KAN. Raises InvalidKan or OptionError."""
    base = part.tensor(f"base_weights.{at}", None, None)
    coef = part.tensor(f"spline_weights.{at}", *base.shape, None).transpose(1, 0, 2)
    grid = part.tensor(f"grid_{at}", len(coef), None)
    basis = BSpline(grid, grid.shape[1] - coef.shape[2] - 1)
    return normed_layer(part, options, _names(at), basis, coef, "gelu", f"prelus.{at}")


def polynomial_layer(part: Part, at: int, count: int, options: Options) -> Layer:
    """Layer `at` of KAL_Net or KAC_Net. Raises InvalidKan or OptionError."""
    scaled = frozen(options, at, count)
    make = POLYNOMIALS[options.choice("polynomial", POLYNOMIALS, "legendre")]
    m, n = part.tensor(f"base_weights.{at}", None, None).shape
    coef = flat_coefficients(part, f"poly_weights.{at}", m, n)
    return normed_layer(part, options, _names(at), make(coef.shape[2] - 1, scaled), coef, "silu")


def _names(at: int) -> tuple[str, str]:
    """The base weights and the normalization of layer `at`."""
    return f"base_weights.{at}", f"layer_norms.{at}"


POLYNOMIALS = {"legendre": polynomial.legendre, "chebyshev": polynomial.chebyshev}


NORM = ("layer_norms.{}.weight", "layer_norms.{}.bias")
FAMILIES = (
    Lists(
        "torchkan",
        ("spline_weights.{}", "base_weights.{}", "grid_{}", *NORM, "prelus.{}.weight"),
        spline_layer,
    ),
    Lists(
        "kal-net",
        ("poly_weights.{}", "base_weights.{}", *NORM),
        polynomial_layer,
        (
            "the library takes the range of the sources of each layer from the batch; the export has a fixed range, so "
            "that rows are independent; results differ for a batch with another range",
        ),
    ),
)
