"""Time until a server with many models is ready, its memory, and the load of a model next to another at full load.

    python benchmarks/many_models.py [--models 200] [--rounds 5] [--loads 10]

The script exports a network of random weights, [64, 64, 10], and copies it under other names. The first start is not
measured, because Python compiles the modules in it. Each round starts
`kanserve serve` with the load check and without it, in its own process. Then a server with explicit model control loads
one model again and again. It does so without other load, and while perf_analyzer keeps 32 requests in flight to another
model. Server, load checks and clients share the cores of this machine. CPU seconds are those of the server's process
and of its load checks. The script prints Markdown on stdout, with medians (quartiles) over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import overload
import scale
from overload import Served
from rich.progress import track

from kanexport.shared import manifest as manifests
from kanserve.pb import grpc_service_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
WIDTHS = (64, 64, 10)
IN_FLIGHT = 32
SETTLE = 2.0  # seconds until perf_analyzer sends at its full rate
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Start:
    """One start: seconds until ready, CPU seconds of the server and of its load checks, and resident MiB."""

    ready: float
    server: float
    checks: float
    memory: float


def repository(folder: Path, count: int) -> Path:
    """A repository of `count` models, n0 to n<count - 1>."""
    checkpoint = scale.write(scale.Shape(WIDTHS, 5), folder)
    command = ["export", str(checkpoint), "--repository", str(folder / "one"), "--name", "n0"]
    subprocess.run([sys.executable, "-P", "-m", "kanserve", *command], check=True, capture_output=True)
    source = folder / "one" / "n0"
    manifest, config = manifests.load(source / "1"), (source / "config.pbtxt").read_text()
    for at in range(count):
        name = f"n{at}"
        target = shutil.copytree(source, folder / "models" / name)
        renamed = dataclasses.replace(manifest, name=name)
        (target / "1" / manifests.FILE_NAME).write_bytes(manifests.dumps(renamed))
        (target / "config.pbtxt").write_text(config.replace('name: "n0"', f'name: "{name}"', 1))
    return folder / "models"


def started(models: Path, flags: Sequence[str]) -> Start:
    """Start a server, and end it when it is ready."""
    begun = time.perf_counter()
    with overload.serving(models, "asgi", flags) as served:
        seconds = time.perf_counter() - begun
        pid = served.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        checks = sum(_cpu(child, children=True) for child in children)
        return Start(seconds, _cpu(str(pid)), checks, served.rss())


def _cpu(pid: str, *, children: bool = False) -> float:
    """CPU seconds of a process, and of the children that it has waited for; see proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) / TICK


def load_seconds(served: Served, name: str, count: int) -> float:
    """The median time of RepositoryModelLoad of a model, which is unloaded before each load."""
    taken = []
    with grpc.insecure_channel(served.address) as channel:
        load: Any = channel.unary_unary(f"{SERVICE}RepositoryModelLoad")
        unload: Any = channel.unary_unary(f"{SERVICE}RepositoryModelUnload")
        for _ in range(count):
            unload(pb.RepositoryModelUnloadRequest(model_name=name).SerializeToString(), timeout=60)
            begun = time.perf_counter()
            load(pb.RepositoryModelLoadRequest(model_name=name).SerializeToString(), timeout=60)
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


@contextlib.contextmanager
def full_load(served: Served, name: str) -> Iterator[None]:
    """Context in which perf_analyzer keeps requests to a model in flight. Raises RuntimeError if it is missing, or
    ends."""
    program = shutil.which("perf_analyzer", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise RuntimeError("perf_analyzer is not installed (the extra `dev` has it on x86-64)")
    flags = ["-m", name, "-i", "grpc", "-u", served.address, "--concurrency-range", f"{IN_FLIGHT}:{IN_FLIGHT}"]
    flags += ["--measurement-interval", "5000", "--stability-percentage", "1", "--max-trials", "1000"]
    # The program is a script that starts another one, so both are in their own group.
    silent = subprocess.DEVNULL
    client = subprocess.Popen([program, *flags], stdout=silent, stderr=silent, process_group=0)
    try:
        time.sleep(SETTLE)
        yield
        if client.poll() is not None:
            raise RuntimeError("perf_analyzer has ended before the measurement")
    finally:
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()


def quartiles(values: Sequence[float], form: Callable[[float], str]) -> str:
    """Median and quartiles in words."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return f"{form(middle)} ({form(low)} to {form(high)})"


def print_starts(models: Path, rounds: int) -> None:
    """Print the table of starts."""
    kinds = {"load check": [], "`--no-load-check`": ["--no-load-check"]}
    seen: dict[str, list[Start]] = {kind: [] for kind in kinds}
    started(models, [])
    for at in track(range(rounds * len(kinds)), "starts"):
        kind, flags = list(kinds.items())[at % len(kinds)]
        seen[kind].append(started(models, flags))
    print("| | ready, s | CPU s of the server | CPU s of the checks | resident MiB |\n|---|---|---|---|---|")
    for kind, starts in seen.items():
        parts = [[getattr(start, name) for start in starts] for name in ("ready", "server", "checks")]
        memory = quartiles([start.memory for start in starts], "{:.0f}".format)
        print(f"| {kind} | {' | '.join(quartiles(part, '{:.2f}'.format) for part in parts)} | {memory} |")


def print_loads(models: Path, rounds: int, loads: int) -> None:
    """Print the table of loads next to another model."""
    without, beside = [], []
    flags = ["--model-control", "explicit", "--load-model", "n0,n1"]
    with overload.serving(models, "asgi", flags) as served:
        load_seconds(served, "n1", 2)  # the first loads start the process of the load checks
        for _ in track(range(rounds), "loads"):
            without.append(load_seconds(served, "n1", loads))
            with full_load(served, "n0"):
                beside.append(load_seconds(served, "n1", loads))
    ratios = [busy / idle for idle, busy in zip(without, beside, strict=True)]
    print("\n| load of one model | |\n|---|---|")
    print(f"| without other load, ms | {quartiles([1e3 * x for x in without], '{:.0f}'.format)} |")
    print(f"| next to {IN_FLIGHT} requests in flight, ms | {quartiles([1e3 * x for x in beside], '{:.0f}'.format)} |")
    print(f"| ratio | {quartiles(ratios, '{:.2f}x'.format)} |")


def main() -> None:
    """Export, start, load, print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", type=int, default=10, help="loads of each round (default: 10)")
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed server does not compile its modules at each start
    with tempfile.TemporaryDirectory() as place:
        models = repository(Path(place), max(2, args.models))
        print(f"{args.models} models of {list(WIDTHS)}, {args.rounds} rounds, load of the machine ", end="")
        print(f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        print_starts(models, args.rounds)
        print_loads(models, args.rounds, args.loads)


if __name__ == "__main__":
    main()
