"""Options and settings of a fleet, which it checks without Ray. tests/integration/deploy/test_ray.py runs fleets."""

from pathlib import Path

import pytest

from kanserve.errors import ConfigError
from kanserve.ray import fleet
from kanserve.ray.errors import FleetError
from kanserve.ray.fleet import Options


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (Options(replicas=0), "fleet-replicas-invalid"),
        (Options(replicas=3, most=2), "fleet-replicas-invalid"),
        (Options(cpus=-1), "fleet-resources-invalid"),
        (Options(gpus=-0.5), "fleet-resources-invalid"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: Options, code: str) -> None:
    with pytest.raises(FleetError) as caught:
        fleet.checked(options)
    assert caught.value.code == code
    assert caught.value.hint


def test_servers_get_the_settings_that_are_no_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KANSERVE_MAX_WATCH_STREAMS", "7")
    config = tmp_path / "fleet.toml"
    config.write_text('access_log = "all"\n')
    chosen, settings = fleet.server_settings(tmp_path, {"reflection": True}, Options(cpus=2.5, config=config))
    assert chosen == {
        "repository": str(tmp_path),
        "host": "127.0.0.1",
        "grpc_port": 0,
        "metrics_port": 0,
        "threads": 2,
        "max_watch_streams": 7,
        "access_log": "all",
        "reflection": True,
        "drain_delay_seconds": 0.5,
        "drain_reject_seconds": 0.0,
    }
    assert settings.drain_grace_seconds == 25


def test_wrong_settings_are_refused_before_ray_starts_a_server(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="the fleet chooses grpc_port") as caught:
        fleet.server_settings(tmp_path, {"grpc_port": 8001}, Options())
    assert caught.value.code == "fleet-setting-owned"
    with pytest.raises(ConfigError, match="unknown setting 'thread'"):
        fleet.server_settings(tmp_path, {"thread": 1}, Options())
    with pytest.raises(ConfigError, match="neither TLS nor authentication"):
        fleet.server_settings(tmp_path, {}, Options(), host="192.0.2.7")


def test_the_command_names_each_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet.main(["models", "--replica", "2"]) == 2
    assert "--replicas" in capsys.readouterr().err
    assert fleet.main(["models", "--replicas", "many"]) == 2
    assert "expected a whole number" in capsys.readouterr().err
    assert fleet.main([]) == 2
    assert "missing argument: REPOSITORY" in capsys.readouterr().err
