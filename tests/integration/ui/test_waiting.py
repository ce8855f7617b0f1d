"""The web UI shows a skeleton while the server computes, and its start page lists facts of each model."""

import re
from typing import Any

import numpy as np
import pytest

from kanexport.shared.manifest import arrows
from kanserve.client.sync import Client
from tests.integration.ui.conftest import READY, Seen, opened
from tests.support.server_process import Server
from tests.support.tiers import full
from tests.support.wait import until

LEFT = ".skeleton, .doing, .bone"

pytestmark = full("second browser page")


class Held:
    """Holds the response to a request of the page until the test releases it."""

    def __init__(self, page: Any, pattern: str) -> None:
        self._routes: list[Any] = []
        self._held = True
        page.route(pattern, self._came)

    def _came(self, route: Any) -> None:
        if self._held and route.request.resource_type in ("fetch", "xhr"):
            self._routes.append(route)
        else:
            route.continue_()

    def let_go(self) -> None:
        self._held = False
        for route in self._routes:
            route.continue_()


# Address, the request that is held, what the page says meanwhile, and how many boxes it has at least.
VIEWS = [
    ("ui/hello/card", "**/report", "writes the report of hello: importance of its 3 edges", 8),
    ("ui/ops", "**/v1/kan/operations", "requests, durations, batches and errors", 10),
    ("ui/hello/explain", "**/explain", "contributions of 2 inputs", 5),
    ("ui/hello/explain", "**/curves", "the ranges of the 2 inputs of hello", 5),
    ("ui/hello/card", "**/v1/kan/models/hello", "describes hello", 8),
    ("ui/hello", "**/scores", "computes the importance of each edge", 2),
    ("ui/hello/compare?with=1", "**/scores", "describes version 1 of hello", 5),
    ("ui/", "**/v1/kan/overview", "requests and drift per version", 2),
    ("ui/hello", "**/repository/index", "lists its models", 4),
]


def test_a_view_shows_its_layout_and_what_is_computed(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for address, held, words, boxes in VIEWS:
        response = Held(page, held)
        page.goto("about:blank")  # so that the next address is a new page
        page.goto(address)
        page.locator("main").get_by_text(words).first.wait_for()
        assert page.locator(".bone").count() >= boxes, held
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, held
        response.let_go()
        page.locator(READY).wait_for()
        until(lambda: page.locator(LEFT).count() == 0)
        page.unroute(held)


def test_a_long_wait_is_counted_and_a_failure_takes_the_skeleton_away(page: Any, seen: Seen) -> None:
    seen.expected.append("503")
    response = Held(page, "**/report")
    page.goto("ui/hello/card")
    page.locator(".doing", has_text=re.compile(r"[2-9]\s?s$")).wait_for()
    page.route("**/report", lambda route: route.fulfill(status=503, json={"error": "not now"}))
    page.get_by_role("link", name="Drift").click()
    page.get_by_role("heading", name="traffic drifted?").wait_for()
    assert page.locator(".skeleton").count() == 0, "of the view that was left"
    page.get_by_role("link", name="Model card").click()
    page.get_by_role("heading", name="Server overloaded or shutting down").wait_for()
    assert page.locator(LEFT).count() == 0
    response.let_go()


SLOW_CLOCK = "const real = setTimeout; window.setTimeout = (act, wait, ...rest) => real(act, wait * 1000, ...rest);"
COUNT_FRAMES = """
window.frames_seen = 0;
window.skeletons_seen = 0;
const look = () => {
  window.frames_seen += 1;
  window.skeletons_seen += document.querySelectorAll('.skeleton').length;
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""


def wait_for_frames(page: Any, count: int) -> None:
    """Wait until the browser painted `count` more frames. The page's policy forbids wait_for_function."""
    enough = page.evaluate("window.frames_seen") + count
    until(lambda: page.evaluate("window.frames_seen") >= enough)


def test_a_quick_response_shows_no_skeleton_in_between(page: Any) -> None:
    """The clock of the page is slowed, so that each response is quick. A skeleton would be in a painted frame."""
    opened(page, "ui/hello")
    page.evaluate(f"(() => {{ {SLOW_CLOCK} {COUNT_FRAMES} }})()")
    response = Held(page, "**/repository/index")
    page.get_by_role("link", name="Drift").click()
    wait_for_frames(page, 10)
    response.let_go()
    page.get_by_role("heading", name="traffic drifted?").wait_for()
    wait_for_frames(page, 3)
    assert page.evaluate("window.skeletons_seen") == 0


def test_the_first_page_tells_of_each_model(page: Any, server: Server) -> None:
    rng = np.random.default_rng(1)
    server.infer(rng.normal(0, 0.5, (40, 2)).astype(np.float32), model="hello")

    def cells(name: str) -> dict[str, str]:
        heads = [item.inner_text() for item in page.locator("thead th").all()]
        row = page.locator("tbody tr", has=page.get_by_role("link", name=name, exact=True))
        return dict(zip(heads, [item.inner_text() for item in row.locator("td").all()], strict=True))

    def shown() -> dict[str, str]:
        opened(page, "ui/")
        return cells("hello")

    until(lambda: re.match(r"[1-9]", shown()["Requests"]) and re.match(r"\d", shown()["Drift ratio"]))
    hello, digits = shown(), cells("digits")
    with Client(server.address) as client:
        described = client.describe("hello")
    assert (hello["State"], hello["Library"]) == ("ready default", described.family)
    assert hello["Shape"] == arrows(described.shapes)
    words, _, figure = hello["Verified against"].partition(" (")
    assert words == "checkpoint"
    assert float(figure.rstrip(")")) == pytest.approx(described.verified_error, rel=0.05)
    assert (digits["Shape"], digits["Drift ratio"]) == ("64 → 16 → 10", "no baseline")
    page.get_by_role("link", name=hello["Verified against"]).click()
    page.get_by_role("heading", name="Verification", exact=True).wait_for()


def test_importance_is_over_the_baseline_where_there_is_one(page: Any, server: Server) -> None:
    page.goto("ui/hello")
    page.get_by_text("computed on the baseline (400 rows)").wait_for()
    with Client(server.address) as client:
        expected = client.scores(client.describe("hello"), source="baseline").layers[0].edges
    result = importance(page)
    assert result == pytest.approx(float(np.abs(expected).max()), rel=0.02)
    page.goto("ui/digits")
    page.get_by_text("synthetic verification rows, not on your data").wait_for()


def importance(page: Any) -> float:
    """The largest number in the list of edges of the first layer."""
    lines = page.locator(".edges tbody tr")
    lines.first.wait_for()
    return max(float(line.split("\t")[-1].replace("\N{MINUS SIGN}", "-")) for line in lines.all_inner_texts())
