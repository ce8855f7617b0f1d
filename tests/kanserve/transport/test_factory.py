"""Tests of `transport/factory.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.support import toy_model
from tests.support.http_peer import Code, body, code
from tests.support.server_process import INFERENCE, serving

pytestmark = pytest.mark.slow


INFER = f"{INFERENCE}ModelInfer"


WITHOUT = """
import sys
sys.modules["h2corn"] = None
from kanserve.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_auto_takes_asgi(tmp_path: Path) -> None:
    pytest.importorskip("h2corn")
    toy_model.write(tmp_path)
    with serving(tmp_path) as server:
        assert code(server, body()) is Code.OK
        assert server.http == server.address


def test_auto_takes_grpcio_where_h2corn_is_missing(tmp_path: Path) -> None:
    """And says so."""
    toy_model.write(tmp_path)
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--drain-delay-seconds", "0", "--json")
    command = [sys.executable, "-c", WITHOUT, "serve", str(tmp_path), *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            where = json.loads(process.stdout.readline())
            assert "http" not in where
            with grpc.insecure_channel(where["grpc"]) as channel:
                channel.unary_unary(INFER)(body(), timeout=20)
        finally:
            process.terminate()
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]
    (said,) = [line for line in lines if line["event"] == "transport_selected"]
    assert (said["taken"], said["missing"]) == ("grpcio", ["h2corn"])
