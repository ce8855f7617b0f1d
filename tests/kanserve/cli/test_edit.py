"""`kanserve edit --report` and `kanserve symbolify --report`: the page has the figures of the document."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from kanexport.pipeline import Request, export
from kanexport.shared.naming import Names
from tests.support.command_line import checkpoint, document, exported, kanserve
from tests.support.documents import Balanced

NAMES = Names(features=("a<b", "c&d"), classes=('<img src=x>"',))
HELLO = Path(__file__).parents[2] / "golden" / "checkpoints" / "pykan-hello-adapted" / "model"
EDGES = ("--edge", "0:0:0", "--to", "1.2*sin(x)", "--edge", "1:3:0", "--clamp", "0:1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model whose names have characters of HTML."""
    root = tmp_path_factory.mktemp("edit") / "models"
    return export(Request(path=HELLO, repository=root, name="hello", names=NAMES)).directory.parent


def tables(text: str) -> dict[str, list[list[str]]]:
    """The lines of each table by its heading, as plain text."""
    parts = re.findall(r"<h2>(.*?)</h2>\n(?:<p>.*?</p>\n)?<table>(.*?)</table>", text)
    return {
        heading: [
            [html.unescape(cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", line)]
            for line in re.findall("<tr>(.*?)</tr>", table)
        ]
        for heading, table in parts
    }


def read(path: Path) -> str:
    text = path.read_text()
    result = Balanced()
    result.feed(text)
    assert result.open == []
    assert all(link.startswith("data:") for link in result.links)
    assert "<script" not in text
    assert "<img" not in text
    return text


def test_the_page_has_the_figures_of_the_document(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "edit.html"
    words = ("--version", 1, *EDGES, "--author", "<b>ada", "--budget", "1s", "--report", page, "--json")
    done = kanserve("edit", model, *words)
    told: dict[str, Any] = document(done)
    assert f"{page}: report" in done.stderr
    text = read(page)
    shown, difference = tables(text), told["difference"]
    (output,) = difference["outputs"]
    figures = [f"{output['largest']:.4g}", str(output["row"]), f"{output['mean']:.4g}"]
    assert shown["Change of the outputs"][1] == [NAMES.classes[0], *figures]
    worst = difference["worst_row"]
    assert shown["Row that changes most"][1][1:] == [f"{worst['before'][0]:.4g}", f"{worst['after'][0]:.4g}"]
    assert f"Row {worst['row']}: a&lt;b = {worst['inputs'][0]:.4g}, c&amp;d = {worst['inputs'][1]:.4g}." in text
    (certified,) = difference["certificates"]["outputs"]
    ends = [f"{low:.4g} to {high:.4g}" for low, high in (certified["before"], certified["after"])]
    assert shown["Changed certified ranges"][1][1:] == ends
    assert [line[:3] for line in shown["Edited edges"][1:]] == [
        ["0:0:0", "to 1.2*sin(x)", "exact"],
        ["1:3:0", "clamp 0:1", "fitted"],
    ]
    assert text.count("<svg") == len(difference["curves"])
    lines = dict(shown["Lineage"])
    assert (lines["Author"], lines["Folder"]) == ("<b>ada", str(model / "2"))
    assert told["edit"]["parent_sha256"] in lines["Manifest of the parent"]
    assert dict(shown["Verification"])["Export"] == told["verified"]


def test_the_curves_of_an_edge_are_in_its_picture(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "edit.html"
    words = ("--version", 1, *EDGES[:4], "--budget", "0", "--dry-run", "--report", page, "--json")
    (curve,) = document(kanserve("edit", model, *words))["difference"]["curves"]
    lines = re.findall(r'<polyline points="([^"]*)"', read(page))
    before, after = (
        [tuple(map(float, pair.split(","))) for pair in line.split()]
        for line in lines
        if len(line.split()) == len(curve["x"])
    )
    low, high = (f(value for key in ("before", "after") for value in curve[key]) for f in (min, max))
    for drawn, key in ((before, "before"), (after, "after")):
        heights = [(max(before + after, key=lambda p: p[1])[1] - y) for _, y in drawn]
        top = max(before + after, key=lambda p: p[1])[1] - min(before + after, key=lambda p: p[1])[1]
        for height, value in zip(heights, curve[key], strict=True):
            assert height / top == pytest.approx((value - low) / (high - low), abs=0.01)
    assert "nothing was written (--dry-run)" in page.read_text()


def test_the_page_of_a_formula(tmp_path: Path) -> None:
    state, page = checkpoint(tmp_path / "net.safetensors", (2, 1)), tmp_path / "formula.html"
    words = ("--tolerance", "0.9", "--library", "0,x,sin", "--report", page, "--json")
    told = document(kanserve("symbolify", exported(state, "net") / "net", "--dry-run", *words))
    assert told["replaced"]
    shown = tables(read(page))
    assert [line[:2] for line in shown["Replaced edges"][1:]] == [
        [item["edge"], item["expression"]] for item in told["replaced"]
    ]
    assert shown["Formula"] == [[line["name"], line["expression"]] for line in told["formulas"]]
    assert f"{told['error']:.4g}" in dict(shown["Error"])["Error"]
    assert len(shown["Edited edges"]) == 1 + len(told["replaced"])
    assert document(kanserve("symbolify", state, *words))["version"] is None
    assert list(tables(read(page))) == ["Formula", "Error", "Replaced edges"]


def test_a_file_that_cannot_be_written_changes_nothing(model: Path, tmp_path: Path) -> None:
    before = sorted(model.iterdir())
    for file, code in (("edit.pdf", "output-format-unknown"), ("none/edit.html", "output-not-writable")):
        done = kanserve("edit", model, *EDGES, "--report", tmp_path / file, "--json")
        assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, code)
    assert sorted(model.iterdir()) == before
