"""The graphs of a network, and their proof: in the fastest form that proves exact, or with fewer bits on request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from kanexport.approximate import export as fewer
from kanexport.errors import VerificationFailed
from kanexport.form import clamp
from kanexport.form.ir import Kan
from kanexport.lowering import cost, splines, uniform
from kanexport.lowering.lower import Lowered
from kanexport.manifest import MANY_FILE, LayerInfo
from kanexport.packing import baseline, describe, explained
from kanexport.packing.publish import Target
from kanexport.packing.signature import Signature
from kanexport.proof import kept, verify
from kanexport.proof import near as near_knots
from kanexport.proof.verify import Proof
from kanexport.request import Request
from kanexport.shared.approximation import EXACT, Approximation
from kanexport.shared.outside import CLAMP

Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Graphs:
    """The graphs of a network and their proof. `plain`: those of the network as it was read, which `kan` is unless its
    inputs are kept on the grid; `held`: what is asked of them where there are answers; `notes`: of their form."""

    kan: Kan
    lowered: Lowered
    proof: Proof
    plain: Lowered
    held: Target
    layers: tuple[LayerInfo, ...]
    approximation: Approximation = EXACT
    notes: tuple[str, ...] = ()


def make(kan: Kan, request: Request, target: Target, signature: Signature, advance: Advance) -> Graphs:
    """Raises VerificationFailed where none proves, InvalidKan and OptionError."""
    given = clamp.clamped(kan) if request.outside == CLAMP else kan
    make = _rounded if request.fewer.form else _exact
    found = make(kan, given, request, target, signature, advance)
    return dataclasses.replace(found, notes=_of_form(found, request) + found.notes)


def _of_form(graphs: Graphs, request: Request) -> tuple[str, ...]:
    layers, many = graphs.kan.layers, graphs.lowered.many
    rows, file = (request.rows or 1, "") if many is None else (many.rows, MANY_FILE)
    return cost.notes(layers, rows, file) + splines.notes(layers, request.dtype, asked=request.kernel)


def _exact(kan: Kan, given: Kan, request: Request, target: Target, signature: Signature, advance: Advance) -> Graphs:
    """Those with most layers of about uniform knots in closed form that prove exact, with nothing excused."""
    away = uniform.layers(given, request.dtype)
    refused: tuple[str, ...] = ()
    for near in uniform.choices(away):
        try:
            made = _proved(kan, given, request, target, signature, near, advance)
        except VerificationFailed as failed:
            if not near:
                raise
            why = failed.message
        else:
            why = "" if not near else near_knots.excess(made.proof.verification)
            if not why:
                return dataclasses.replace(made, notes=refused + near_knots.notes(away, near, made.proof.verification))
        refused += near_knots.refused(away, near, why)
    raise AssertionError("the last choice is proved or raises")


def _proved(
    kan: Kan,
    given: Kan,
    request: Request,
    target: Target,
    signature: Signature,
    near: tuple[int, ...],
    advance: Advance,
) -> Graphs:
    """`kan` as it was read and as it is `given` its inputs, with the layers `near` in closed form. Raises
    VerificationFailed."""
    plain = lowered = request.lower(kan, near=near)
    if given is not kan:
        lowered = request.lower(given, near=near)
        kept.prove(given.layers[0], kan.n_inputs, plain, lowered, request.dtype)
    layers = describe.layers(given, lowered.node_tensors)
    mean = () if target.reference is None else baseline.mean(target.reference, signature, target.names)
    against = explained.against(target.explain, given, mean)
    lowered = explained.add(target.explain, lowered, layers, signature, target.names, against)
    proof = verify.verify(given, lowered, request.dtype, tolerance=request.tolerance, advance=advance)
    return Graphs(given, lowered, proof, plain, target, layers)


def _rounded(kan: Kan, given: Kan, request: Request, target: Target, signature: Signature, advance: Advance) -> Graphs:
    """The graphs with fewer bits, and their proof. Answers of the trained model are held against them, too."""
    rows = request.fewer.rows or target.reference
    asked = dataclasses.replace(request.fewer, rows=rows)
    found = fewer.rounded(given, asked, signature.inputs(), target.names)
    plain = lowered = request.lower(found.served, curves=found.curves)
    if given is not kan:
        served, curves = found.like(kan)
        plain = request.lower(served, curves=curves)
    proof, approximation = found.proved(lowered, asked, request.tolerance, advance)
    held = dataclasses.replace(target, tolerance=max(target.tolerance, asked.bound))
    layers = describe.layers(given, lowered.node_tensors)
    return Graphs(given, lowered, proof, plain, held, layers, approximation)
