"""An edited version in the web UI: the edge and the model card show what changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kanexport.edit.operations import parse
from kanexport.republish import edit_version
from tests.integration.ui.conftest import Seen, watched
from tests.support.server_process import serving

pytestmark = pytest.mark.slow


def test_the_edge_and_the_card_of_an_edit(browser: Any, repository: Path, tmp_path: Path, seen: Seen) -> None:
    shutil.copytree(repository / "digits", tmp_path / "models" / "digits")
    edits = [parse("0:10:3", "clamp", "-0.1:0.1"), parse("1:0:0", "zero", True)]
    edit_version(tmp_path / "models" / "digits" / "1", edits, author="ada", budget=0)
    with serving(tmp_path / "models", transport="asgi") as server:
        own = f"http://{server.http}/"
        context = browser.new_context(base_url=own)
        page = watched(context, own, seen)
        page.goto("ui/digits/edge/0/10/3?version=2")
        page.get_by_text("clamp -0.1:0.1 (fitted), from version 1 by ada").wait_for()
        page.goto("ui/digits/edge/0/10/3")
        page.get_by_role("heading", name="Curve points").wait_for()
        assert page.get_by_text("from version 1").count() == 0, "the default version is not the edit"
        page.goto("ui/digits/card?version=2")
        page.get_by_text("edge 1:0:0 zero: exact").wait_for()
        assert "fair" in page.locator("p.verdict").get_attribute("class").split()
        assert "Verified against the edited network" in page.locator("p.verdict").inner_text()
        context.close()
    assert seen.harm() == []
