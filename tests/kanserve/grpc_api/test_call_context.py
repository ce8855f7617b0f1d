"""Tests of `grpc_api/call_context.py`."""

import time
from urllib.parse import unquote

import pytest

from kanserve.errors import BadRequest, ConfigError, KanserveError, ServerDeadlineExceeded
from kanserve.grpc_api import call_context
from kanserve.grpc_api.call_context import Call, with_deadline
from tests.support.wait import turns


async def test_what_ends_in_time_is_left_alone() -> None:
    async def method(data: str, call: Call) -> str:
        await turns()
        return data

    async def ask(limit: float, deadline: float | None, name: str = "any") -> str:
        return await with_deadline(method, limit, name)("done", Call("", False, deadline))

    assert await ask(600, None) == "done"
    past, later = time.monotonic() - 1, time.monotonic() + 1000
    assert await ask(0, past) == "done"  # its own deadline is the transport's to keep
    assert await ask(0, None, "inference.GRPCInferenceService/RepositoryModelLoad") == "done"
    for deadline in (None, later):
        with pytest.raises(ServerDeadlineExceeded, match=r"longer than 0 s, the server's limit"):
            await ask(0, deadline)
    assert with_deadline(method, None, "any") is method


def test_every_error_has_a_code_or_is_a_bug() -> None:
    def leaves(kind: type[KanserveError]) -> list[type[KanserveError]]:
        return [kind, *(leaf for below in kind.__subclasses__() for leaf in leaves(below))]

    # No call raises the last one: it is an error of `kanserve plan`.
    bugs = {"KanserveError", "ConfigError", "LoadError", "BackendError", "CapacityError", "TableError"}
    for kind in leaves(KanserveError):
        internal = call_context.code(kind.__new__(kind)) is call_context.Code.INTERNAL
        assert internal == (kind.__name__ in bugs), kind


@pytest.mark.parametrize(
    ("text", "encoded"),
    [("send rows, or `0`", "send rows, or `0`"), ("50% of größe\n", "50%25 of gr%C3%B6%C3%9Fe%0A"), ("", "")],
)
def test_a_hint_travels_as_printable_ascii(text: str, encoded: str) -> None:
    assert call_context.percent_encoded(text) == encoded
    assert unquote(encoded) == text
    both = (("kan-error-code", "a-code"), ("kan-error-help", encoded))
    assert call_context.error_trailers("a-code", text) == (both if text else both[:1])


def test_a_bug_has_a_code_an_id_and_no_hint() -> None:
    bug = ValueError("secret /etc/path")
    assert call_context.code(bug) is call_context.Code.INTERNAL
    assert call_context.text(bug, "abc") == "internal error; the server's log explains it under request id abc"
    for error in (bug, ConfigError("secret", code="setting-invalid", hint="see /etc/path")):
        assert call_context.hint(error) == ""
    assert call_context.error_code(bug) == "internal-error"
    refused = BadRequest("no", code="rows-missing", hint="é" * 2000)
    assert call_context.error_code(refused) == "rows-missing"
    assert len(call_context.hint(refused).encode()) <= call_context.HINT_BYTES
