"""The authenticator without a server: accepted and rejected tokens and certificates, in every branch."""

import datetime
from pathlib import Path

import pytest

from kanserve.auth import authenticator as access
from kanserve.auth import token_file
from kanserve.auth.authenticator import LONGEST, SHORTEST
from kanserve.auth.permissions import ANYONE, NEEDS, NOBODY, Role
from kanserve.auth.token_file import Credentials
from kanserve.errors import Forbidden, RateLimited, Unauthenticated
from kanserve.grpc_api.call_context import RequestMetadata
from tests.support import credentials
from tests.support.credentials import gate, shown

GOOD = "kan_" + "g" * 43  # the names of tests have it, and are to be the same in every process
CI = credentials.block("ci", GOOD, "infer")


def test_who_passes(tmp_path: Path) -> None:
    old, new = token_file.make(), token_file.make()
    both = credentials.block("ci-1", old, "infer") + credentials.block("ci-2", new, "interpret", "infer")
    certified = "[[certificate]]\nname = 'pod'\nsan = 'spiffe://a/b'\nroles = ['admin']\n"
    requested = gate(both + certified, tmp_path)
    assert [requested.admit(Role.INFER, shown(token)).name for token in (old, new, old)] == ["ci-1", "ci-2", "ci-1"]
    assert requested.admit(Role.ADMIN, shown(certificate="dns.example spiffe://a/b")).name == "pod"
    assert requested.admit(Role.READ, shown(old, "spiffe://a/b")).name == "ci-1"  # a token wins
    for what, error, says in (
        (shown(), Unauthenticated, "but has no credential"),
        (shown(certificate="spiffe://a/c"), Unauthenticated, "but has no credential"),
        (shown(token_file.make()), Unauthenticated, "the server does not know it"),
        # A wrong token does not fall back to the certificate.
        (shown(token_file.make(), "spiffe://a/b"), Unauthenticated, "the server does not know it"),
        (shown(old), Forbidden, "the role interpret, which ci-1 does not have"),
    ):
        with pytest.raises(error, match=says):
            requested.admit(Role.INTERPRET, what)


def test_a_certificate_with_several_listed_names_is_the_first_entry_of_the_file(tmp_path: Path) -> None:
    """The order of its names has no effect: they are a set, and its order differs between processes."""
    names = [f"spiffe://a/{at}" for at in range(40)]
    entries = [f"[[certificate]]\nname = 'c{at}'\nsan = '{name}'\nroles = ['read']\n" for at, name in enumerate(names)]
    for first in (7, 31):
        order = [first, *(at for at in range(40) if at != first)]
        requested = gate("".join(entries[at] for at in order), tmp_path)
        assert requested.admit(Role.READ, shown(certificate=" ".join(names))).name == f"c{first}"
        assert requested.admit(Role.READ, shown(certificate=" ".join(reversed(names[:35])))).name == f"c{first}"


def test_what_is_looked_up_is_forgotten_with_its_file(tmp_path: Path) -> None:
    requested = gate(CI, tmp_path)
    assert requested.admit(Role.INFER, shown(GOOD)).name == "ci"
    caller = requested.admit(Role.INFER, shown(GOOD))
    requested.take(token_file.load(tmp_path / "t"))
    requested.admit_next(caller)  # the same as before
    credentials.save_tokens(tmp_path / "t", credentials.block("ci", GOOD, "infer", "admin"))
    requested.take(token_file.load(tmp_path / "t"))
    with pytest.raises(Unauthenticated, match="the credential of ci was revoked or changed"):
        requested.admit_next(caller)
    assert requested.admit(Role.ADMIN, shown(GOOD)).name == "ci"
    requested.take(Credentials((), ()))
    with pytest.raises(Unauthenticated, match="the server does not know it"):
        requested.admit(Role.INFER, shown(GOOD))
    with pytest.raises(Unauthenticated, match="revoked or changed"):
        requested.admit_next(caller)


def test_time_ends_a_token_that_was_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)
    requested = gate(credentials.block("ci", GOOD, "infer", expires=end.isoformat()), tmp_path)
    caller = requested.admit(Role.INFER, shown(GOOD))
    monkeypatch.setattr("time.time", end.timestamp)
    with pytest.raises(Unauthenticated, match="the token of ci has expired"):
        requested.admit(Role.INFER, shown(GOOD))
    with pytest.raises(Unauthenticated):  # and a stream that is open
        requested.admit_next(caller)


def test_a_rate_is_kept_on_calls_and_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    entries = credentials.block("ci", GOOD, "infer", rate=4), credentials.block("b", "x" * 50, "read")
    requested = gate("".join(entries), tmp_path)
    caller = requested.admit(Role.INFER, shown(GOOD))
    for _ in range(3):
        requested.admit_next(caller)
    with pytest.raises(RateLimited, match="ci sends more than 4 calls per second"):
        requested.admit(Role.INFER, shown(GOOD))
    assert requested.admit(None, shown(GOOD)).name == "ci"  # health is served all the same
    requested.admit_next(requested.admit(Role.READ, shown("x" * 50)))  # and so are others
    now[0] += 0.25
    requested.admit(Role.INFER, shown(GOOD))
    with pytest.raises(RateLimited):
        requested.admit_next(caller)
    now[0] += 1000
    for _ in range(4):
        requested.admit_next(caller)
    with pytest.raises(RateLimited):
        requested.admit_next(caller)
    requested = gate(credentials.block("ci", GOOD, "infer", rate=0.5), tmp_path)
    for _ in range(3):  # a rate below one still lets one pass
        requested.admit(Role.INFER, shown(GOOD))
        with pytest.raises(RateLimited):
            requested.admit(Role.INFER, shown(GOOD))
        now[0] += 2


def test_what_is_no_token(tmp_path: Path) -> None:
    requested = gate(CI, tmp_path)
    values: list[str | bytes] = ["", "Bearer", "Bearer ", GOOD, f"Bearer_{GOOD}", b"Bearer bytes"]
    values += [f"{scheme} {GOOD}" for scheme in ("Basic", "Digest")]  # as long a word as Bearer
    values += [f"Bearer {word}" for word in ("a" * (SHORTEST - 1), "a" * (LONGEST + 1), GOOD[:-1])]
    values += [f"Bearer {begin}{GOOD}" for begin in ("x", "\u00e9", "\u00a0", "\u2003", "\t", "\n")]
    ends = ("x", "\u00a0", "\u2003", "\u0085", "\t", " ", "\n", "\x00", "\ufffd")
    values += [f"Bearer {GOOD}{end}" for end in ends]
    for value in values:
        with pytest.raises(Unauthenticated) as caught:
            requested.admit(Role.READ, RequestMetadata((("authorization", value),), None))
        assert GOOD not in str(caught.value)
        assert requested.admit(ANYONE, RequestMetadata((("authorization", value),), None)) is NOBODY


def test_a_token_by_any_spelling_of_its_scheme_and_of_any_length(tmp_path: Path) -> None:
    short, long = "s" * SHORTEST, "l" * LONGEST
    blocks = (credentials.block(name, token, "infer") for name, token in (("short", short), ("long", long)))
    requested = gate(CI + "".join(blocks), tmp_path)
    for scheme in ("Bearer ", "bearer ", "BEARER ", "Bearer  "):
        metadata = (("x-other", "y"), ("authorization", scheme + GOOD))
        assert requested.admit(Role.INFER, RequestMetadata(metadata, None)).name == "ci"
        with pytest.raises(Unauthenticated, match="expected one `Bearer TOKEN`"):
            requested.admit(Role.INFER, RequestMetadata((*metadata, metadata[1]), None))
    assert [requested.admit(Role.INFER, shown(token)).name for token in (short, long)] == ["short", "long"]


def test_certificates_are_not_looked_at_where_none_is_named(tmp_path: Path) -> None:
    requested = gate(CI, tmp_path)
    requested._names = lambda _: pytest.fail("it was read")
    with pytest.raises(Unauthenticated, match="but has no credential"):
        requested.admit(Role.READ, shown(certificate="a.example"))
    assert requested.admit(ANYONE, shown(certificate="a.example")) is NOBODY


def test_what_stands_before_a_method(tmp_path: Path) -> None:
    infer = "inference.GRPCInferenceService/ModelInfer"
    requested = gate(CI, tmp_path)
    assert access.admission(None, infer) is None
    admitted = access.admission(requested, infer)
    assert admitted is not None
    assert admitted(shown(GOOD)).name == "ci"
    for known in (None, requested):
        unlisted = access.admission(known, "new.Service/Method")
        assert unlisted is not None
        with pytest.raises(Forbidden, match="this method has no access rule"):
            unlisted(shown(GOOD))
    assert NEEDS["grpc.health.v1.Health/Check"] is ANYONE
    assert NEEDS["grpc.health.v1.Health/Watch"] is ANYONE
    # Health, its watch, Triton's words for it, and both over HTTP; the page's three addresses.
    assert sum(need is ANYONE for need in NEEDS.values()) == 8 + 3


def test_strangers_are_told_before_anything_is_read(tmp_path: Path) -> None:
    requested = gate(credentials.block("ci", GOOD, "read", rate=1), tmp_path)
    strange = access.credential_check(requested, "inference.GRPCInferenceService/ServerMetadata")
    assert strange is not None
    assert [strange(shown(GOOD)) for _ in range(5)] == [False] * 5  # and it does not count
    assert strange(shown())
    assert strange(shown("x" * 50))
    forbidden = access.credential_check(requested, "inference.GRPCInferenceService/ModelInfer")
    assert forbidden is not None
    assert forbidden(shown(GOOD))
    assert access.credential_check(requested, "grpc.health.v1.Health/Check") is None  # it rejects no caller
    assert access.credential_check(None, "inference.GRPCInferenceService/ModelInfer") is None
    assert access.credential_check(requested, "new.Service/Method") is None
