"""Tests of `config/sources.py`."""

import json
from pathlib import Path

import pytest

from kanserve.config import sources
from kanserve.errors import ConfigError
from tests.support.command_line import document, kanserve


def test_an_unknown_variable_is_an_error_that_names_the_nearest(repository: Path) -> None:
    for variable, hint in {
        "KANSERVE_GPRC_PORT": "did you mean 'KANSERVE_GRPC_PORT'?",
        "KANSERVE_URI": "did you mean 'KANSERVE_URL'?",
        "KANSERVE_MAX_ROWS": "did you mean 'KANSERVE_MAX_",
        "KANSERVE_XYZ": "run 'kanserve serve --help' for a list",
        "kanserve_thread": "did you mean 'KANSERVE_THREADS'?",
    }.items():
        done = kanserve("serve", repository, "--show-config", "--json", **{variable: "1"})
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["kind"]) == (2, "ConfigError")
        assert error["message"] == f"unknown setting {variable.upper()} in the environment"
        assert error["hint"].startswith(hint)


def test_faults_have_a_code_and_a_hint(repository: Path, tmp_path: Path) -> None:
    broken, nested = tmp_path / "broken.toml", tmp_path / "nested.toml"
    broken.write_text("grpc_port = \n")
    nested.write_text(f"grpc_port = {'[' * 5000}")
    for code, flags, config in (
        ("setting-missing", {}, None),
        ("setting-unknown", {"gprc_port": 1, "repository": repository}, None),
        ("setting-invalid", {"grpc_port": -1, "repository": repository}, None),
        ("repository-not-a-folder", {"repository": tmp_path / "nowhere"}, None),
        ("config-file-not-found", {}, tmp_path / "none.toml"),
        ("config-file-not-toml", {}, broken),
        ("config-file-nested-too-deep", {}, nested),
        ("config-file-unreadable", {}, tmp_path),
    ):
        with pytest.raises(ConfigError) as error:
            sources.load(flags, config=config)
        assert (error.value.code, bool(error.value.hint)) == (code, True)


def test_several_faults_are_one_error_with_the_first_code(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"grpc_port = -1 .*; threads = -1 ") as error:
        sources.load({"grpc_port": -1, "threads": -1, "repository": repository})
    assert error.value.code == "setting-invalid"


def test_what_kubernetes_sets_for_a_service_is_left_alone(repository: Path) -> None:
    """For Services called kanserve and kanserve-metrics; the URL of the latter is not a setting."""
    variables = {
        "KANSERVE_PORT": "tcp://10.0.0.7:8001",
        "KANSERVE_SERVICE_HOST": "10.0.0.7",
        "KANSERVE_SERVICE_PORT_GRPC": "8001",
        "KANSERVE_PORT_8001_TCP": "tcp://10.0.0.7:8001",
        "KANSERVE_PORT_8001_TCP_ADDR": "10.0.0.7",
        "KANSERVE_METRICS_PORT": "tcp://10.0.0.8:8002",
        "KANSERVE_METRICS_PORT_8002_TCP_ADDR": "10.0.0.8",
        "KANSERVE_CANARY_PORT": "tcp://10.0.0.9:8001",
        "KANSERVE_URL": "elsewhere:8001",
        "KANSERVE_THREADS": "3",
    }
    shown = document(kanserve("serve", repository, "--show-config", "--json", **variables))
    assert {name for name, entry in shown.items() if entry["origin"] == "environment"} == {"threads"}
    assert shown["metrics_port"]["value"] == 8002


def test_settings_that_contradict_each_other(repository: Path) -> None:
    for supplied, code, says in (
        ({"tls_cert": "a"}, "tls-pair-incomplete", "tls_cert is set and tls_key is not"),
        ({"tls_key": "a"}, "tls-pair-incomplete", "tls_key is set and tls_cert is not"),
        ({"tls_client_ca": "a"}, "tls-client-ca-without-tls", "tls_client_ca is set and tls_cert is not"),
        ({"host": "0.0.0.0", "tls_cert": "a", "tls_key": "a"}, "address-exposed", "TLS does not authenticate clients"),
        ({"host": "0.0.0.0"}, "address-exposed", "there is neither TLS nor authentication"),
        ({"host": "0.0.0.0", "tokens": "a"}, "address-exposed", "tokens would be sent without encryption"),
    ):
        with pytest.raises(ConfigError, match=says) as error:
            sources.load({"repository": repository, **supplied})
        assert error.value.code == code


def test_callers_with_certificates_or_tokens_may_come_from_elsewhere(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "kanserve.toml"
    file.write_text('host = "0.0.0.0"\ntls_cert = "a.pem"\ntls_key = "a.key"\ntls_client_ca = "ca.pem"\n')
    result = sources.load({"repository": repository}, config=file).settings
    assert (result.host, result.tls_client_ca) == ("0.0.0.0", tmp_path / "ca.pem")
    pair = {"host": "0.0.0.0", "tls_cert": "a", "tls_key": "a"}
    for more in ({**pair, "tokens": "t"}, {"host": "::1", "tokens": "t"}):
        assert sources.load({"repository": repository, **more}).settings.exposed == ""
