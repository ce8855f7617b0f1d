"""Whether a model has anything by which an input is outside, for those who choose what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence

from kanexport.errors import OptionError
from kanexport.manifest import BasisInfo, LayerInfo, TensorSpec
from kanexport.shared import grids
from kanexport.shared.baseline import Baseline
from kanexport.shared.outside import FLAG, REJECT

SHOWN = 10  # inputs that are named


def check(
    policy: str, layers: Sequence[LayerInfo], inputs: Sequence[TensorSpec], baseline: Baseline
) -> tuple[str, ...]:
    """Notes for the manifest: inputs of which nobody can say whether they are outside. Raises OptionError where that is
    all of them."""
    if policy not in (FLAG, REJECT):
        return ()
    names = {tensor.name for tensor in inputs}
    reading = [layer for layer in layers if layer.node_tensor in names]
    if not reading:
        raise OptionError(
            f"--outside {policy}: no layer with edges is known to read the model's inputs as they are, so that none of "
            "them is outside",
            hint="of a torch module's layers the request parameter kan.coverage tells, row by row",
        )
    return () if baseline.rows else _unsaid(policy, reading)


def _unsaid(policy: str, reading: Sequence[LayerInfo]) -> tuple[str, ...]:
    bare = sorted({at for layer in reading for at in _bare(layer)})
    if len(bare) >= sum(layer.sources for layer in reading):
        raise OptionError(
            f"--outside {policy}: the first layer has no grid, so that nothing is outside",
            hint="give rows of your data with --reference: what lies beyond them is then outside",
        )
    more = f" and {len(bare) - SHOWN} more" if len(bare) > SHOWN else ""
    shown = ", ".join(map(str, bare[:SHOWN]))
    note = f"of source {shown}{more} of the first layer nobody can say whether it is outside: it has no grid"
    return (note,) if bare else ()


def _bare(layer: LayerInfo) -> list[int]:
    """The sources without a grid."""
    tables = [_grids(basis, layer.sources) for basis in layer.bases if basis.knots and not basis.per_edge]
    return [at for at in range(layer.sources) if not any(table[at] for table in tables)]


def _grids(basis: BasisInfo, sources: int) -> list[bool]:
    found = [grids.of_knots(basis.kind, basis.functions, row) is not None for row in basis.knots]
    return found * sources if len(found) == 1 else found
