"""Tests of `capacity/usage.py`: real processes, and what proc(5) says of them."""

import os
import socket
import subprocess
import sys

from kanserve.contrib.capacity import usage
from tests.support.command_line import Server


def test_the_processes_of_a_server_are_those_that_listen(server: Server) -> None:
    assert server.process.pid in usage.listeners(int(server.url.rpartition(":")[2]))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert os.getpid() in usage.listeners(listening.getsockname()[1])
        port = listening.getsockname()[1]
    assert usage.listeners(port) == frozenset()


def test_cpu_time_counts_ended_children() -> None:
    before, machine = usage.cpu_seconds([os.getpid()]), usage.machine_seconds()
    code = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    # The kernel counts user and system time of each process in whole ticks of 10 ms.
    assert usage.cpu_seconds([os.getpid()]) - before >= 0.15
    assert usage.machine_seconds() - machine >= 0.15
    assert usage.cpu_seconds([2**31]) == 0.0


def test_memory_and_descendants() -> None:
    code = "import time; b = bytearray(b'x') * 50_000_000; del b; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert usage.peak_bytes([child.pid]) > 50_000_000
        assert {os.getpid(), child.pid} <= usage.descendants([os.getpid()])
        child.kill()
    assert set(usage.cores()) == os.sched_getaffinity(0)
