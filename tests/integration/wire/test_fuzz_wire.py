"""Fuzz test with hundreds of damaged messages and connections per transport. `tools/fuzz_wire.py` sends more."""

import asyncio
from pathlib import Path

import pytest

from tests.support import toy_model
from tests.support.server_process import resident, serving
from tests.support.tiers import full
from tests.support.wait import until
from tools import fuzz_wire

CASES = [
    ("asgi", 400, 80),
    pytest.param("asgi", 2000, 400, marks=full("rare")),
    pytest.param("grpcio", 2000, 400, marks=full("second transport")),
]


@pytest.mark.parametrize(("transport", "messages", "conversations"), CASES, indirect=["transport"])
def test_whatever_comes_gets_a_response_by_the_contract(
    tmp_path: Path, transport: str, messages: int, conversations: int
) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, reflection=True, access_log="none", request_read_timeout=2.0) as server:
        report = asyncio.run(fuzz_wire.fuzz(server, 20, messages=messages, conversations=conversations))
        assert not report.findings, report.findings[:5]
        assert report.probes > 10
        # The mutations reach every part: some change nothing that matters, some are caught late.
        assert sum(report.codes.values()) == messages
        for code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"):
            assert report.codes[code] > messages / 100, report.codes
        assert report.conversations["closed"] > conversations / 10
        until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())
        assert resident(server) < 400
        assert server.stop() == 0
