"""Screenshots of the web UI for README.md and docs/guides/monitor/web-ui.md.

`python -m tools.ui_pictures` takes them. Each file also has the texts that its page shows, and a test compares these
with the page: fonts, and with them heights and pixels, differ by machine.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.support.command_line import program
from tests.support.server_process import Server, serving

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs" / "assets"
GOLDEN = ROOT / "tests" / "golden" / "checkpoints"
WIDTH, HEIGHT = 1120, 800
MARGIN = 14  # pixels below the last element
SECONDS = 14  # of live traffic in the charts
SHOWN = "shown"  # name of the texts in a picture's file
# The texts of headings, controls and legends in the top part of a page. Numbers and what depends on them are left out.
TEXTS = """(bottom) => {
  const texts = [...document.querySelectorAll("h1, h2, label, button, a, summary, th, dt, span")]
    .filter((element) => element.checkVisibility({visibilityProperty: true}))
    .filter((element) => element.getBoundingClientRect().top + scrollY < bottom)
    .flatMap((element) => [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE))
    .map((node) => node.data.replace(/\\s+/g, " ").trim());
  return [...new Set(texts.filter((text) => text && !/[0-9]/.test(text)))].sort();
}"""
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
    """Send the traffic of the pictures. One feature of hello has drifted. `views` makes that of wine drift."""
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


@dataclass(frozen=True, slots=True)
class View:
    """A page of which a picture shows the part from its top to the end of the element `last`."""

    name: str
    page: Any
    last: str

    def shown(self) -> list[str]:
        """Its texts, as TEXTS says."""
        return list(self.page.evaluate(TEXTS, self._bottom()))

    def picture(self) -> Image.Image:
        """The picture, in full colors."""
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": self._bottom() + MARGIN}
        with Image.open(io.BytesIO(self.page.screenshot(full_page=True, clip=clip))) as taken:
            return taken.convert("RGB")

    def _bottom(self) -> int:
        box = self.page.locator(self.last).first.bounding_box()
        return round(box["y"] + box["height"])


def views(browser: Any, server: Server, seconds: int) -> Iterator[View]:
    """The views, each while the page shows it. `seconds`: of live traffic in charts."""
    context = browser.new_context(base_url=f"http://{server.http}/", viewport={"width": WIDTH, "height": HEIGHT})
    context.add_init_script("localStorage.setItem('kanserve-hint', 'closed')")
    page = context.new_page()
    for name, (visit, last) in VISITS.items():
        visit(page, server, seconds)
        yield View(f"observatory-{name}", page, last)
    context.close()


def _map(page: Any, server: Server, seconds: int) -> None:
    page.goto("ui/hello")
    page.locator(READY).wait_for()
    page.locator(".network .curve").first.wait_for()


def _edge(page: Any, server: Server, seconds: int) -> None:
    page.goto("ui/hello/edge/0/1/0")
    page.locator("svg .seen.live").wait_for()


def _matrix(page: Any, server: Server, seconds: int) -> None:
    page.goto("ui/digits")
    page.locator(READY).wait_for()
    page.get_by_role("application").focus()
    with page.expect_response("**/curves"):
        for _ in range(4):
            page.keyboard.press("+")
    page.wait_for_timeout(500 if seconds else 0)


def _explain(page: Any, server: Server, seconds: int) -> None:
    page.goto(f"ui/wine/explain#row={ROW}")
    page.locator(".dots figure").first.wait_for()


def _drift(page: Any, server: Server, seconds: int) -> None:
    page.goto("ui/wine/drift")
    page.locator(".verdict.good").wait_for()
    for at in range(seconds):
        page.wait_for_timeout(1000)
        server.infer(_wines(40 + at, 1.2), model="wine")
    if not seconds:
        server.infer(_wines(600, 1.2), model="wine")
    page.locator(".verdict.bad").wait_for()
    page.wait_for_timeout(3000 if seconds else 0)


def _operations(page: Any, server: Server, seconds: int) -> None:
    page.goto("ui/ops")
    page.locator(READY).wait_for()
    page.locator("main").get_by_role("combobox", name="Version").select_option("hello 1")
    rng = np.random.default_rng(5)
    for _ in range(6 * seconds or 1):
        for _ in range(rng.integers(2, 6)):
            server.infer(rng.normal(0, 0.4, (int(rng.integers(1, 40)), 2)).astype(np.float32), model="hello")
        server.infer(_wines(20, 1.2), model="wine")
        page.wait_for_timeout(500 if seconds else 0)


# Name of a picture -> the way to its view, and the last element of it.
VISITS: dict[str, tuple[Callable[[Any, Server, int], None], str]] = {
    "map": (_map, ".map-page"),
    "edge": (_edge, ".edge-page"),
    "matrix": (_matrix, ".map-page"),
    "explain": (_explain, ".parts .panel"),
    "drift": (_drift, ".board"),
    "operations": (_operations, ".board"),
}


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


def stored(path: Path) -> tuple[int, list[str]]:
    """The width of a picture, and the texts that its page shows."""
    with Image.open(path) as picture:
        return picture.width, json.loads(picture.text[SHOWN])


def main() -> int:
    """Take all pictures, and write them into docs/assets/."""
    from playwright.sync_api import sync_playwright

    from tests.integration.ui.conftest import ARGUMENTS, chromium

    with tempfile.TemporaryDirectory() as folder:
        models = write(Path(folder))
        with serving(models, transport="asgi") as server, sync_playwright() as playwright:
            ask(server)
            browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
            for view in views(browser, server, SECONDS):
                texts = PngImagePlugin.PngInfo()
                texts.add_itxt(SHOWN, json.dumps(view.shown()))
                _small(view.picture()).save(ASSETS / f"{view.name}.png", optimize=True, pnginfo=texts)
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
