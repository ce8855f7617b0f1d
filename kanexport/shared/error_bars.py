"""Formula of error bars that export and serving share.

The network f has certified Lipschitz bounds L[j, o] in a box, and reference rows x_i with targets y_i. Two assumptions
are about the true function g: it changes by at most `factor` times these bounds, and y_i = g(x_i). Then for each row x
in the box

    |g(x) - f(x)| <= min_i ( |y_i - f(x_i)| + (1 + factor) * sum_j L[j] |x_j - x_ij| )

because the way from x to x_i changes f by at most the sum, and g by at most `factor` times the sum. It is the bound of
McShane's and Whitney's extensions of a Lipschitz function. K-DAREK (arXiv 2510.22021) has bounds of this kind for
Kolmogorov-Arnold networks: an error at known rows, and a Lipschitz constant times the distance to them.

A bar is rounded up to three digits, and is at least 1/256 of the largest change of the sum in the box. So a bar of zero
does not mark a reference row, and one bar tells little about the distance to it. It is not privacy: many bars together
still locate the reference rows.

The served graph differs from f by at most the slack of the certificate. The bar has the slack twice: in the stored
errors, which are measured with the graph, and once for the row itself.

Shapes: B rows, n inputs, m outputs, k reference rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.sections import CertificateInfo, ErrorBars

Floats = NDArray[np.float64]

NAME = "kan.error_bar"  # of the optional output
NUMBERS = 2**20  # differences that are in memory at once
DIGITS = 3  # of a bar
FLOOR = 1 / 256  # smallest bar, as a share of the largest change in the box


def distances(x: Floats, others: Floats, bounds: Floats) -> Floats:
    """The largest change [B, k, m] of the outputs between rows x [B, n] and others [k, n], by bounds [n, m]."""
    return np.asarray(np.abs(x[:, np.newaxis] - others[np.newaxis]) @ bounds)


class Bars:
    """Error bars of a version, ready for many rows."""

    def __init__(self, section: ErrorBars, certificate: CertificateInfo) -> None:
        """Raises ValueError for a section without rows."""
        if not (section.x and certificate):
            raise ValueError("the manifest has no error bars")
        self._low, self._high = np.array(certificate.low), np.array(certificate.high)
        self._slopes = (1 + section.factor) * np.array(certificate.lipschitz)
        self._slack = np.array(certificate.slack)
        self._x, self._errors = np.array(section.x), np.array(section.errors)
        with np.errstate(over="ignore"):
            self._floor = FLOOR * ((self._high - self._low) @ self._slopes)

    @property
    def numbers(self) -> int:
        """The numbers that are computed for one row: k * (n + m)."""
        return self._x.size + self._errors.size

    def inside(self, x: Floats) -> NDArray[np.bool_]:
        """Flags [B] of the rows x [B, n] in the certified box. A row with NaN is not in it."""
        return np.asarray(((x >= self._low) & (x <= self._high)).all(axis=1))

    def of(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The bars [B, m] of rows x [B, ...], as the graph reads them. Bars of a row outside of the box are infinite.

        Each bar is its sum, rounded up to three digits and to the smallest bar, and then the float32 number above the
        nearest one. That step is larger than all rounding in float64, so that the number is an upper bound.
        """
        rows = np.asarray(x, np.float64).reshape(len(x), len(self._low))
        sums = np.full((len(rows), len(self._slack)), np.inf)
        within = np.flatnonzero(self.inside(rows))
        step = max(1, NUMBERS // self.numbers)
        for at in range(0, len(within), step):
            part = within[at : at + step]
            bounds = self._errors + distances(rows[part], self._x, self._slopes)
            sums[part] = np.maximum(bounds.min(axis=1) + self._slack, self._floor)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            unit = 10.0 ** (np.floor(np.log10(sums)) - (DIGITS - 1))
            rounded = np.ceil(sums / unit) * unit
            sums = np.where((sums > 0) & np.isfinite(rounded), np.maximum(rounded, sums), sums)
            return np.nextafter(sums.astype(np.float32), np.float32(np.inf))
