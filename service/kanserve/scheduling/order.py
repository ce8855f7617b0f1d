"""Answers in the order in which their requests came, whichever is ready first."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
Deliver = Callable[[], None]


class InOrder(Generic[T]):
    """Holds what is ready until everything before it has been delivered."""

    def __init__(self) -> None:
        self._line: dict[T, Deliver | None] = {}  # a dict keeps the order

    def expect(self, ticket: T) -> None:
        """A request came."""
        self._line[ticket] = None

    def ready(self, ticket: T, deliver: Deliver) -> None:
        """Its answer, or what becomes of it, is there: `deliver` is called in its turn."""
        self._line[ticket] = deliver
        while self._line:
            first = next(iter(self._line))
            action = self._line[first]
            if action is None:
                return
            del self._line[first]
            action()
