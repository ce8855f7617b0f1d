"""`kanserve export` for users and scripts: exit codes, streams, one JSON document."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.cli import export_command
from kanexport.shared import manifest
from tests.support.command_line import document, kanserve
from tests.support.golden_cases import case

DIABETES, HELLO = case("pykan-diabetes").path, case("pykan-hello-adapted").path


def test_the_module_is_the_program(capfd: pytest.CaptureFixture[str]) -> None:
    """`python -m kanexport` and `kanserve export` say the same, usage errors included."""
    words = "net.pt", "--repositroy", "models", "--json"
    alone = subprocess.run([sys.executable, "-m", "kanexport", *words], capture_output=True, text=True, timeout=120)
    whole = kanserve("export", *words)
    assert (alone.returncode, alone.stdout, alone.stderr) == (whole.returncode, whole.stdout, whole.stderr)
    assert whole.returncode == 2
    assert json.loads(whole.stdout)["error"] == {
        "kind": "UsageError",
        "code": "argument-unknown",
        "message": "unknown argument: --repositroy models",
        "hint": "--repositroy: did you mean --repository?",
        "exit_code": 2,
    }
    assert whole.stderr.startswith("usage: kanserve export ")
    assert "\nkanserve export: error[argument-unknown]: unknown argument" in whole.stderr
    for arguments in (("--help",), (), ("x", "--version", "one", "--json")):
        whole = kanserve("export", *arguments)
        try:
            code = export_command.main([*arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        assert (code, *capfd.readouterr()) == (whole.returncode, whole.stdout, whole.stderr)
        assert code == (0 if arguments == ("--help",) else 2)


def served(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    code = export_command.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    return code, json.loads(out), err


def test_failures_are_one_document_too_and_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--repository", tmp_path / "models", "--name", "m")
    code, response, err = served(capsys, tmp_path / "missing", *where)
    assert (code, response["error"]["exit_code"], response["error"]["kind"]) == (2, 2, "CheckpointError")
    assert "does not exist" in response["error"]["message"]
    assert response["error"]["hint"]
    assert err.startswith("kanserve export: error[")
    assert "\n  help: " in err
    code, response, _ = served(capsys, DIABETES, *where, "--tolerance", "1e-12")
    assert (code, response["error"]["kind"]) == (3, "VerificationFailed")
    assert "--dtype float64" in response["error"]["hint"]
    assert not (tmp_path / "models").exists()
    code, response, _ = served(capsys, DIABETES, *where)
    assert (code, response["version"], response["name"]) == (0, 1, "m")
    assert response["verified"] == manifest.VERIFICATION_BASES[manifest.READING]
    assert next(iter(response["options"]["assumed"])) == "forward"
    assert Path(response["directory"]).joinpath("manifest.json").is_file()
    before = {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()}
    code, response, _ = served(capsys, DIABETES, *where)
    assert (code, response["error"]["kind"]) == (2, "RepositoryError")
    assert served(capsys, DIABETES, *where, "--tolerance", "1e-12", "--force")[0] == 3
    assert {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()} == before


def test_text_from_a_file_is_no_markup(pykan: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A masked edge with such a name is noted; a folder may be called so too."""
    toy = pykan([2, 2])
    toy.symbolic(0, 0, 0, "[/red]\x1b[2J", (1, 0, 1, 0), mask=0.0)
    where = ["--repository", str(tmp_path / "[/bold]"), "--name", "m"]
    assert export_command.main([str(toy.write(tmp_path)), *where]) == 0
    out = capsys.readouterr().out
    assert "[/red]" in out
    assert "\x1b[2J" not in out
    assert "[/bold]" in out


def test_the_help_shows_commands_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        export_command.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    examples = re.findall(r"^  kanserve export (.*?)(?:   .*)?$", text, flags=re.MULTILINE)
    assert len(examples) >= 3
    parser = export_command.argparse.ArgumentParser()
    export_command.configure(parser)
    for example in examples:
        parsed = parser.parse_args(example.split())
        assert parsed.path or parsed.module
        assert parsed.repository == Path("models")


def test_assumptions_are_one_line_unless_all_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name defaults to that of the checkpoint."""
    arguments = [str(case("efficient-kan-digits").path), "--repository", str(tmp_path)]
    assert export_command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "model version 1: efficient-kan, 64 → " in printed
    assert "written to" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("assumed")]
    assert "forward=efficient-kan (3 known alternatives), base_activation=silu (10 known alternatives)" in line
    assert "--option forward=spline-of-tanh" not in printed
    assert export_command.main([*arguments, "--version", "2", "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert "--option forward=spline-of-tanh" in printed
    assert "base_activation=silu (or identity, zero, relu, " in printed
    assert (tmp_path / "model" / "2" / "model.onnx").is_file()


def test_c_code_alone_or_along_with_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alone = document(kanserve("export", HELLO, "--c", "firmware", "--name", "hello", "--json"))
    assert [path.name for path in tmp_path.iterdir()] == ["firmware"]
    assert (
        sorted(alone["c"]["files"])
        == ["hello.c", "hello.h"]
        == sorted(path.name for path in Path("firmware").iterdir())
    )
    assert (alone["directory"], alone["c"]["explain"]) == ("firmware", True)
    done = kanserve("export", HELLO, "--c", "firmware", "--repository", "models", "--name", "hello")
    assert done.returncode == 0, done.stderr
    assert Path("models/hello/1/model.onnx").is_file()
    assert re.search(r"hello\.c, hello\.h: \d+ bytes of constants, \d+ of them for contributions; ", done.stdout)
    assert "contributions: middle of each input's grid" in done.stdout


def test_c_code_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.pt"
    net.symlink_to(case("efficient-kan-digits").path)
    for arguments, code in (
        ((net, "--name", "my-net"), "c-name-invalid"),
        ((net, "--name", "net", "--dtype", "float64"), "arguments-conflict"),
        ((net, "--name", "net", "--quantize", "int8"), "arguments-conflict"),
        ((tmp_path / "folder", "--recursive"), "argument-not-for-folder"),
        (("--module", "nets:make"), "argument-not-for-module"),
    ):
        _, response, _ = served(capsys, *arguments, "--c", tmp_path / "firmware")
        assert response["error"]["code"] == code
        assert not (tmp_path / "firmware").exists()


def test_intervals_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (100, 2))
    np.savez(tmp_path / "rows.npz", x=x, y=np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2) + rng.normal(size=100))
    calibrated = ("--calibration", tmp_path / "rows.npz")
    common = (HELLO, "--repository", tmp_path / "models", "--name", "m", "--force", *calibrated)
    said = (*map(str, common), "--coverage", "0.8", "--interval-method", "normalized", "--json")
    assert export_command.main(list(said)) == 0
    intervals = json.loads(capsys.readouterr().out)["intervals"]
    found = [intervals[key] for key in ("method", "coverage", "rows", "fitted")]
    assert found == ["normalized", 0.8, 100, 50]
    for arguments, text in (
        (common, "--calibration needs --quantize or --coverage"),
        ((HELLO, "--coverage", "0.9"), "--coverage needs --calibration"),
        ((*common, "--coverage", "2"), "--coverage is 2, expected a number between 0 and 1"),
        ((tmp_path, "--recursive", "--coverage", "0.9"), "--coverage cannot be combined with --recursive"),
        ((HELLO, "--c", tmp_path / "c", *calibrated, "--coverage", "0.9"), "--coverage needs --repository"),
    ):
        assert export_command.main([*map(str, arguments)]) == 2
        assert text in capsys.readouterr().err
