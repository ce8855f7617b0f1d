"""Actions of the reconciler, decided from the files, the served versions and earlier attempts. A pure function.

The rules: a served version keeps serving, even if its files change or are missing. A new or changed version is loaded
once, and again later if it was rejected. An excluded version is unloaded only when all versions of the policy serve.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from kanserve.repository.pbtxt import ALL, VersionPolicy
from kanserve.repository.snapshot import Fingerprint, Key

NONE_CHOSEN: Mapping[str, int] = MappingProxyType({})
FIRST, LONGEST = 1.0, 300.0  # seconds until a rejected version is loaded again; doubles


@dataclass(frozen=True, slots=True)
class Known:
    """State of a version."""

    tried: Fingerprint | None = None  # fingerprint of the files that were read last
    serves: bool = False  # True if the version serves
    missing: bool = False  # True if it serves and its files are missing
    refused: int = 0  # number of rejections of the current files in a row
    again: float = math.inf  # time of the next attempt, on the monotonic clock

    def accepted(self, tried: Fingerprint) -> Known:
        """State after a successful load."""
        return Known(tried, serves=True)

    def same(self, fingerprint: Fingerprint) -> bool:
        """True if the files are those of the last attempt."""
        return self.tried is not None and self.tried.facts == fingerprint.facts

    def failed(self, tried: Fingerprint, now: float) -> Known:
        """State after a rejection. The same fingerprint waits longer each time; another one starts over."""
        count = self.refused + 1 if self.same(tried) else 1
        return replace(self, tried=tried, refused=count, again=now + min(LONGEST, FIRST * 2 ** min(count - 1, 20)))


class Step(enum.Enum):
    """Kind of an action.

    KEEP    nothing to do
    LOAD    load the version
    MISS    its files are missing
    RETURN  its files are in the repository again, and are loaded
    LEAVE   unload the version
    FORGET  it does not serve, and its files are missing or its policy excludes it
    """

    KEEP, LOAD, MISS, RETURN, LEAVE, FORGET = range(6)


@dataclass(frozen=True, slots=True)
class Action:
    """Step for one version."""

    step: Step
    key: Key


def plan(
    prints: Mapping[Key, Fingerprint],
    known: Mapping[Key, Known],
    policies: Mapping[str, VersionPolicy],
    now: float,
    chosen: Mapping[str, int] = NONE_CHOSEN,
) -> list[Action]:
    """Actions by model and version, with loads in ascending order.

    policies  version policies by model; other models serve all versions
    now       time on the clock of `Known.again`; infinite: load all rejected versions again
    chosen    by model, the default version that an operator chose, which is not unloaded
    """
    there: dict[str, dict[int, Fingerprint]] = {}
    kept: dict[str, dict[int, Known]] = {}
    for (name, version), fingerprint in prints.items():
        there.setdefault(name, {})[version] = fingerprint
    for (name, version), state in known.items():
        kept.setdefault(name, {})[version] = state
    return [
        Action(step, (name, version))
        for name in sorted(there.keys() | kept.keys())
        for step, version in _of_model(there.get(name, {}), kept.get(name, {}), policies.get(name, ALL), now)
        if step is not Step.KEEP and not (step is Step.LEAVE and chosen.get(name) == version)
    ]


def left_out(
    prints: Mapping[Key, Fingerprint], known: Mapping[Key, Known], policies: Mapping[str, VersionPolicy]
) -> dict[Key, VersionPolicy]:
    """Versions in the repository that their policies exclude, with the policies."""
    there: dict[str, set[int]] = {}
    for name, version in (*prints, *(key for key, state in known.items() if state.serves)):
        there.setdefault(name, set()).add(version)
    served = {name: policy.served(there.get(name, ())) for name, policy in policies.items()}
    return {key: policies[key[0]] for key in prints if key[1] not in served[key[0]]}


def _of_model(
    there: Mapping[int, Fingerprint], known: Mapping[int, Known], policy: VersionPolicy, now: float
) -> Iterator[tuple[Step, int]]:
    serving = {version for version, state in known.items() if state.serves}
    # A served version counts as present: missing files are not a reason to serve another version.
    selected = policy.served(there.keys() | serving)
    for version in sorted(there.keys() | known.keys()):
        step = _of_version(known.get(version, Known()), there.get(version), version in selected, now)
        if step is not Step.FORGET or version in known:
            yield step, version
    if selected and selected <= serving:
        yield from ((Step.LEAVE, version) for version in sorted(serving - selected))


def _of_version(state: Known, fingerprint: Fingerprint | None, selected: bool, now: float) -> Step:
    if fingerprint is None:
        return Step.FORGET if not state.serves else Step.KEEP if state.missing else Step.MISS
    if not selected:
        return Step.KEEP if state.serves else Step.FORGET
    if state.missing:
        return Step.RETURN
    return Step.LOAD if state.tried != fingerprint or (state.refused and now >= state.again) else Step.KEEP
