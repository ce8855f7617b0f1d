"""`kanserve report`: one file with a model's card, its verification, and its curves."""

import html
import json
import re
from pathlib import Path

import numpy as np

from tests.support.command_line import Server, kanserve, wrong_refusals
from tests.support.documents import Balanced


def test_a_report_is_one_file_with_all_that_is_known(server: Server, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).uniform(-0.9, 0.9, (20, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    target = tmp_path / "tiny.html"
    said = server.ask("report", "tiny", "--input", tmp_path / "rows.npy", "-o", target)
    text = target.read_text()
    assert said["bytes"] == len(text)
    result = Balanced()
    result.feed(text)
    assert result.open == []
    assert all(link.startswith("data:") for link in result.links)
    assert "<script" not in text
    assert re.findall("<h2>(.*?)</h2>", text) == [
        *("Description", "Source and limits", "Verification", "Test regions"),
        *("Network", "Input importance", "Most important edges", "Layers"),
    ]
    assert text.count("<svg") == 1 + 20  # the network, and each of its edges
    for words in (
        "efficient-kan",
        "verified against kanserve's interpretation of the checkpoint",
        "20 rows: the rows that you passed",
    ):
        assert words in html.unescape(text)
    assert server.ask("curves", "tiny")["digest"] in text


def test_what_is_refused(server: Server, tmp_path: Path) -> None:
    cases = {"report tiny -o report.pdf": "report.pdf", "report tiny": "-o"}
    assert wrong_refusals(cases, "--url", server.url) == []
    golden = Path(__file__).parents[2] / "golden"
    target = tmp_path / "tiny.html"
    for file, code in (
        (golden / "wasm" / "pykan-hello-adapted.wasm", "wasm-module-mismatch"),
        (golden / "wasm" / "no-such-file.wasm", "module-unreadable"),
        (golden / "README.md", "wasm-module-invalid"),
    ):
        done = kanserve("report", "tiny", "--interactive", file, "-o", target, "--json", "--url", server.url)
        assert json.loads(done.stdout)["error"]["code"] == code
    assert not target.exists()
