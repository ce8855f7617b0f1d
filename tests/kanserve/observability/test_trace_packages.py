"""Traces that the server cannot export: `serve`, its `--check` and `doctor` say the same."""

import sys
from pathlib import Path

import pytest

from tests.support import toy_model
from tests.support.command_line import kanserve

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="the extra otel is not installed")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "traces need the Python package that provides 'opentelemetry"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "grpc or http/protobuf"),
    ],
    ids=["not installed", "no such protocol"],
)
def test_what_cannot_be_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    toy_model.write(tmp_path)
    for name in () if environment else [*sys.modules]:
        if name.partition(".")[0] == "opentelemetry":
            monkeypatch.setitem(sys.modules, name, None)
    if not environment:  # an earlier test may have imported it
        monkeypatch.delattr("kanserve.observability.tracing", raising=False)
        monkeypatch.delitem(sys.modules, "kanserve.observability.tracing", raising=False)
    environment = {"KANSERVE_TRACES": "true", "KANSERVE_REPOSITORY": str(tmp_path), **environment}
    ports = ("--grpc-port", "0", "--metrics-port", "0")
    for command, code in (("serve", *ports), 2), (("serve", "--check", *ports), 2), (("doctor",), 1):
        done = kanserve(*command, **environment)
        assert done.returncode == code, done.stdout
        assert says in done.stdout + done.stderr, command
        assert "Traceback" not in done.stderr
