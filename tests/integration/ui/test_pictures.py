"""Screenshots in the documents show the pages of the web UI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import serving
from tests.support.tiers import full
from tests.support.wait import until
from tools import ui_pictures

pytestmark = full("document")


def test_the_pictures_in_the_documents_are_of_these_pages(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("h2corn")
    known = {path.stem: ui_pictures.stored(path) for path in ui_pictures.ASSETS.glob("observatory-*.png")}
    assert {width for width, _ in known.values()} == {ui_pictures.WIDTH}
    assert len({tuple(texts) for _, texts in known.values()}) == len(known)
    seen = set()
    with serving(ui_pictures.write(tmp_path), transport="asgi") as server:
        ui_pictures.ask(server)
        for view in ui_pictures.views(browser, server, seconds=0):
            seen.add(view.name)
            texts = known[view.name][1]
            until(lambda view=view, texts=texts: view.shown() == texts, f"`python -m tools.ui_pictures`: {view.name}")
    assert seen == set(known)
