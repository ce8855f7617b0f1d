"""Demo of export, serving and monitoring, with real checkpoints, a server and a client.

    make demo

On a fresh machine `make demo` takes about two minutes, with the creation of the environment.

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
    """Print a command, and run it."""
    print("$ kanserve", *(shown(a) if isinstance(a, Path) else a for a in arguments), flush=True)
    subprocess.run([*KANSERVE, *map(str, arguments)], check=True)


@contextlib.contextmanager
def server(models: Path) -> Iterator[dict[str, str]]:
    """A server on free ports. Yields its addresses by protocol, and stops it."""
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
    """The addresses of the server, from its log."""
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "server_ready":
            listening = {name: event[name] for name in ("grpc", "http", "metrics") if name in event}
            print(", ".join(f"{name} on {address}" for name, address in listening.items()))
            return listening
        print(f"  {event['message']} {event.get('model', '')}")
    raise SystemExit("the server exited before it was ready")


def predict(url: str, name: str, reference: dict[str, np.ndarray]) -> None:
    """Request predictions over Triton's protocol, and compare them with the library that trained the model."""
    rows = reference["x"]
    with tritonclient.grpc.InferenceServerClient(url) as client:
        tensor = tritonclient.grpc.InferInput("x", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        y = client.infer(name, [tensor]).as_numpy("y")
    error = np.abs(y - reference["y64"]).max() / np.abs(reference["y64"]).max()
    print(f"{name}: {len(rows)} rows -> {y.shape[1]} outputs; largest difference from the trained model: {error:.1e}")


def curl(*arguments: str) -> str:
    """Print a curl command, and run it."""
    print("$ curl", shlex.join(arguments), flush=True)
    return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, text=True).stdout


def infer_over_rest(address: str, name: str, row: np.ndarray) -> None:
    """Send one row as JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
    print(curl(f"http://{address}/v2/models/{name}/infer", "-d", json.dumps({"inputs": [tensor]})))


class Requests(threading.Thread):
    """A client that requests predictions without a pause, and counts the responses per version."""

    def __init__(self, url: str, rows: np.ndarray) -> None:
        super().__init__(daemon=True)
        self.url, self.rows, self.ended = url, rows, threading.Event()
        self.responses: dict[str, int] = {}
        self.failed = 0

    def run(self) -> None:
        with tritonclient.grpc.InferenceServerClient(self.url) as client:
            tensor = tritonclient.grpc.InferInput("x", list(self.rows.shape), "FP32")
            tensor.set_data_from_numpy(self.rows)
            while not self.ended.is_set():
                try:
                    version = client.infer("digits", [tensor]).get_response().model_version
                    self.responses[version] = self.responses.get(version, 0) + 1
                except tritonclient.grpc.InferenceServerException:
                    self.failed += 1

    def until(self, version: str) -> None:
        """Wait for one more response of that version."""
        before, end = self.responses.get(version, 0), time.monotonic() + CHANGE_SECONDS
        while self.responses.get(version, 0) <= before:
            if time.monotonic() > end:
                raise SystemExit(f"version {version} did not respond within {CHANGE_SECONDS} s")
            time.sleep(0.05)


def change(url: str, models: Path, rows: np.ndarray) -> None:
    """Add a second version to the repository while requests run, and roll back to the first."""
    requests = Requests(url, rows)
    requests.start()
    requests.until("1")
    kanserve("export", MODELS["digits"], "--repository", models, "--name", "digits", "--version", "2")
    requests.until("2")
    kanserve("rollback", "digits", "--url", url)
    requests.until("1")
    requests.ended.set()
    requests.join()
    counts = ", ".join(f"{count} by version {version}" for version, count in sorted(requests.responses.items()))
    print(f"responses in the meantime: {counts}; failed: {requests.failed}")
    if requests.failed:
        raise SystemExit("requests failed")


def show_metrics(address: str) -> None:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    wanted = r"nv_inference_count|nv_inference_request_success|kanserve_edge_queries_total|kanserve_model_loaded"
    for line in text.splitlines():
        if re.match(rf"({wanted}){{", line):
            print(" ", line)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="kanserve-demo-") as folder:
        models, rows = Path(folder) / "models", Path(folder) / "rows.npy"
        say("1. Export: from checkpoint files to verified models")
        for name, checkpoint in MODELS.items():
            kanserve("export", checkpoint, "--repository", models, "--name", name)
        say("2. Serve the models")
        with server(models) as where:
            url, http = where["grpc"], where.get("http") if shutil.which("curl") else None
            say("3. Request predictions with an unmodified tritonclient")
            references = {}
            for name, checkpoint in MODELS.items():
                with np.load(checkpoint.parent / "reference.npz") as arrays:
                    references[name] = dict(arrays)
                predict(url, name, references[name])
            if http:
                infer_over_rest(http, "formula", references["formula"]["x"][0])
            kanserve("models", "--url", url)
            say("4. Query the value of each edge of the first layer")
            np.save(rows, references["formula"]["x"][:24])
            kanserve("edges", "formula", "--input", rows, "--layer", "0", "--url", url)
            say("5. Read the metrics that a dashboard shows")
            show_metrics(http or where["metrics"])
            say("6. Load another version while requests run")
            change(url, models, references["digits"]["x"][:1])
            say("7. Stop: drain, then exit")
    print("\nDone. Next: kanserve export YOUR_CHECKPOINT --repository models && kanserve serve models")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
