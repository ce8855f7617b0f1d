"""`kanserve plot`: image files and text plots, of the network and of one edge, and rejected arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.support.command_line import Server, document, kanserve

EDGE = ("--layer", 0, "--source", 2, "--destination", 1)


@pytest.mark.parametrize("what", [(), EDGE], ids=["network", "edge"])
def test_a_picture_for_every_place(server: Server, tmp_path: Path, what: tuple[object, ...]) -> None:
    for name in ("picture.svg", "picture.png"):
        said = document(kanserve("plot", "tiny", *what, "-o", tmp_path / name, "--json", "--url", server.url))
        assert said["output"].endswith(name)
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    title = root.find("{http://www.w3.org/2000/svg}title").text  # type: ignore[union-attr] # there is one
    assert title == ("tiny version 1, layer 0: x2 to node 1" if what else "tiny version 1: efficient-kan, 3 → 4 → 2")
    assert (tmp_path / "picture.png").read_bytes()[1:4] == b"PNG"
    shown = kanserve("plot", "tiny", *what, "--url", server.url)
    assert shown.returncode == 0, shown.stderr
    assert str(title) in shown.stdout
    assert any(0x2800 < ord(character) <= 0x28FF for character in shown.stdout)


def test_rows_say_which_edges_matter(server: Server, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    rows[:, 1] = 0.5  # an input that never moves
    np.save(tmp_path / "rows.npy", rows)
    picture = tmp_path / "net.svg"
    done = kanserve("plot", "tiny", "--input", tmp_path / "rows.npy", "-o", picture, "--url", server.url)
    assert done.returncode == 0, done.stderr
    text = picture.read_text()
    assert "over 20 rows, the rows of --input" in text
    assert text.count("<rect") == 1 + 4 * 2 + 4 * 2  # the paper, layer 0 without the edges of x1, and layer 1


def test_without_pillow_it_says_what_to_install(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "kanserve.plotting.render", raising=False)
    done = kanserve("plot", "tiny", "-o", tmp_path / "net.png", "--url", server.url)
    assert done.returncode == 1
    assert "provides 'PIL', which is not installed" in done.stderr
    assert "[plot]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-o", "net.jpg"), "net.jpg: unknown file format .jpg"),
        (("--json",), "--json needs -o FILE"),
        (("--source", 1), "--source and --destination need --layer"),
        (("--layer", 0), "--layer needs one --source and one --destination"),
        (("--layer", 7, "--source", 1, "--destination", 1), "unknown layer 7: the model has 2 layers"),
    ],
)
def test_what_is_refused(server: Server, arguments: tuple[object, ...], text: str) -> None:
    done = kanserve("plot", "tiny", *arguments, "--url", server.url)
    assert (done.returncode, text in done.stderr) == (2, True), done.stderr
