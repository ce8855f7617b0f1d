"""Screenshots of the web UI for README.md and docs/guides/monitor/web-ui.md.

`python -m tools.ui_pictures` takes them. Each has the structure of its page in its metadata, which a test compares with
the page of today: the pixels depend on fonts.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
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
WINE = (
    "alcohol,malic acid,ash,alcalinity of ash,magnesium,total phenols,flavanoids,nonflavanoid phenols,proanthocyanins,"
    "color intensity,hue,od280/od315,proline"
)
ROW = "0.974,0.1309,0.5398,-0.567,0.9064,0.4468,-0.2616,-0.0114,0.3152,0.2627,0.1484,-0.4732,-0.3278"
READY = "main:not([aria-busy]) h1"
# Address of the page of each picture, and an element that the page has when it is complete.
PAGES = {
    "map": ("ui/hello", ".network .curve"),
    "edge": ("ui/hello/edge/0/1/0", "svg .seen.live"),
    "layers": ("ui/digits", ".edge-card .line.edge"),
    "matrix": ("ui/digits?as=matrix", "canvas"),
    "explain": (f"ui/wine/explain#row={ROW}", ".dots figure"),
    "drift": ("ui/wine/drift", ".verdict.good"),
    "operations": ("ui/ops", ".board"),
}
STRUCTURE = "structure"  # in the metadata of a picture
# The visible headings, columns, fields and charts of a page in their order, without numbers, results of traffic and the
# curve of a card, which appears later.
OUTLINE = r"""() => [...new Set([...document.querySelectorAll(
    'main h1, main h2, main h3, main th, main label, main summary, main button, main canvas, main svg[role]')]
  .filter((one) => !one.matches('.edge-card svg'))
  .filter((one) => one.checkVisibility() && !(one.matches('button') && one.closest('tbody')))
  .map((one) => [one.localName, one.matches('svg') ? '' : one.textContent.replace(/\s+/g, ' ').trim()])
  .map(([tag, text]) => [tag, text.replace(/[\u2212-]?\d[\d.,e-]*/g, '#')])
  .map(([tag, text]) => `${tag} ${text.replace(/^Distribution of .*/, 'Distribution')}`.trim()))]"""


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


def structures(browser: Any, server: Server) -> dict[str, list[str]]:
    """The structure of the page of each picture."""
    with contextlib.closing(_context(browser, server)) as context:
        page = context.new_page()
        result = {}
        for name in PAGES:
            _open(page, name)
            result[name] = page.evaluate(OUTLINE)
        return result


def _context(browser: Any, server: Server) -> Any:
    context = browser.new_context(base_url=f"http://{server.http}/", viewport={"width": WIDTH, "height": HEIGHT})
    context.add_init_script("localStorage.setItem('kanserve-hint', 'closed')")
    return context


def _open(page: Any, name: str) -> None:
    address, complete = PAGES[name]
    page.goto(address)
    page.locator(READY).wait_for()
    page.locator(complete).first.wait_for()


def take(browser: Any, server: Server) -> Iterator[tuple[str, Image.Image]]:
    """Yield names and pictures."""
    steps = {"matrix": _enlarge, "drift": _let_drift, "operations": _keep_busy}
    last = {"edge": ".edge-page", "explain": ".parts .panel", "drift": ".board", "operations": ".board"}
    with contextlib.closing(_context(browser, server)) as context:
        page = context.new_page()
        for name in PAGES:
            _open(page, name)
            if name in steps:
                steps[name](page, server)
            yield name, _shot(page, last.get(name, ".map-page"))


def _enlarge(page: Any, server: Server) -> None:
    page.get_by_role("application").focus()
    with page.expect_response("**/curves"):
        for _ in range(4):
            page.keyboard.press("+")
    page.wait_for_timeout(500)


def _let_drift(page: Any, server: Server) -> None:
    for at in range(14):
        page.wait_for_timeout(1000)
        server.infer(_wines(40 + at, 1.2), model="wine")
    page.locator(".verdict.bad").wait_for()
    page.wait_for_timeout(3000)


def _keep_busy(page: Any, server: Server) -> None:
    page.locator("main").get_by_role("combobox", name="Version").select_option("hello 1")
    rng = np.random.default_rng(5)
    for _ in range(80):
        for _ in range(rng.integers(2, 6)):
            server.infer(rng.normal(0, 0.4, (int(rng.integers(1, 40)), 2)).astype(np.float32), model="hello")
        server.infer(_wines(20, 1.2), model="wine")
        page.wait_for_timeout(500)


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


def path(name: str) -> Path:
    """The file of a picture."""
    return ASSETS / f"observatory-{name}.png"


def save(name: str, picture: Image.Image, structure: list[str]) -> None:
    """Write a picture with the structure of its page."""
    facts = PngImagePlugin.PngInfo()
    facts.add_itxt(STRUCTURE, json.dumps(structure, ensure_ascii=False))
    picture.save(path(name), optimize=True, pnginfo=facts)


def main() -> int:
    """Take all pictures, and write them into docs/assets/."""
    from playwright.sync_api import sync_playwright

    from tests.integration.ui.conftest import ARGUMENTS, chromium

    with tempfile.TemporaryDirectory() as folder:
        models = write(Path(folder))
        with serving(models, transport="asgi") as server, sync_playwright() as playwright:
            ask(server)
            browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
            found = structures(browser, server)
            for name, picture in take(browser, server):
                save(name, _small(picture), found[name])
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
