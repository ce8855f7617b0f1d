"""Certificates of models as tables and as JSON, for the commands of both packages."""

from __future__ import annotations

import math
from typing import Any

from kanexport.shared.cli.console import say
from kanexport.shared.cli.tables import Table
from kanexport.shared.naming import Names, listed
from kanexport.shared.sections import CertificateInfo, Witness

RANGES = ("certified low", "found low", "found high", "certified high", "certified / found")
NO_EFFECT = "no effect"


def document(info: CertificateInfo, names: Names) -> dict[str, Any]:
    """The certificate of a manifest as JSON, with the fields of `kanserve certify --json` and the origin of the box."""
    outputs, inputs = range(len(info.output_low)), range(len(info.low))
    seen = {(own.input, own.output): own for own in info.witnesses}
    return {
        "box": {"low": list(info.low), "high": list(info.high), "name": info.box, "sha256": info.sha256},
        "outputs": [
            {
                "name": names.output(at),
                "low": info.output_low[at],
                "high": info.output_high[at],
                "found_low": info.found_low[at],
                "found_high": info.found_high[at],
                **({"at_low": list(info.at_low[at]), "at_high": list(info.at_high[at])} if info.at_low else {}),
                "float32_slack": info.slack[at],
            }
            for at in outputs
        ],
        "monotone": [
            {
                "input": names.feature(i),
                "output": names.output(o),
                "direction": info.direction(i, o),
                **_pairs(seen.get((i, o))),
            }
            for i in inputs
            for o in outputs
        ],
        "lipschitz": [
            {"input": names.feature(i), "output": names.output(o), "bound": info.lipschitz[i][o]}
            for i in inputs
            for o in outputs
        ],
        "method": info.method,
        "assumptions": list(info.assumptions),
        "boxes": info.boxes,
        "budget": info.budget,
        "seconds": info.seconds,
        "range_check": info.range_check,
    }


def _pairs(own: Witness | None) -> dict[str, Any]:
    """The pairs of rows that show the direction "neither"."""
    return {} if own is None else {"rises": list(own.pair(own.rises)), "falls": list(own.pair(own.falls))}


def show(info: CertificateInfo, names: Names, *, of: str = "") -> None:
    """Print the certificate: ranges, effects of the inputs, method and assumptions. `of`: the served model and its
    version, if a server has the certificate."""
    where = f"{of}: " if of else ""
    box = f"the box of {info.box}" if info.sha256 else "the box of the training grid"
    show_ranges(info, names, f"{where}outputs of the served graph over {box}")
    classes = [names.output(at) for at in range(len(info.output_low))]
    columns = (f"{name} {what}" for name in classes for what in ("direction", "Lipschitz"))
    effects = Table("effect of each input over the box", ("input", "low", "high", *columns))
    for i, bounds in enumerate(info.lipschitz):
        cells = [f"{info.low[i]:.4g}", f"{info.high[i]:.4g}"]
        for o, steep in enumerate(bounds):
            cells += [direction_text(info, i, o), f"{steep:.4g}"]
        effects.add(names.feature(i), *cells)
    effects.show()
    say(f"method: {info.method}, with a budget of {info.budget:g} s")
    say(f"float32 graph and network differ by at most {max(info.slack):.2g}")
    for assumption in info.assumptions:
        say(f"assumes: {assumption}")


def show_ranges(info: CertificateInfo, names: Names, title: str) -> None:
    """Print the certified and the found range of each output."""
    count = f"{info.boxes} box{'es' * (info.boxes != 1)}"
    ranges = Table(f"{title} ({count}, {info.seconds:.1f} s)", ("output", *RANGES), RANGES)
    bounds = zip(info.output_low, info.found_low, info.found_high, info.output_high, strict=True)
    for at, (low, found_low, found_high, high) in enumerate(bounds):
        ratio = (high - low) / (found_high - found_low) if found_high > found_low else math.inf
        ranges.add(names.output(at), *(f"{value:.4g}" for value in (low, found_low, found_high, high, ratio)))
    ranges.show()


def show_brief(info: CertificateInfo, names: Names) -> None:
    """Print the ranges, and the directions of each output in the inputs."""
    show_ranges(info, names, info.text)
    for o in range(len(info.output_low)):
        words: dict[str, list[str]] = {}
        for i in range(len(info.directions)):
            words.setdefault(direction_text(info, i, o), []).append(names.feature(i))
        say(f"{names.output(o)}: {'; '.join(f'{word} in {listed(inputs)}' for word, inputs in words.items())}")


def direction_text(info: CertificateInfo, source: int, output: int) -> str:
    """The direction for people: an output that does not change has the direction "increasing", which they would
    misread."""
    return info.direction(source, output) if info.lipschitz[source][output] else NO_EFFECT
