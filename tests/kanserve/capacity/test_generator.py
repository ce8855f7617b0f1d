"""Tests of `capacity/generator.py`: a schedule that does not wait, against a real server and against a silent one."""

from __future__ import annotations

import io
import socket
import threading

import numpy as np
import pytest

from kanserve.capacity import generator, http2
from kanserve.capacity.generator import LOST, Generator, Job, Pool, Sent
from kanserve.capacity.http2 import CapacityError
from kanserve.client import calls
from kanserve.client.sync import Client
from tests.support.command_line import Server
from tests.support.tiers import full
from tests.support.wait import until


def job(server: Server, rows: int = 1, name: str = "tiny", connections: int = 2) -> Job:
    with Client(server.url) as client:
        call = calls.inference(client.model("tiny"), np.zeros((rows, 3), np.float32), model=name)
    block = http2.head(call.path, server.url, secure=False)
    return Job(places=(server.url,), block=block.hex(), message=call.data.hex(), connections=connections)


def test_arrivals_are_a_poisson_process() -> None:
    due = generator.arrivals(10_000.0, 20.0, 1)
    gaps = np.diff(due)
    assert len(due) == pytest.approx(200_000, rel=0.01)
    assert gaps.min() >= 0
    # The gaps of a Poisson process are exponential: their standard deviation is their mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)
    assert np.array_equal(due, generator.arrivals(10_000.0, 20.0, 1))


def test_a_server_responds_to_each_request(server: Server) -> None:
    with Generator(job(server)) as load:
        for rate in (50.0, 400.0):
            sent = load.send(rate, 0.5)
            assert len(sent.due) > 0.3 * rate * 0.5
            assert (sent.status == 0).all()
            assert (sent.latency > 0).all()
            assert (sent.lag >= 0).all()
            assert (sent.lag <= sent.latency).all()


@full("load")
def test_large_requests_pass_the_windows_of_a_real_server(server: Server) -> None:
    with Generator(job(server, rows=1000, connections=1)) as load:
        assert (load.send(50.0, 0.5).status == 0).all()


def test_errors_have_the_status_of_grpc(server: Server) -> None:
    with Generator(job(server, name="absent")) as load:
        sent = load.send(50.0, 0.3)
    assert set(sent.status.tolist()) == {5}  # NOT_FOUND
    assert np.isfinite(sent.latency).all()


def silent(count: int) -> socket.socket:
    """A server that sends its settings to `count` connections, and nothing else."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        ends = [listening.accept()[0] for _ in range(count)]
        for end in ends:
            end.sendall(http2.frame(http2.SETTINGS, 0, 0))
        for end in ends:
            while end.recv(65536):
                pass
            end.close()

    threading.Thread(target=serve, daemon=True).start()
    return listening


def test_a_server_that_is_silent_does_not_slow_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "PATIENCE", 60.0)
    with silent(2) as listening:
        place = f"127.0.0.1:{listening.getsockname()[1]}"
        block = http2.head("/a.B/C", place, secure=False)
        pool = Pool(Job(places=(place,), block=block.hex(), message="", connections=2))

        def lose_patience() -> None:
            until(lambda: pool.pending >= 100)
            generator.PATIENCE = 0.0

        impatient = threading.Thread(target=lose_patience)
        impatient.start()
        sent = pool.run(np.linspace(0.0, 0.2, 100))
        impatient.join()
        assert (sent.status == LOST).all()
        assert np.isnan(sent.latency).all()
        assert np.isfinite(sent.lag).all(), "each request was sent without a wait for a response"
        for connection in pool.connections:
            connection.close()


def test_a_port_without_a_server_and_one_without_http2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = f"127.0.0.1:{listening.getsockname()[1]}"
        threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True).start()
        load = Generator(Job(places=(place,), block="", message="", connections=1))
        with load, pytest.raises(CapacityError, match="does not speak HTTP/2"):
            load.send(1.0, 0.1)
    load = Generator(Job(places=(place,), block="", message=""))
    with load, pytest.raises(CapacityError, match="no connection to 127"):
        load.send(1.0, 0.1)


def test_a_measurement_is_read_as_it_was_written() -> None:
    sent = Sent(np.array([0.5, 1.0]), np.array([0.1, np.nan]), np.array([0.0, 0.2]), np.array([0, LOST]), 0.3, 1.0)
    buffer = io.BytesIO()
    generator.write(buffer, sent)
    buffer.seek(0)
    read = generator.read(buffer)
    for field in ("due", "latency", "lag", "status"):
        np.testing.assert_array_equal(getattr(read, field), getattr(sent, field))
    assert (read.cpu, read.seconds) == (0.3, 1.0)
    with pytest.raises(CapacityError, match="ended"):
        generator.read(buffer)
