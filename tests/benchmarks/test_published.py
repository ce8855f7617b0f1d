"""Speed figures in the documents: each matches a measured benchmark cell."""

import importlib.util
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import certificates, pages
from benchmarks.matrix import plot, publish
from benchmarks.matrix.groups import GROUPS, TITLES

ROOT = Path(__file__).parents[2]
MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


@pytest.mark.parametrize(("page", "key"), publish.PARTS, ids=lambda value: str(value))
def test_the_pages_are_of_the_cells(page: Path, key: str) -> None:
    """`python -m benchmarks.matrix --pages` writes them again."""
    cells = publish.published(ROOT)
    assert pages.read(ROOT / page, key, publish.WRITER) == publish.PARTS[page, key](cells)


def test_the_page_of_certificates_is_of_its_results() -> None:
    """`python benchmarks/certificates.py --docs` writes both. No row left its certified range."""
    document = json.loads(certificates.RESULTS.read_text())
    assert pages.read(certificates.PAGE, "search", certificates.WRITER) == certificates.text(document)
    results = [certificates.Result(**entry) for entry in document["results"]]
    assert len(results) >= 40
    assert sum(result.rows for result in results) >= 10**7
    assert not any(result.outside for result in results)
    on_grids = [result for result in results if result.group != "class B" and result.ratios]
    deep = [max(result.ratios) for result in on_grids if result.depth == 2]
    assert np.median(deep) <= 1.5
    assert max(deep) <= 3


def test_each_group_is_in_one_page() -> None:
    cells = publish.published(ROOT)
    texts = [text(cells) for text in publish.PARTS.values()]
    for title in TITLES.values():
        assert sum(f"## {title}\n" in text for text in texts) == 1, title


def test_what_is_published_was_measured_at_length_and_is_right() -> None:
    cells = publish.published(ROOT)
    assert {item["group"] for item in cells} == set(GROUPS)
    for cell in cells:
        assert not cell["quick"], cell["case"]
        for item in cell["entrants"]:
            assert item["right"], (cell["case"], item["name"])
            assert item["steady"], (cell["case"], item["name"])


def test_a_part_of_a_page_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    for text, other in itertools.product(("one\n", "a \\1 two\n"), ("x", "y")):
        pages.put(page, other, "who", text)
        assert pages.read(page, other, "who") == text
    content = page.read_text()
    assert content.startswith("before\n")
    assert content.count("written by who") == 2
    with pytest.raises(LookupError, match="no part 'z'"):
        pages.read(page, "z", "who")


def test_cells_of_two_commits_are_not_published(tmp_path: Path) -> None:
    cells = publish.published(ROOT)
    with pytest.raises(ValueError, match="2 places"):
        publish.docs([cells[0], cells[1] | {"commit": "another"}], tmp_path)


@pytest.mark.skipif(not MATPLOTLIB, reason="matplotlib is in the environment of `make notebook`")
def test_the_same_cells_make_the_same_pictures(tmp_path: Path) -> None:
    cells = publish.published(ROOT)
    every = []
    for at in ("a", "b"):
        root = tmp_path / at
        for folder in (publish.CELLS.parent, publish.ASSETS):
            (root / folder).mkdir(parents=True)
        for page, _ in publish.PARTS:
            (root / page).write_text("")
        publish.docs(cells, root)
        every.append({path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()})
    assert every[0] == every[1]
    assert {plot.RATIOS, plot.TIMES} <= set(every[0])
    text = every[0][plot.RATIOS].decode()
    assert "<svg" in text
    assert not re.search(r"\d{4}-\d{2}-\d{2}T", text)  # the day is told by the page
