"""Limits on work: the cost of a query, fairness between clients, and large responses off the event loop."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from kanserve.auth import token_file
from kanserve.pb import kan_pb2
from tests.support import bad_requests, credentials, toy_model
from tests.support.server_process import KAN, SHARED, Server, serving
from tests.support.tiers import full
from tests.support.wait import until

WIDTH, LIMIT = 600, 360_000_000  # 1000 rows, about half a second
SHORT = 0.05  # seconds: a deadline that must pass


@pytest.fixture(scope="module", params=SHARED)
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("bounded")
    toy_model.write(root)
    toy_model.write_wide(root, WIDTH)
    with serving(root, transport=request.param, max_edge_query_evaluations=LIMIT, threads=1) as running:
        yield running


def query(rows: int, **fields: object) -> bytes:
    packed = np.ones((rows, WIDTH), np.float32).tobytes()
    return kan_pb2.QueryEdgesRequest(model_name="wide", rows=packed, row_count=rows, **fields).SerializeToString()


def ask(server: Server, data: bytes) -> None:
    server.call(f"{KAN}QueryEdges", data)


def spent(server: Server) -> float:
    """Seconds of processor time that the server has taken; other processes change them little."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def started(server: Server) -> float:
    lines = [line for line in server.metrics().splitlines() if line.startswith("grpc_server_started_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if '"QueryEdges"' in line)


def test_a_query_that_takes_too_much_is_refused_before_it_begins(server: Server) -> None:
    data = query(1001, top_k=1)
    begun = spent(server)
    with pytest.raises(grpc.RpcError) as caught:
        ask(server, data)
    refused = spent(server)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == (
        "the query takes 360360000 edge evaluations (1001 rows x 360000 edges of the requested layers at all "
        "positions), the limit is 360000000"
    )
    assert bad_requests.code(caught.value) == "too-many-edge-evaluations"
    assert bad_requests.hint(caught.value) == "send at most 1000 rows, or request fewer layers"
    ask(server, query(1000, top_k=1))
    assert refused - begun < (spent(server) - refused) / 2


def test_queries_take_turns(server: Server) -> None:
    """A short one does not wait for the whole of a long one that came before."""
    short, long = query(1, top_k=1), query(1000, top_k=1)
    ask(server, short)
    ended, before = list[str](), started(server)

    def served(name: str, data: bytes) -> None:
        ask(server, data)
        ended.append(name)

    askers = [threading.Thread(target=served, args=item) for item in (("long", long), ("long", long))]
    for asker in askers:
        asker.start()
    until(lambda: started(server) == before + 2)
    served("short", short)
    for asker in askers:
        asker.join(60)
    assert ended == ["short", "long", "long"]


@full("load")
def test_callers_with_names_take_turns_and_share_the_places(tmp_path: Path) -> None:
    """A client with four requests in flight gets no more rows per second than a client with one."""
    toy_model.write_wide(tmp_path, WIDTH)
    token = token_file.make()
    created = credentials.write_tokens(tmp_path / "tokens", more=credentials.block("other", token, "interpret"))
    greedy, modest = (credentials.bearer(item) for item in (created["interpret"], token))
    limits = {"max_edge_query_evaluations": LIMIT, "max_edge_queries": 8, "threads": 1}
    with serving(tmp_path, tokens=str(tmp_path / "tokens"), **limits) as server:
        edges = server.channel.unary_unary(f"{KAN}QueryEdges")
        edges(query(1, top_k=1), metadata=modest, timeout=60)
        many = [edges.future(query(300, top_k=1), metadata=greedy, timeout=60) for _ in range(6)]
        until(lambda: sum(item.done() for item in many) >= 2)  # those beyond its half
        assert {item.code() for item in many if item.done()} == {grpc.StatusCode.UNAVAILABLE}
        edges(query(300, top_k=1), metadata=modest, timeout=60)
        assert sum(item.done() for item in many) < 6  # each of the four has had a quarter of the other's turns
        assert [item.code() for item in many].count(grpc.StatusCode.OK) == 4


@full("load")
def test_a_query_whose_time_is_over_computes_no_more(server: Server) -> None:
    def cost(*deadlines: float) -> float:
        begun = spent(server)
        for deadline in deadlines:
            with contextlib.nullcontext() if deadline > SHORT else pytest.raises(grpc.RpcError, match="DEADLINE"):
                server.call(f"{KAN}QueryEdges", query(1000, top_k=1), timeout=deadline)
        until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())
        return spent(server) - begun

    before, cut, after = cost(60), cost(*[SHORT] * 6), cost(60)
    assert cut < 3 * max(before, after)
