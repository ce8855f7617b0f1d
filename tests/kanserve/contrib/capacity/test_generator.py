"""Tests of `capacity/generator.py`: a schedule that does not wait, against a real server and against a silent one."""

import io
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from kanserve.client import calls
from kanserve.client.sync import Client
from kanserve.contrib.capacity import generator, http2
from kanserve.contrib.capacity.generator import LOST, Generator, Job, Pool, Sent
from kanserve.contrib.capacity.http2 import CapacityError
from tests.support.command_line import Server
from tests.support.wait import until


def test_arrivals_are_a_poisson_process() -> None:
    due = generator.poisson(10_000.0, 0.0, 20.0, np.random.default_rng(1))
    gaps = np.diff(due)
    assert len(due) == pytest.approx(200_000, rel=0.01)
    assert gaps.min() >= 0
    # The gaps of a Poisson process are exponential: their standard deviation is their mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)
    assert np.array_equal(due, generator.poisson(10_000.0, 0.0, 20.0, np.random.default_rng(1)))


def test_errors_have_the_status_of_grpc(server: Server) -> None:
    with Client(server.url) as client:
        call = calls.inference(client.model("tiny"), np.zeros((1, 3), np.float32), model="absent")
    block = http2.head(call.path, server.url, secure=False).hex()
    with Generator(Job(places=(server.url,), block=block, message=call.data.hex())) as load:
        sent = load.send(50.0, 0.3)
    assert set(sent.status.tolist()) == {5}  # NOT_FOUND
    assert np.isfinite(sent.latency).all()


def silent() -> socket.socket:
    """A server that sends its settings to one connection, and nothing else."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        end, _ = listening.accept()
        with end:
            end.sendall(http2.frame(http2.SETTINGS, 0, 0))
            while end.recv(65536):
                pass

    threading.Thread(target=serve, daemon=True).start()
    return listening


def test_a_server_that_is_silent_does_not_slow_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "PATIENCE", 60.0)
    with silent() as first, silent() as second:  # each takes one connection
        places = tuple(f"127.0.0.1:{server.getsockname()[1]}" for server in (first, second))
        block = http2.head("/a.B/C", places[0], secure=False)
        pool = Pool(Job(places=places, block=block.hex(), message="", connections=2))

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


def test_a_generator_whose_command_ends_at_once_is_silent() -> None:
    command = [sys.executable, "-P", "-m", "kanserve.contrib.capacity.generator"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
