"""ReLU-KAN: squared products of two ramps with trained ends, followed by a convolution.

Source: quiqi/relu_kan, ReLUKANLayer.forward, for n inputs, m outputs, C = G + k functions:

    b_ic = ((x_i - l_ic)+ (h_ic - x_i)+ r)^2,   r = 4 G^2 / (k + 1)^2
    y_j  = sum_i sum_c F_j[i C + c] b_ic + beta_j

F_j is `equal_size_conv.weight[j]` laid flat: the library reshapes b from [n, C] to [C, n],
the shape of its kernel, without transposing, so value number f meets weight number f. Copies that
transpose have F_j[c n + i] there: forward=transposed.
`phase_low` l and `phase_height` h (`phase_high` in copies) are [n, C]. G and k are Python numbers and
in no file. Its network takes and gives one axis more, [rows, n, 1] and [rows, m, 1]; here that axis is left out.

Higher-order ReLU-KANs have the same tensors (forward=hrkan): their functions go over the range from
`grid_min` to `grid_max`, have another `power` p and another `rate` r. With the initial width of a function,
w = (k + 1) (max - min) / G, published code has ((x - l)+ (h - x)+ r)^p with r = 2 / w, or 4 / w^2.

Other copies keep the tensors too: forward=activated has the base activation for the ramp, (act(x - l) act(h - x) r)^2,
and forward=times-x has x (x - l)+ (h - x)+ r.

Options: forward, grid, k, power, rate, grid_min, grid_max, base_activation
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kanexport.bases.activated_bumps import ActivatedBumps
from kanexport.bases.relu_bumps import ReluBumps
from kanexport.errors import REPAIR, InvalidKan, OptionError
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps, layer_tensors
from kanexport.readers.common.layer_tensors import Array, Keys, Part, layer_of

FAMILY = "relu-kan"
KEYS = Keys(
    required={"phase_low": 2, "equal_size_conv.weight": 4},
    optional={"phase_height": 2, "phase_high": 2, "equal_size_conv.bias": 1},
)
TRANSPOSED = {"transposed": "copies that transpose the functions before the convolution"}
HIGHER = {
    "hrkan": "higher-order ReLU-KANs, with another power, rate and range",
    "activated": "copies with another base_activation, such as SiLU or GELU, in place of ReLU",
    "times-x": "copies with x times the two ramps, without a square",
}

# How far, in cells, the ends may have moved on average for k to be told by them, and
# how much nearer than any other k has to be.
MOVED, NEARER = 0.25, 3.0


def layer(part: Part, options: Options) -> Layer:
    """One ReLUKANLayer. Raises InvalidKan or OptionError."""
    low = part.tensor("phase_low", None, None)
    n, count = low.shape
    m = part.shape("equal_size_conv.weight")[0]
    name = "phase_high" if part.has("phase_high") else "phase_height"
    high = part.tensor(name, n, count)
    for key, ends in (("phase_low", low), (name, high)):
        bad = np.argwhere(~np.isfinite(ends))
        if len(bad):
            raise InvalidKan(
                f"{key} at {bad[0].tolist()} is {float(ends[tuple(bad[0])])!r}, expected a finite number",
                code="weights-not-finite",
                hint=REPAIR,
            )
    kernel = part.tensor("equal_size_conv.weight", m, 1, count, n)
    # With one source or one function, the two layouts are the same.
    forward = options.forward("relu-kan", (TRANSPOSED if min(n, count) > 1 else {}) | HIGHER)
    coef = kernel[:, 0].transpose(0, 2, 1) if forward == "transposed" else kernel.reshape(m, n, count)
    return layer_of(
        BasisTerm(_basis(low, high, forward, options), coef.transpose(1, 0, 2)),
        bias=part.optional("equal_size_conv.bias", m),
        # Infinity times zero is NaN, and the convolution carries it to every output.
        nan_spreads=True,
    )


def _basis(low: Array, high: Array, forward: str, options: Options) -> ReluBumps | ActivatedBumps:
    """The functions with ends [n, C]. Raises OptionError."""
    if forward != "hrkan":
        grid, k = _sizes(low, high, options)
        bumps = ReluBumps(low, high, 4 * grid**2 / (k + 1) ** 2)
        if forward == "activated":
            return ActivatedBumps(bumps, layer_tensors.activation(options, "silu"))
        if forward == "times-x":
            return ActivatedBumps(replace(bumps, power=1), elementwise.activation("relu"), times_x=True)
        return bumps
    lowest, highest = grid_steps.ends(options, "grid", "0.0", ("-1.0",))
    span = highest - lowest
    grid, k = _sizes((low - lowest) / span, (high - lowest) / span, options)
    width = (k + 1) * span / grid
    rate = options.number("rate", repr(2 / width), among=(repr(4 / width**2),))
    power = options.integer("power", at_least=1)
    if power is None:
        power = 4
        options.assume("power", "4", among=("2", "3", "6", "8"))
    return ReluBumps(low, high, rate, power)


def _sizes(low: Array, high: Array, options: Options) -> tuple[int, int]:
    """G and k of a layer with ends [n, C]: given, or derived from the ends. Raises OpenQuestion and OptionError."""
    count = low.shape[1]
    grid, k = options.integer("grid", at_least=1), options.integer("k")
    if grid is None and k is None:
        k = _nearest_k(low, high, options)
        options.assume("grid", str(count - k))
        options.assume("k", str(k), among=map(str, range(count)))
    if k is None:
        assert grid is not None
        k = count - grid
    if grid is None:
        grid = count - k
    if grid < 1 or k < 0 or grid + k != count:
        raise OptionError(
            f"options grid={grid} and k={k} do not fit the {count} functions per source of phase_low",
            code="option-does-not-fit-weights",
            hint=f"pass grid + k = {count}, with grid at least 1",
        )
    return grid, k


def _nearest_k(low: Array, high: Array, options: Options) -> int:
    """The k with initial ends, l_c = (c - k) / G and h_c = (c + 1) / G, near the trained ones [n, C]. Raises
    OpenQuestion if none is near, or another one nearly as near."""
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
        options.must(
            "k",
            map(str, range(count)),
            f"grid and k are not recorded, and cannot be derived: the {count} trained functions of each source moved "
            f"too far (nearest: k={best}, {moved[best]:.2g} grid intervals on average; grid is {count} - k)",
        )
    return best
