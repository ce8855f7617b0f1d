"""Options and settings of a fleet, which it checks without Ray. tests/integration/deploy/test_ray.py runs fleets."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from kanserve.contrib.ray import FleetError, fleet
from kanserve.contrib.ray.fleet import Options, Targets
from kanserve.errors import ConfigError
from tests.support.compose_stack import program
from tests.support.tiers import full


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
        "repository": str(tmp_path), "host": "127.0.0.1", "grpc_port": 0, "metrics_port": 0, "threads": 2,
        "max_watch_streams": 7, "access_log": "all", "reflection": True, "drain_delay_seconds": 0.5,
        "drain_reject_seconds": 0.0,
    }  # fmt: skip
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


SERVERS = {2: ("127.0.0.3:41563", "5b4e8bc9f01c"), 1: ("127.0.0.2:36855", "77aa01f2bc44")}
GROUPS = [
    {"targets": ["127.0.0.2:36855"], "labels": {"slot": "1", "node": "77aa01f2"}},
    {"targets": ["127.0.0.3:41563"], "labels": {"slot": "2", "node": "5b4e8bc9"}},
]
GUIDE = Path(__file__).parents[4] / "docs" / "guides" / "serve" / "ray.md"


def test_the_file_has_each_server_and_is_replaced_if_they_change(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    targets = Targets(path)
    with path.open("w+") as before:  # who reads the file during a change sees all of the old one
        for servers, groups in ((SERVERS, GROUPS), (dict(SERVERS), GROUPS), ({}, [])):
            targets.write(servers)
            assert json.loads(path.read_text()) == groups
        assert before.read() == ""
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    targets.write({})
    assert not path.exists(), "the file is written without a change"


def test_a_file_that_cannot_be_written_is_named_and_written_later(tmp_path: Path) -> None:
    targets = Targets(tmp_path / "absent" / "fleet.json")
    with pytest.raises(FleetError, match=r"cannot write .*fleet\.json: No such file") as caught:
        targets.write(SERVERS)
    assert caught.value.code == "fleet-targets-not-written"
    (tmp_path / "absent").mkdir()
    targets.write(SERVERS)
    assert json.loads((tmp_path / "absent" / "fleet.json").read_text()) == GROUPS


@full("peer")
def test_prometheus_accepts_the_configuration_of_the_guide(tmp_path: Path) -> None:
    """promtool also checks the file of targets that the configuration names."""
    Targets(tmp_path / "fleet.json").write(SERVERS)
    (block,) = re.findall(r"^```yaml\n(scrape_configs:.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    (path,) = re.findall(r"files: \[(.*)\]", block)
    (tmp_path / "prometheus.yml").write_text(block.replace(path, str(tmp_path / "fleet.json")))
    command = [program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
