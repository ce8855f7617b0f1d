"""Model card of a version over HTTP: equal to the output of `kanserve report`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import pytest

from tests.support import http_client, reload_tools, toy_model, toy_wide_model
from tests.support.command_line import kanserve
from tests.support.exports import exported
from tests.support.golden_cases import OWN
from tests.support.server_process import Server, serving
from tests.support.tiers import full, spread
from tests.support.wait import until

CASES = {
    "hello": "pykan-hello-symbolic/model",
    "digits": "efficient-kan-digits/model.pt",
    "norms": "chebykan-digits-layernorm/model.pt",
}
ASGI = http_client.way("asgi")[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("cards")
    for name, case in CASES.items():
        exported(OWN / case, name, into=folder)
    with serving(folder, **ASGI) as running:
        yield running


def card(server: Server, name: str) -> dict[str, Any]:
    reply = http_client.ask(server, f"/v1/kan/models/{name}/report")
    assert reply.status == 200, reply.body
    return {part["heading"]: part for part in reply.json["parts"]}


@spread("name", CASES, 1)
def test_the_file_is_that_of_the_command(server: Server, name: str, tmp_path: Path) -> None:
    reply = http_client.ask(server, f"/v1/kan/models/{name}/report", accept="text/html")
    assert reply.headers["content-type"].startswith("text/html")
    assert f'filename="{name}-1.html"' in reply.headers["content-disposition"]
    done = kanserve("report", name, "-o", tmp_path / "report.html", "--url", server.address)
    assert done.returncode == 0, done.stderr
    assert reply.body == (tmp_path / "report.html").read_bytes()


def test_what_a_card_tells(server: Server) -> None:
    result = card(server, "hello")
    (line,) = result["Formula"]["lines"]
    assert "sin(" in line[1]
    assert "exp(" in line[1]
    zones = result["Test regions"]
    assert [item[0] for item in zones["lines"]][:2] == ["in grid", "extended grid"]
    assert len(zones["head"]) == len(zones["lines"][0])
    files = [text for name, text in result["Source and limits"]["lines"] if name == "File"]
    assert any(text.startswith("model_state, sha256 ") for text in files)
    assert result["Network"]["pictures"][0]["svg"].startswith("<svg ")
    assert len(result["Most important edges"]["pictures"]) == 3
    digits = card(server, "digits")
    assert "Formula" not in digits
    assert len(digits["Most important edges"]["pictures"]) == 24
    assert card(server, "norms")["Network"]["pictures"]  # without the edges that are no curves


@full("load")
def test_a_card_whose_caller_resets_its_request_ends(tmp_path: Path) -> None:
    """The metrics of queries also show that the server makes a card once for several clients."""
    toy_wide_model.write(tmp_path, 300)
    path = "/v1/kan/models/wide/report"
    with serving(tmp_path, **ASGI, access_log="all") as server:
        for number in range(1, 6):  # a fast machine may finish it before the reset
            reset(server, path, number)
            until(lambda number=number: len(told(server)) == number)
            if told(server)[-1]["code"] == "CANCELLED":
                break
        else:
            pytest.fail(f"{told(server)}")
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda _: http_client.ask(server, path), range(4)))
        replies.append(http_client.ask(server, path))
        assert {reply.status for reply in replies} == {200}
        assert len({reply.body for reply in replies}) == 1
        assert http_client.ask(server, path, accept="text/html").status == 200


def told(server: Server) -> list[dict[str, Any]]:
    return [line for line in server.lines() if line.get("method", "").endswith("/report")]


def reset(server: Server, path: str, number: int) -> None:
    """Send a request over HTTP/2, and reset it while the server sends the response."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    state.initiate_connection()
    headers = {":method": "GET", ":scheme": "http", ":path": path, ":authority": "a"}
    state.send_headers(1, list(headers.items()), end_stream=True)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as peer:
        peer.sendall(state.data_to_send())
        until(lambda: reload_tools.shown(server, "kanserve_inflight_requests") or len(told(server)) == number)
        state.reset_stream(1, 8)
        peer.sendall(state.data_to_send())


def test_a_model_without_pictures_has_a_card_all_the_same(tmp_path: Path) -> None:
    """The small response: facts without scores."""
    toy_model.write(tmp_path)
    with serving(tmp_path, **ASGI, max_response_bytes=1024) as server:
        result = card(server, "toy")
        assert http_client.ask(server, "/v1/kan/models/nobody/report").status == 404
    assert "Description" in result
