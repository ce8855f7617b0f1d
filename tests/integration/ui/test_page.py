"""Web UI pages in a browser: token, keyboard, dark mode, narrow screens, path prefix and errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.ui.conftest import READY, Seen, opened
from tests.support import credentials, toy_model
from tests.support.server_process import Server, serving
from tests.support.tiers import full
from tests.support.wait import until

WIDE = {"width": 1920, "height": 1080}
# The parts that are side by side on a wide screen, and their number.
PAGES: dict[str, tuple[str, int] | None] = {
    "ui/": None, "ui/hello": (".map-page > .panel", 2), "ui/digits": None, "ui/digits?as=matrix": None,
    "ui/digits/edge/0/10/3": (".edge-page > *", 2),
    "ui/hello/explain#row=30,0.1&against=0.2,-0.3": (".parts > .panel", 2), "ui/hello/compare?with=1": None,
    "ui/hello/drift": (".board > .panel", 4), "ui/ops": (".board.three > .panel", 3), "ui/hello/card": None,
}  # fmt: skip
# The texts of pictures that overlap another one, leave their picture, or are cut to three letters or fewer.
UNREADABLE = r"""() => [...document.querySelectorAll('main svg')].flatMap((picture) => {
  const frame = picture.getBoundingClientRect();
  const all = [...picture.querySelectorAll('text')].filter((one) => one.checkVisibility() && one.textContent.trim())
    .map((one) => ({ text: one.textContent, box: one.getBoundingClientRect() }));
  const shared = (a, b, low, high) => Math.min(a.box[high], b.box[high]) - Math.max(a.box[low], b.box[low]);
  const over = (a, b) => shared(a, b, 'left', 'right') > 1 && shared(a, b, 'top', 'bottom') > 3;
  const cut = ({ text, box }) => box.left < frame.left - 1 || box.right > frame.right + 1 || /^.{0,3}\u2026/.test(text);
  return all.filter((a, at) => cut(a) || all.slice(at + 1).some((b) => over(a, b))).map(({ text }) => text);
})"""

pytestmark = full("second browser page")


def test_what_is_not_there_is_said_in_words(page: Any, seen: Seen) -> None:
    seen.expected.append("404")
    page.goto("ui/hello/edge/0/9/0")
    page.get_by_role("alert").filter(has_text="hello version 1 has no edge 0/9/0").wait_for()
    page.goto("ui/nothing")
    page.get_by_role("heading", name="Not found").wait_for()
    assert "nothing" in page.get_by_role("alert").inner_text()
    text = page.get_by_role("alert").inner_text()
    assert "This version may no longer be served. Choose another." in text
    assert "\nSend a name that the repository index lists" in text
    assert page.get_by_role("button", name="Try again").count() == 1


@pytest.mark.parametrize("address", PAGES)
def test_a_page_fits_screens_colours_and_readers(page: Any, server: Server, address: str) -> None:
    server.infer(np.zeros((300, 64), np.float32), model="digits")  # batches for the operations
    axe = pytest.importorskip("axe_playwright_python")
    page.set_viewport_size(WIDE)
    opened(page, address)
    if PAGES[address]:
        columns_use_the_width(page, *PAGES[address])
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text() + "; undefined")
    colours = []
    for rules in ("{}", "{ runOnly: ['color-contrast'] }"):
        result = page.evaluate(f"axe.run({rules}).then((found) => found.violations)")
        assert [(item["id"], [node["html"][:200] for node in item["nodes"]]) for item in result] == []
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.locator("#theme").click()
    assert colours[0] != colours[1]
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    page.set_viewport_size({"width": 360, "height": 740})
    page.reload()
    page.locator(READY).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(UNREADABLE) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colours[0]  # twice is back


def columns_use_the_width(page: Any, parts: str, columns: int) -> None:
    """So many parts of a page are side by side, as far as the edge of the screen."""
    until(lambda: page.locator(parts).nth(columns - 1).is_visible())
    boxes = [box for item in page.locator(parts).all() if (box := item.bounding_box())]
    first = [box for box in boxes if abs(box["y"] - boxes[0]["y"]) < 2]
    assert len(first) == columns
    assert max(box["x"] + box["width"] for box in first) > 0.97 * WIDE["width"]


def test_the_system_decides_on_dark_until_the_viewer_does(browse: Callable[..., Any], server: Server) -> None:
    page = browse(server, "ui/", color_scheme="dark")
    page.locator(READY).wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.emulate_media(color_scheme="light")
    until(lambda: page.evaluate("document.documentElement.dataset.theme") == "light")


def test_by_keys_alone(page: Any) -> None:
    opened(page, "ui/hello")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.network .edge')"):
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.wait_for_url("**/edge/**")
    page.locator("main:not([aria-busy]) h1", has_text="→").wait_for()
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_token_is_asked_for_once_and_kept_out_of_addresses(
    browse: Callable[..., Any], seen: Seen, tmp_path: Path
) -> None:
    created = credentials.write_tokens(tmp_path / "tokens.toml")
    toy_model.write(tmp_path / "models")
    seen.expected += ["401", "403"]
    with serving(tmp_path / "models", transport="asgi", tokens=str(tmp_path / "tokens.toml")) as server:
        page = browse(server)
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        page.goto("ui/toy")
        dialog = page.get_by_role("dialog", name="Token required")
        dialog.wait_for()
        page.locator("#token-value").fill("kan_" + "a" * 43)
        page.keyboard.press("Enter")
        page.get_by_text("The server rejected the last token").wait_for()
        page.locator("#token-value").fill(created["read"])
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Permission denied").wait_for()
        assert "the role interpret" in page.get_by_role("alert").inner_text()
        page.evaluate("sessionStorage.clear()")
        page.get_by_role("button", name="Try again").click()
        page.locator("#token-value").fill(created["interpret"])
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="toy, version 1").wait_for()
        page.reload()
        page.get_by_role("heading", name="toy, version 1").wait_for()
        assert not dialog.is_visible()
        assert not any(token in address for token in created.values() for address in addresses)
        assert page.evaluate("JSON.stringify(localStorage) + document.cookie").find(created["interpret"]) < 0
        page.context.close()


def test_a_server_that_goes_and_a_version_that_is_replaced(
    browse: Callable[..., Any], seen: Seen, tmp_path: Path
) -> None:
    toy_model.write(tmp_path / "models")
    seen.expected += ["net::ERR", "503"]
    with serving(tmp_path / "models", transport="asgi", repository_poll_seconds=0.2) as server:
        page = browse(server)
        with page.expect_response("**/watch*"):  # from then on, it follows the traffic
            page.goto("ui/toy")
        page.get_by_role("heading", name="toy, version 1").wait_for()
        toy_model.write(tmp_path / "models", version=2)
        page.locator("#banner").filter(has_text="the default version is 2").wait_for()
        page.get_by_role("button", name="Show current state").click()
        page.get_by_role("heading", name="toy, version 2").wait_for()
        server.stop()
        page.locator("#model").dispatch_event("change")
        page.get_by_role("heading", name="No response from the server").wait_for()
        page.context.close()


def test_a_tab_that_nobody_sees_asks_nothing(page: Any) -> None:
    with page.expect_request("**/watch*"):
        page.goto("ui/hello/edge/0/0/0")
    page.locator("svg .seen").first.wait_for()
    look = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    look += " document.dispatchEvent(new Event('visibilitychange')); }"
    with page.expect_event("requestfailed", lambda request: "/watch" in request.url):
        page.evaluate(look, True)
    with page.expect_request("**/watch*"):
        page.evaluate(look, False)


def test_behind_a_prefix_that_nobody_told_it_of(browse: Callable[..., Any], server: Server, seen: Seen) -> None:
    """As behind a proxy that has the server at /team/kan, and lets no stream of events through."""
    seen.expected.append("502")
    outer = f"http://{server.http}/team/kan/"

    def passed(route: Any) -> None:
        assert route.request.url.startswith(outer)
        if "/watch" in route.request.url:
            route.fulfill(status=502)
        else:
            route.fulfill(response=route.fetch(url=route.request.url.replace("/team/kan", "", 1)))

    page = browse(outer)
    page.route("**/*", passed)
    page.goto(f"{outer}ui/")
    page.get_by_role("link", name="hello", exact=True).click()
    page.get_by_role("heading", name="hello, version 1").wait_for()
    assert page.url == f"{outer}ui/hello/map?version=1"
    page.goto(f"{outer}ui/hello/edge/0/0/0")
    page.locator("svg .line.total").wait_for()
    page.get_by_text("Baseline: 400 values").wait_for()  # by polling, because the proxy passes no events


def test_the_policy_lets_no_script_in(page: Any, seen: Seen) -> None:
    seen.expected += ["Content Security Policy", "Refused"]
    opened(page, "ui/")
    page.evaluate(
        "const one = document.createElement('script'); one.textContent = 'window.got = 1'; document.body.append(one)"
    )
    assert page.evaluate("window.got") is None
    until(lambda: bool(seen.messages))


def test_a_first_visit_explains_edges_until_it_is_closed(page: Any) -> None:
    page.goto("ui/hello")
    hint = page.get_by_role("region", name="An edge is a learned function")
    hint.wait_for()
    page.get_by_role("button", name="Got it").click()
    assert hint.is_hidden()
    assert page.evaluate("document.activeElement.id") == "help"
    page.reload()
    page.locator(READY).wait_for()
    assert hint.is_hidden()
    page.get_by_role("button", name="Help").click()
    assert hint.is_visible()
    assert page.locator("#help").get_attribute("aria-expanded") == "true"


def test_an_empty_repository_says_what_to_do(browse: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with serving(tmp_path / "models", transport="asgi") as server:
        page = browse(server, "ui/")
        page.locator(".empty").filter(has_text="kanserve export").wait_for()
        page.context.close()
