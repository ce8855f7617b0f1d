"""`kanserve models` and `kanserve health`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.cli.running import Server, document, kanserve


def test_a_server_tells_what_it_serves(server: Server) -> None:
    (row,) = document(kanserve("models", "--url", server.url, "--json"))["models"]
    facts = {key: row[key] for key in ("name", "version", "state", "family", "widths", "edge_class")}
    assert facts == {
        "name": "tiny",
        "version": "1",
        "state": "READY",
        "family": "efficient-kan",
        "widths": [3, 4, 2],
        "edge_class": "A",
    }
    assert 0 < row["verified_error"] < 1e-5


def test_a_folder_tells_what_it_holds(repository: Path) -> None:
    (row,) = document(kanserve("models", repository, "--json"))["models"]
    assert (row["state"], row["family"], row["widths"]) == ("COMPLETE", "efficient-kan", [3, 4, 2])
    assert row["size"] == sum(
        path.stat().st_size for path in (repository / "tiny" / "1").iterdir() if path.name != "manifest.json"
    )
    done = kanserve("models", repository)
    assert "3 → 4 → 2" in done.stdout
    assert done.stderr == ""


def test_broken_versions_say_why(repository: Path, tmp_path: Path) -> None:
    for version in "1234":
        shutil.copytree(repository / "tiny" / "1", tmp_path / "tiny" / version)
    (tmp_path / "tiny" / "2" / "manifest.json").write_text("{")
    with (tmp_path / "tiny" / "3" / "model.onnx").open("ab") as file:
        file.write(b"more")
    (tmp_path / "tiny" / "4" / "manifest.json").unlink()
    (tmp_path / "tiny" / "5").mkdir()
    rows = document(kanserve("models", tmp_path, "--json"))["models"]
    states = {row["version"]: row["state"] for row in rows}
    assert states == {"1": "COMPLETE", "2": "INVALID", "3": "INVALID", "4": "PLAIN", "5": "INVALID"}
    reasons = {row["version"]: row["reason"] for row in rows}
    assert "not JSON" in reasons["2"]
    assert "model.onnx has" in reasons["3"]


def test_a_missing_folder_is_wrong_input(tmp_path: Path) -> None:
    done = kanserve("models", tmp_path / "none", "--json")
    assert done.returncode == 2
    assert "is not a folder" in done.stderr


def test_health_is_an_exit_code(server: Server) -> None:
    done = kanserve("health", "--url", server.url)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    assert document(kanserve("health", "--url", server.url, "--service", "tiny", "--json"))["state"] == "SERVING"
    assert kanserve("health", "--url", server.url, "--service", "nobody").returncode != 0
    assert kanserve("health", "--url", "127.0.0.1:1").returncode == 1


def test_one_environment_serves_server_and_probe(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    assert kanserve("health", KANSERVE_GRPC_PORT=port).returncode == 0
    assert kanserve("health", KANSERVE_URL=server.url).returncode == 0
