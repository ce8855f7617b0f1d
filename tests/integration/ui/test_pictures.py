"""Screenshots in the documents match the pages of the web UI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from tests.support.server_process import serving
from tools import ui_pictures

TOLERANCE = 0.03  # of 1: fonts and latencies differ by machine; the picture of another view is 0.05 and more away


def test_the_pictures_in_the_documents_are_of_this_page(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("h2corn")
    known = {path.stem: Image.open(path) for path in ui_pictures.ASSETS.glob("observatory-*.png")}
    with serving(ui_pictures.write(tmp_path), transport="asgi") as server:
        ui_pictures.ask(server)
        taken = dict(ui_pictures.take(browser, server))
    assert set(taken) <= set(known)
    for name, picture in taken.items():
        assert ui_pictures.apart(picture, known[name]) < TOLERANCE, f"`python -m tools.ui_pictures` takes {name} anew"
        others = [other for other in taken.values() if other is not picture]
        assert min(ui_pictures.apart(other, known[name]) for other in (*others, ImageOps.invert(picture))) > TOLERANCE
