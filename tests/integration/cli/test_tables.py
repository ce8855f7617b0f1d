"""Tables of commands on a narrow terminal and in a pipe: complete output, without broken words."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.cli.render import REGIONS
from kanexport.shared.cli.tables import Table
from tests.support.command_line import Server, document, kanserve, program

WIDTH = 60


def narrow(*arguments: object, code: int = 0) -> str:
    """Run a command in 60 columns and return its output. Each line must fit, without an ellipsis."""
    done = kanserve(*arguments, COLUMNS=str(WIDTH))
    assert done.returncode == code, done.stderr
    assert "…" not in done.stdout
    return done.stdout


def holds(printed: str, *words: object) -> None:
    """Every word is there whole."""
    missing = [word for word in map(str, words) if word not in printed.split()]
    assert not missing, printed


def fits(printed: str) -> None:
    too_long = [line for line in printed.splitlines() if len(line.rstrip()) > WIDTH]
    assert not too_long


def facts(value: Any) -> list[str]:
    """The words of an entry's texts."""
    return [word for text in value if isinstance(text, str) for word in text.split()]


def test_models(repository: Path, server: Server) -> None:
    for source in (("--url", server.url), (repository,)):
        (entry,) = document(kanserve("models", *source, "--json"))["models"]
        printed = narrow("models", *source)
        fits(printed)
        assert entry.pop("out_of_range_policy") == "as-trained"  # `kanserve models NAME` tells it
        assert (
            entry.pop("verification_basis") == "reading"
        )  # the key in the manifest; the table has the level for users
        assert "checkpoint: verified against" in printed
        holds(
            printed, "checkpoint", *facts(entry.values()), f"{entry['verified_error']:.1e}", *["3", "→", "4", "→", "2"]
        )


def test_a_reason_that_is_long(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "tiny", tmp_path / "tiny")
    with (tmp_path / "tiny" / "1" / "model.onnx").open("ab") as file:
        file.write(b"more")
    (entry,) = document(kanserve("models", tmp_path, "--json", "--allow-invalid"))["models"]
    printed = narrow("models", tmp_path, code=2)
    fits(printed)
    holds(printed, *entry["reason"].split())


def test_edges(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).uniform(-1, 1, (50, 3)))
    arguments = ("edges", "tiny", "--input", tmp_path / "rows.npy", "--url", server.url)
    edges = document(kanserve(*arguments, "--json"))["edges"]
    printed = narrow(*arguments)
    fits(printed)
    for edge in edges:
        holds(printed, *(f"{edge[key]:.4g}" for key in ("mean_abs", "minimum", "maximum")), f"{edge['share']:.1%}")
    bars = re.findall(r"[▁▂▃▄▅▆▇█·]{16}", printed)
    assert len(bars) == len(edges) == 20
    for words in ("distribution of values", "not a plot of φ"):
        assert words in " ".join(printed.split())


def test_an_export(repository: Path, tmp_path: Path) -> None:
    state = repository.parent / "tiny.safetensors"
    printed = narrow("export", state, "--repository", tmp_path / "models", "--name", "t")
    response = document(kanserve("export", state, "--repository", tmp_path / "models", "--name", "u", "--json"))
    for zone in response["verification"]["zones"]:
        errors = [zone["outputs_max_rel"]] * bool(zone["worst_output"]) + [zone["edges_max_abs"]] * bool(
            zone["worst_edge"]
        )
        holds(printed, *REGIONS[zone["name"]].split(), zone["worst_edge"], *(f"{error:.1e}" for error in errors))
    holds(printed, tmp_path / "models" / "t" / "1")  # a path that can be copied whole


def test_a_pipe_is_wide(repository: Path) -> None:
    done = program("models", repository)
    assert any({"tiny", "COMPLETE", "efficient-kan"} <= set(line.split()) for line in done.stdout.splitlines())


def test_no_width_loses_a_letter(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("title", ("name", "value of it", "lines"), numbers=("value of it",), caption=("a caption",))
    table.add("[red]alpha", "12345", ["first line", "second"])
    table.add("beta\x1b[1m", "", ["漢字"])
    for width in (1, 7, 20, 33, 60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        table.show()
        letters = "".join(capsys.readouterr().out.split())
        for word in ("title", "[red]alpha", "12345", "first", "second", "beta\\x1b[1m", "漢字", "caption"):
            assert word in letters, width


def test_one_name_for_each_number_without_names(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x0, x1 ... and y0, y1 ...: each command accepts and prints the names that the others print."""
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.linspace(-0.9, 0.9, 12, dtype=np.float32).reshape(4, 3))

    def ask(command: str, *words: str) -> Any:
        return document(kanserve(command, "tiny", *words, "--json", KANSERVE_URL=server.url))

    rows = ("--input", "rows.npy")
    inputs, outputs = {"x0", "x1", "x2"}, {"y0", "y1"}
    header = kanserve("infer", "tiny", *rows, KANSERVE_URL=server.url).stdout.splitlines()[0]
    assert set(header.split(",")) == outputs
    kanserve("infer", "tiny", *rows, "--output", "y.csv", KANSERVE_URL=server.url)
    assert Path("y.csv").read_text().splitlines()[0] == header
    explained = ask("explain", *rows)
    assert (set(explained["inputs"]), set(explained["outputs"])) == (inputs, outputs)
    for result in (ask("edges", *rows, "--show", "99")["edges"], ask("curves", "--show", "99")["curves"]):
        assert {edge["source_name"] for edge in result if edge["layer"] == 0} == inputs
        assert {edge["destination_name"] for edge in result if edge["layer"] == 1} == outputs
    scores = ask("importance", *rows, "--show", "99")
    assert set(scores["features"]) == inputs
    assert {edge["source_name"] for edge in scores["edges"] if edge["layer"] == 0} == inputs
    assert inputs < {node["name"] for node in ask("coverage", *rows)["nodes"]}
    stats = ask("stats")
    assert set(stats["classes"]) == outputs
    assert inputs | outputs < {node["name"] for layer in stats["layers"] for node in layer["nodes"]}
    lines = ask("formula", "--partial")
    assert set(lines["inputs"]) == inputs
    assert {line["name"] for line in lines["formulas"]} == outputs
    item = ask("curves", "--source", "x1", "--layer", "0", "--destination", "2")["curves"]
    assert [(edge["source"], edge["destination"]) for edge in item] == [(1, 2)]
    way = ask("edges", *rows, "--path", "x1", "y0")["edges"]
    assert {edge["source"] for edge in way if edge["layer"] == 0} == {1}
    assert ask("explain", *rows, "--of", "y1")["outputs"] == ["y1"]
