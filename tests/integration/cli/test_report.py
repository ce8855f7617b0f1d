"""`kanserve report`: one file that says what a model is, against what it was verified, and how it looks inside."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest

from kanserve.plotting.scenes import Line, Scene
from kanserve.report import page
from kanserve.report.page import Bars, Facts, Grid, Pictures, Report
from tests.support.command_line import Server, document, kanserve

VOID = {"meta", "rect", "polyline", "circle", "image", "br"}


class Balanced(html.parser.HTMLParser):
    """Every element that is opened is closed, in order; and where the file points to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> Balanced:
    found = Balanced()
    found.feed(text)
    assert found.open == []
    return found


def test_a_report_is_one_file_with_all_that_is_known(server: Server, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).uniform(-0.9, 0.9, (20, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    target = tmp_path / "tiny.html"
    ask = ("report", "tiny", "--input", tmp_path / "rows.npy", "-o", target, "--json", "--url", server.url)
    said = document(kanserve(*ask))
    text = target.read_text()
    assert said["bytes"] == len(text)
    found = read(text)
    assert all(link.startswith("data:") for link in found.links)
    assert "<script" not in text
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == [
        "What it is",
        "Where it came from, and its limits",
        "What it was verified against",
        "Zones of the proof",
        "The network",
        "What its inputs matter",
        "The edges that matter most",
        "Layers",
    ]
    assert text.count("<svg") == 1 + 20  # the network, and each of its edges
    for words in (
        "efficient-kan",
        "verified against our reading of the file",
        "20 rows: the rows that were given",
    ):
        assert words in text
    assert document(kanserve("curves", "tiny", "--json", "--url", server.url))["digest"] in text


def test_words_from_a_model_are_words_and_no_html() -> None:
    evil = "<script>alert(1)</script>"
    scene = Scene(10, 10, evil, [Line(((0, 0), (1, 1)))])
    parts = [
        Facts(evil, [(evil, evil)]),
        Bars(evil, evil, [(evil, 1.0)]),
        Grid(evil, evil, [evil], [[evil]]),
        Pictures(evil, evil, [scene] * 2),
    ]
    text = page.html(Report(evil, evil, parts, evil))
    assert "<script" not in text
    read(text)


@pytest.mark.parametrize("arguments", [("-o", "report.pdf"), ()])
def test_what_is_refused(server: Server, arguments: tuple[object, ...]) -> None:
    done = kanserve("report", "tiny", *arguments, "--url", server.url)
    assert done.returncode == 2
