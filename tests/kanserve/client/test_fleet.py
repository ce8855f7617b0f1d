"""Sums over several servers: real servers with different traffic, compared with the statistics of all rows together."""

from collections.abc import Iterator

import numpy as np
import pytest

from kanserve.client import statistics
from kanserve.client.sync import Client
from tests.kanserve.analysis.test_drift import ROWS, seen
from tests.support import reload_tools, toy_model
from tests.support.command_line import document, kanserve, wrong_refusals
from tests.support.programs import free_port
from tests.support.server_process import Server, serving
from tests.support.wait import until

PARTS = (ROWS[:30], ROWS[40:100])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two servers of the toy, which has a baseline; version 2 gives twice its outputs. Version 3 has other bins on the
    second server."""
    folders = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]
    for folder in folders:
        toy_model.edit(toy_model.write(folder), baseline=seen(ROWS[:200]))
        toy_model.edit(toy_model.write(folder, version=3), baseline=seen(ROWS[: 200 + 9 * (folder is folders[1])]))
        reload_tools.write(folder / "toy" / "2", -2.0, version=2)
        (folder / "toy" / "default").write_text("1\n")
    with serving(folders[0], statistics="full") as first, serving(folders[1], statistics="full") as second:
        for server, rows in zip((first, second), PARTS, strict=True):
            server.infer(rows)
            with Client(server.address) as client:
                until(lambda: client.statistics("toy").row_count == len(rows))  # noqa: B023 - called at once
        yield first, second


def test_statistics_and_drift_of_several_servers_are_those_of_all_rows(pair: tuple[Server, Server]) -> None:
    urls, rows = ",".join(server.address for server in pair), np.concatenate(PARTS)
    summed = document(kanserve("stats", "toy", "--json", "--url", urls))
    assert (summed["servers"], summed["missing_servers"], summed["processes"]) == (urls.split(","), {}, 2)
    inputs = summed["layers"][0]["nodes"]
    for name, expected in (
        ("mean", rows.mean(0)),
        ("std", rows.std(0, ddof=1)),
        ("min", rows.min(0)),
        ("max", rows.max(0)),
    ):
        np.testing.assert_allclose([node[name] for node in inputs], expected, rtol=1e-5)
    assert list(summed["classes"].values()) == np.bincount(toy_model.outputs(rows).argmax(axis=1)).tolist()
    with Client(pair[0].address) as client:
        whole = client.drift(client.describe("toy"), rows)
    drifted = document(kanserve("drift", "toy", "--json", "--url", urls))
    by_node = {(node["layer"], node["node"]): node for node in drifted["nodes"]}
    for part in whole.nodes:
        for name in set(statistics.COMPARED) - {"drifted"}:
            actual = [by_node[part.layer, at][name] for at in range(len(part.psi))]
            np.testing.assert_allclose(actual, getattr(part, name), rtol=1e-9)


def test_a_server_without_a_reply_makes_the_sum_partial(pair: tuple[Server, Server]) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    done = kanserve("stats", "toy", "--url", f"{pair[0].address},{nowhere}")
    assert (done.returncode, "toy version 1: 30 rows since" in done.stdout) == (1, True)
    assert f"partial sum of 1 of 2 servers\n  {nowhere} did not reply: no server at {nowhere}" in done.stderr
    both = f"{pair[0].address},{pair[1].address}"
    cases = {
        "stats toy --watch": "error[one-server-required]",
        "stats toy --reset": "error[one-server-required]",
        "stats toy --model-version 3": f"files of the version: {pair[0].address} and {pair[1].address} differ",
    }
    assert wrong_refusals(cases, "--url", both) == []


def test_shadows_of_several_servers_add_up(pair: tuple[Server, Server]) -> None:
    urls = ",".join(server.address for server in pair)
    started = document(kanserve("shadow", "toy", "2", "--json", "--url", urls))
    assert (started["running"], started["share"], started["servers"]) == (True, 1, urls.split(","))
    old = kanserve("shadow", "toy", "2", "--share", "0", "--json", "--url", urls)
    assert "warning: --share 0 mirrors all requests" in old.stderr
    assert document(old)["share"] == 1
    for server, rows in zip(pair, PARTS, strict=True):
        server.infer(rows)
    until(lambda: document(kanserve("shadow", "toy", "--json", "--url", urls))["rows"] == 90)
    stopped = document(kanserve("shadow", "toy", "--stop", "--json", "--url", urls))
    assert (stopped["running"], stopped["requests"], stopped["rows_with_other_class"]) == (False, 2, 90)
    single = [document(kanserve("shadow", "toy", "--json", "--url", server.address)) for server in pair]
    assert [report["rows"] for report in single] == [30, 60]
    assert stopped["largest_difference"] == max(report["largest_difference"] for report in single)
