"""Bullets of docs/reference/python-api.md."""

import re

from tools.reference import python_api


def test_every_argument_has_one_bullet_with_its_name() -> None:
    page = python_api.page()
    assert "enable it too. Several servers: a list, HOST:PORT,HOST:PORT, or dns:///NAME:PORT" in page
    assert "* `baseline`: a file as in `--baseline`, or a DataFrame" in page
    assert not re.search(r"^\* `\s*`", page, re.MULTILINE)
