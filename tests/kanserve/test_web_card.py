"""The card of a version over HTTP: what `kanserve report` writes, by the same code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import program
from tests.kanserve import httpdoors, toy
from tests.kanserve.running import Server, serving

GOLDEN = Path(__file__).parent.parent / "golden" / "checkpoints"
CASES = {
    "hello": "pykan-hello-symbolic/model",
    "digits": "efficient-kan-digits/model.pt",
    "norms": "chebykan-digits-layernorm/model.pt",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("h2corn")
    folder = tmp_path_factory.mktemp("cards")
    for name, case in CASES.items():
        done = program("export", GOLDEN / case, "--repository", folder, "--name", name)
        assert done.returncode == 0, done.stderr
    with serving(folder, transport="asgi") as running:
        yield running


def card(server: Server, name: str) -> dict[str, Any]:
    reply = httpdoors.ask(server, f"/v1/kan/models/{name}/report")
    assert reply.status == 200, reply.body
    return {part["heading"]: part for part in reply.json["parts"]}


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_that_of_the_command(server: Server, name: str, tmp_path: Path) -> None:
    reply = httpdoors.ask(server, f"/v1/kan/models/{name}/report", accept="text/html")
    assert reply.headers["content-type"].startswith("text/html")
    assert f'filename="{name}-1.html"' in reply.headers["content-disposition"]
    done = program("report", name, "-o", tmp_path / "report.html", "--url", server.address)
    assert done.returncode == 0, done.stderr
    assert reply.body == (tmp_path / "report.html").read_bytes()


def test_what_a_card_tells(server: Server) -> None:
    found = card(server, "hello")
    (line,) = found["Formula"]["lines"]
    assert "sin(" in line[1]
    assert "exp(" in line[1]
    zones = found["Zones of the proof"]
    assert [one[0] for one in zones["lines"]][:2] == ["inside", "extension"]
    assert len(zones["head"]) == len(zones["lines"][0])
    files = [text for name, text in found["Where it came from, and its limits"]["lines"] if name == "File"]
    assert any(text.startswith("model_state, sha256 ") for text in files)
    assert found["The network"]["pictures"][0]["svg"].startswith("<svg ")
    assert len(found["The edges that matter most"]["pictures"]) == 3
    assert "Formula" not in card(server, "digits")


def test_edges_that_are_no_curves_are_left_out(server: Server) -> None:
    found = card(server, "norms")
    assert found["The network"]["pictures"]
    assert len(card(server, "digits")["The edges that matter most"]["pictures"]) == 24


def test_a_model_without_pictures_has_a_card_all_the_same(tmp_path: Path) -> None:
    """Answers of little room: no scores, and facts."""
    pytest.importorskip("h2corn")
    toy.write(tmp_path)
    with serving(tmp_path, transport="asgi", max_response_bytes=1024) as server:
        found = card(server, "toy")
        assert httpdoors.ask(server, "/v1/kan/models/nobody/report").status == 404
    assert "What it is" in found
