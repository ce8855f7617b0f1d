"""`kanserve serve --check` and `kanserve doctor`: each fault is reported with advice."""

from pathlib import Path

from kanserve.cli.doctor.check_results import Level
from tests.kanserve.cli.doctor.conftest import FREE, check, doctor, told
from tests.support.command_line import kanserve, program


def test_all_is_well_in_the_document_and_in_a_table(models: Path) -> None:
    code, result = check(models, *FREE)
    assert code == 0
    assert {item["level"] for item in result} == {"ok"}
    about = [item["about"] for item in result]
    assert about[:5] == ["settings", "TLS", "access", "gRPC port", "metrics port"]
    assert {"runtime", "transport", "processors", "open files", "models"} <= set(about)
    assert result[0]["text"] == "from flag: repository, grpc_port, metrics_port"
    done = kanserve("serve", models, *FREE, "--check")
    assert done.returncode == 0
    assert "toy version 1: files and manifest are valid" in done.stdout
    assert "0 warnings, 0 problems" in done.stdout


def test_settings_that_are_wrong_are_all_named(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "kanserve.toml"
    file.write_text("gprc_port = 1\nmax_watch_stream = 2\n")
    code, (item,) = check(models, "--config", file)
    assert code == 2
    assert (item["level"], item["about"]) == ("problem", "settings")
    assert f"unknown setting 'gprc_port' in {file}" in item["text"]
    assert f"unknown setting 'max_watch_stream' in {file}" in item["text"]
    assert item["advice"] == "did you mean 'grpc_port' and 'max_watch_streams'?"
    code, (item,) = check(models, KANSERVE_WORKER="2", KANSERVE_THREAD="1")
    assert code == 2
    assert [name for name in ("KANSERVE_WORKER in", "KANSERVE_THREAD in") if name not in item["text"]] == []


PORTS = {"KANSERVE_GRPC_PORT": "0", "KANSERVE_METRICS_PORT": "0"}


def test_the_doctor_needs_no_repository(models: Path) -> None:
    code, result = doctor(**PORTS)
    assert code == 0
    assert [item["about"] for item in result[:3]] == ["Python", "packages", "clock"]
    assert "models" not in {item["about"] for item in result}
    code, result = doctor(models, **PORTS)
    assert code == 0
    assert "models" in {item["about"] for item in result}
    code, result = doctor(models / "nobody", **PORTS)
    assert code == 1
    assert "nobody is not a folder" in told(result, Level.PROBLEM)[0]
    code, result = doctor(KANSERVE_REPOSITORY=str(models), KANSERVE_DEVICE="cuda", **PORTS)
    assert (code, len(told(result, Level.PROBLEM))) == (1, 1)


def test_nothing_is_written(models: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before = sorted(models.rglob("*"))
    environment = {**PORTS, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = program("doctor", models, "--json", **environment)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert sorted(models.rglob("*")) == before
