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
WIDTH, HEIGHT = 1120, 800
MARGIN = 14  # pixels below the last element
WINE = (
    "alcohol,malic acid,ash,alcalinity of ash,magnesium,total phenols,flavanoids,nonflavanoid phenols,proanthocyanins,"
    "color intensity,hue,od280/od315,proline"
)
ROW = "0.974,0.1309,0.5398,-0.567,0.9064,0.4468,-0.2616,-0.0114,0.3152,0.2627,0.1484,-0.4732,-0.3278"
READY = "main:not([aria-busy]) h1"


def write(folder: Path) -> Path:
    """Export the models of the pictures. `hello` and `wine` have a baseline."""
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
    """Send the traffic of the pictures. One feature of hello has drifted. `take` makes that of wine drift."""
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
    """Yield names and pictures."""
    context = browser.new_context(base_url=f"http://{server.http}/", viewport={"width": WIDTH, "height": HEIGHT})
    context.add_init_script("localStorage.setItem('kanserve-hint', 'closed')")
    page = context.new_page()
    for name, picture in (
        ("map", _map),
        ("edge", _edge),
        ("matrix", _matrix),
        ("explain", _explain),
        ("drift", _drift),
        ("operations", _operations),
    ):
        yield f"observatory-{name}", picture(page, server)
    context.close()


def _map(page: Any, server: Server) -> Image.Image:
    page.goto("ui/hello")
    page.locator(READY).wait_for()
    page.locator(".network .curve").first.wait_for()
    return _shot(page, ".map-page")


def _edge(page: Any, server: Server) -> Image.Image:
    page.goto("ui/hello/edge/0/1/0")
    page.locator("svg .seen.live").wait_for()
    return _shot(page, ".edge-page")


def _matrix(page: Any, server: Server) -> Image.Image:
    page.goto("ui/digits")
    page.locator(READY).wait_for()
    page.get_by_role("application").focus()
    with page.expect_response("**/curves"):
        for _ in range(4):
            page.keyboard.press("+")
    page.wait_for_timeout(500)
    return _shot(page, ".map-page")


def _explain(page: Any, server: Server) -> Image.Image:
    page.goto(f"ui/wine/explain#row={ROW}")
    page.locator(".dots figure").first.wait_for()
    return _shot(page, ".parts .panel")


def _drift(page: Any, server: Server) -> Image.Image:
    page.goto("ui/wine/drift")
    page.locator(".verdict.good").wait_for()
    for at in range(14):
        page.wait_for_timeout(1000)
        server.infer(_wines(40 + at, 1.2), model="wine")
    page.locator(".verdict.bad").wait_for()
    page.wait_for_timeout(3000)
    return _shot(page, ".board")


def _operations(page: Any, server: Server) -> Image.Image:
    page.goto("ui/ops")
    page.locator(READY).wait_for()
    page.locator("main").get_by_role("combobox", name="Version").select_option("hello 1")
    rng = np.random.default_rng(5)
    for _ in range(80):
        for _ in range(rng.integers(2, 6)):
            server.infer(rng.normal(0, 0.4, (int(rng.integers(1, 40)), 2)).astype(np.float32), model="hello")
        server.infer(_wines(20, 1.2), model="wine")
        page.wait_for_timeout(500)
    return _shot(page, ".board")


def _shot(page: Any, last: str) -> Image.Image:
    """The page from its top to the end of an element."""
    box = page.locator(last).first.bounding_box()
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": round(box["y"] + box["height"]) + MARGIN}
    return Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB")


def _small(picture: Image.Image) -> Image.Image:
    """Reduce a picture to 256 frequent colors, which saves two thirds of the bytes."""
    pixels = np.asarray(picture)
    colors, index, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    spread = colors.max(axis=1).astype(int) - colors.min(axis=1)
    kept = colors[np.argsort(-counts * np.where(spread > 40, 20, 1))[:256]].astype(np.float32)  # few pixels have color
    nearest = [np.square(kept - color).sum(axis=1).argmin() for color in colors.astype(np.float32)]
    indexed = Image.fromarray(np.array(nearest, np.uint8)[index].reshape(pixels.shape[:2]), "P")
    indexed.putpalette(kept.astype(np.uint8).tobytes())
    return indexed


def apart(item: Image.Image, other: Image.Image) -> float:
    """The mean difference of two reduced pictures, 0 to 1. Fonts and edges of full pictures differ by machine."""
    if item.size != other.size:
        return 1.0
    far = [np.asarray(each.convert("RGB").resize((70, 44), Image.Resampling.BOX), np.float64) for each in (item, other)]
    return float(np.abs(far[0] - far[1]).mean() / 255)


def main() -> int:
    """Take all pictures, and write them into docs/assets/."""
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
