"""Web UI with 50,000 and one million edges: models open, pan, zoom to curves, sort and search without stalls."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ui.conftest import opened
from tests.support import toy_model
from tests.support.server_process import Server, serving
from tests.support.tiers import full
from tests.support.wait import until

SPACE = "\N{NARROW NO-BREAK SPACE}"  # between thousands
FACTOR = 4  # of the figures that are promised, for a slower processor
# Paint so many frames while the wheel turns and the pointer moves.
FRAMES = """async (count) => {
  const canvas = document.querySelector('canvas');
  const box = canvas.getBoundingClientRect();
  for (let at = 0; at < count; at += 1) {
    const clientX = box.left + box.width * (0.3 + 0.2 * Math.sin(at / 9));
    const where = { clientX, clientY: box.top + box.height / 2, cancelable: true };
    canvas.dispatchEvent(new WheelEvent('wheel', { deltaY: 40 * Math.cos(at / 15), ...where }));
    canvas.dispatchEvent(new PointerEvent('pointermove', where));
    await new Promise(requestAnimationFrame);
  }
}"""
COUNT = 30  # of frames

pytestmark = full("second browser page")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`many`, of fifty thousand edges, and `wide`, of a million."""
    pytest.importorskip("h2corn")
    models = tmp_path_factory.mktemp("large")
    toy_model.write_wide(models, 224, "many")
    toy_model.write_wide(models, 1000)
    with serving(models, transport="asgi") as running:
        yield running


@pytest.fixture
def page(browse: Callable[..., Any], large: Server) -> Any:
    return browse(large)


def server_seconds(server: Server) -> float:
    """Seconds of the processor that the server has used; see proc(5)."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("name", "edges", "seconds"), [("many", 224**2, 2.0), ("wide", 10**6, 5.0)])
def test_they_open_and_move(page: Any, large: Server, name: str, edges: int, seconds: float) -> None:
    """All times are of the processor: on a busy machine, the time of the clock says nothing about the page."""
    opened(page, "ui/")
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def used() -> float:
        """Seconds of the processor that the main thread of the page has used."""
        metrics = tools.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))

    begun, computed = used(), server_seconds(large)
    opened(page, f"ui/{name}?as=matrix")
    assert f"{edges:,} active edges".replace(",", SPACE) in page.locator("main").inner_text()
    page.get_by_text("1 to 25 of").wait_for()
    before = used()
    assert server_seconds(large) - computed < FACTOR * seconds
    assert 0 < before - begun < FACTOR * 0.2, "no task of the page is longer than all of them"
    page.evaluate(FRAMES, COUNT)
    assert (used() - before) / COUNT < 1 / 30


def test_it_zooms_to_curves_and_opens_one(page: Any) -> None:
    opened(page, "ui/many?as=matrix")
    canvas = page.get_by_role("application")
    canvas.focus()
    before = canvas.screenshot()
    with page.expect_request("**/curves"):
        for _ in range(12):
            page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    until(lambda: canvas.screenshot() != before)
    page.get_by_role("status").filter(has_text="x1 → y1").locator("svg .line.edge").wait_for()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="x1 → y1").wait_for()


def test_a_million_are_sorted_shaded_and_searched(page: Any) -> None:
    """The shade of an edge in the matrix is its score: the strongest edge of the list is dark."""
    opened(page, "ui/wide?as=matrix")
    rows = page.get_by_role("region", name="Edges of a layer").locator("tbody tr")
    page.get_by_text("1 to 25 of").wait_for()
    strong = [float(row.locator("td").last.inner_text()) for row in rows.all()]
    assert strong == sorted(strong, reverse=True)
    assert rows.first.inner_text().split("\t")[0].replace("x", "").split(" → y")[0].isdecimal()
    link = rows.first.locator("a")
    source, destination = (int(part[1:]) for part in link.inner_text().split(" → "))
    assert link.get_attribute("href") == f"ui/wide/edge/0/{source}/{destination}"
    colour = page.evaluate(
        """([source, destination]) => {
          const canvas = document.querySelector('canvas');
          const [left, top] = [92, 74];
          const cell = Math.min((canvas.clientWidth - left) / 1000, (canvas.clientHeight - top) / 1000);
          const place = [left + source * cell - 1, top + destination * cell - 1];
          const { data } = canvas.getContext('2d').getImageData(...place, 3, 3);
          return Math.min(...data.filter((_, at) => at % 4 === 0));
        }""",
        [source, destination],
    )
    assert colour < 200
    page.get_by_label("Find node").fill("x77")
    page.get_by_text(f"of 11{SPACE}000").wait_for()  # x77 and x770 to x779, each with 1000
    page.get_by_role("button", name="Next").click()
    page.get_by_text("26 to 50 of").wait_for()
