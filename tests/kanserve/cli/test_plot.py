"""`kanserve plot`: image files and text plots, of the network and of one edge, and rejected arguments."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.support.command_line import Server, kanserve, wrong_refusals

EDGE = ("--edge", "0:2:1")


@pytest.mark.parametrize("what", [(), EDGE], ids=["network", "edge"])
def test_a_picture_for_every_place(server: Server, tmp_path: Path, what: tuple[object, ...]) -> None:
    for name in ("picture.svg", "picture.png"):
        assert server.ask("plot", "tiny", *what, "-o", tmp_path / name)["output"].endswith(name)
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    title = root.find("{http://www.w3.org/2000/svg}title").text  # type: ignore[union-attr] # there is one
    assert title == ("tiny version 1, edge 0:2:1 (x2 → node 1)" if what else "tiny version 1: efficient-kan, 3 → 4 → 2")
    assert (tmp_path / "picture.png").read_bytes()[1:4] == b"PNG"
    shown = server.shown("plot", "tiny", *what)
    assert str(title) in shown
    assert any(0x2800 < ord(character) <= 0x28FF for character in shown)


def test_rows_say_which_edges_matter(server: Server, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    rows[:, 1] = 0.5  # an input that never moves
    np.save(tmp_path / "rows.npy", rows)
    picture = tmp_path / "net.svg"
    server.shown("plot", "tiny", "--input", tmp_path / "rows.npy", "-o", picture)
    text = picture.read_text()
    assert "over 20 rows, the rows of --input" in text
    assert text.count("<rect") == 1 + 4 * 2 + 4 * 2  # the paper, layer 0 without the edges of x1, and layer 1


def test_without_pillow_it_says_what_is_missing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "kanserve.plotting.render", raising=False)
    cases = {f"plot tiny -o {tmp_path / 'net.png'}": ("provides 'PIL', which is not installed", "[plot]")}
    assert wrong_refusals(cases, "--url", server.url, code=1) == []


def test_what_is_refused(server: Server) -> None:
    cases = {
        "plot tiny -o net.jpg": "net.jpg: unknown file format .jpg",
        "plot tiny --source 1": "--source and --destination need --layer",
        "plot tiny --layer 0": "--layer needs one --source and one --destination",
        "plot tiny --layer 7 --source 1 --destination 1": "unknown layer 7: the model has 2 layers",
    }
    assert wrong_refusals(cases, "--url", server.url) == []
    done = kanserve("plot", "tiny", "--json", "--url", server.url)
    assert (done.returncode, "--json needs -o FILE" in done.stderr) == (2, True)
