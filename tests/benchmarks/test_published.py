"""Speed figures in the documents: each matches a measured benchmark cell."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks import pages
from benchmarks.matrix import plot, publish, report
from benchmarks.matrix.groups import GROUPS

ROOT = Path(__file__).parents[2]
MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def pictures() -> list[str]:
    return [name for name in (plot.RATIOS, plot.TIMES) if (ROOT / publish.PAGE.parent / name).exists()]


def test_the_documents_are_of_the_cells() -> None:
    cells = publish.published(ROOT)
    assert pages.read(ROOT / publish.PAGE, publish.KEY, publish.WRITER) == report.markdown(cells, pictures())
    assert pages.read(ROOT / publish.README, publish.KEY, publish.WRITER) == report.readme(cells)


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
        (tmp_path / at / "docs").mkdir(parents=True)
        for page in (publish.PAGE, publish.README):
            (tmp_path / at / page).write_text("")
        publish.docs(cells, tmp_path / at)
        every.append({path.name: path.read_bytes() for path in (tmp_path / at / "docs").iterdir()})
    assert every[0] == every[1]
    assert {plot.RATIOS, plot.TIMES} <= set(every[0])
    text = every[0][plot.RATIOS].decode()
    assert "<svg" in text
    assert not re.search(r"\d{4}-\d{2}-\d{2}T", text)  # the day is told by the page
