"""Where the nodes of rows are on their grids, as plain arrays: what kan.coverage tells beside an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanserve.client.answers import Answer
from kanserve.interpret.coverage import Zone

PARAMETER = "kan.coverage"
UNKNOWN, INSIDE, EXTENSION, OUTSIDE = map(int, Zone)  # the zones


@dataclass(frozen=True, slots=True)
class Coverage:
    """For B rows and L layers.

    `definitions` [L]: what the nodes that each layer is given were held against: grid, reference, grid+reference, or
    none. `counts` [B, L, 3]: how many of them are inside, in the extension and outside; `worst` [B, L]: the one that is
    farthest beyond its grid, -1 where none is, and `cells` [B, L] by how many cells. `zones`: of each layer
    [B, *positions, n], 0 unknown, 1 inside, 2 extension, 3 outside.
    """

    version: str
    definitions: tuple[str, ...]
    counts: NDArray[np.int32]
    worst: NDArray[np.int32]
    cells: NDArray[np.float64]
    zones: tuple[NDArray[np.uint8], ...]

    @property
    def outside(self) -> NDArray[np.bool_]:
        """[B, L]: whether a row has a node outside in each layer."""
        return np.asarray(self.counts[:, :, 2] > 0)


def of(answer: Answer) -> Coverage:
    """What is told beside an answer."""
    arrays: dict[str, Any] = {name: answer.outputs[f"{PARAMETER}.{name}"] for name in ("counts", "worst", "cells")}
    definitions = tuple(str(answer.parameters[f"{PARAMETER}.definition"]).split(","))
    zones = tuple(answer.outputs[f"{PARAMETER}.zones.{at}"] for at in range(len(definitions)))
    return Coverage(answer.version, definitions, **arrays, zones=zones)


def joined(parts: Sequence[Coverage]) -> Coverage:
    """Of consecutive rows, as one."""
    counts, worst, cells = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("counts", "worst", "cells")
    )
    zones = tuple(map(np.concatenate, zip(*(part.zones for part in parts), strict=True)))
    return Coverage(parts[-1].version, parts[0].definitions, counts, worst, cells, zones)
