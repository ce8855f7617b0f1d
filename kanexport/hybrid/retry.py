"""As many layers replaced as the graph bears: what exports without a replaced layer must export with it.

Where a module with our placeholders cannot be traced, spliced or proved, it is tried without
any of them, which is the module as torch.onnx has it. If that works, the layers that can be
replaced are found by halves; the others stay as torch.onnx has them, and their edges are
asked with what is computed beside them, if that works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from kanexport.errors import InvalidKan, VerificationFailed
from kanexport.hybrid.plan import Plan

T = TypeVar("T")

ATTEMPTS = 10  # at finding them; each takes a trace and a proof
REFUSALS = (InvalidKan, VerificationFailed)


@dataclass(frozen=True, slots=True)
class Trial(Generic[T]):
    """What becomes of a plan: `attempt` makes something of it or refuses, `without` leaves layers
    of it to torch.onnx and notes why, `beside` too, but keeps their edges."""

    attempt: Callable[[Plan], T]
    without: Callable[[Plan, list[str], str], Plan]
    beside: Callable[[Plan, list[str], str], Plan]

    def best(self, plan: Plan) -> tuple[Plan, T]:
        """The plan with as many layers as work out, and what came of it. Raises what `attempt` raises if the
        module does not export at all."""
        try:
            return plan, self.attempt(plan)
        except REFUSALS as error:
            first = error
        names = list(plan.readings)
        if not names:
            raise first
        try:
            bare = self._try(plan, dict.fromkeys(names, first.message))
        except REFUSALS as second:
            # Where both cannot be traced, the second speaks of the module alone.
            raise second if isinstance(first, InvalidKan) else first from second
        best, left = self._search(plan, dict.fromkeys(names, first.message), bare)
        try:
            return self._try(plan, left, self.beside)
        except REFUSALS:
            return best

    def _search(self, plan: Plan, left: dict[str, str], best: tuple[Plan, T]) -> tuple[tuple[Plan, T], dict[str, str]]:
        """With layers put back, by halves, and which were left. `left`: all layers and why they were left;
        `best`: without them."""
        groups, attempts = _halves(list(left)), ATTEMPTS
        while groups and attempts:
            group, attempts = groups.pop(0), attempts - 1
            others = {name: why for name, why in left.items() if name not in group}
            try:
                best = self._try(plan, others)
                left = others
            except REFUSALS as error:
                groups = _halves(group) + groups
                left |= dict.fromkeys(group, error.message)
        return best, left

    def _try(
        self, plan: Plan, left: Mapping[str, str], leave: Callable[[Plan, list[str], str], Plan] | None = None
    ) -> tuple[Plan, T]:
        for why in dict.fromkeys(left.values()):
            plan = (leave or self.without)(plan, [name for name, reason in left.items() if reason == why], why)
        return plan, self.attempt(plan)


def _halves(group: list[str]) -> list[list[str]]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]] if middle else []
