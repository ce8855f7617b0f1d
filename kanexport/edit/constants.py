"""Simple numbers in place of the constants of forms.

The same network has many sets of constants: a hidden node can be scaled and shifted if the forms that read it undo it.
`normal` first chooses one set, in which scales and shifts are in as few constants as possible. `simplified` then
replaces constants by integers, fractions and multiples of pi, one at a time, and fits the others again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from kanexport.edit import circuit, library
from kanexport.edit.circuit import At, Circuit, Forms, Judge
from kanexport.edit.curve_fit import Form
from kanexport.ir.model import Kan
from kanexport.ir.steps import Product

SAME = 1e-7  # of the spread: two sets of constants with smaller differences are the same network
NEAR = 0.02  # of a constant: the distance to a simple number that is tested
MOST = 48  # constants of a network that are tested
TRIED = 3  # simple numbers of each constant
TURN = 0.05  # radians: a phase so near to a quarter of a turn makes a sine a cosine
GROWTH = 1.02  # of the error, in addition to what is allowed
# f(s * x) = s ** power * f(x) for s > 0.
POWERS = {f"x^{n}": float(n) for n in (2, 3, 4, 5)} | {f"1/x^{n}": -float(n) for n in (2, 3, 4, 5)}
POWERS |= {"1/x": -1.0, "abs": 1.0, "sqrt": 0.5, "x^1.5": 1.5, "1/sqrt(x)": -0.5}
ODD = ("tanh", "arctan", "arctanh", "arcsin", "tan", "x^3", "x^5", "1/x", "1/x^3", "1/x^5")  # f(-x) = -f(x)
EVEN = ("gaussian", "cosh", "abs", "x^2", "x^4", "1/x^2", "1/x^4")  # f(-x) = f(x)


def simplified(
    present: Circuit, judge: Judge, error: Callable[[Circuit], float], limit: float, allowed: float
) -> Circuit:
    """The circuit with simple constants. `error`: of a circuit on all rows. It grows by a little more than `allowed` at
    most, and stays within the limit."""
    present = normal(present, judge)
    start = error(present)
    limit = min(limit, max(start * GROWTH, start + allowed))
    if not math.isfinite(start):
        return present
    names = circuit.parameters(present)
    if len(names) > MOST:
        return present
    fixed: frozenset[tuple[At, str]] = frozenset()
    while names:
        at, name = min(names, key=lambda key: _distance(getattr(present.forms[key[0]], key[1])))
        names.remove((at, name))
        for number in _simple(getattr(present.forms[at], name)):
            forms = {**present.forms, at: present.forms[at].having(name, number)}
            tested = circuit.refit(present.with_forms(forms), judge, fixed | {(at, name)})
            if error(tested) <= limit:
                present, fixed = tested, fixed | {(at, name)}
                break
    # Without negative zeros. A form whose factor is 0 is a constant.
    tidy = {
        at: dataclasses.replace(form, b=form.b + 0.0, d=form.d + 0.0)
        if form.c
        else Form(library.ALL["0"], 1.0, 0.0, 0.0, form.d + 0.0)
        for at, form in present.forms.items()
    }
    return present.with_forms(tidy)


def _simple(value: float) -> list[float]:
    """Simple numbers near a value, the simplest first."""
    numbers: dict[float, float] = {}
    if abs(value) < NEAR:
        numbers[0.0] = 0.0
    for rank, unit, denominators in ((1, 1.0, (1, 2, 3, 4, 5, 10)), (3, math.pi, (1, 2, 3, 4, 6))):
        for q in denominators:
            p = round(value * q / unit)
            number = p * unit / q
            if p and abs(number - value) <= NEAR * abs(value):
                numbers.setdefault(number, rank * q + abs(p) / 10)
    return sorted(numbers, key=lambda number: numbers[number])[:TRIED]


def _distance(value: float) -> float:
    """The distance to the nearest simple number, relative to the value."""
    return min((abs(number - value) / max(abs(value), NEAR) for number in _simple(value)), default=math.inf)


def normal(present: Circuit, judge: Judge) -> Circuit:
    """The same network with normal constants. The circuit stays if a form does not allow it."""
    forms = {at: canonical(form) for at, form in present.forms.items()}

    def same(forms: Forms) -> bool:
        tested = present.with_forms(forms)
        return tested.defined() and bool((np.abs(tested.y - present.y) <= SAME * judge.spread).all())

    for layer in range(len(present.kan.layers)):
        changed = _gauged(present.kan, forms, layer)
        if same(changed):
            forms = changed
    return present.with_forms(forms) if same(forms) else present


def canonical(form: Form) -> Form:
    """The same function, with as few constants as possible that differ from 0 and 1."""
    name, a, b, c, d = form.candidate.name, form.a, form.b, form.c, form.d
    match name:
        case "x":
            return dataclasses.replace(form, a=1.0, b=0.0, c=c * a, d=d + c * b)
        case "exp":
            return dataclasses.replace(form, b=0.0, c=c * math.exp(b))
        case "log":
            return dataclasses.replace(form, a=math.copysign(1.0, a), b=b / abs(a), d=d + c * math.log(abs(a)))
        case "sin":
            return _sine(form)
    if a < 0 and (name in ODD or name in EVEN):
        form = dataclasses.replace(form, a=-a, b=-b, c=-c if name in ODD else c)
    if name in POWERS:
        size = abs(form.a)
        return dataclasses.replace(form, a=form.a / size, b=form.b / size, c=form.c * size ** POWERS[name])
    return form


def _sine(form: Form) -> Form:
    """A sine with a positive rate and a phase between -pi/2 and pi/2, or a cosine."""
    a, b, c = (form.a, form.b, form.c) if form.a > 0 else (-form.a, -form.b, -form.c)
    turns = round(b / math.pi)
    b, c = b - turns * math.pi, -c if turns % 2 else c
    if abs(abs(b) - math.pi / 2) > TURN:
        return dataclasses.replace(form, a=a, b=b, c=c)
    quarter = math.copysign(math.pi / 2, b)
    return dataclasses.replace(form, candidate=library.ALL["cos"], a=a, b=b - quarter, c=math.copysign(1.0, b) * c)


def _gauged(kan: Kan, forms: Forms, layer: int) -> dict[At, Form]:
    """Forms with normal constants of the nodes after a layer."""
    changed = dict(forms)
    for factors, node in _nodes(kan, layer):
        inbound = [_inbound(kan, changed, layer, factor) for factor in factors]
        readers = _readers(kan, changed, layer + 1, node)
        if readers is None or any(not part for part in inbound):
            continue
        for part in inbound:  # the first form of a sum has the constants of all
            total = sum(changed[at].d for at in part)
            for at in part:
                changed[at] = dataclasses.replace(changed[at], d=total if at == part[0] else 0.0)
        if len(factors) > 1:
            _scale_factors(changed, inbound, readers)
        elif len(readers) == 1:
            _absorb(changed, inbound[0], readers[0])
        elif readers:
            _share(changed, inbound[0], readers)
    return changed


def _nodes(kan: Kan, layer: int) -> Iterator[tuple[list[int], int]]:
    """The nodes after a layer: their factors, which are destinations of the layer, and their number. Other steps than
    products have no normal constants."""
    after = kan.layers[layer].post_steps
    before = kan.layers[layer + 1].pre_steps if layer + 1 < len(kan.layers) else ()
    steps = (*after, *before)
    if not steps:
        yield from (([at], at) for at in range(kan.layers[layer].destinations))
    elif len(steps) == 1 and isinstance(steps[0], Product):
        start = 0
        for node, size in enumerate(steps[0].groups):
            yield list(range(start, start + size)), node
            start += size


def _inbound(kan: Kan, forms: Forms, layer: int, destination: int) -> list[At]:
    """The forms that a destination sums, functions before constants; empty if an edge has no form, or if there is a
    bias."""
    part = kan.layers[layer]
    edges = [(layer, int(source), destination) for source in np.flatnonzero(part.active()[:, destination])]
    if part.bias[destination] or any(at not in forms for at in edges):
        return []
    edges.sort(key=lambda at: (forms[at].candidate.name == "0", at))
    return edges if edges and forms[edges[0]].candidate.name != "0" and forms[edges[0]].c else []


def _readers(kan: Kan, forms: Forms, layer: int, node: int) -> list[At] | None:
    """The forms that read a node, without constants; None if an edge has no form. Empty after the last layer."""
    if layer == len(kan.layers):
        return []
    edges = [(layer, node, int(at)) for at in np.flatnonzero(kan.layers[layer].active()[node])]
    if not edges or any(at not in forms for at in edges):
        return None
    return [at for at in edges if forms[at].candidate.name != "0"] or None


def _scale(forms: dict[At, Form], part: list[At], scale: float, shift: float = 0.0) -> None:
    """Multiply the forms of a sum by a scale, and add a shift."""
    for at in part:
        form = forms[at]
        forms[at] = dataclasses.replace(form, c=form.c * scale, d=form.d * scale + (shift if at == part[0] else 0.0))


def _scale_factors(forms: dict[At, Form], inbound: list[list[At]], readers: list[At]) -> None:
    """Make the first coefficient of each factor 1. The readers, or the last factor of an output, have the scales."""
    total = 1.0
    for part in inbound:
        lead = forms[part[0]].c
        _scale(forms, part, 1 / lead)
        total *= lead
    if not readers:
        _scale(forms, inbound[-1], total)
    for at in readers:
        forms[at] = canonical(dataclasses.replace(forms[at], a=forms[at].a * total))


def _share(forms: dict[At, Form], part: list[At], readers: list[At]) -> None:
    """Make the first coefficient of a sum 1 and its constant 0, for several readers."""
    scale, shift = forms[part[0]].c, forms[part[0]].d
    _scale(forms, part, 1 / scale, -shift / scale)
    for at in readers:
        form = forms[at]
        forms[at] = canonical(dataclasses.replace(form, a=form.a * scale, b=form.b + form.a * shift))


def _absorb(forms: dict[At, Form], part: list[At], reader: At) -> None:
    """Move the scale and the shift of the only reader of a sum into the sum, as far as one of them is redundant."""
    form = forms[reader]
    _scale(forms, part, form.a, form.b)
    form = dataclasses.replace(form, a=1.0, b=0.0)
    name = form.candidate.name
    if name == "x":
        _scale(forms, part, form.c, form.d)
        form = dataclasses.replace(form, c=1.0, d=0.0)
    elif name == "exp":
        form = dataclasses.replace(form, c=form.c * math.exp(forms[part[0]].d))
        _scale(forms, part, 1.0, -forms[part[0]].d)
    elif name == "log" or name in POWERS:
        form = _homogeneous(forms, part, form)
    forms[reader] = form


def _homogeneous(forms: dict[At, Form], part: list[At], form: Form) -> Form:
    """Choose the scale of a sum whose reader is a power or a logarithm, so that most constants are simple."""
    power = POWERS.get(form.candidate.name, 0.0)
    constants = [forms[at].c for at in part] + [forms[part[0]].d]
    scales = [abs(value) for value in constants if value]
    if power:
        scales.insert(0, abs(form.c) ** (-1 / power))

    def simple(scale: float) -> int:
        """How many constants are near simple numbers after division by the scale."""
        outer = form.c * scale**power if power else form.d + form.c * math.log(scale)
        return sum(_distance(value) < NEAR / 4 for value in [*(value / scale for value in constants), outer])

    best = max(scales, key=simple)
    _scale(forms, part, 1 / best)
    if not power:
        return dataclasses.replace(form, d=form.d + form.c * math.log(best))
    return dataclasses.replace(form, c=form.c * best**power)
