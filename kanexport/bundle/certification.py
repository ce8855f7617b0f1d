"""Certificate of an export (`--certify`): its options, its box, and its section of the manifest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kanexport.bundle import baseline
from kanexport.bundle.baseline import Rows
from kanexport.certify import certificate
from kanexport.certify.certificate import Certificate
from kanexport.errors import InvalidKan, OptionError, arguments_conflict, needs
from kanexport.ir.model import Kan
from kanexport.shared import sections
from kanexport.shared.naming import Names

Array = npt.NDArray[np.float64]

CERTIFY, BOX, BUDGET, RANGE_FROM = "--certify", "--certify-box", "--certify-budget", "--range-from"
TRAINING, CERTIFICATE = "training", "certificate"  # values of --range-from
SECONDS = 60.0  # budget without --certify-budget
TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class CertifyOptions:
    """Options of a certificate.

    budget       seconds; 0 for no certificate
    rows         rows that span the box; None for the training grid
    range_check  True if the server checks the box for rows out of range
    """

    budget: float = 0.0
    rows: Rows | None = None
    range_check: bool = False

    def __bool__(self) -> bool:
        return self.budget > 0


NO_OPTIONS = CertifyOptions()


def options(certify: bool, box: str | None, budget: str | None, range_from: str, policy: str) -> CertifyOptions:
    """The options of a command, with the rows of the box. `policy`: of --out-of-range. Raises OptionError."""
    if not certify:
        for flag, value in ((BOX, box), (BUDGET, budget)):
            if value is not None:
                raise needs(flag, CERTIFY)
        if range_from == CERTIFICATE:
            raise needs(f"{RANGE_FROM} {CERTIFICATE}", CERTIFY)
        return NO_OPTIONS
    if range_from == CERTIFICATE and policy not in (sections.FLAG, sections.REJECT):
        raise needs(f"{RANGE_FROM} {CERTIFICATE}", f"--out-of-range {sections.FLAG} or {sections.REJECT}")
    return CertifyOptions(
        budget=SECONDS if budget is None else seconds(budget, BUDGET),
        rows=None if box in (None, sections.GRID_BOX) else baseline.load(Path(str(box)), BOX),
        range_check=range_from == CERTIFICATE,
    )


def seconds(text: str, flag: str) -> float:
    """The seconds of a time such as "60s", "5m" or "30". `flag`: of the command. Raises OptionError."""
    match = TIME.fullmatch(text.strip())
    value = float(match[1]) * UNITS[match[2] or ""] if match else 0.0
    if not (value > 0 and math.isfinite(value)):
        raise OptionError(
            f"{flag} is {text[:40]!r}, expected a time above zero",
            code="budget-out-of-range",
            hint="pass a time such as 60s or 5m",
        )
    return value


def box_of(kan: Kan, names: Names, rows: Rows | None, flag: str) -> tuple[Array, Array]:
    """The box [n] twice: the smallest and largest value of each input in the rows, or without rows the training grid.
    `flag`: of the command. Raises InvalidKan without a grid, and OptionError for columns that are not the features."""
    if rows is None:
        return certificate.grid_box(kan)
    x = rows.ordered(names, flag)
    return x.min(axis=0), x.max(axis=0)


def check(options: CertifyOptions, dtype: str, *, quantized: bool) -> None:
    """Raises OptionError for an export whose graph a certificate does not cover."""
    if not options:
        return
    if quantized:
        raise arguments_conflict(
            f"{CERTIFY} cannot be combined with --quantize: a certificate does not cover quantized graphs"
        )
    if dtype != "float32":
        raise arguments_conflict(f"{CERTIFY} needs float32, found --dtype {dtype}", hint=f"remove {CERTIFY} or --dtype")


def measure(options: CertifyOptions, kan: Kan, names: Names) -> sections.CertificateInfo:
    """The certificate of a served network; NO_CERTIFICATE without a budget. Raises InvalidKan for a network that has no
    certificate, or no finite one, and OptionError for a box that does not fit."""
    if not options:
        return sections.NO_CERTIFICATE
    if (pairs := kan.n_inputs * kan.n_outputs) > sections.PAIRS:
        raise InvalidKan(
            f"the network has {pairs} pairs of an input and an output, a certificate has at most {sections.PAIRS}",
            code="certificate-too-large",
            hint=f"export without {CERTIFY}",
        )
    low, high = box_of(kan, names, options.rows, BOX)
    result = certificate.certify(kan, low, high, options.budget)
    bounds = np.stack([result.y_low, result.y_high, result.slack, result.lipschitz.max(axis=0)])
    infinite = np.flatnonzero(~np.isfinite(bounds).all(axis=0))
    if len(infinite):
        raise InvalidKan(
            f"output '{names.output(int(infinite[0]))}' has no finite bound over the box",
            code="certificate-not-finite",
            hint=f"pass a smaller box with {BOX}, or a larger {BUDGET}",
        )
    return section(options, result)


def section(options: CertifyOptions, result: Certificate) -> sections.CertificateInfo:
    """The section of the manifest. `result`: for the box of the options."""
    rows, few = options.rows, len(result.low) * len(result.y_low) <= sections.POINT_PAIRS
    return sections.CertificateInfo(
        method=certificate.METHOD,
        box=sections.GRID_BOX if rows is None else rows.name,
        sha256="" if rows is None else rows.sha256,
        low=_numbers(result.low),
        high=_numbers(result.high),
        budget=options.budget,
        seconds=round(result.seconds, 3),
        boxes=result.boxes,
        output_low=_numbers(result.y_low),
        output_high=_numbers(result.y_high),
        found_low=_numbers(result.found_low),
        found_high=_numbers(result.found_high),
        slack=_numbers(result.slack),
        directions=tuple(tuple(map(sections.DIRECTIONS.index, row)) for row in result.direction),
        lipschitz=tuple(map(_numbers, result.lipschitz)),
        assumptions=certificate.ASSUMPTIONS,
        range_check=options.range_check,
        at_low=tuple(map(_numbers, result.at_low)) if few else (),
        at_high=tuple(map(_numbers, result.at_high)) if few else (),
        witnesses=tuple(_witnesses(result)) if few else (),
    )


def _witnesses(result: Certificate) -> Iterator[sections.Witness]:
    """The steps of each pair without a direction."""
    seen = result.witnesses
    for i, row in enumerate(result.direction):
        for o, word in enumerate(row):
            if word == sections.NEITHER:
                rises, falls = ((*_numbers(pair[0]), float(pair[1, i])) for pair in (seen.up[i, o], seen.down[i, o]))
                yield sections.Witness(input=i, output=o, rises=rises, falls=falls)


def _numbers(values: Array) -> tuple[float, ...]:
    return tuple(map(float, values))
