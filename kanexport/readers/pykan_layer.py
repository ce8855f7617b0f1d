"""Single layers of pykan, as parts of other models: without biases, multiplications and symbolic edges.

Source: pykan 0.2.8 (`pykan-layer`) and 0.0.5 (`pykan-0.0-layer`), KANLayer.forward, for n
sources and m destinations:

    y_j = sum_i mask_ij (scale_base_ij base(x_i) + scale_sp_ij sum_c coef_ijc B_c(x_i; grid_i))

In 0.0 the tensors are flat over the edges e = j n + i, with a grid [G + 1] for each, which is extended when it is
used; n is in no file, so the option in_dim is needed, one number or one for each layer. `base_fun` is SiLU by
default.

Options: base_fun, in_dim
"""

from __future__ import annotations

import re

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.errors import OptionError
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers import pykan_0_0
from kanexport.readers.common import chain, layer_tensors
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Keys, Part, stored_splines

KEYS = Keys(required={"coef": 3, "grid": 2, "scale_base": 2, "scale_sp": 2}, optional={"mask": 2})
FLAT_KEYS = Keys(required={"coef": 2, "grid": 2, "scale_base": 1, "scale_sp": 1}, optional={"mask": 1})
WHOLE = re.compile(r"(.*\.)?act_fun\.\d+\.")


def fits(part: Part) -> bool:
    """Whether it is a single layer. A layer under `act_fun` belongs to a whole network, which has a separate reader."""
    return not WHOLE.fullmatch(part.prefix) and not part.has("neuron_train")


def layer(part: Part, options: Options) -> Layer:
    """One KANLayer of pykan 0.1 or later. Raises InvalidKan or OptionError."""
    coef = part.tensor("coef", None, None, None)
    n, m, functions = coef.shape
    splines = stored_splines(part, n, functions)
    base = Activation(layer_tensors.activation(options, "silu", "base_fun"))
    scaled = layer_tensors.scaled(coef, part.tensor("scale_sp", n, m)[:, :, None])
    return Layer(
        terms=(
            BasisTerm(splines, scaled),
            BasisTerm(base, part.tensor("scale_base", n, m)[:, :, None]),
        ),
        mask=part.tensor("mask", n, m) if part.has("mask") else np.ones((n, m)),
        bias=np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
    )


def flat_layer(part: Part, options: Options) -> Layer:
    """One KANLayer of pykan 0.0. Raises InvalidKan or OptionError."""
    size, _ = part.shape("coef")
    n = _sources(part, size, options)
    m = size // n
    base = Activation(layer_tensors.activation(options, "silu", "base_fun"))
    return Layer(
        terms=pykan_0_0.flat_terms(part, n, m, base),
        mask=pykan_0_0.by_edge(part, "mask", n, m) if part.has("mask") else np.ones((n, m)),
        bias=np.zeros(m),
        nan_spreads=np.ones((n, m), dtype=bool),
    )


def _sources(part: Part, size: int, options: Options) -> int:
    """n of a layer with `size` edges, from in_dim or from the width of recorded rows. Raises OptionError."""
    sources = options.integers("in_dim") or _by_width(part, options)
    number = re.search(r"(\d+)\.$", part.prefix)
    at = int(number[1]) if number else 0
    if sources is None or (len(sources) > 1 and at >= len(sources)):
        divisors = [n for n in range(1, min(size, 10_000) + 1) if size % n == 0]
        raise OptionError(
            f"a layer of {size} edges does not show its number of sources: one of {divisors[:12]}",
            code="option-required",
            hint="pass --option in_dim=N, or one number per layer: --option in_dim=2,5; or recorded outputs with "
            "--expected-outputs FILE",
        )
    n = sources[at] if len(sources) > 1 else sources[0]
    if n < 1 or size % n:
        raise OptionError(
            f"option in_dim is {n}, which does not divide the {size} edges of the layer",
            code="option-does-not-fit-weights",
            hint="pass the number of inputs of each layer, such as --option in_dim=2,5",
        )
    return n


def _by_width(part: Part, options: Options) -> tuple[int, ...] | None:
    """The sources of all layers, from the width of recorded rows: the first layer takes this width, and each other
    layer takes the output of the one before. None if no rows are recorded, or if they do not fit."""
    prefixes = chain.prefixes(part.tensors, FLAT_KEYS, options.optional("prefix") or "")
    sources, width = [], options.facts.width or 0
    for prefix in prefixes:
        size = len(part.tensors[prefix + "coef"])
        if not width or size % width:
            return None
        sources.append(width)
        width = size // width
    options.assume("in_dim", ",".join(map(str, sources)))
    # In the form of the option: by the number of the layer, if layers are numbered.
    numbers = [int(match[1]) if (match := re.search(r"(\d+)\.$", prefix)) else 0 for prefix in prefixes]
    known = dict(zip(numbers, sources, strict=True))
    return tuple(known.get(at, 1) for at in range(max(numbers) + 1)) if len(sources) > 1 else (sources[0],)


FAMILIES = (LayerKind("pykan-layer", KEYS, layer, fits), LayerKind("pykan-0.0-layer", FLAT_KEYS, flat_layer, fits))
