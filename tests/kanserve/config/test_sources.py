"""Tests of `config/sources.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kanserve.config import sources
from kanserve.errors import ConfigError
from tests.support import toy_model
from tests.support.command_line import document, kanserve


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("KANSERVE_GPRC_PORT", "did you mean 'KANSERVE_GRPC_PORT'?"),
        ("KANSERVE_URI", "did you mean 'KANSERVE_URL'?"),
        ("KANSERVE_MAX_ROWS", "did you mean 'KANSERVE_MAX_"),
        ("KANSERVE_XYZ", "known: KANSERVE_ACCESS_LOG, "),
        ("kanserve_thread", "did you mean 'KANSERVE_THREADS'?"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(variable: str, says: str, repository: Path) -> None:
    done = kanserve("serve", repository, "--show-config", "--json", **{variable: "1"})
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (2, "ConfigError")
    assert f"unknown setting {variable.upper()} in the environment: {says}" in error["message"]


def test_what_kubernetes_sets_for_a_service_is_left_alone(repository: Path) -> None:
    """For Services called kanserve and kanserve-metrics; the latter's URL is no port of ours."""
    variables = {
        "KANSERVE_PORT": "tcp://10.0.0.7:8001",
        "KANSERVE_SERVICE_HOST": "10.0.0.7",
        "KANSERVE_SERVICE_PORT": "8001",
        "KANSERVE_SERVICE_PORT_GRPC": "8001",
        "KANSERVE_PORT_8001_TCP": "tcp://10.0.0.7:8001",
        "KANSERVE_PORT_8001_TCP_PROTO": "tcp",
        "KANSERVE_PORT_8001_TCP_PORT": "8001",
        "KANSERVE_PORT_8001_TCP_ADDR": "10.0.0.7",
        "KANSERVE_METRICS_PORT": "tcp://10.0.0.8:8002",
        "KANSERVE_METRICS_SERVICE_HOST": "10.0.0.8",
        "KANSERVE_METRICS_PORT_8002_TCP_ADDR": "10.0.0.8",
        "KANSERVE_CANARY_PORT": "tcp://10.0.0.9:8001",
        "KANSERVE_URL": "elsewhere:8001",
        "KANSERVE_THREADS": "3",
    }
    shown = document(kanserve("serve", repository, "--show-config", "--json", **variables))
    assert {name for name, entry in shown.items() if entry["origin"] == "environment"} == {"threads"}
    assert shown["metrics_port"]["value"] == 8002


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    toy_model.write(root)
    return root


@pytest.mark.parametrize(
    ("supplied", "says"),
    [
        ({"tls_cert": "a"}, "tls_cert is set and tls_key is not"),
        ({"tls_key": "a"}, "tls_key is set and tls_cert is not"),
        ({"tls_client_ca": "a"}, "tls_client_ca is set and tls_cert is not"),
        ({"host": "0.0.0.0", "tls_cert": "a", "tls_key": "a"}, "TLS keeps no caller out"),
        ({"host": "0.0.0.0"}, "there is neither TLS nor authentication"),
        ({"host": "0.0.0.0", "tokens": "a"}, "tokens would travel in the clear"),
    ],
)
def test_settings_that_contradict_each_other(models: Path, supplied: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        sources.load({"repository": models, **supplied})


def test_callers_with_certificates_may_come_from_elsewhere(models: Path, tmp_path: Path) -> None:
    """And a file's paths are relative to it."""
    file = tmp_path / "kanserve.toml"
    file.write_text('host = "0.0.0.0"\ntls_cert = "a.pem"\ntls_key = "a.key"\ntls_client_ca = "ca.pem"\n')
    result = sources.load({"repository": models}, config=file).settings
    assert (result.host, result.tls_client_ca) == ("0.0.0.0", tmp_path / "ca.pem")
