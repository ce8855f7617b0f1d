"""The page as a viewer meets it: it loads, leads from view to view, and says in words what is wrong."""

from __future__ import annotations

from typing import Any

from tests.ui.conftest import Seen


def test_from_the_root_to_a_model(page: Any) -> None:
    page.goto("")
    page.get_by_role("heading", name="Models").wait_for()
    assert page.url.endswith("/ui/")
    assert page.get_by_role("link", name="hello").count() == 1
    page.get_by_role("link", name="hello").click()
    page.get_by_role("heading", name="hello, version 1").wait_for()
    assert page.title() == "Map \N{EN DASH} hello \N{EN DASH} kanserve"
    page.go_back()
    page.get_by_role("heading", name="Models").wait_for()


def test_what_is_not_there_is_said_in_words(page: Any, seen: Seen) -> None:
    seen.expected.append("404")
    page.goto("ui/nothing")
    page.get_by_role("heading", name="There is no such thing").wait_for()
    assert "nothing" in page.get_by_role("alert").inner_text()
    assert page.get_by_role("button", name="Try again").count() == 1
