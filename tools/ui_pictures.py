"""Screenshots of the web UI for README.md and docs/guides/monitor/web-ui.md.

`python -m tools.ui_pictures` takes them, and a test compares them.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.command_line import program
from tests.support.server_process import Server, serving

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs" / "assets"
GOLDEN = ROOT / "tests" / "golden" / "checkpoints"
WIDTH, HEIGHT = 1120, 700
WINE = (
    "alcohol,malic acid,ash,alcalinity of ash,magnesium,total phenols,flavanoids,nonflavanoid phenols,proanthocyanins,"
    "color intensity,hue,od280/od315,proline"
)
ROW = "0.974,0.1309,0.5398,-0.567,0.9064,0.4468,-0.2616,-0.0114,0.3152,0.2627,0.1484,-0.4732,-0.3278"
READY = "main:not([aria-busy]) h1"


def write(folder: Path) -> Path:
    """The models of the pictures, `hello` and `wine` with the rows of a reference."""
    rows = np.random.default_rng(3).normal(0, 0.45, (400, 2)).astype(np.float32)
    np.save(folder / "reference.npy", rows)
    np.save(folder / "train.npy", np.random.default_rng(4).normal(0, 0.5, (600, 13)).astype(np.float32))
    named = ("--features", "length,width", "--baseline", str(folder / "reference.npy"))
    wine = ("--features", WINE, "--classes", "Barolo,Grignolino,Barbera", "--baseline", str(folder / "train.npy"))
    for name, case, *flags in (
        ("hello", "pykan-hello-adapted/model", *named),
        ("digits", "efficient-kan-digits/model.pt"),
        ("wine", "efficient-kan-wine-update-grid/model.pt", "--option", "base_activation=tanh", *wine),
    ):
        done = program("export", GOLDEN / case, "--repository", folder / "models", "--name", name, *flags)
        if done.returncode:
            raise RuntimeError(done.stderr)
    return folder / "models"


def ask(server: Server) -> None:
    """The traffic of the pictures: one feature has drifted; that of wines does while it is looked at."""
    rng = np.random.default_rng(1)
    server.infer(
        np.stack([rng.normal(0, 0.45, 300), rng.normal(0.5, 0.5, 300)], axis=1).astype(np.float32), model="hello"
    )
    server.infer(rng.uniform(-1, 1, (300, 64)).astype(np.float32), model="digits")
    server.infer(_wines(250, 0.0), model="wine")


def _wines(count: int, shift: float) -> np.ndarray:
    wines = np.random.default_rng(count).normal(0, 0.5, (count, 13))
    wines[:, 0] += shift
    wines[:, 12] *= 1 - 0.6 * shift
    return wines.astype(np.float32)


def take(browser: Any, server: Server) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures."""
    context = browser.new_context(base_url=f"http://{server.http}/", viewport={"width": WIDTH, "height": HEIGHT})
    page = context.new_page()
    page.goto("ui/hello")
    page.locator(READY).wait_for()
    page.locator(".network .curve").first.wait_for()
    yield "observatory-map", _shot(page)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT + 250})
    page.goto("ui/hello/edge/0/1/0")
    page.locator("svg .seen.live").wait_for()
    yield "observatory-edge", _shot(page)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto("ui/digits")
    page.locator(READY).wait_for()
    page.get_by_role("application").focus()
    with page.expect_response("**/curves"):
        for _ in range(3):
            page.keyboard.press("+")
    page.wait_for_timeout(500)
    yield "observatory-matrix", _shot(page)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT + 420})
    page.goto(f"ui/wine/explain#row={ROW}")
    page.locator(".dots figure").first.wait_for()
    yield "observatory-explain", _shot(page)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT + 180})
    page.goto("ui/wine/drift")
    page.locator(".verdict.good").wait_for()
    for _ in range(4):
        page.wait_for_timeout(1000)
        server.infer(_wines(130, 1.2), model="wine")
    page.locator(".verdict.bad").wait_for()
    page.wait_for_timeout(3000)
    yield "observatory-drift", _shot(page)
    context.close()


def _shot(page: Any) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _small(picture: Image.Image) -> Image.Image:
    """With its 256 most frequent colours, the others as the nearest: a third of the bytes."""
    colours, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours[np.argsort(-counts)[:256]].tobytes())
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def apart(item: Image.Image, other: Image.Image) -> float:
    """How far two pictures are from one another, of 1: seen from afar, since fonts and edges differ by machine."""
    if item.size != other.size:
        return 1.0
    far = [np.asarray(each.convert("RGB").resize((70, 44), Image.Resampling.BOX), np.float64) for each in (item, other)]
    return float(np.abs(far[0] - far[1]).mean() / 255)


def main() -> int:
    """Take all of them into docs/assets/."""
    from playwright.sync_api import sync_playwright

    from tests.integration.ui.conftest import ARGUMENTS, chromium

    with tempfile.TemporaryDirectory() as folder:
        models = write(Path(folder))
        with serving(models, transport="asgi") as server, sync_playwright() as playwright:
            ask(server)
            browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
            for name, picture in take(browser, server):
                _small(picture).save(ASSETS / f"{name}.png", optimize=True)
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
