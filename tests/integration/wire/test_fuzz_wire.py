"""Fuzz test with a few thousand damaged messages and connections per transport. `tools/fuzz_wire.py` sends more."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.integration.wire.test_memory_bounds import resident
from tests.support import toy_model
from tests.support.server_process import serving, wait_until
from tools import fuzz_wire

MESSAGES, CONVERSATIONS = 4000, 800


def test_whatever_comes_is_answered_by_the_contract(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, reflection=True, access_log="none", request_read_timeout=2.0) as server:
        report = asyncio.run(fuzz_wire.fuzz(server, 20, messages=MESSAGES, conversations=CONVERSATIONS))
        assert not report.findings, report.findings[:5]
        assert report.probes > 10
        # The mutations reach every part: some change nothing that matters, some are caught late.
        assert sum(report.codes.values()) == MESSAGES
        for code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"):
            assert report.codes[code] > MESSAGES / 100, report.codes
        assert report.conversations["closed"] > CONVERSATIONS / 10
        wait_until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())
        assert resident(server) < 400
        assert server.stop() == 0


def test_mutations_spoil() -> None:
    """Most of what is sent differs from what it was."""
    rng, messages = random.Random(1), fuzz_wire.seeds()["/inference.GRPCInferenceService/ModelInfer"]
    spoilt = sum(fuzz_wire.mutated(rng, messages[0], messages) != messages[0] for _ in range(1000))
    assert spoilt > 900
