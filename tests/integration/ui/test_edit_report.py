"""The page of an edit in a real Chromium without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.ui.conftest import GOLDEN
from tests.support.command_line import kanserve
from tests.support.exports import exported
from tests.support.tiers import full

pytestmark = full("second browser page")


def test_the_page_of_an_edit(browse: Callable[..., Any], tmp_path: Path) -> None:
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
