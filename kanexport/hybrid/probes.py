"""Rows that a recognised layer must answer as its reading does, near what it saw and far beyond.

A layer that clamps at 12 cells, or answers something else for abs(x) > 20, computes what its
library computes on every ordinary row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kanexport.form.ir import Kan
from kanexport.hybrid.capture import Call
from kanexport.proof import trial_rows

Array = npt.NDArray[np.float64]

TIMES = (1.0, 10.0, 1e3, 1e6)  # of a range
SIGNED, SIDED = 3, 2  # rows at each of these with all signs, and with one
SOURCES = 16  # at most that are set apart one at a time
NUMBERS = 4_000_000  # basis values held at a time
LARGEST = 1e30  # no input is that large


def groups(call: Call, kan: Kan) -> Iterator[tuple[str, Array]]:
    """Vectors [N, n] by group, each with words for where they lie: at multiples of the layer's
    own range and of the one it saw, with all signs and with one, zeros, single sources far out,
    NaN and both infinities. All are representable in float32."""
    rng = np.random.default_rng(0)
    centre, own = _own_range(kan)
    seen = _seen_range(call, kan.n_inputs)
    for times in TIMES:
        rows = [_spread(rng, centre, own * times), _spread(rng, np.zeros_like(centre), seen * times)]
        yield f"at {times:g} times its range", _narrowed(np.concatenate(rows))
    yield "at zero", np.zeros((1, kan.n_inputs))
    ordinary = _narrowed(centre + own * rng.uniform(-1, 1, size=kan.n_inputs))
    places = _places(kan)
    for times in TIMES[1:]:
        yield f"where one source is at {times:g} times its range", _narrowed(_apart(ordinary, places, own * times))
    for value in (np.nan, np.inf, -np.inf):
        yield f"where a source is {value:g}", _spoilt(ordinary, places, value)


def calls(call: Call, rows: Array) -> Iterator[Call]:
    """The call made again with vectors [N, n]: with more rows, or, where the module does not
    take them, with as many as it had. Empty where it takes neither."""
    n, given = rows.shape[1], call.x.size
    each, vectors = divmod(given, n)[0], max(1, len(rows))
    if not each or given % n:
        return
    if call.x.ndim >= 2 and call.x.shape[-1] == n:
        inner = each // call.x.shape[0]
        first = -(-vectors // inner)
        again = call.again(np.resize(rows, (first, *call.x.shape[1:])))
        if again is not None and again.y.size * each == call.y.size * first * inner:
            yield again
            return
    for at in range(0, vectors, each):
        again = call.again(np.resize(rows[at : at + each], call.x.shape))
        if again is not None:
            yield again


def budget(kan: Kan) -> int:
    """How many vectors are looked at at a time."""
    return max(1, NUMBERS // _size(kan))


def _size(kan: Kan) -> int:
    return max(max(trial_rows.basis_size(layer), layer.mask.size) for layer in kan.layers)


def _own_range(kan: Kan) -> tuple[Array, Array]:
    """Middle and half of the range that the first layer's functions live in, of every input."""
    first = kan.layers[0]
    with np.errstate(all="ignore"):
        low, high = (np.nan_to_num(end, posinf=LARGEST, neginf=-LARGEST) for end in first.support().core)
    if len(low) != kan.n_inputs:  # columns are selected
        low, high = np.full(kan.n_inputs, low.min()), np.full(kan.n_inputs, high.max())
    half = np.clip((high - low) / 2, 1e-6, LARGEST)
    return np.clip((low + high) / 2, -LARGEST, LARGEST), half


def _seen_range(call: Call, n: int) -> Array:
    """The largest finite magnitude that the call was given, for every input."""
    finite = call.x[np.isfinite(call.x)]
    return np.full(n, float(np.abs(finite).max(initial=0)) or 1.0)


def _spread(rng: np.random.Generator, centre: Array, half: Array) -> Array:
    """Rows around a centre [n]: to both sides, then to one, then to the other."""
    n = len(centre)
    sides = [rng.uniform(-1, 1, size=(SIGNED, n)), rng.uniform(0, 1, size=(SIDED, n))]
    return np.asarray(centre + half * np.concatenate([*sides, -rng.uniform(0, 1, size=(SIDED, n))]))


def _narrowed(rows: Array) -> Array:
    return np.asarray(np.clip(rows, -LARGEST, LARGEST).astype(np.float32), dtype=np.float64)


def _places(kan: Kan) -> list[int]:
    count = int(np.clip(budget(kan) // 4, 2, SOURCES))
    return sorted(set(np.linspace(0, kan.n_inputs - 1, count).round().astype(int).tolist()))


def _apart(row: Array, places: list[int], reach: Array) -> Array:
    rows = []
    for place, side in itertools.product(places, (-1, 1)):
        other = row.copy()
        other[place] = side * reach[place]
        rows.append(other)
    return np.array(rows)


def _spoilt(row: Array, places: list[int], value: float) -> Array:
    """The value in one place at a time, in every second place, and in all."""
    rows = np.repeat(row[None], len(places) + 2, axis=0)
    for at, place in enumerate(places):
        rows[at, place] = value
    rows[-2, ::2], rows[-1] = value, value
    return rows
