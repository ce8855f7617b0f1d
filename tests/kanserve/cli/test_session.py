"""A checkpoint path in place of a model name: one command gives a plot or an explanation."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import Server, document, kanserve, wrong_refusals
from tests.support.golden_cases import cases
from tests.support.tiers import full

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


# Certificates and a token are for another server; the command's own server uses none of them.
OTHERS = {"KANSERVE_CA": "nowhere.pem", "KANSERVE_TOKEN": "no token", "KANSERVE_TOKEN_FILE": "nowhere"}


def test_an_explanation_of_a_checkpoint_in_one_command(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(desk / "temporary"))
    done = kanserve("explain", HELLO.path, "--input", desk / "rows.csv", "--json", **NOWHERE, **OTHERS)
    result = document(done)
    total = np.array(result["base"]) + np.array(result["contributions"]).sum(axis=1)
    np.testing.assert_allclose(total, result["predictions"], atol=1e-5)
    assert result["inputs"] == ["length", "width"]
    assert "exporting the checkpoint, and serving it for this command" in done.stderr
    assert "verified against kanserve's interpretation of the checkpoint" in done.stderr
    assert "assumed: forward = pykan" in done.stderr
    assert not list((desk / "temporary").iterdir()), "something was left behind"


def test_a_path_that_is_no_checkpoint_is_an_error(desk: Path) -> None:
    (desk / "net.pt").write_bytes(b"no checkpoint")
    cases = {
        f"plot {desk}/net.pt -o {desk}/net.svg": "neither a torch.save archive nor safetensors",
        f"explain {desk}/missing --input {desk}/rows.csv": f"file not found: {desk / 'missing'}",
        f"explain net.pt --input {desk}/rows.csv": ("file not found: net.pt", "add --url HOST:PORT"),
    }
    assert wrong_refusals(cases, **NOWHERE) == []
    assert not (desk / "net.svg").exists()


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
    **dict.fromkeys(("infer", "edges", "explain", "importance", "coverage", "drift"), ROWS),
    **dict.fromkeys(("curves", "plot", "stats", "models", "promote", "rollback", "shadow"), ()),
    "formula": ("--partial",),
    "report": ("-o", "tiny.html"),
    "open": ("--no-browser",),
}
FILES = ("infer", "edges", "explain", "importance", "coverage", "curves", "formula", "plot", "report")


def test_a_name_is_a_served_model_whatever_the_folder_has(server: Server, crowded: Path) -> None:
    """`KANSERVE_URL` names the server. Before, nine of these commands took files of that name for the model."""
    refused = {"drift": "error[baseline-missing]", "rollback": "no ready version", "shadow": "no shadow deployment"}
    for command, words in COMMANDS.items():
        done = kanserve(command, "tiny", *words, KANSERVE_URL=server.url)
        assert "no checkpoint" not in done.stderr, (command, done.stderr)
        assert "exporting" not in done.stderr, command
        assert (done.returncode == 0) == (command not in refused), (command, done.stderr)
        assert done.returncode == 0 or refused[command] in done.stderr, command


def test_the_error_says_which_path_means_the_file(server: Server, crowded: Path) -> None:
    (crowded / "tinny.safetensors").write_bytes(b"")
    for command in ("infer", "coverage", "stats"):
        done = kanserve(command, "tiny", *COMMANDS[command], "--timeout", "2", **NOWHERE)
        assert "no server at 127.0.0.1:9" in done.stderr, command
        told = "pass ./tiny to use the checkpoint in this folder" in done.stderr
        assert told == (command in FILES), (command, done.stderr)
    for command, words in COMMANDS.items():
        other = kanserve(command, "tinny", *words, KANSERVE_URL=server.url).stderr
        told = "pass ./tinny.safetensors to use the checkpoint in this folder; " in other
        assert told == (command in FILES), (command, other)
        assert "did you mean 'tiny'?" in other, (command, other)


def test_a_path_is_a_file_in_every_command(server: Server, crowded: Path) -> None:
    """The form of the word decides, also if the variable names a server."""
    paths = {command: ("./tiny", "tiny.pt") for command in COMMANDS if command not in FILES}
    for command, words in {"coverage": ("./tiny",), "curves": ("tiny.pt",), **paths}.items():
        for path in words:
            text = f"{path}: exporting the checkpoint" if command in FILES else "error[path-not-supported]"
            text = f"{Path(path)} is not a folder" if command == "models" else text
            done = kanserve(command, path, *COMMANDS[command], KANSERVE_URL=server.url)
            assert (done.returncode, text in done.stderr) == (2, True), (command, done.stderr)


def test_a_path_next_to_a_server(server: Server, crowded: Path) -> None:
    """With a separator it is an error; with only the suffix it is a name, since a model may have such a name."""
    for command, words in COMMANDS.items():
        done = kanserve(command, "./tiny", *words, "--url", server.url)
        told = "the path ./tiny cannot be combined with --url" in done.stderr
        assert (done.returncode, told) == (2, True), (command, done.stderr)
        other = kanserve(command, "tiny.pt", *words, "--url", server.url)
        assert other.returncode == 2
        assert "did you mean 'tiny'?" in other.stderr, (command, other.stderr)
        assert ("pass ./tiny.pt without --url" in other.stderr) == (command in FILES), (command, other.stderr)


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


@full("combination")
def test_a_timing_is_of_the_repository_or_of_a_path(repository: Path, crowded: Path) -> None:
    few = ("--batch", "1", "--threads", "1", "--rounds", "1", "--json")
    assert document(kanserve("bench", "tiny", "--repository", repository, *few))["model"] == "tiny"
    done = kanserve("bench", "tiny", *few)
    assert (done.returncode, "pass ./tiny to use" in done.stderr) == (2, True), done.stderr
    done = kanserve("bench", HELLO.path, "--repository", repository, *few)
    assert (document(done)["right"], "exporting the checkpoint, and benchmarking it" in done.stderr) == (True, True)


def test_words_that_are_no_file(crowded: Path) -> None:
    (crowded / "hello").mkdir()
    for word in ("n" * 5000, "tiny\0", "hello", "", "étude"):
        done = kanserve("explain", word, *ROWS, "--timeout", "2", **NOWHERE)
        assert "Traceback" not in done.stderr
        assert ("exporting" in done.stderr, "pass ./" in done.stderr) == (False, False), done.stderr
