"""`kanserve export` as people and scripts see it: exit codes, streams, one JSON document."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport import options
from kanexport.cli import export_command, render
from kanexport.contract import manifest
from tests.support import golden_cases

pytestmark = pytest.mark.slow

Golden = Callable[[str], tuple[Path, tuple[str, ...]]]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kanexport", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_export_in_a_process_of_its_own(golden: Golden, tmp_path: Path) -> None:
    path, options = golden("efficient-kan-wine-update-grid")
    given = [word for option in options for word in ("--option", option)]
    done = run(path, "--repository", tmp_path / "models", "--name", "wine", *given, "--json")
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
        "message": "unrecognized arguments: --repositroy models",
        "hint": "--repositroy: did you mean --repository?",
        "exit_code": 2,
    }
    assert done.stderr.startswith("usage: kanserve export ")
    assert "\nkanserve export: error: unrecognized" in done.stderr


def test_a_table_on_stdout_for_people(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # a narrower table wraps the names of regions
    path, _ = golden("pykan-mult-affine")
    assert export_command.main([str(path), "--repository", str(tmp_path / "models"), "--name", "m"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "m version 1: pykan, 2 → 3 → 1" in out
    for word in ("in grid", "grid extension", "on knots", "far outside", "NaN, infinity", "written to"):
        assert word in out


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
    assert err.startswith("kanserve export: error: ")
    assert "\n  help: " in err
    code, document, _ = _json(capsys, path, *where, "--tolerance", "1e-12")
    assert (code, document["error"]["kind"]) == (3, "VerificationFailed")
    code, document, _ = _json(capsys, path, *where)
    assert (code, document["version"]) == (0, 1)
    code, document, _ = _json(capsys, path, *where)
    assert (code, document["error"]["kind"]) == (2, "RepositoryError")


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (["--tolerance", "0"], "OptionError", "tolerance is 0"),
        (["--tolerance", "nan"], "OptionError", "tolerance is nan"),
        (["--tolerance", "1e9"], "OptionError", "tolerance"),
        (["--max-batch-size", "0"], "OptionError", "max batch size is 0"),
        (["--version", "0"], "RepositoryError", "version 0"),
        (["--version", "9" * 300], "RepositoryError", "version 9"),
        (["--name", "../up"], "RepositoryError", "'../up'"),
        (["--family", "magic"], "FamilyError", "'magic'"),
        (["--option", "colour=red"], "OptionError", "'colour'"),
        (["--option", "colour"], "OptionError", "malformed"),
    ],
)
def test_wrong_arguments_change_nothing(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], kind: str, text: str
) -> None:
    path, _ = golden("pykan-diabetes")
    code, document, _ = _json(capsys, path, "--repository", tmp_path / "models", *arguments)
    assert document["error"]["exit_code"] == 2
    assert (code, document["error"]["kind"]) == (2, kind)
    assert text in document["error"]["message"]
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--family", "efficient_kan"], "did you mean 'efficient-kan'?"),
        (["--family", "magic"], "known: "),
        (["--option", "base_fn=silu"], "did you mean 'base_fun'?"),
        (["--option", "colour=red"], "it knows: base_fun, "),
    ],
)
def test_a_misspelt_name_is_helped(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    path, _ = golden("pykan-diabetes")
    for given in ((path,), (path.parent, "--recursive")):
        if given[1:] and "--option" in arguments:
            continue  # told at the end, as of no use to any file
        _, document, _ = _json(capsys, *given, "--repository", tmp_path / "models", *arguments)
        assert document["error"]["hint"].startswith(hint)


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
    given = [word for option in options for word in ("--option", option)]
    _, document, _ = _json(capsys, path, "--repository", tmp_path, *given)
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


@pytest.mark.parametrize(
    ("words", "count"), [("", 0), ("or relu, tanh", 2), (options._listed("abcdefghijklmno"), 15), ("one; another", 2)]
)
def test_known_alternatives_are_counted(words: str, count: int) -> None:
    assert render._count(words) == count


def test_assumptions_are_one_line_unless_all_is_asked_for(tmp_path: Path, capsys: Any) -> None:
    path = next(one for one in golden_cases.cases() if one.name == "efficient-kan-digits").path
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


def test_regions_have_names_and_what_was_not_compared_a_dash(tmp_path: Path, capsys: Any) -> None:
    torch = pytest.importorskip("torch")
    from kanexport.bundle.publish import Target
    from kanexport.torch_export.convert import convert
    from tests.support.torch_modules import KANLinear

    torch.manual_seed(0)
    target = Target(repository=tmp_path, name="m")
    render.result(convert(torch.nn.Sequential(KANLinear(4, 3)), np.ones((8, 4)), target, options={}))
    lines = {line[:15].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["batch of 33"].split()[-3:] == ["-", "-", "-"]
    assert lines["far outside"].split()[3:5] == ["-", "-"]
    assert "-" not in lines["example rows"].replace("e-", "").split()
