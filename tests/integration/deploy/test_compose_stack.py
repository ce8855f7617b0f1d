"""Compose stack without containers: real programs, shipped configuration, alerts that fire, resolve and are delivered.

Addresses and folders are replaced, and waits and windows of the configuration are seconds.
"""

import signal
from collections.abc import Iterator

import numpy as np
import pytest
import yaml

from kanserve import Client
from kanserve.client.errors import ClientError
from tests.support import compose_stack, toy_model
from tests.support.command_line import checkpoint, document, kanserve
from tests.support.compose_stack import DEPLOY, Stack, until
from tests.support.tiers import full

pytestmark = full("peer")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with one model, which has a baseline, and the demo load, after its first scrape."""
    folder = tmp_path_factory.mktemp("stack")
    state = checkpoint(folder / "tiny.safetensors", (2, 2))
    np.save(folder / "train.npy", np.random.default_rng(1).uniform(-1, 1, (5000, 2)))
    reference = ("--baseline", folder / "train.npy", "--out-of-range", "flag", "--classes", "cat,dog")
    document(kanserve("export", state, "--repository", folder / "models", "--name", "tiny", *reference, "--json"))
    with compose_stack.running(folder) as stack:
        until(lambda: stack.value('up{job="kanserve"} == 1'), "the first scrape")
        stack.start_demo(100)
        yield stack


def client(stack: Stack, **options: int) -> Client:
    """A client with the files that init created."""
    return Client(stack.url, ca=stack.credentials.ca, token=stack.credentials.token.read_text().strip(), **options)


def test_prometheus_has_every_rule_and_alertmanager(stack: Stack) -> None:
    shipped = yaml.safe_load((DEPLOY / "monitoring" / "prometheus" / "rules.yml").read_text())["groups"]
    groups = stack.prometheus("rules")["groups"]
    assert {g["name"]: len(g["rules"]) for g in groups} == {g["name"]: len(g["rules"]) for g in shipped}
    assert [rule for group in groups for rule in group["rules"] if rule["health"] == "err"] == []
    until(lambda: len(stack.prometheus("alertmanagers")["activeAlertmanagers"]) == 1, "Alertmanager is known")


def test_the_demo_load_is_served_with_tls_and_the_token(stack: Stack) -> None:
    until(lambda: stack.value("sum(nv_inference_count) > 50"), "requests of the demo load")
    assert (stack.folder / "demo.log").read_text() == ""
    with (
        Client(stack.url, ca=stack.credentials.ca, retries=0) as without,
        pytest.raises(ClientError, match="credential"),
    ):
        without.index()


def test_the_panels_have_data(stack: Stack) -> None:
    empty: set[str] = set()

    def full() -> bool:
        nonlocal empty
        empty = stack.empty_panels()
        return not empty

    try:
        until(full, "data in all panels")
    except AssertionError:
        pytest.fail(f"panels without data: {empty}")


def test_the_demo_load_ends_on_sigterm(stack: Stack) -> None:
    process = stack.processes.pop("demo")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_an_alert_fires_if_a_model_does_not_load_and_resolves_without_it(stack: Stack) -> None:
    broken = stack.folder / "models" / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"not a graph")
    until(lambda: stack.delivered("firing", "KanserveModelLoadFailed"), "delivery of the alert")
    (broken / "model.onnx").unlink()
    broken.rmdir()
    broken.parent.rmdir()
    until(lambda: stack.delivered("resolved", "KanserveModelLoadFailed"), "delivery of its end")


def test_an_alert_fires_if_requests_are_slow_and_resolves_if_they_are_not(stack: Stack) -> None:
    toy_model.write_slow(stack.folder / "models")
    with client(stack) as sender:
        until(lambda: any((e.name, e.state) == ("slow", "READY") for e in sender.index()), "the slow model is ready")
        until(lambda: stack.value('kanserve_request_duration_seconds_count{model="slow"} == bool 0'), "its scrape")

        def fires() -> bool:
            sender.infer("slow", np.zeros((1, 1), np.float32))
            return bool(stack.delivered("firing", "KanserveLatencyHigh"))

        until(fires, "delivery of the alert")
    until(lambda: stack.delivered("resolved", "KanserveLatencyHigh"), "delivery of its end")


def test_alerts_fire_on_drift_and_if_the_server_is_killed_and_resolve_if_it_runs_again(stack: Stack) -> None:
    rows = np.random.default_rng(2).uniform(0.8, 1, (64, 2)).astype(np.float32)
    with client(stack) as sender:

        def drifts() -> bool:
            sender.infer("tiny", rows)
            return bool(stack.delivered("firing", "KanserveDrift"))

        until(drifts, "delivery of the alert on drift")
    # A scrape may be late on a busy machine, so that the alert fires and resolves before.
    until(lambda: stack.settled("KanserveDown"), "the end of earlier alerts")
    before = len(stack.delivered("firing", "KanserveDown"))
    stack.end("server")
    until(lambda: len(stack.delivered("firing", "KanserveDown")) > before, "delivery of the alert on the server")
    assert stack.delivered("firing", "KanserveDown")[-1].startswith("firing KanserveDown page 127.0.0.1:")
    stack.start_server()
    until(lambda: stack.settled("KanserveDown"), "delivery of its end")
    until(lambda: stack.delivered("resolved", "KanserveDrift"), "delivery of the end of the drift")
    assert stack.value('up{job="kanserve"}') == 1
