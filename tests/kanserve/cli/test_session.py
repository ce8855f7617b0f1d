"""A checkpoint path in place of a model name: one command gives a plot or an explanation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import Server, document, kanserve, program
from tests.support.golden_cases import cases

HELLO = next(case for case in cases() if case.name == "pykan-hello-adapted")
NOWHERE = {"KANSERVE_URL": "127.0.0.1:9"}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder as a newcomer's: rows with names, and room for temporary files that the test sees."""
    rows = HELLO.reference()["x"][:3].astype(np.float32)
    lines = ["length,width", *(",".join(map(str, row)) for row in rows.tolist())]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "temporary").mkdir()
    return tmp_path


def test_a_picture_and_an_explanation_in_two_commands(desk: Path) -> None:
    place = {"TMPDIR": str(desk / "temporary"), **NOWHERE}
    # Certificates and a token are for the other server; the command's own server uses none of them.
    place |= {"KANSERVE_CA": "nowhere.pem", "KANSERVE_TOKEN": "no token", "KANSERVE_TOKEN_FILE": "nowhere"}
    drawn = program("plot", HELLO.path, "-o", desk / "net.svg", **place)
    assert drawn.returncode == 0, drawn.stderr
    assert "<svg" in (desk / "net.svg").read_text()
    assert "exporting the checkpoint, and serving it for this command" in drawn.stderr
    assert "verified against kanserve's interpretation of the checkpoint" in drawn.stderr
    assert "assumed: forward = pykan" in drawn.stderr
    reported = program("explain", HELLO.path, "--input", desk / "rows.csv", "--json", **place)
    assert reported.returncode == 0, reported.stderr
    result = json.loads(reported.stdout)
    total = np.array(result["base"]) + np.array(result["contributions"]).sum(axis=1)
    np.testing.assert_allclose(total, result["predictions"], atol=1e-5)
    assert result["inputs"] == ["length", "width"]
    assert not list((desk / "temporary").iterdir()), "something was left behind"


def test_what_the_export_says_is_the_error(desk: Path) -> None:
    (desk / "net.pt").write_bytes(b"no checkpoint")
    done = kanserve("plot", desk / "net.pt", "-o", desk / "net.svg", **NOWHERE)
    assert done.returncode == 2
    assert "neither a torch.save archive nor safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (desk / "net.svg").exists()


def test_a_path_with_nothing_at_its_end(desk: Path) -> None:
    done = kanserve("explain", desk / "missing", "--input", desk / "rows.csv", **NOWHERE)
    assert (done.returncode, f"file not found: {desk / 'missing'}" in done.stderr) == (2, True)


@pytest.fixture
def crowded(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as current folder, with files and a folder that have the name of a served model."""
    monkeypatch.chdir(desk)
    for name in ("tiny_config.yml", "tiny_state", "tiny", "tiny.pt"):
        (desk / name).write_bytes(b"no checkpoint")
    rows = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    np.save(desk / "rows.npy", rows)
    return desk


ROWS = ("--input", "rows.npy")
COMMANDS: dict[str, tuple[str, ...]] = {
    "infer": ROWS,
    "edges": ROWS,
    "explain": ROWS,
    "scores": ROWS,
    "coverage": ROWS,
    "curves": (),
    "formula": ("--partial",),
    "plot": (),
    "report": ("-o", "tiny.html"),
    "stats": (),
    "models": (),
    "drift": ROWS,
    "promote": (),
    "rollback": (),
    "shadow": (),
    "open": ("--no-browser",),
}
FILES = ("infer", "edges", "explain", "scores", "coverage", "curves", "formula", "plot", "report")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_is_a_served_model_whatever_the_folder_has(command: str, server: Server, crowded: Path) -> None:
    """`KANSERVE_URL` names the server. Before, nine of these commands took files of that name for the model."""
    done = kanserve(command, "tiny", *COMMANDS[command], KANSERVE_URL=server.url)
    assert "no checkpoint" not in done.stderr, done.stderr
    assert "exporting" not in done.stderr
    refused = {"drift": "error[baseline-missing]", "rollback": "no ready version", "shadow": "no shadow deployment"}
    assert (done.returncode == 0) == (command not in refused), done.stderr
    assert done.returncode == 0 or refused[command] in done.stderr


@pytest.mark.parametrize("command", ["infer", "coverage", "stats"])
def test_without_a_server_the_error_says_which_path_means_the_file(command: str, crowded: Path) -> None:
    done = kanserve(command, "tiny", *COMMANDS[command], "--timeout", "2", **NOWHERE)
    assert "no server at 127.0.0.1:9" in done.stderr
    assert ("pass ./tiny to use the checkpoint in this folder" in done.stderr) == (command in FILES), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_without_such_a_model_the_error_says_which_path_means_the_file(
    command: str, server: Server, crowded: Path
) -> None:
    (crowded / "tinny.safetensors").write_bytes(b"")
    other = kanserve(command, "tinny", *COMMANDS[command], KANSERVE_URL=server.url).stderr
    assert ("pass ./tinny.safetensors to use the checkpoint in this folder; " in other) == (command in FILES), other
    assert "did you mean 'tiny'?" in other, other


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("coverage", "./tiny"),
        ("curves", "tiny.pt"),
        *((command, path) for command in COMMANDS if command not in FILES for path in ("./tiny", "tiny.pt")),
    ],
)
def test_a_path_is_a_file_in_every_command(command: str, path: str, server: Server, crowded: Path) -> None:
    """The form of the word decides, also if the variable names a server."""
    done = kanserve(command, path, *COMMANDS[command], KANSERVE_URL=server.url)
    assert done.returncode == 2
    if command in FILES:
        assert f"{path}: exporting the checkpoint" in done.stderr
    elif command == "models":
        assert f"{Path(path)} is not a folder" in done.stderr
    else:
        assert "error[path-not-supported]" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_next_to_a_server(command: str, server: Server, crowded: Path) -> None:
    """With a separator it is an error; with only the suffix it is a name, since a model may have such a name."""
    place = ("--url", server.url)
    done = kanserve(command, "./tiny", *COMMANDS[command], *place)
    assert (done.returncode, "the path ./tiny cannot be combined with --url" in done.stderr) == (2, True), done.stderr
    other = kanserve(command, "tiny.pt", *COMMANDS[command], *place)
    assert other.returncode == 2
    assert "did you mean 'tiny'?" in other.stderr, other.stderr
    assert ("pass ./tiny.pt without --url" in other.stderr) == (command in FILES), other.stderr


def test_a_folder_of_models_is_a_path(server: Server, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository.parent)
    name = repository.name
    for path in (f"./{name}", f"{name}/"):
        assert "tiny" in kanserve("models", path, **NOWHERE).stdout
    for word in ("models", "--load"):
        done = kanserve("models", name, *([word] if word.startswith("-") else []), "--timeout", "2", **NOWHERE)
        assert f"pass ./{name} to use the folder" in done.stderr, done.stderr
    assert "3 → 4 → 2" in kanserve("models", name, "tiny", **NOWHERE).stdout
    done = kanserve("models", name, "tiny", "--url", server.url)
    assert (done.returncode, "REPOSITORY cannot be combined with --url" in done.stderr) == (2, True), done.stderr


def test_a_timing_is_of_the_repository_or_of_a_path(repository: Path, crowded: Path) -> None:
    few = ("--batch", "1", "--threads", "1", "--rounds", "1", "--json")
    assert document(kanserve("bench", "tiny", "--repository", repository, *few))["model"] == "tiny"
    done = kanserve("bench", "tiny", *few)
    assert (done.returncode, "pass ./tiny to use" in done.stderr) == (2, True), done.stderr
    assert "tiny.pt: exporting the checkpoint" in kanserve("bench", "tiny.pt", "--repository", repository, *few).stderr


@pytest.mark.parametrize("word", ["n" * 5000, "tiny\0", "hello", "", "étude"])
def test_words_that_are_no_file(word: str, crowded: Path) -> None:
    (crowded / "hello").mkdir()
    done = kanserve("explain", word, *ROWS, "--timeout", "2", **NOWHERE)
    assert "Traceback" not in done.stderr
    assert ("exporting" in done.stderr, "pass ./" in done.stderr) == (False, False), done.stderr


def test_a_missing_file_with_a_suffix(crowded: Path) -> None:
    done = kanserve("explain", "net.pt", *ROWS, **NOWHERE)
    assert done.returncode == 2
    assert "file not found: net.pt" in done.stderr
    assert "add --url HOST:PORT" in done.stderr
