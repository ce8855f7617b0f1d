"""Throughput and latency of servers next to foreign processes that use all cores.

    python benchmarks/foreign_load.py [--rounds 5] [--seconds 0.7] [--busy 0,2,4] [--nice 10,5,0] [--only 4-8-1]
                                     [--docs]

The foreign processes are endless loops at nice 0. They are in the cgroup of the server, where the scheduler compares
the priorities of all threads, or in a cgroup of the same weight. The load generator is in a third cgroup, because it
stands for another machine. kanserve serves with several values of `--compute-nice`; a grpc.aio handler, a no-op asgi
server and Triton (TRITONSERVER, see servers/contestants.py) have no priorities. The first model runs on the event loop,
the second one on compute threads. Servers take turns in each round. Each rate is relative to the rate of the same
server without foreign processes in the same round. Without the cpu controller of cgroups, the script runs nothing and
says so. `--docs` writes the tables into docs/benchmarks/foreign-load.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cpu_groups
import pages
import scale
from rich.progress import Progress

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from servers import contestants, load, report  # noqa: E402 - as above
from servers.contestants import TRITONS, Contestant, Running  # noqa: E402 - as above
from servers.measured import Case, Measured, Sample, numbers, spread  # noqa: E402 - as above

PAGE, WRITER = ROOT / "docs" / "benchmarks" / "foreign-load.md", "benchmarks/foreign_load.py"
MODEL, ASGI = "model", "kanserve asgi"
CASES = (
    Case((4, 8, 1), 1, (8,), ("no-op asgi", "grpc.aio handler", *TRITONS)),
    Case((784, 64, 10), 64, (4,), ("grpc.aio handler", *TRITONS)),
)
LOOP = "while True: pass"


@dataclass(frozen=True)
class Situation:
    """Foreign load. `busy`: number of processes; `shared`: whether they are in the cgroup of the server."""

    busy: int
    shared: bool = True

    def __str__(self) -> str:
        if not self.busy:
            return "none"
        return f"{self.busy}, {'one cgroup' if self.shared else 'two cgroups'}"


@dataclass
class Results:
    """Samples of one case, by situation; sample i of each list is of round i."""

    situations: dict[Situation, Measured] = field(default_factory=dict)

    def add(self, situation: Situation, name: str, level: int, sample: Sample) -> None:
        """Add the sample of the next round."""
        self.situations.setdefault(situation, Measured()).add(name, level, sample)

    def table(self, title: str, level: int, cell: str) -> str:
        """One table in Markdown. `cell`: `rate`, `p50` or `p99`; a rate is relative to the one without load."""
        quiet = self.situations[Situation(0)]
        lines = [f"| {title} | {' | '.join(map(str, self.situations))} |", f"|---|{'---|' * len(self.situations)}"]
        for name in quiet.names():
            before = quiet.samples[name, level]
            cells = []
            for situation, measured in self.situations.items():
                samples = measured.samples[name, level]
                if cell != "rate":
                    cells.append(spread([getattr(sample, cell) / 1e3 for sample in samples], "{:.1f}"))
                elif situation.busy:
                    pairs = zip(samples, before, strict=True)
                    cells.append(spread([sample.rate / first.rate for sample, first in pairs], "{:.2f}"))
                else:
                    cells.append(f"{spread([sample.rate for sample in samples])} per second")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    args = _arguments()
    place = cpu_groups.home()
    if place is None:
        print("not run: this process cannot make cgroups with the cpu controller, and needs two of them")
        return
    home, version = place
    count = f"{args.rounds} round{'s' * (args.rounds > 1)}"
    where = f"{count}, {version}, {datetime.date.today().isoformat()}, load {os.getloadavg()[0]:.1f}"
    for case in [case for case in CASES if case.key.startswith(args.only)]:
        results = measure(case, args, home)
        text = markdown(case, results, f"{case.title}, c = {case.levels[0]}, {where}")
        print(text)
        if args.docs:
            pages.put(PAGE, key(case), WRITER, text)


def key(case: Case) -> str:
    """Name of the part of the page that has the tables of a case."""
    return f"foreign load {case.key}"


def measure(case: Case, args: argparse.Namespace, home: Path) -> Results:
    """All samples of one case. `home`: the folder for the cgroups. Raises RuntimeError if a server or client fails."""
    situations = [Situation(busy, shared) for busy in args.busy for shared in ((True, False) if busy else (True,))]
    results = Results()
    with contextlib.ExitStack() as stack, Progress() as progress:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        served, foreign, clients = (
            stack.enter_context(cpu_groups.group(home, name)) for name in ("served", "foreign", "clients")
        )
        running = serve(case, args.nice, folder, served, stack)
        data = load.inputs(folder, "x", case.rows, case.widths[0])
        stack.enter_context(cpu_groups.inside(clients))
        task = progress.add_task(case.title, total=args.rounds * len(situations) * len(running))
        for number in range(args.rounds):
            at = number % len(running)
            for situation in situations:
                with busy(situation.busy, served if situation.shared else foreign):
                    for system, where in (*running[at:], *running[:at]):
                        progress.update(task, description=f"{system.name}, foreign: {situation}")
                        sample = load.perf_analyzer(
                            *(system, where, MODEL, data),
                            concurrency=case.levels[0],
                            rows=case.rows,
                            window=args.seconds,
                        )
                        results.add(situation, system.name, case.levels[0], sample)
                        progress.advance(task)
    return results


def serve(
    case: Case, levels: Sequence[int], folder: Path, served: cpu_groups.Group, stack: contextlib.ExitStack
) -> list[tuple[Contestant, Running]]:
    """Start all servers of a case in one cgroup, kanserve once for each of `levels` of its setting."""
    repository = folder / "models"
    scale.export(scale.write(scale.Shape(case.widths, 5), folder), repository)
    known = {system.name: system for system in contestants.contestants(repository, MODEL, folder)}
    systems = [known[name] for name in case.systems if name in known]
    for level in levels:
        command = (*known[ASGI].command, "--compute-nice", str(level))
        systems.append(Contestant(f"{ASGI}, compute_nice {level}", command))
    running = []
    for number, system in enumerate(systems):
        where = stack.enter_context(contestants.started(system, folder / f"{number}.log"))
        served.enter(where.pid)
        running.append((system, where))
    return running


@contextlib.contextmanager
def busy(count: int, group: cpu_groups.Group) -> Iterator[None]:
    """So many endless loops in a cgroup during the block."""
    processes = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        for process in processes:
            group.enter(process.pid)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def markdown(case: Case, results: Results, title: str) -> str:
    """The tables of one case."""
    level = case.levels[0]
    parts = [
        f"## {title}",
        report.machine(),
        results.table("rate relative to no foreign process, higher is better", level, "rate"),
        results.table("p50 latency in ms, lower is better", level, "p50"),
        results.table("p99 latency in ms, lower is better", level, "p99"),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="one window; perf_analyzer measures three")
    parser.add_argument("--busy", type=numbers, default=(0, 2, 4), help="numbers of foreign processes; 0 is first")
    parser.add_argument("--nice", type=numbers, default=(10, 5, 0), help="values of compute_nice")
    parser.add_argument("--only", default="", help="layer sizes of one case, such as 4-8-1")
    parser.add_argument("--docs", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
