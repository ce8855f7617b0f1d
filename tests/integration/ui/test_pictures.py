"""Screenshots in the documents show the pages of the web UI."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.server_process import serving
from tests.support.tiers import full
from tools import ui_pictures

pytestmark = full("document")


def test_the_pictures_in_the_documents_are_of_this_page(browser: Any, tmp_path: Path) -> None:
    """By the structure of the pages when the pictures were taken. Pixels depend on the fonts of a machine."""
    known = {}
    for name in ui_pictures.PAGES:
        with Image.open(ui_pictures.path(name)) as picture:
            assert picture.width == ui_pictures.WIDTH
            known[name] = json.loads(picture.info[ui_pictures.STRUCTURE])
    with serving(ui_pictures.write(tmp_path), transport="asgi") as server:
        ui_pictures.ask(server)
        seen = ui_pictures.structures(browser, server)
    assert seen == known, "`python -m tools.ui_pictures` takes the pictures anew"
