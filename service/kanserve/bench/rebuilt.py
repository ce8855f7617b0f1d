"""The entrant that torch evaluates, if it is there and the model can be said in efficient-kan's form."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from kanexport.manifest import HYBRID, LayerInfo, Manifest
from kanexport.shared import installing
from kanexport.shared.outside import CLAMP
from kanserve.backends import Session
from kanserve.bench import entrants
from kanserve.bench.entrants import TORCH, Absent, Answer, Entrant
from kanserve.bench.rows import Feeds
from kanserve.nouns import DTYPES, Array
from kanserve.trials import proving

EQUAL = 1e-5  # of the model's largest answer: as far apart as the two may be
PIECE = 8  # rows of edge values at once


def eager(manifest: Manifest, create: Callable[[str], Session], check: Entrant, feeds: Feeds) -> Entrant | Absent:
    """`create` makes a session of one of the version's graphs; `check`: the model itself, whose answers to `feeds` it
    must give too."""
    if why := _unfit(manifest):
        return Absent(TORCH, why)
    try:
        maker = installing.load("bench", "kanserve.bench.eager", "torch")
    except installing.MissingPackage:
        return Absent(TORCH, "torch is not installed")
    edges = [functools.partial(_edges, create(layer.edges_file), layer) for layer in manifest.layers]
    try:
        evaluate = maker.network(manifest.layers, edges, manifest.input.datatype == "FP64")
    except maker.Unfit as error:
        return Absent(TORCH, f"{error}: the library's own module is not at hand, and no other was written for it")

    def answer(given: Feeds) -> list[Array]:
        (rows,) = given.values()
        return [evaluate(rows)]

    exact, _ = check.threads(1)
    (model,), (found,) = exact(feeds), answer(feeds)
    apart = max(entrants.error(found, model, model), check.check(answer, len(found)) or 0.0)
    if not apart <= EQUAL:
        return Absent(TORCH, f"rebuilt from the edges, it differs from the model by {apart:.1e}, more than {EQUAL:g}")

    def threads(count: int) -> tuple[Answer, str]:
        maker.use(count)
        return answer, entrants.one_run(count)

    return Entrant(
        TORCH,
        f"{maker.version()}, the same layers in efficient-kan's form, rebuilt from the edges; the model's own answers "
        f"to {apart:.1e}",
        check.against,
        check.tolerance,
        threads,
        check.check,
        check.edges,
    )


def _unfit(manifest: Manifest) -> str:
    """Why it cannot be said of the model as a whole, or nothing."""
    if manifest.source.family == HYBRID:
        return "the model is a module with KAN layers in it, and the module is not at hand"
    nodes = [layer.sources for layer in manifest.layers] + [manifest.widths[-1]]
    after = [manifest.widths[0], *(layer.destinations for layer in manifest.layers)]
    if nodes != after or manifest.outside == CLAMP or len(manifest.inputs) + len(manifest.outputs) != 2:
        return "the model is more than its layers one after the other"
    if manifest.input.datatype not in proving.FLOATS:
        return f"the model takes {manifest.input.datatype}"
    return ""


def _edges(session: Session, layer: LayerInfo, x: Any) -> Any:
    """[M, S] -> [M, S, D], float64."""
    (given,) = session.inputs
    nodes = x.astype(DTYPES[given.datatype])
    parts = [
        session.run([layer.edges_tensor], {given.name: nodes[at : at + PIECE]})[0] for at in range(0, len(x), PIECE)
    ]
    return np.concatenate(parts).astype(np.float64)
