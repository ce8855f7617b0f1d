"""What was found where knots were taken for uniform, in words: the manifest's notes, either way."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kanexport.manifest import Verification


def excess(report: Verification) -> str:
    """Where a proof needed an excuse, beyond the tolerances themselves; "" if it did not. Knots that are not the
    stored ones get none."""
    for zone in report.zones:
        for what, error, allowed in (
            ("outputs", zone.outputs_max_rel, report.outputs_tolerance),
            ("edges", zone.edges_max_rel, report.edges_tolerance),
        ):
            if not error <= allowed:
                return f"{what} of {zone.name} rows differ by {error:.1e}, more than {allowed:.1e}"
    return ""


def notes(away: Mapping[int, float], near: Collection[int], report: Verification) -> tuple[str, ...]:
    """`away`: how far each layer's knots are from uniform, in cells; `near`: the layers that were taken for it."""
    if not near:
        return ()
    outputs = max(zone.outputs_max_rel for zone in report.zones)
    edges = max(zone.edges_max_rel for zone in report.zones)
    return (
        f"knots of {_layers(away, near)} are taken for uniform; outputs differ by at most {outputs:.1e}, "
        f"edges by {edges:.1e}, nothing excused",
    )


def refused(away: Mapping[int, float], near: Collection[int], why: str) -> tuple[str, ...]:
    """Why these layers were not taken for uniform together."""
    return (f"knots of {_layers(away, near)} were tried as uniform: {why}; where it says no more they stay as stored",)


def _layers(away: Mapping[int, float], near: Collection[int]) -> str:
    listed = ", ".join(f"{at} (to {away[at]:.1e} of a cell)" for at in near)
    return f"layer{'s' * (len(near) > 1)} {listed}"
