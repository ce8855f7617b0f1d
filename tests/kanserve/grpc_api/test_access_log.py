"""Tests of `grpc_api/access_log.py`."""

import pytest

from kanserve.grpc_api.access_log import AccessLog
from kanserve.grpc_api.call_context import Code


@pytest.mark.parametrize(
    ("policy", "outcome", "probe", "lines"),
    [
        ("all", Code.OK, False, 10),
        ("errors", Code.OK, False, 0),
        ("none", Code.OK, False, 0),
        ("sampled:5", Code.OK, False, 2),
        ("sampled:5", Code.NOT_FOUND, False, 10),
        ("errors", Code.NOT_FOUND, False, 10),
        ("none", Code.NOT_FOUND, False, 0),
        ("none", Code.INTERNAL, False, 10),
        ("all", Code.OK, True, 0),
        ("all", Code.CANCELLED, True, 0),
        ("all", Code.NOT_FOUND, True, 10),
    ],
)
def test_who_has_a_line(policy: str, outcome: Code, probe: bool, lines: int) -> None:
    access = AccessLog(policy)
    assert sum(access.wants(outcome, probe=probe) for _ in range(10)) == lines
