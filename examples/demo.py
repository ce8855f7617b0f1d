"""Demo of export, serving and monitoring in one minute, with real checkpoints, a server and a client.

    make demo

The demo exports two trained networks and serves them on loopback. It requests predictions
with NVIDIA's tritonclient, and edge values with kanserve's own command. It reads the metrics,
replaces a model during requests, stops the server and removes its files. If h2corn is
installed, one port serves gRPC, JSON over HTTP and the metrics.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tritonclient.grpc

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "tests" / "golden" / "checkpoints"
MODELS = {
    "formula": CHECKPOINTS / "pykan-hello-adapted" / "model",
    "digits": CHECKPOINTS / "efficient-kan-digits/model.pt",
}
KANSERVE = [sys.executable, "-m", "kanserve"]
STOP_SECONDS = 30
CHANGE_SECONDS = 30


def say(text: str) -> None:
    print(f"\n== {text} ==", flush=True)


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def kanserve(*arguments: str | Path) -> None:
    """Run a command as a person would, showing it first."""
    print("$ kanserve", *(shown(a) if isinstance(a, Path) else a for a in arguments), flush=True)
    subprocess.run([*KANSERVE, *map(str, arguments)], check=True)


@contextlib.contextmanager
def server(models: Path) -> Iterator[dict[str, str]]:
    """A server on free ports; yields its addresses by what is spoken there, and stops it."""
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--drain-delay-seconds", "0.2"]
    print("$ kanserve serve models", flush=True)
    process = subprocess.Popen([*KANSERVE, "serve", str(models), *ports], stderr=subprocess.PIPE, text=True)
    try:
        yield addresses(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=STOP_SECONDS)
        print(f"server stopped with exit code {process.returncode}")


def addresses(process: subprocess.Popen[str]) -> dict[str, str]:
    """Where the server listens, from its log."""
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "server_ready":
            listening = {name: event[name] for name in ("grpc", "http", "metrics") if name in event}
            print(", ".join(f"{name} on {address}" for name, address in listening.items()))
            return listening
        print(f"  {event['message']} {event.get('model', '')}")
    raise SystemExit("the server ended before it was ready")


def predict(url: str, name: str, reference: dict[str, np.ndarray]) -> None:
    """Predictions over Triton's protocol, against the library that trained the model."""
    rows = reference["x"]
    with tritonclient.grpc.InferenceServerClient(url) as client:
        tensor = tritonclient.grpc.InferInput("x", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        y = client.infer(name, [tensor]).as_numpy("y")
    error = np.abs(y - reference["y64"]).max() / np.abs(reference["y64"]).max()
    print(f"{name}: {len(rows)} rows -> {y.shape[1]} outputs, largest difference to the trained model {error:.1e}")


def curl(*arguments: str) -> str:
    """Run it as a person would, showing it first."""
    print("$ curl", shlex.join(arguments), flush=True)
    return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, text=True).stdout


def ask_by_hand(address: str, name: str, row: np.ndarray) -> None:
    """The same question as JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
    print(curl(f"http://{address}/v2/models/{name}/infer", "-d", json.dumps({"inputs": [tensor]})))


class Asking(threading.Thread):
    """A client that requests predictions without a pause, and counts the responses per version."""

    def __init__(self, url: str, rows: np.ndarray) -> None:
        super().__init__(daemon=True)
        self.url, self.rows, self.ended = url, rows, threading.Event()
        self.answers: dict[str, int] = {}
        self.lost = 0

    def run(self) -> None:
        with tritonclient.grpc.InferenceServerClient(self.url) as client:
            tensor = tritonclient.grpc.InferInput("x", list(self.rows.shape), "FP32")
            tensor.set_data_from_numpy(self.rows)
            while not self.ended.is_set():
                try:
                    version = client.infer("digits", [tensor]).get_response().model_version
                    self.answers[version] = self.answers.get(version, 0) + 1
                except tritonclient.grpc.InferenceServerException:
                    self.lost += 1

    def until(self, version: str) -> None:
        """Wait until that version has answered something more."""
        before, end = self.answers.get(version, 0), time.monotonic() + CHANGE_SECONDS
        while self.answers.get(version, 0) <= before:
            if time.monotonic() > end:
                raise SystemExit(f"version {version} did not answer within {CHANGE_SECONDS} s")
            time.sleep(0.05)


def change(url: str, models: Path, rows: np.ndarray) -> None:
    """A second version appears in the repository and takes over; then the first has its place again."""
    asking = Asking(url, rows)
    asking.start()
    asking.until("1")
    kanserve("export", MODELS["digits"], "--repository", models, "--name", "digits", "--version", "2")
    asking.until("2")
    kanserve("rollback", "digits", "--url", url)
    asking.until("1")
    asking.ended.set()
    asking.join()
    counts = ", ".join(f"{count} by version {version}" for version, count in sorted(asking.answers.items()))
    print(f"answered meanwhile: {counts}; lost: {asking.lost}")
    if asking.lost:
        raise SystemExit("requests were lost")


def show_metrics(address: str) -> None:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    wanted = r"nv_inference_count|nv_inference_request_success|kanserve_edge_queries_total|kanserve_model_loaded"
    for line in text.splitlines():
        if re.match(rf"({wanted}){{", line):
            print(" ", line)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="kanserve-demo-") as folder:
        models, rows = Path(folder) / "models", Path(folder) / "rows.npy"
        say("1. export: from checkpoint files to verified models")
        for name, checkpoint in MODELS.items():
            kanserve("export", checkpoint, "--repository", models, "--name", name)
        say("2. serve them")
        with server(models) as where:
            url, http = where["grpc"], where.get("http") if shutil.which("curl") else None
            say("3. ask: predictions with tritonclient, unmodified")
            references = {}
            for name, checkpoint in MODELS.items():
                with np.load(checkpoint.parent / "reference.npz") as arrays:
                    references[name] = dict(arrays)
                predict(url, name, references[name])
            if http:
                ask_by_hand(http, "formula", references["formula"]["x"][0])
            kanserve("models", "--url", url)
            say("4. edges: the values of every edge of the first layer for these rows")
            np.save(rows, references["formula"]["x"][:24])
            kanserve("edges", "formula", "--input", rows, "--layer", "0", "--url", url)
            say("5. metrics: the series that a dashboard shows")
            show_metrics(http or where["metrics"])
            say("6. another version, while requests run")
            change(url, models, references["digits"]["x"][:1])
            say("7. stop: drain, then exit")
    print("\ndone; next: kanserve export YOUR_CHECKPOINT --repository models && kanserve serve models")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
