"""Tests of `transport/factory.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from kanserve.transport import factory
from tests.support import toy_model
from tests.support.http_client import Code, body, code
from tests.support.server_process import INFERENCE, serving
from tests.support.tiers import full

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


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=full("combination"))])
def test_auto_takes_grpcio_where_h2corn_is_missing(tmp_path: Path, workers: str) -> None:
    """And warns once, however many workers there are."""
    toy_model.write(tmp_path)
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--drain-delay-seconds", "0", "--json")
    command = [sys.executable, "-c", WITHOUT, "serve", str(tmp_path), *ports, "--workers", workers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            where = json.loads(process.stdout.readline())
            assert "http" not in where
            with grpc.insecure_channel(where["grpc"]) as channel:
                channel.unary_unary(INFER)(body(), timeout=60)
        finally:
            process.terminate()
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]
    (said,) = [line for line in lines if line["event"] == "transport_selected"]
    assert (said["level"], said["taken"], said["missing"]) == ("warning", "grpcio", ["h2corn"])
    assert "HTTP on the gRPC port" in said["lost"]
    assert "pip install" in said["help"]
    assert factory.LIMITS in said["help"]


def test_the_warning_names_a_section_of_the_documentation() -> None:
    page, _, anchor = factory.LIMITS.partition("#")
    headings = [line.removeprefix("## ") for line in Path(page).read_text().splitlines() if line.startswith("## ")]
    assert anchor in {heading.lower().replace("`", "").replace(" ", "-") for heading in headings}
