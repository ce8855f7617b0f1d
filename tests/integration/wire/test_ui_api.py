"""HTTP routes for the web UI beyond KanService: explanation paths, coverage, kept rows, server metrics, model cards."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import numpy as np
import pytest

from kanexport.shared.manifest import Zone
from kanserve.client import control
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2
from kanserve.services.operations import Operations
from tests.kanserve.analysis import test_drift
from tests.support import http_client, reload_tools, toy_model
from tests.support.command_line import exported, kanserve
from tests.support.golden_cases import OWN
from tests.support.server_process import KAN, Server, serving
from tests.support.tiers import full, spread
from tests.support.wait import turns, until

ROWS = np.random.default_rng(4).normal(size=(3, 3)).astype(np.float32)
REFERENCE = np.repeat(np.array([[0.1], [-0.3]], np.float32), 3, axis=1)
MODELS = "/v1/kan/models"
ASGI = http_client.way("asgi")[1]


server = http_client.served(["asgi"], sample_rows=5, repository_poll_seconds=0.2)


def ask(server: Server, path: str, body: Any = None) -> tuple[int, Any]:
    reply = http_client.ask(server, path, body)
    return reply.status, reply.json


def test_the_edges_that_carried_a_difference_add_up_layer_by_layer(server: Server) -> None:
    with Client(server.address) as client:
        result = client.explain("toy", ROWS, reference=REFERENCE, path_top_k=5)
    apart = result.predictions - result.base
    assert [layer.values.shape for layer in result.path] == [(3, 2, 5), (3, 2, 5)]
    for layer in result.path:
        np.testing.assert_allclose(layer.values.sum(axis=2) + layer.residual, apart, rtol=1e-5, atol=1e-5)
    # Path value of layer 0: change of tanh(x), times the edge's weight, times the weight from the node to the output.
    moved = np.tanh(ROWS) - np.tanh(REFERENCE).mean(axis=0)
    truth = moved[:, :, None, None] * toy_model.W0[None, :, :, None] * toy_model.W1[None, None]  # [B, S, D, O]
    first = result.path[0]
    for row, output in np.ndindex(3, 2):
        ends = first.sources[row, output], first.destinations[row, output]
        np.testing.assert_allclose(first.values[row, output], truth[row, *ends, output], rtol=1e-4, atol=1e-5)
        order = np.sort(np.abs(truth[row, :, :, output]).ravel())[::-1][:5]
        np.testing.assert_allclose(np.abs(first.values[row, output]), order, rtol=1e-4)


def test_a_path_of_all_edges_of_many_rows_and_in_json(server: Server) -> None:
    status, result = ask(server, f"{MODELS}/toy/explain", {"rows": ROWS.tolist(), "path_top_k": 100, "outputs": [1]})
    assert status == 200
    assert [np.shape(layer["values"]) for layer in result["path"]] == [(3, 1, 12), (3, 1, 8)]
    np.testing.assert_allclose(result["path"][0]["residual"], np.zeros((3, 1)), atol=1e-6)
    status, plain = ask(server, f"{MODELS}/toy/explain", {"rows": ROWS.tolist()})
    assert (status, plain["path"]) == (200, [])


def test_paths_count_towards_the_size_of_a_response(server: Server, tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    message = kan_pb2.ExplainRequest(model_name="toy", rows=ROWS.tobytes() * 6, row_count=18)
    with serving(tmp_path, max_response_bytes=2048) as small:
        small.call(f"{KAN}Explain", message.SerializeToString())
        message.path_top_k = 12
        with pytest.raises(grpc.RpcError) as caught:
            small.call(f"{KAN}Explain", message.SerializeToString())
    assert "the limit is 2048" in str(caught.value.details())


EXPLAIN = f"{MODELS}/toy/explain"
REFUSED: list[tuple[str, Any, int, str]] = [
    (EXPLAIN, {"rows": ROWS.tolist(), "path_top_k": 257}, 400, "256 edges"),
    (EXPLAIN, {"rows": ROWS.tolist(), "path_top_k": 1, "method": "gradient_x_input"}, 400, "combined with the method"),
    (f"{MODELS}/toy/coverage", {}, 400, "no rows"),
    (f"{MODELS}/toy/coverage", {"rows": [[1, 2]]}, 400, "expected a list of 3"),
    (f"{MODELS}/nobody/coverage", {"rows": []}, 404, "nobody"),
    (f"{MODELS}/nobody/rows", None, 404, "nobody"),
    (f"{MODELS}/nobody/statistics/history", None, 404, "nobody"),
    ("/v1/kan/operations", {"since": "now"}, 400, "since"),
    ("/v1/kan/operations", {"since": True}, 400, "since"),
    ("/v1/kan/operations", {"until": 3}, 400, "since"),
    ("/v1/kan/operations", b'{"since": NaN}', 400, "since"),
    ("/v1/kan/operations", [1], 400, "since"),
    ("/v1/kan/operations", b"{", 400, "JSON"),
]


def test_what_is_refused(server: Server) -> None:
    for path, body, status, words in REFUSED:
        result, said = ask(server, path, body)
        assert (result, words in said["error"]) == (status, True), (path, body, said)


def test_rows_are_shown_where_the_operator_has_them_kept_and_forgotten_on_reset(server: Server) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    begun = time.time()
    server.infer(rows)
    until(lambda: len(ask(server, f"{MODELS}/toy/rows")[1]["rows"]) == 5)
    result = ask(server, f"{MODELS}/toy/rows")[1]
    assert (result["model_name"], result["model_version"], result["sample_rows"], result["note"]) == ("toy", "1", 5, "")
    assert all(row["values"]["x"] in rows.tolist() for row in result["rows"])
    ended = time.time()
    assert all(begun <= row["time"] <= ended for row in result["rows"])
    http_client.ask(server, f"{MODELS}/toy/statistics/reset", {})
    assert ask(server, f"{MODELS}/toy/rows")[1]["rows"] == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "--sample-rows"), ({"sample_rows": 3, "statistics": "off"}, "does not analyze live traffic")],
)
def test_no_row_is_kept_unless_asked_for(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, **ASGI, **settings) as server:
        server.infer(ROWS)
        status, said = ask(server, f"{MODELS}/toy/rows")
        assert (status, said["rows"], words in said["note"]) == (200, [], True), said
        assert said["has_statistics"] is ("statistics" not in settings)


def operations(server: Server, since: float = 0.0) -> Any:
    status, result = ask(server, "/v1/kan/operations", {"since": since})
    assert status == 200, result
    return result


def of_toy(actual: Any, version: str = "1") -> Any:
    (own,) = [item for item in actual["versions"] if (item["model"], item["version"]) == ("toy", version)]
    return own


def test_operations_are_what_the_metrics_say(server: Server) -> None:
    first = operations(server)
    for _ in range(4):
        server.infer(ROWS)
    with pytest.raises(grpc.RpcError):
        server.infer(np.zeros((1, 2), np.float32))
    (reading,) = until(lambda: operations(server, first["time"])["readings"])[-1:]  # a second apart at least
    result = operations(server)
    own, before = of_toy(result), of_toy(first)
    assert (own["state"], own["default"], own["chosen"], own["loads"]) == ("READY", True, False, 1)
    assert own["total"]["requests"] - before["total"]["requests"] == 4
    assert own["total"]["requests"] == reload_tools.sample(
        server.metrics(), 'nv_inference_request_success{model="toy",version="1"}'
    )
    assert sum(own["total"]["failures"].values()) > sum(before["total"]["failures"].values())
    assert own["recent"]["requests"] >= 4
    assert own["recent"]["p50"] > 0
    assert sum(item["executions"] for item in own["recent"]["batches"]) == own["recent"]["executions"]
    assert reading["to"] - reading["from"] >= 1
    (rates,) = [item for item in reading["versions"] if item["model"] == "toy"]
    assert rates["requests_per_second"] == pytest.approx(4 / (reading["to"] - reading["from"]))
    assert {"OK", "INVALID_ARGUMENT"} <= {
        item["code"] for item in result["calls"] if item["method"].endswith("GRPCInferenceService/ModelInfer")
    }
    assert (result["server"]["ready"], result["server"]["inflight"]) == (True, 1)
    assert result["server"]["version"]


def test_the_overview_has_each_version_in_short(tmp_path: Path) -> None:
    errors = {"outputs_max_abs": 0.0, "edges_max_abs": 0.0, "edges_max_rel": 0.0, "worst_edge": "", "worst_output": ""}
    zones = [
        Zone(name=name, rows=5, outputs_max_rel=error, **errors)
        for name, error in (("inside", 1e-7), ("outside", 3e-7), ("nonfinite", 5e-7))
    ]
    directory = toy_model.write(tmp_path)
    verification = replace(toy_model.manifest("toy").verification, zones=tuple(zones))
    toy_model.edit(directory, baseline=test_drift.seen(test_drift.ROWS[:200]), verification=verification)
    toy_model.write(tmp_path, "bare")
    toy_model.write_slow(tmp_path, "plain", steps=1, size=4)
    reload_tools.truncate(toy_model.write(tmp_path, "broken") / "manifest.json")
    with serving(tmp_path, **ASGI, plain_onnx=True) as server:
        server.infer(test_drift.ROWS[:40] + 5)
        drift = 'kanserve_drift_psi_ratio{layer="0",model="toy",version="1"}'
        until(lambda: reload_tools.shown(server, drift) > 1)

        def versions() -> dict[str, Any]:
            status, result = ask(server, "/v1/kan/overview")
            assert status == 200
            return {item["model"]: item for item in result["versions"]}

        until(lambda: versions()["toy"]["requests"] == 1 and versions()["toy"]["drift"])  # a sample a second at most
        own, manifest = versions(), toy_model.manifest("toy")
        largest = max(reload_tools.shown(server, drift.replace("0", layer, 1)) for layer in ("0", "1", "output"))
    assert set(own) == {"toy", "bare", "plain", "broken"}
    toy, plain, bare, broken = (own[name] for name in ("toy", "plain", "bare", "broken"))
    assert (toy["family"], toy["shape"]) == (manifest.source.family, "3 → 4 → 2")
    assert (toy["verification_basis"], toy["error"], toy["drift"]) == ("reading", 3e-7, largest)
    assert (toy["requests"], toy["rows"], toy["default"], toy["state"]) == (1, 40, True, "READY")
    assert (bare["error"], bare["drift"], bare["requests"]) == (None, None, 0)
    assert (plain["family"], plain["shape"], plain["verification_basis"]) == ("", "1 → 1", "")
    assert (broken["state"], "shape" in broken) == ("UNAVAILABLE", False)
    assert broken["reason"]


class Slow:
    """A page of metrics that is slow to write."""

    def __init__(self) -> None:
        self.read, self.go = 0, threading.Event()

    def text(self) -> bytes:
        self.read += 1
        self.go.wait(60)
        return b""


def test_those_who_ask_and_leave_have_the_metrics_read_once() -> None:
    async def check() -> int:
        page = Slow()
        operations_ = Operations(None, None, page)  # type: ignore[arg-type]  # nothing else is asked for
        for _ in range(5):
            asking = asyncio.ensure_future(operations_._refresh())
            await turns()
            asking.cancel()
        asking = asyncio.ensure_future(operations_._refresh())
        page.go.set()
        await asyncio.wait_for(asking, 60)
        return page.read

    assert asyncio.run(check()) == 1


@full("combination")
def test_operations_tell_what_became_of_versions_and_of_a_shadow(tmp_path: Path) -> None:
    reload_tools.write(tmp_path / "toy" / "1")
    with serving(tmp_path, **ASGI, repository_poll_seconds=0.1) as server, Client(server.address) as client:
        reload_tools.write(tmp_path / "toy" / "2", -2.0, version=2)
        until(lambda: ("default version", "2") in happened(server))
        control.promote(client, "toy", "1")
        control.rollback(client, "toy")
        control.promote(client, "toy", "1")
        control.shadow(client, "toy", "2")
        server.infer(ROWS)
        until(lambda: operations(server)["shadows"][0]["rows"] == 3)
        (shadow,) = operations(server)["shadows"]
        assert (shadow["version"], shadow["baseline_version"], shadow["running"]) == ("2", "1", True)
        assert (shadow["rows_out_of_tolerance"], shadow["rows_with_other_class"]) == (3, 3)
        assert shadow["largest_difference"] > 0.1
        control.shadow(client, "toy", stop=True)
        assert operations(server)["shadows"][0]["running"] is False
        reload_tools.write(tmp_path / "broken", version=3)
        (tmp_path / "broken" / "model.onnx").write_bytes(b"no graph")
        (tmp_path / "broken").rename(tmp_path / "toy" / "3")
        (refused,) = until(lambda: [item for item in operations(server)["history"] if item["what"] == "rejected"])
        assert of_toy(operations(server), "3")["state"] == "UNAVAILABLE"
        assert (refused["version"], refused["text"]) == (
            "3",
            "integrity: model.onnx has 8 bytes, the manifest says 268; copy the version again, "
            "or export the model again",
        )
        first = [item for item in happened(server) if item[0] != "rejected"]
        assert first[:6] == [
            *(("loaded", "1"), ("default version", "1"), ("loaded", "2")),
            *(("default version", "2"), ("default version", "1"), ("default version", "2")),
        ]
        assert of_toy(operations(server))["chosen"] is True


def happened(server: Server) -> list[tuple[str, str]]:
    """The events of the server and the versions that they are about, in their order."""
    return [(item["what"], item["version"]) for item in operations(server)["history"]][::-1]


DATA = np.random.default_rng(3).normal(0, 0.5, (300, 2)).astype(np.float32)
CASES = {
    "hello": "pykan-hello-symbolic/model",
    "digits": "efficient-kan-digits/model.pt",
    "norms": "chebykan-digits-layernorm/model.pt",
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Real exports; `hello` has rows of reference."""
    folder = tmp_path_factory.mktemp("real")
    np.save(folder / "rows.npy", DATA)
    for name, case in CASES.items():
        baseline = ("--baseline", folder / "rows.npy") if name == "hello" else ()
        exported(OWN / case, name, *baseline, into=folder / "models")
    with serving(folder / "models", **ASGI) as running:
        yield running


def test_counts_of_the_baseline_lie_in_the_cells_of_the_window(real: Server) -> None:
    """'Now' of the very rows that the baseline is of is the baseline."""
    status, result = ask(real, f"{MODELS}/hello/statistics", {"rows": DATA.tolist()})
    assert status == 200
    for nodes in result["nodes"]:
        assert nodes["counts"] == nodes["baseline_counts"]
        assert sum(nodes["baseline_counts"]) == 300 * len(nodes["bound_counts"])


def test_coverage_without_inference_is_that_beside_it(real: Server) -> None:
    rows = np.array([[0.1, -0.4], [30.0, 0.2]], np.float32)
    before = reload_tools.sample(real.metrics(), 'nv_inference_count{model="hello",version="1"}')
    status, result = ask(real, f"{MODELS}/hello/coverage", {"rows": rows.tolist(), "id": "c1"})
    assert (status, result["id"], result["zones"][3]) == (200, "c1", "out_of_grid")
    assert reload_tools.sample(real.metrics(), 'nv_inference_count{model="hello",version="1"}') == before
    with Client(real.address) as client:
        same = client.coverage("hello", rows)
    assert [item["definition"] for item in result["layers"]] == [*same.definitions]
    for at, item in enumerate(result["layers"]):
        np.testing.assert_array_equal(item["zones"], same.zones[at])
        for name in ("counts", "worst", "cells"):
            np.testing.assert_array_equal(item[name], getattr(same, name)[:, at])
    assert same.out_of_grid[:, 0].tolist() == [False, True]


@full("combination")
def test_operations_of_several_workers_are_those_of_all(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, **ASGI, workers=2) as server:
        for _ in range(12):  # each on a connection of its own, which either worker takes
            body = {"inputs": [http_client.tensor(ROWS)]}
            assert http_client.infer(server, body).status == 200
        until(lambda: of_toy(operations(server))["total"]["requests"] == 12)
        assert operations(server)["server"]["workers"] == 2


def card(server: Server, name: str) -> dict[str, Any]:
    reply = http_client.ask(server, f"{MODELS}/{name}/report")
    assert reply.status == 200, reply.body
    return {part["heading"]: part for part in reply.json["parts"]}


@spread("name", CASES, 1)
def test_the_file_of_a_card_is_that_of_the_command(real: Server, name: str, tmp_path: Path) -> None:
    reply = http_client.ask(real, f"{MODELS}/{name}/report", accept="text/html")
    assert reply.headers["content-type"].startswith("text/html")
    assert f'filename="{name}-1.html"' in reply.headers["content-disposition"]
    done = kanserve("report", name, "-o", tmp_path / "report.html", "--url", real.address)
    assert done.returncode == 0, done.stderr
    assert reply.body == (tmp_path / "report.html").read_bytes()


def test_what_a_card_tells(real: Server) -> None:
    result = card(real, "hello")
    (line,) = result["Formula"]["lines"]
    assert "sin(" in line[1]
    assert "exp(" in line[1]
    assert [item[0] for item in result["Test regions"]["lines"]][:2] == ["in grid", "extended grid"]
    files = [text for name, text in result["Source and limits"]["lines"] if name == "File"]
    assert any(text.startswith("model_state, sha256 ") for text in files)
    assert result["Network"]["pictures"][0]["svg"].startswith("<svg ")
    assert len(result["Most important edges"]["pictures"]) == 3
    digits = card(real, "digits")
    assert "Formula" not in digits
    assert len(digits["Most important edges"]["pictures"]) == 24
    assert card(real, "norms")["Network"]["pictures"]  # without the edges that are no curves


@full("load")
def test_a_card_whose_caller_resets_its_request_ends(tmp_path: Path) -> None:
    """The metrics of queries also show that the server makes a card once for several clients."""
    widths = (300, 500, 700, 900)
    for width in widths:
        toy_model.write_wide(tmp_path, width, f"wide{width}")
    with serving(tmp_path, **ASGI, access_log="all") as server:
        for number, width in enumerate(widths, 1):  # a fast machine may finish a small one before the reset
            path = f"{MODELS}/wide{width}/report"
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
        assert http_client.ask(server, f"{MODELS}/nobody/report").status == 404
    assert "Description" in result
