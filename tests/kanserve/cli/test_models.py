"""`kanserve models` and `kanserve health`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanserve.cli import inventory, options
from tests.kanserve.repository.test_layout import flip
from tests.support.command_line import Server, document, kanserve, program, serving, wrong_refusals
from tests.support.named_models import MODELS
from tests.support.toy_model import edited, reference


def test_a_server_tells_what_it_serves(server: Server) -> None:
    rows = document(program("models", "--url", server.url, "--json"))["models"]
    assert tuple(row["name"] for row in rows) == MODELS
    row = rows[-1]
    facts = [row[key] for key in ("name", "version", "state", "family", "widths", "edge_class")]
    assert facts == ["tiny", "1", "READY", "efficient-kan", [3, 4, 2], "A"]
    assert 0 < row["verified_error"] < 1e-5


def test_a_folder_tells_what_it_holds(repository: Path) -> None:
    (row,) = document(kanserve("models", repository, "--json"))["models"]
    assert (row["state"], row["family"], row["widths"]) == ("COMPLETE", "efficient-kan", [3, 4, 2])
    files = (repository / "tiny" / "1").iterdir()
    assert row["size"] == sum(path.stat().st_size for path in files if path.name != "manifest.json")
    done = kanserve("models", repository)
    assert "3 → 4 → 2" in done.stdout
    assert done.stderr == ""


BROKEN: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "not JSON": (lambda folder: (folder / "manifest.json").write_text("{") and None, "not valid JSON", []),
    "a changed byte": (flip, "edges_l0.onnx has sha256", []),
    "a missing file": (lambda folder: (folder / "edges_l1.onnx").unlink(), "edges_l1.onnx is missing", []),
    "an unlisted file": (
        lambda folder: (folder / "numbers.bin").write_text("x") and None,
        "numbers.bin is not listed in the manifest",
        [],
    ),
    "another name": (edited(name="other"), "the manifest has the name 'other'", []),
    "another version": (edited(version=70), "the manifest has version 70", []),
    "class C": (edited(edge_class="C"), "edge class C", ["names", "files"]),
    "an uneven reference": (reference(outputs=()), "expected the same number", ["names", "files"]),
}


@pytest.fixture(scope="module")
def broken(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[dict[str, Any]]]:
    """The states of a valid version and of each invalid one, in a folder and on a server."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(repository, folder / "models")
    for version, (change, _, _) in enumerate(BROKEN.values(), 2):
        shutil.copytree(repository / "tiny" / "1", folder / "models" / "tiny" / str(version))
        edited(version=version)(folder / "models" / "tiny" / str(version))
        change(folder / "models" / "tiny" / str(version))
    with serving(folder / "models", folder / "log") as server:
        entries = server.ask("models")["models"]
    return list(inventory.of_folder(folder / "models")), entries


def test_a_version_that_the_server_refuses_is_invalid(broken: tuple[list[Any], list[dict[str, Any]]]) -> None:
    listed, served = broken
    assert len(listed) == 1 + len(BROKEN)
    good, *refused = sorted(listed, key=lambda item: int(item.version))
    assert (good.state, good.checked) == ("COMPLETE", ("names", "files", "manifest"))
    reasons = {entry["version"]: entry["reason"] for entry in served if entry["state"] != "READY"}
    for bad, (what, (_, says, checked)) in zip(refused, BROKEN.items(), strict=True):
        assert (what, bad.state, list(bad.checked)) == (what, "INVALID", checked)
        assert (what, says in bad.reason, says in reasons[bad.version]) == (what, True, True)


def test_what_the_server_passes_over_is_named(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "tiny", tmp_path / "tiny")
    shutil.copytree(repository / "tiny" / "1", tmp_path / "tiny" / "3")
    (tmp_path / "tiny" / "3" / "manifest.json").unlink()
    for place in ("tiny/2", "tiny/05", "odd name/1"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "odd name" / "1" / "manifest.json").write_text("{}")
    (tmp_path / "tiny" / "4").symlink_to(tmp_path / "tiny" / "1")
    entries = document(kanserve("models", tmp_path, "--json"))["models"]
    assert {(entry["name"], entry["version"]): entry["state"] for entry in entries} == {
        ("tiny", "1"): "COMPLETE", ("tiny", "2"): "IGNORED", ("tiny", "3"): "PLAIN", ("tiny", "4"): "IGNORED",
        ("tiny", "05"): "IGNORED", ("odd name", "1"): "IGNORED",
    }  # fmt: skip
    reasons = {entry["version"]: entry["reason"] for entry in entries if entry["name"] == "tiny"}
    assert "found neither manifest.json nor model.onnx" in reasons["2"]
    assert "without leading zeros" in reasons["05"]
    assert "symbolic link" in reasons["4"]
    cases = {f"models {tmp_path} tiny --model-version 3": "tiny version 3 is PLAIN"}
    assert wrong_refusals(cases) == []


def test_a_folder_with_an_invalid_version_is_an_exit_code(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "models")
    shutil.copytree(tmp_path / "models" / "tiny" / "1", tmp_path / "models" / "tiny" / "2")
    flip(tmp_path / "models" / "tiny" / "2")
    whole = kanserve("models", tmp_path / "models")
    assert (whole.returncode, "INVALID" in whole.stdout, "COMPLETE" in whole.stdout) == (2, True, True)
    assert "tiny version 2: INVALID" in whole.stderr
    reported = kanserve("models", tmp_path / "models", "--json")
    states = [entry["state"] for entry in json.loads(reported.stdout)["models"]]
    assert (reported.returncode, states) == (2, ["COMPLETE", "INVALID"])
    allowed = kanserve("models", tmp_path / "models", "--allow-invalid")
    assert (allowed.returncode, allowed.stdout, allowed.stderr) == (0, whole.stdout, "")
    assert kanserve("models", tmp_path / "models", "tiny", "--model-version", "2").returncode == 2


def test_what_is_refused(tmp_path: Path) -> None:
    options = {f"models {word}": f"error[repository-missing]: {word} needs a" for word in ("--load", "--allow-invalid")}
    assert wrong_refusals(options, "--url", "127.0.0.1:1") == []
    assert wrong_refusals({f"models {tmp_path / 'none'}": "is not a folder"}) == []


def test_health_is_an_exit_code(server: Server) -> None:
    done = kanserve("health", "--url", server.url)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    assert server.ask("health", "--service", "tiny")["state"] == "SERVING"
    assert kanserve("health", "--url", server.url, "--service", "nobody").returncode != 0
    assert kanserve("health", "--url", "127.0.0.1:1").returncode == 1


def test_one_environment_serves_server_and_probe(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.url.rpartition(":")[2]
    assert kanserve("health", KANSERVE_GRPC_PORT=port).returncode == 0
    assert kanserve("health", KANSERVE_URL=server.url).returncode == 0
    monkeypatch.setenv("KANSERVE_GRPC_PORT", "tcp://10.0.0.7:8001")  # of a Service called kanserve-grpc
    assert options.default_url() == "127.0.0.1:8001"
