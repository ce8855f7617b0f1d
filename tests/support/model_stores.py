"""Stores of models on loopback: an S3 server, an OCI registry, and a relay that stops a copy halfway."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support import compose_stack, stack_tools
from tests.support.free_ports import free_port, free_ports

KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "of-this-test"}


@contextlib.contextmanager
def started(command: list[Any], folder: Path, **environment: str) -> Iterator[None]:
    """A process with its output in a log, which ends with the context."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, cwd=folder, env=os.environ | environment
        )
    try:
        yield
    finally:
        process.kill()  # it keeps nothing, and SeaweedFS takes half a minute to end
        process.wait()


def wait_for(url: str) -> None:
    """Wait until an address responds, if only with an error of HTTP."""

    def responds() -> bool:
        try:
            urllib.request.urlopen(url, timeout=30).close()
        except urllib.error.HTTPError:
            return True
        return True

    compose_stack.until(responds, url)


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """SeaweedFS as an S3 server that requires credentials. The variables with which clients reach it."""
    weed = stack_tools.program("weed")
    names = ("master", "volume", "filer", "s3")
    ports = free_ports(*names, *(f"{name} grpc" for name in names))
    options = [f"-{name}.port={ports[name]}" for name in names]
    options += [f"-{name}.port.grpc={ports[f'{name} grpc']}" for name in names]
    keys = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    identities = [{"name": "reader", "credentials": keys, "actions": ["Admin", "Read", "List", "Write"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    listen = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir", folder / "data", "-s3", f"-s3.config={folder / 's3.json'}"]
    # Services with fixed ports are off, so that two tests can run at the same time.
    others = ["-s3.port.lance=0", "-s3.port.iceberg=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64"]
    url = f"http://127.0.0.1:{ports['s3']}"
    with started([weed, "server", *listen, *options, *others], folder):
        wait_for(url)
        yield KEYS | {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """The address of an OCI registry, docker-registry, over plain HTTP."""
    program = compose_stack.program("docker-registry")
    address = f"127.0.0.1:{free_port()}"
    config = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(folder / "store")}}}
    (folder / "config.yml").write_text(yaml.safe_dump(config | {"http": {"addr": address}}))
    with started([program, "serve", folder / "config.yml"], folder):
        wait_for(f"http://{address}/v2/")
        yield address


class Relay:
    """A relay to a server that passes on `limit` bytes of its responses, and then nothing. `stopped` is set then.

    `address`: where clients connect, host and port.
    """

    def __init__(self, target: str, limit: int) -> None:
        host, _, port = target.rpartition(":")
        self._target, self._left, self._lock = (host, int(port)), limit, threading.Lock()
        self.stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if counted and not self._granted(len(data)):
                    self.stopped.set()
                    return  # the connection stays open, and silent
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _granted(self, size: int) -> bool:
        with self._lock:
            self._left -= size
            return self._left >= 0
