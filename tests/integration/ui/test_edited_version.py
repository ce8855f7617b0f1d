"""Edits in the web UI: the form of an edge writes a version, and the edge and the model card show what changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.edit.operations import parse
from kanexport.republish import edit_version
from tests.integration.ui.conftest import GOLDEN, Seen
from tests.support import credentials
from tests.support.command_line import exported, kanserve
from tests.support.server_process import serving
from tests.support.tiers import full

EDITED = {"x10 → node 3 of layer 1": (0, 10, 3), "node 0 of layer 1 → y0": (1, 0, 0)}

pytestmark = full("second browser page")


def test_the_edge_and_the_card_of_an_edit(browse: Callable[..., Any], repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "digits", tmp_path / "models" / "digits")
    edits = [parse("0:10:3", "clamp", "-0.1:0.1"), parse("1:0:0", "zero", True)]
    edit_version(tmp_path / "models" / "digits" / "1", edits, author="ada", budget=0)
    with serving(tmp_path / "models", transport="asgi") as server:
        page = browse(server, "ui/digits/edge/0/10/3?version=2")
        page.get_by_text("clamp -0.1:0.1 (fitted), from version 1 by ada").wait_for()
        page.goto("ui/digits/edge/0/10/3")
        page.get_by_role("heading", name="Curve points").wait_for()
        assert page.get_by_text("from version 1").count() == 0, "the default version is not the edit"
        assert page.get_by_role("form", name="Edit of edge").count() == 0, "the server does not allow edits"
        page.goto("ui/digits/compare?version=2")
        page.get_by_role("heading", name="Largest differences").wait_for()
        rows = page.get_by_role("region", name="Edges of both versions").locator("tbody tr")
        shown = [row.locator("td").all_inner_texts() for row in rows.all()[:3]]
        measured = {name: _difference(page, *edge) for name, edge in EDITED.items()}
        assert [row[0] for row in shown[:2]] == sorted(measured, key=lambda name: -measured[name])
        assert [float(row[1]) for row in shown[:2]] == pytest.approx([measured[row[0]] for row in shown[:2]], rel=5e-3)
        assert shown[2][1] == "same"
        assert page.locator("figure svg .line.former").count() == page.locator("figure svg .line.total").count() == 2
        zeroed = next(row for row in shown if row[0] == "node 0 of layer 1 → y0")
        assert (float(zeroed[4]), float(zeroed[2])) == (0, -float(zeroed[3])), "a zero edge has no importance"
        page.goto("ui/digits/card?version=2")
        page.get_by_text("edge 1:0:0 zero: exact").wait_for()
        assert "fair" in page.locator("p.verdict").get_attribute("class").split()
        assert "Verified against the edited network" in page.locator("p.verdict").inner_text()
        page.goto("ui/")
        page.locator("tbody tr").filter(has_text="v2").get_by_text("edited network").wait_for()
        page.context.close()


def _difference(page: Any, layer: int, source: int, destination: int) -> float:
    """The root of the mean square of the difference of an edge of version 1 and 2, over its 33 points."""
    edge = {"layers": [layer], "sources": [source], "destinations": [destination], "points": 33}
    phi = []
    for version in (1, 2):
        response = page.request.post(f"v1/kan/models/digits/versions/{version}/curves", data=edge)
        phi.append(np.array(response.json()["blocks"][0]["phi"][0][0]))
    return float(np.sqrt(np.mean((phi[1] - phi[0]) ** 2)))


def test_the_form_of_an_edge_previews_and_saves(
    browse: Callable[..., Any], repository: Path, tmp_path: Path, seen: Seen
) -> None:
    seen.expected += ["401", "400"]
    models = tmp_path / "models"
    shutil.copytree(repository / "hello", models / "hello")
    tokens = credentials.write_tokens(tmp_path / "tokens.toml")
    options = {"tokens": str(tmp_path / "tokens.toml"), "allow_edits": True, "repository_poll_seconds": 0.2}
    with serving(models, transport="asgi", **options) as server:
        page = browse(server, "ui/hello/edge/0/0/0")
        _enter(page, tokens["interpret"])
        page.get_by_role("heading", name="Curve points").wait_for()
        form = page.get_by_role("form", name="Edit of edge 0:0:0")
        assert form.count() == 0, "the token does not allow edits"
        page.evaluate("sessionStorage.clear()")
        page.reload()
        _enter(page, tokens["admin"])
        preview, save = (form.get_by_role("button", name=name) for name in ("Preview", "Save as new version"))
        trouble = page.locator("#edit-trouble")
        form.get_by_label("Operation").select_option("clamp")
        form.get_by_label("Lowest value").fill("0.2")
        form.get_by_label("Highest value").fill("0")
        preview.click()
        trouble.filter(has_text="The lowest value 0.2 is above the highest value 0.").wait_for()
        form.get_by_label("Highest value").fill("0.4")
        assert trouble.inner_text() == "", "the error of an earlier value"
        preview.click()
        page.locator("main").get_by_text("clamp 0.2:0.4 (exact). y0 changes by up to").wait_for()
        title = page.locator("svg[aria-label*='before and after clamp 0.2:0.4']").get_attribute("aria-label")
        assert title.endswith("0.2 to 0.4 after")
        assert page.locator("svg .line.former").count() == 1
        assert sorted(path.name for path in (models / "hello").iterdir() if path.is_dir()) == ["1"], "of a preview"
        form.get_by_label("Highest value").fill("0.5")
        assert save.is_disabled(), "the values differ from those of the preview"
        form.get_by_label("Highest value").fill("0.4")
        save.click()

        page.get_by_text("Saved as version 2.").wait_for()
        page.get_by_text("kanserve promote hello 2").wait_for()
        assert save.is_disabled()
        page.get_by_role("link", name="Show version 2").click()
        page.get_by_text("clamp 0.2:0.4 (exact), from version 1 by admin").wait_for()
        assert page.locator("#version option").all_inner_texts() == ["Default (v1)", "v1", "v2"]
        page.context.close()


def test_the_form_has_the_units_of_the_inputs(browse: Callable[..., Any], tmp_path: Path, seen: Seen) -> None:
    seen.expected.append("400")
    (tmp_path / "scaler.json").write_text('{"mean": [40, -3], "scale": [12, 0.5]}')
    named = ("--features", "age,width", "--input-scaler", tmp_path / "scaler.json")
    models = exported(GOLDEN / "pykan-hello-adapted" / "model", "hello", *named)
    with serving(models, transport="asgi", allow_edits=True) as server:
        page = browse(server, "ui/hello/edge/0/0/0")
        page.get_by_text("x is age. An edit is a new version").wait_for()
        form = page.get_by_role("form", name="Edit of edge 0:0:0")
        form.get_by_label("Operation").select_option("points")
        form.get_by_role("textbox").fill("0.5, 0.1")
        form.get_by_role("button", name="Preview").click()
        page.locator("#edit-trouble").filter(has_text="x = 0.5 is outside the grid 28").wait_for()
        form.get_by_role("textbox").fill("34, 0.1\n46, -0.2")
        form.get_by_role("button", name="Preview").click()
        page.locator("main").get_by_text("points 2 points (fitted").wait_for()
        texts = page.locator("svg[aria-label*='before and after points'] text").all_text_contents()
        assert {"age", "40"} <= set(texts)
        page.context.close()


def _enter(page: Any, token: str) -> None:
    """Enter a token when the page requires one."""
    page.get_by_role("dialog", name="Token required").wait_for()
    page.locator("#token-value").fill(token)
    page.keyboard.press("Enter")


def test_the_form_reports_errors_next_to_its_fields(page: Any, seen: Seen) -> None:
    seen.expected.append("400")
    page.goto("ui/hello/edge/0/0/0")
    form = page.get_by_role("form", name="Edit of edge 0:0:0")
    for operation, typed, trouble in (
        ("to", " ", "The expression is empty"),
        ("shift", "far", "expected a number such as 0.1"),
        ("points", "x,y\n0,1\n2", "expected a pair of x and y"),
        ("to", "nosuch(x)", "unknown function 'nosuch'; use only x"),
    ):
        form.get_by_label("Operation").select_option(operation)
        field = form.get_by_role("textbox")
        field.fill(typed)
        form.get_by_role("button", name="Preview").click()
        page.locator("#edit-trouble").filter(has_text=trouble).wait_for()
        assert field.get_attribute("aria-invalid") == str("nosuch" not in typed).lower()


def test_the_page_of_an_edit(browse: Callable[..., Any], tmp_path: Path) -> None:
    """The page is a file, and the browser has no network."""
    named = ("--features", "a<b,c&d", "--classes", "<img src=x>")
    exported(GOLDEN / "pykan-hello-adapted" / "model", "hello", *named, into=tmp_path / "models")
    words = ("--edge", "0:0:0", "--to", "1.2*sin(x)", "--budget", "0", "--dry-run", "--report", tmp_path / "edit.html")
    edited = kanserve("edit", tmp_path / "models" / "hello", *words)
    assert edited.returncode == 0, edited.stderr
    page = browse(tmp_path / "edit.html")
    assert page.title() == "hello, version 2"
    assert page.get_by_role("cell", name="<img src=x>", exact=True).count() == 2
    assert page.get_by_text("a<b = ").is_visible()
    assert page.locator("img").count() == 0
    picture = page.locator("svg")
    assert (picture.count(), picture.first.bounding_box()["width"] > 200) == (1, True)
