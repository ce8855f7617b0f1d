"""The web UI in a real browser, from its root to the pages of two models."""

from typing import Any


def test_from_the_root_to_a_model(page: Any) -> None:
    page.goto("")
    page.get_by_role("heading", name="Models").wait_for()
    assert page.url.endswith("/ui/")
    page.get_by_role("link", name="hello", exact=True).click()
    page.get_by_role("heading", name="hello, version 1").wait_for()
    assert page.title() == "Network \N{EN DASH} hello \N{EN DASH} kanserve"
    page.locator("#model").select_option("digits")
    page.get_by_role("heading", name="digits, version 1").wait_for()
    page.go_back()
    page.get_by_role("heading", name="hello, version 1").wait_for()
