"""The actions of the reconciler: rules for loads and unloads in every state of files and versions."""

import math
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.repository import pbtxt
from kanserve.repository.actions import FIRST, LONGEST, Known, Step, left_out, plan
from kanserve.repository.pbtxt import ALL, VersionPolicy
from kanserve.repository.snapshot import Fingerprint, Key

NOW = 1000.0
KEYS = st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 4))
PRINTS = st.builds(Fingerprint, st.sampled_from([b"0", b"1", b"2"]), fresh=st.booleans())
KNOWN = st.one_of(
    st.builds(lambda tried: Known().accepted(tried), PRINTS),
    st.builds(lambda tried, gone: Known(tried, serves=True, missing=gone), PRINTS, st.booleans()),
    st.builds(
        lambda tried, then, gap: Known(tried, serves=then).failed(tried, NOW - gap),
        PRINTS,
        st.booleans(),
        st.floats(0, 9),
    ),
    st.just(Known()),
)
POLICIES = st.one_of(
    st.just(ALL),
    st.builds(lambda n: VersionPolicy(latest=n), st.integers(1, 3)),
    st.builds(lambda s: VersionPolicy(specific=tuple(sorted(s))), st.sets(st.integers(1, 5))),
)
WORLDS = st.tuples(
    st.dictionaries(KEYS, PRINTS), st.dictionaries(KEYS, KNOWN), st.fixed_dictionaries({"a": POLICIES, "b": POLICIES})
)


def serving(known: Mapping[Key, Known], name: str) -> set[int]:
    return {version for (model, version), item in known.items() if model == name and item.serves}


def carried_out(
    prints: Mapping[Key, Fingerprint],
    known: Mapping[Key, Known],
    policies: Mapping[str, VersionPolicy],
    good: set[bytes],
) -> dict[Key, Known]:
    """As `models.reconciler` does: each version with a print in `good` loads."""
    after = dict(known)
    for action in plan(prints, known, policies, NOW):
        item = after.get(action.key, Known())
        if action.step in (Step.LOAD, Step.RETURN):
            result = prints[action.key]
            after[action.key] = item.accepted(result) if result.facts in good else item.failed(result, NOW)
        elif action.step is Step.MISS:
            after[action.key] = Known(item.tried, serves=True, missing=True)
        else:
            del after[action.key]
    for action in plan(prints, after, policies, -math.inf):
        if action.step is Step.LEAVE:
            del after[action.key]
    return after


@settings(max_examples=settings.default.max_examples // 5)
@given(WORLDS, st.sets(st.sampled_from([b"0", b"1", b"2"])))
def test_what_serves_never_becomes_nothing(world: tuple, good: set[bytes]) -> None:
    prints, known, policies = world
    after = carried_out(prints, known, policies, good)
    for name in ("a", "b"):
        before = serving(known, name)
        assert bool(serving(after, name)) >= bool(before)
        for version in before - serving(after, name):  # it left for those that are wanted, and they serve
            wanted = policies[name].served({v for n, v in prints if n == name} | before)
            assert version not in wanted
            assert wanted <= serving(after, name)


@settings(max_examples=settings.default.max_examples // 5)
@given(WORLDS, st.sets(st.sampled_from([b"0", b"1", b"2"])))
def test_nothing_is_done_twice(world: tuple, good: set[bytes]) -> None:
    prints, known, policies = world
    after = carried_out(prints, known, policies, good)
    again = plan(prints, after, policies, NOW)
    if not any(item.missing and key in prints for key, item in after.items()):
        assert again == [], "the same files, at the same time, are an occasion for nothing"


@settings(max_examples=settings.default.max_examples // 5)
@given(WORLDS)
def test_only_what_is_there_and_wanted_is_loaded(world: tuple) -> None:
    prints, known, policies = world
    for action in plan(prints, known, policies, NOW):
        if action.step is Step.LOAD:
            item, (name, version) = known.get(action.key, Known()), action.key
            assert version in policies[name].served({v for n, v in prints if n == name} | serving(known, name))
            assert item.tried != prints[action.key] or (item.refused and item.again <= NOW)


def test_what_is_refused_waits_longer_each_time_and_not_at_all_when_it_changes() -> None:
    item = Known()
    waits = []
    for _ in range(12):
        item = item.failed(Fingerprint(b"0"), NOW)
        waits.append(item.again - NOW)
    assert waits == [min(LONGEST, FIRST * 2**n) for n in range(12)]
    assert plan({("a", 1): Fingerprint(b"0")}, {("a", 1): item}, {}, NOW) == []
    assert [a.step for a in plan({("a", 1): Fingerprint(b"1")}, {("a", 1): item}, {}, NOW)] == [Step.LOAD]
    assert item.failed(Fingerprint(b"1"), NOW).again == NOW + FIRST
    assert [a.step for a in plan({("a", 1): Fingerprint(b"0")}, {("a", 1): item}, {}, math.inf)] == [Step.LOAD]


def test_policies() -> None:
    for there, served, policy, expected in (
        ({1, 2}, {1}, "latest:1", [("LOAD", 2)]),
        ({1, 2}, {1, 2}, "latest:1", [("LEAVE", 1)]),
        ({1}, {1, 2}, "latest:1", [("MISS", 2), ("LEAVE", 1)]),  # 2 lost its files and serves
        (set(), {1, 2}, "all", [("MISS", 1), ("MISS", 2)]),
        ({1, 2, 3}, {3}, "specific:1,3", [("LOAD", 1)]),
        ({1, 2}, {1}, "specific:7", []),  # until 7 is there
        ({1, 2, 3}, set(), "latest:2", [("LOAD", 2), ("LOAD", 3)]),
    ):
        same = Fingerprint(b"0")
        result = plan(
            {("m", version): same for version in there},
            {("m", version): Known().accepted(same) for version in served},
            {"m": pbtxt.parse(policy)},
            NOW,
        )
        assert [(action.step.name, action.key[1]) for action in result] == expected


def test_what_a_policy_leaves_out_is_told_with_it() -> None:
    """A version that serves without its source files counts as present."""
    prints = {("a", 1): Fingerprint(b"0"), ("a", 2): Fingerprint(b"0"), ("b", 1): Fingerprint(b"0")}
    known = {("a", 3): Known(Fingerprint(b"0"), serves=True, missing=True), ("b", 2): Known()}
    latest, chosen = VersionPolicy(latest=2), VersionPolicy(specific=(2, 3))
    assert left_out(prints, known, {"a": latest, "b": chosen}) == {("a", 1): latest, ("b", 1): chosen}
    assert left_out(prints, known, {"a": ALL, "b": ALL, "c": latest}) == {}


def test_edits_do_not_count_as_latest_versions() -> None:
    for latest, edits, versions, served in (
        (1, {2}, {1, 2}, {1, 2}),
        (1, {2, 3}, {1, 2, 3}, {1, 3}),
        (1, {2}, {1, 2, 3}, {3}),
        (2, {2, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}),
        (2, {5}, {1, 2, 3}, {2, 3}),
        (2, {1, 2, 3}, {1, 2, 3}, {2, 3}),
    ):
        assert VersionPolicy(latest=latest, edits=frozenset(edits)).served(versions) == served


def test_a_policy_in_words() -> None:
    for policy, words in (
        (ALL, "all"),
        (VersionPolicy(latest=2), "latest 2"),
        (VersionPolicy(specific=(1, 3)), "specific 1, 3"),
        (VersionPolicy(specific=()), "specific none"),
    ):
        assert str(policy) == words
