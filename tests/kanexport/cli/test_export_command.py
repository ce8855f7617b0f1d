"""`kanserve export` for users and scripts: exit codes, streams, one JSON document."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.cli import export_command
from kanexport.contract import manifest
from tests.support import golden_cases

Golden = Callable[[str], tuple[Path, tuple[str, ...]]]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kanexport", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_export_in_a_process_of_its_own(golden: Golden, tmp_path: Path) -> None:
    path, options = golden("efficient-kan-wine-update-grid")
    supplied = [word for option in options for word in ("--option", option)]
    done = run(path, "--repository", tmp_path / "models", "--name", "wine", *supplied, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["name"] == "wine"
    assert document["widths"] == [13, 6, 3]
    assert document["verified"] == manifest.VERIFICATION_BASES[manifest.READING]
    assert document["options"]["given"] == {"base_activation": "tanh"}
    assert next(iter(document["options"]["assumed"])) == "forward"
    assert "base_activation" not in document["options"]["assumed"]
    assert Path(document["directory"]).joinpath("manifest.json").is_file()
    assert len(document["verification"]["zones"]) >= 5
    assert not {"torch", "efficient_kan"} & set(document["files"])


def test_exit_codes_of_the_process(tmp_path: Path) -> None:
    assert run(tmp_path / "missing.pt", "--json").returncode == 2
    assert run("--no-such-option").returncode == 2
    assert run().returncode == 2
    assert run("--help").returncode == 0


@pytest.mark.parametrize("arguments", [("--help",), (), ("--outptu", "x"), ("x", "--version", "one", "--json")])
def test_the_module_is_the_program(arguments: tuple[str, ...]) -> None:
    """`python -m kanexport` and `kanserve export` say the same, usage errors included."""
    whole = subprocess.run(
        [sys.executable, "-m", "kanserve", "export", *arguments], capture_output=True, text=True, timeout=60
    )
    alone = run(*arguments)
    assert (alone.returncode, alone.stdout, alone.stderr) == (whole.returncode, whole.stdout, whole.stderr)


def test_a_misspelt_flag_is_helped_and_is_a_document_too() -> None:
    done = run("net.pt", "--repositroy", "models", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == {
        "kind": "UsageError",
        "code": "argument-unknown",
        "message": "unknown argument: --repositroy models",
        "hint": "--repositroy: did you mean --repository?",
        "exit_code": 2,
    }
    assert done.stderr.startswith("usage: kanserve export ")
    assert "\nkanserve export: error[argument-unknown]: unknown argument" in done.stderr


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    code = export_command.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    return code, json.loads(out), err


def test_failures_are_one_document_too(golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = golden("pykan-diabetes")
    where = ("--repository", tmp_path / "models", "--name", "m")
    code, document, err = _json(capsys, tmp_path / "missing", *where)
    assert code == 2
    assert document["error"]["kind"] == "CheckpointError"
    assert "does not exist" in document["error"]["message"]
    assert document["error"]["hint"]
    assert document["error"]["exit_code"] == 2
    assert err.startswith("kanserve export: error[")
    assert "\n  help: " in err
    code, document, _ = _json(capsys, path, *where, "--tolerance", "1e-12")
    assert (code, document["error"]["kind"]) == (3, "VerificationFailed")
    code, document, _ = _json(capsys, path, *where)
    assert (code, document["version"]) == (0, 1)
    code, document, _ = _json(capsys, path, *where)
    assert (code, document["error"]["kind"]) == (2, "RepositoryError")


def test_text_from_a_file_is_no_markup(pykan: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A masked edge with such a name is noted; a folder may be called so too."""
    toy = pykan([2, 2])
    toy.symbolic(0, 0, 0, "[/red]\x1b[2J", (1, 0, 1, 0), mask=0.0)
    assert (
        export_command.main([str(toy.write(tmp_path)), "--repository", str(tmp_path / "[/bold]"), "--name", "m"]) == 0
    )
    out = capsys.readouterr().out
    assert "[/red]" in out
    assert "\x1b[2J" not in out
    assert "[/bold]" in out


def test_the_name_defaults_to_the_checkpoints(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, options = golden("efficient-kan-digits")
    supplied = [word for option in options for word in ("--option", option)]
    _, document, _ = _json(capsys, path, "--repository", tmp_path, *supplied)
    assert document["name"] == "model"
    assert (tmp_path / "model" / "1" / "model.onnx").is_file()


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


def test_assumptions_are_one_line_unless_all_is_asked_for(tmp_path: Path, capsys: Any) -> None:
    path = next(item for item in golden_cases.cases() if item.name == "efficient-kan-digits").path
    arguments = [str(path), "--repository", str(tmp_path), "--name", "m"]
    assert export_command.main(arguments) == 0
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("assumed")]
    assert "forward=efficient-kan (3 known alternatives), base_activation=silu (10 known alternatives)" in line
    assert "--option forward=spline-of-tanh" not in printed
    assert export_command.main([*arguments, "--version", "2", "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert "--option forward=spline-of-tanh" in printed
    assert "base_activation=silu (or identity, zero, relu, " in printed


def test_c_code_alone_writes_no_repository(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = golden("pykan-hello-adapted")
    monkeypatch.chdir(tmp_path)
    done = run(path, "--c", "firmware", "--name", "hello", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert sorted(document["c"]["files"]) == ["hello.c", "hello.h"] == sorted(os.listdir("firmware"))
    assert os.listdir() == ["firmware"]
    assert document["directory"] == "firmware"
    assert document["c"]["explain"] is True


def test_c_code_along_with_a_repository(golden: Golden, tmp_path: Path) -> None:
    path, _ = golden("pykan-hello-adapted")
    done = run(path, "--c", tmp_path / "firmware", "--repository", tmp_path / "models", "--name", "hello")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "hello" / "1" / "model.onnx").is_file()
    assert re.search(r"hello\.c, hello\.h: \d+ bytes of constants, \d+ of them for contributions; ", done.stdout)
    assert "contributions: middle of each input's grid" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("net.pt", "--name", "my-net"), "c-name-invalid"),
        (("net.pt", "--name", "net", "--dtype", "float64"), "arguments-conflict"),
        (("net.pt", "--name", "net", "--quantize", "int8"), "arguments-conflict"),
        (("folder", "--recursive"), "argument-not-for-folder"),
        (("--module", "nets:make"), "argument-not-for-module"),
    ],
)
def test_c_code_that_does_not_fit(arguments: tuple[str, ...], code: str, golden: Golden, tmp_path: Path) -> None:
    path, _ = golden("efficient-kan-digits")
    (tmp_path / "net.pt").symlink_to(path)
    own = [tmp_path / word if word in ("net.pt", "folder") else word for word in arguments]
    done = run(*own, "--c", tmp_path / "firmware", "--json")
    assert json.loads(done.stdout)["error"]["code"] == code
    assert not (tmp_path / "firmware").exists()


def test_intervals_by_the_command(golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = golden("pykan-hello-adapted")
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (100, 2))
    np.savez(tmp_path / "rows.npz", x=x, y=np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2) + rng.normal(size=100))
    calibrated = ("--calibration", tmp_path / "rows.npz")
    common = (path, "--repository", tmp_path / "models", "--name", "m", "--force", *calibrated)
    said = (*map(str, common), "--coverage", "0.8", "--interval-method", "normalized", "--json")
    assert export_command.main(list(said)) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["intervals"]["method"], document["intervals"]["coverage"]) == ("normalized", 0.8)
    assert (document["intervals"]["rows"], document["intervals"]["fitted"]) == (100, 50)
    for arguments, text in (
        (common, "--calibration needs --quantize or --coverage"),
        ((path, "--coverage", "0.9"), "--coverage needs --calibration"),
        ((*common, "--coverage", "2"), "--coverage is 2, expected a number between 0 and 1"),
        ((tmp_path, "--recursive", "--coverage", "0.9"), "--coverage cannot be combined with --recursive"),
        ((path, "--c", tmp_path / "c", *calibrated, "--coverage", "0.9"), "--coverage needs --repository"),
    ):
        assert export_command.main([*map(str, arguments)]) == 2
        assert text in capsys.readouterr().err
