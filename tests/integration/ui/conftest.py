"""Fixtures: a real Chromium and a real server. Each page is checked for errors, CSP violations and foreign requests."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command_line import exported
from tests.support.server_process import Server, serving

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoints"
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
WIDTH, HEIGHT = 1280, 860
READY = "main:not([aria-busy]) h1"  # a page that has its data


@dataclass
class Seen:
    """Errors that the browser reports on a page. A message that contains a word of `expected` does not count."""

    messages: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def harm(self) -> list[str]:
        return self.elsewhere + [item for item in self.messages if not any(word in item for word in self.expected)]


def chromium() -> str:
    """The program, or ""."""
    return next(filter(None, map(shutil.which, CHROMIUM)), "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Ends with the module, because its event loop makes `asyncio.run` of other tests fail."""
    sync_api = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("h2corn")
    if not (result := chromium()):
        pytest.skip("chromium is not on this machine (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=result, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two exports of real checkpoints: one with symbolic edges, one with digits."""
    folder = tmp_path_factory.mktemp("ui")
    rows = folder / "reference.npy"
    np.save(rows, np.random.default_rng(3).normal(0, 0.5, (400, 2)).astype(np.float32))
    facts = ("--features", "length,width", "--baseline", rows, "--certify", "--certify-budget", "1s")
    exported(GOLDEN / "pykan-hello-symbolic" / "model", "hello", *facts, into=folder / "models")
    return exported(GOLDEN / "efficient-kan-digits" / "model.pt", "digits", into=folder / "models")


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    pytest.importorskip("h2corn")
    with serving(repository, transport="asgi", allow_edits=True) as running:
        yield running


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def browse(browser: Any, seen: Seen) -> Iterator[Callable[..., Any]]:
    """Call with a server, an address or a file, and a path on it, for a new page in a separate browser context. No page
    may have reported an error at the end. A file is opened without a network."""
    contexts: list[Any] = []

    def go(where: Server | Path | str, path: str = "", **options: Any) -> Any:
        if isinstance(where, Path):
            own, path, more = where.as_uri(), where.as_uri(), {"offline": True}
        else:
            own = where if isinstance(where, str) else f"http://{where.http}/"
            more = {"base_url": own}
        contexts.append(browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, **more, **options))
        page = watched(contexts[-1], own, seen)
        if path:
            page.goto(path)
        return page

    yield go
    for context in contexts:
        context.close()
    assert seen.harm() == []


@pytest.fixture
def page(browse: Callable[..., Any], server: Server) -> Any:
    """A page of the server; `page.goto("ui/")` opens it."""
    return browse(server)


def watched(context: Any, own: str, seen: Seen) -> Any:
    """A new page whose console, exceptions and requests go into `seen`."""
    page = context.new_page()
    page.on("console", lambda message: message.type == "error" and seen.messages.append(message.text))
    page.on("pageerror", lambda error: seen.messages.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((own, "blob:", "data:")) else seen.elsewhere.append(request.url),
    )
    page.set_default_timeout(60_000)  # a wait ends when the state is there
    return page


def opened(page: Any, address: str) -> None:
    """Open an address; return when the page has its data."""
    page.goto(address)
    page.locator(READY).wait_for()
