"""Two graphs of one network, of which a run takes one by its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kanserve.backends import Session
from kanserve.nouns import Array


class ByRows:
    """Runs of `least` rows or more take the graph for `many`, others that for `few`. Implements `backends.Session`."""

    def __init__(self, few: Session, many: Session, least: int) -> None:
        self._few, self._many, self._least = few, many, least
        self.inputs, self.outputs = few.inputs, few.outputs

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """See `backends.Session.run`."""
        rows = len(next(iter(feeds.values())))
        return (self._many if rows >= self._least else self._few).run(outputs, feeds)
