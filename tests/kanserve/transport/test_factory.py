"""Tests of `transport/factory.py`."""

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from kanserve.transport import factory
from tests.support import toy_model
from tests.support.command_line import wrong_refusals
from tests.support.http_client import body
from tests.support.server_process import INFERENCE
from tests.support.tiers import full

INFER = f"{INFERENCE}ModelInfer"


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
from kanserve.cli.main import main
raise SystemExit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("names", "workers"), [("h2corn", "1"), pytest.param("starlette,orjson", "2", marks=full("combination"))]
)
def test_auto_takes_grpcio_where_a_package_is_missing(tmp_path: Path, names: str, workers: str) -> None:
    """And warns once, however many workers there are."""
    toy_model.write(tmp_path)
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--drain-delay-seconds", "0", "--json")
    command = [sys.executable, "-c", WITHOUT, names, "serve", str(tmp_path), *ports, "--workers", workers]
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
    (said,) = [line for line in lines if line["event"] == "transport_fallback"]
    assert (said["level"], said["taken"], said["missing"]) == ("warning", "grpcio", names.split(","))
    assert "HTTP on the gRPC port" in said["lost"]
    assert "pip install" in said["help"]
    assert factory.LIMITS in said["help"]


def test_packages_that_a_setting_needs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "missing", lambda: ["starlette", "orjson"])
    text = "HTTP and the transport asgi need packages that are not installed: starlette, orjson"
    cases = {"serve --transport asgi": text, "serve --http-port 0": text}
    assert wrong_refusals(cases, tmp_path, "--grpc-port", "0", "--metrics-port", "0") == []


def test_the_warning_names_a_page_of_the_documentation() -> None:
    assert Path(factory.LIMITS).read_text().startswith("# Limits of grpcio\n")
