"""The page of an edit in a real Chromium without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.ui.conftest import GOLDEN, Seen, watched
from tests.support.command_line import program


def test_the_page_of_an_edit(browser: Any, seen: Seen, tmp_path: Path) -> None:
    named = ("--features", "a<b,c&d", "--classes", "<img src=x>")
    case, page = GOLDEN / "pykan-hello-adapted" / "model", tmp_path / "edit.html"
    exported = program("export", case, "--repository", tmp_path / "models", "--name", "hello", *named)
    assert exported.returncode == 0, exported.stderr
    words = ("--edge", "0:0:0", "--to", "1.2*sin(x)", "--budget", "0", "--dry-run", "--report", page)
    edited = program("edit", tmp_path / "models" / "hello", *words)
    assert edited.returncode == 0, edited.stderr
    context = browser.new_context(offline=True)
    own = watched(context, page.as_uri(), seen)
    own.goto(page.as_uri())
    assert own.title() == "hello, version 2"
    assert own.get_by_role("cell", name="<img src=x>", exact=True).count() == 2
    assert own.get_by_text("a<b = ").is_visible()
    assert own.locator("img").count() == 0
    picture = own.locator("svg")
    assert (picture.count(), picture.first.bounding_box()["width"] > 200) == (1, True)
    context.close()
    assert seen.harm() == []
