"""Which versions of a model are served: Triton's `version_policy`, and all where nobody chose."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The `latest` so many (0: not this), the `specific` ones, or all."""

    latest: int = 0
    specific: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.latest:
            return f"latest {self.latest}"
        return "all" if self.specific is None else f"specific {', '.join(map(str, self.specific)) or 'none'}"

    def served(self, versions: Collection[int]) -> set[int]:
        """Those of `versions` that are served."""
        if self.latest:
            return set(sorted(versions)[-self.latest :])
        return set(versions) if self.specific is None else set(versions) & set(self.specific)


ALL = VersionPolicy()


def parse(text: str) -> VersionPolicy:
    """From a setting: `all`, `latest:N` or `specific:1,3`."""
    kind, _, numbers = text.partition(":")
    if kind == "latest":
        return VersionPolicy(latest=int(numbers))
    return VersionPolicy(specific=tuple(sorted(map(int, numbers.split(","))))) if kind == "specific" else ALL
