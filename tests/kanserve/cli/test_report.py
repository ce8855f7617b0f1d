"""`kanserve report`: one file with a model's card, its verification, and its curves."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import Server, document, kanserve
from tests.support.html_checks import Balanced


def read(text: str) -> Balanced:
    result = Balanced()
    result.feed(text)
    assert result.open == []
    return result


def test_a_report_is_one_file_with_all_that_is_known(server: Server, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).uniform(-0.9, 0.9, (20, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    target = tmp_path / "tiny.html"
    ask = ("report", "tiny", "--input", tmp_path / "rows.npy", "-o", target, "--json", "--url", server.url)
    said = document(kanserve(*ask))
    text = target.read_text()
    assert said["bytes"] == len(text)
    result = read(text)
    assert all(link.startswith("data:") for link in result.links)
    assert "<script" not in text
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == [
        "Description",
        "Source and limits",
        "Verification",
        "Test regions",
        "Network",
        "Input importance",
        "Most important edges",
        "Layers",
    ]
    assert text.count("<svg") == 1 + 20  # the network, and each of its edges
    for words in (
        "efficient-kan",
        "verified against kanserve's interpretation of the checkpoint",
        "20 rows: the rows that you passed",
    ):
        assert words in html.unescape(text)
    assert document(kanserve("curves", "tiny", "--json", "--url", server.url))["digest"] in text


@pytest.mark.parametrize("arguments", [("-o", "report.pdf"), ()])
def test_what_is_refused(server: Server, arguments: tuple[object, ...]) -> None:
    done = kanserve("report", "tiny", *arguments, "--url", server.url)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("pykan-hello-adapted.wasm", "wasm-module-mismatch"),
        ("no-such-file.wasm", "module-unreadable"),
        ("../README.md", "wasm-module-invalid"),
    ],
)
def test_modules_that_do_not_fit(server: Server, tmp_path: Path, name: str, code: str) -> None:
    module, target = Path(__file__).parents[2] / "golden" / "wasm" / name, tmp_path / "tiny.html"
    done = kanserve("report", "tiny", "--interactive", module, "-o", target, "--json", "--url", server.url)
    assert json.loads(done.stdout)["error"]["code"] == code
    assert not target.exists()
