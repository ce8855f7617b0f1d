"""ReLU-KAN: squared products of two ramps with trained ends, contracted by a convolution.

Source: quiqi/relu_kan, ReLUKANLayer.forward, for n inputs, m outputs, C = G + k functions:

    b_ic = ((x_i - l_ic)+ (h_ic - x_i)+ r)^2,   r = 4 G^2 / (k + 1)^2
    y_j  = sum_i sum_c F_j[i C + c] b_ic + beta_j

F_j is `equal_size_conv.weight[j]` laid flat: the library reshapes b from [n, C] to [C, n],
the shape of its kernel, without transposing, so value number f meets weight number f.
`phase_low` l and `phase_height` h are [n, C]. G and k are Python numbers and in no file.
Its network takes and gives one axis more, [rows, n, 1] and [rows, m, 1]; here that axis is left out.
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.relu_bumps import ReluBumps
from kanexport.errors import InvalidKan, OptionError
from kanexport.form.ir import BasisTerm, Layer
from kanexport.layers.parts import Array, Keys, Part
from kanexport.options import Options

FAMILY = "relu-kan"
KEYS = Keys(
    required={"phase_low": 2, "phase_height": 2, "equal_size_conv.weight": 4},
    optional={"equal_size_conv.bias": 1},
)

# How far, in cells, the ends may have moved on average for k to be told by them, and
# how much nearer than any other k has to be.
MOVED, NEARER = 0.25, 3.0


def layer(part: Part, options: Options) -> Layer:
    """One ReLUKANLayer. Raises InvalidKan or OptionError."""
    low = part.tensor("phase_low", None, None)
    n, count = low.shape
    m = part.shape("equal_size_conv.weight")[0]
    high = part.tensor("phase_height", n, count)
    coef = part.tensor("equal_size_conv.weight", m, 1, count, n).reshape(m, n, count)
    for name, ends in (("phase_low", low), ("phase_height", high)):
        bad = np.argwhere(~np.isfinite(ends))
        if len(bad):
            raise InvalidKan(f"{name} at {bad[0].tolist()} is {float(ends[tuple(bad[0])])!r}, expected a finite number")
    grid, k = _sizes(low, high, options)
    return Layer(
        terms=(BasisTerm(ReluBumps(low, high, 4 * grid**2 / (k + 1) ** 2), coef.transpose(1, 0, 2)),),
        mask=np.ones((n, m)),
        bias=part.tensor("equal_size_conv.bias", m) if part.has("equal_size_conv.bias") else np.zeros(m),
        # Infinity times zero is NaN, and the convolution carries it to every output.
        nan_spreads=np.ones((n, m), dtype=bool),
    )


def _sizes(low: Array, high: Array, options: Options) -> tuple[int, int]:
    """G and k of a layer with ends [n, C]: given, or told by the ends. Raises OptionError."""
    count = low.shape[1]
    grid, k = options.integer("grid", at_least=1), options.integer("k")
    assumed = grid is None and k is None
    if k is None:
        k = _nearest_k(low, high) if grid is None else count - grid
    if grid is None:
        grid = count - k
    if assumed:
        options.assume("grid", str(grid))
        options.assume("k", str(k))
    if grid < 1 or k < 0 or grid + k != count:
        raise OptionError(
            f"options grid={grid} and k={k} do not fit phase_low, which has {count} functions for each source: "
            "grid + k must be that, and grid at least 1"
        )
    return grid, k


def _nearest_k(low: Array, high: Array) -> int:
    """The k whose initial ends, l_c = (c - k) / G and h_c = (c + 1) / G, are near the trained ones
    [n, C]. Raises OptionError where none is near, or another nearly as near."""
    count = low.shape[1]
    at = np.arange(count)
    moved = np.array(
        [
            (np.abs(low - (at - k) / (count - k)).mean() + np.abs(high - (at + 1) / (count - k)).mean())
            / 2
            * (count - k)
            for k in range(count)
        ]
    )
    best = int(moved.argmin())
    others = np.delete(moved, best).min(initial=np.inf)
    if moved[best] > MOVED or moved[best] * NEARER > others:
        raise OptionError(
            f"the grid and k that the network was made with are in no file, and its {count} trained functions for "
            f"each source have moved too far to tell (nearest: k={best}, {moved[best]:.2g} cells away on average)",
            hint=f"give --option k=K; grid is then {count} - K",
        )
    return best
