"""A network's graphs with fewer bits, and what was measured: the page of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.approximate import choose, forms, prove
from kanexport.approximate.asked import Fewer
from kanexport.approximate.forms import Forms
from kanexport.errors import OptionError
from kanexport.form.ir import Kan
from kanexport.lowering.lower import Lowered
from kanexport.manifest import TensorSpec
from kanexport.packing import baseline
from kanexport.packing.baseline import FORMS
from kanexport.proof import trial_rows
from kanexport.proof.verify import Proof
from kanexport.shared.approximation import Approximation, Branch
from kanexport.shared.naming import Names

Array = npt.NDArray[np.float64]

CALIBRATION = "--calibration"
MADE = ("inside", "extension", "knots")  # zones, where the user gave no rows
MOST = 4096  # rows on which the whole is measured


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A network with the forms of its branches: what is served, whose curves are told, and the `rows` that chose."""

    exact: Kan
    served: Kan
    curves: Kan
    branches: tuple[Branch, ...]
    forms: Forms
    rows: Array

    def like(self, kan: Kan) -> tuple[Kan, Kan]:
        """Another network of the same layers in the same forms: what is served, and whose curves are told."""
        served = forms.served(kan, self.forms)
        return served, forms.curves(served)

    def proved(
        self, lowered: Lowered, asked: Fewer, tolerance: float, advance: Callable[[int, int], None]
    ) -> tuple[Proof, Approximation]:
        """Raises VerificationFailed and InvalidKan."""
        found = prove.measure(self.exact, lowered, self.branches, asked, self.rows)
        return prove.prove(self.exact, self.served, lowered, self.branches, asked, tolerance, advance), found


def rounded(kan: Kan, asked: Fewer, inputs: tuple[TensorSpec, ...], names: Names) -> Rounded:
    """Raises OptionError where the rows are none of the model's, and InvalidKan where a weight is too large."""
    x = rows(kan, asked, inputs, names)
    branches = choose.choose(kan, asked, x)
    chosen = {(branch.layer, branch.term): branch.form for branch in branches}
    served = forms.served(kan, chosen)
    return Rounded(kan, served, forms.curves(served), branches, chosen, x)


def rows(kan: Kan, asked: Fewer, inputs: tuple[TensorSpec, ...], names: Names) -> Array:
    """[B, inputs]: the user's, of many evenly chosen ones, as float32 has them; else rows inside the grid, on its knots
    and beside it. Raises OptionError."""
    if asked.rows is None:
        size = max(map(trial_rows.basis_size, kan.layers))
        zones = trial_rows.zone_rows(kan.layers[0], kan.n_inputs, 0, size=size)
        return np.concatenate([zones[name] for name in MADE])
    x = baseline.fitting(asked.rows, inputs, names, CALIBRATION)
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST)).round().astype(int))]
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        at, column = (int(v) for v in bad[0])
        raise OptionError(
            f"{CALIBRATION} {asked.rows.name} has {x[at, column]} in column {column} of row {at}, expected numbers: "
            "errors cannot be measured there",
            hint=FORMS,
        )
    return np.asarray(x.astype(np.float32), dtype=np.float64)
