"""Command that measures the gRPC transports against no-op baselines, other Python servers and Triton.

    python benchmarks/servers [--rounds 3] [--seconds 2] [--concurrency 1,8,32,128] [--rows 1] [--widths 4,8,1]
                            [--only WORD] [--docs]

The command exports a network of random weights, and every server serves the same folder. In each round, perf_analyzer
measures one server after the other. The file contestants.py lists the other servers. `--docs` writes the report into
docs/benchmarks/serving.md and the chart into docs/assets. The servers listen on loopback and stop with the command.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.progress import Progress

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

import pages  # noqa: E402 - beside this folder
import scale  # noqa: E402 - as above

from servers import contestants, load, plot, report  # noqa: E402 - as above
from servers.contestants import Contestant, Running  # noqa: E402 - as above
from servers.report import Measured  # noqa: E402 - as above

MODEL = "model"
PAGE, ASSETS = ROOT / "docs" / "benchmarks" / "serving.md", ROOT / "docs" / "assets"


def main() -> None:
    """Measure and print."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scale.export(scale.write(scale.Shape(args.widths, 5), folder), folder / "models")
        _certificate(folder)
        runners = contestants.contestants(folder / "models", MODEL, folder)
        runners = [runner for runner in runners if any(word in runner.name for word in args.only)]
        measured = _measure(runners, args, folder)
        if args.rows == 1:
            _beside_rivals(measured, args, folder)
    shape = f"{list(args.widths)}, {args.rows} row{'s' * (args.rows > 1)} per request, {args.rounds} rounds"
    text = report.markdown(measured, f"{shape}, {datetime.date.today().isoformat()}")
    print(text)
    if args.docs:
        key = f"servers {'-'.join(map(str, args.widths))} {args.rows}"
        picture = ASSETS / f"{key.replace(' ', '-')}.svg"
        title = f"Inferences per second, {list(args.widths)}, batch size {args.rows}"
        picture.write_text(plot.svg(measured, title))
        pages.put(PAGE, key, "benchmarks/servers", f"{text}\n![{title}](../assets/{picture.name})\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--concurrency", type=_numbers, default=(1, 8, 32, 128))
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--widths", type=_numbers, default=(4, 8, 1))
    parser.add_argument("--only", nargs="*", default=[""])
    parser.add_argument("--docs", action="store_true")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _measure(runners: list[Contestant], args: argparse.Namespace, folder: Path) -> Measured:
    measured = Measured()
    with contextlib.ExitStack() as stack, Progress() as progress:
        running: list[tuple[Contestant, Running]] = []
        for runner in runners:
            log = folder / f"{len(running)}.log"
            running.append((runner, stack.enter_context(contestants.started(runner, log))))
        task = progress.add_task("servers", total=args.rounds * len(args.concurrency) * len(running))
        for _ in range(args.rounds):
            for level in args.concurrency:
                for runner, where in running:
                    progress.update(task, description=f"{runner.name}, c = {level}")
                    sample = load.perf_analyzer(
                        *(runner, where, MODEL), concurrency=level, rows=args.rows, window=args.seconds, folder=folder
                    )
                    measured.add(runner.name, level, sample)
                    progress.advance(task)
        measured.resident = {runner.name: where.resident() for runner, where in running}
    return measured


def _beside_rivals(measured: Measured, args: argparse.Namespace, folder: Path) -> None:
    """Python servers of the same protocol, with h2load: they lack methods that perf_analyzer calls."""
    others = contestants.rivals(folder / "models", MODEL)
    if not others:
        return
    ours = [
        runner for runner in contestants.contestants(folder / "models", MODEL, folder) if runner.name == "kanserve asgi"
    ]
    with contextlib.ExitStack() as stack, Progress() as progress:
        running = [
            (runner, stack.enter_context(contestants.started(runner, folder / f"{runner.name}.log")))
            for runner in (*ours, *others)
        ]
        for _ in progress.track(range(args.rounds), description="h2load"):
            for runner, where in running:
                rate = load.h2load(where, MODEL, "x", args.widths[0], seconds=args.seconds, folder=folder)
                measured.streams.setdefault(runner.name, []).append(rate)


def _certificate(folder: Path) -> None:
    """For 127.0.0.1, good for a day."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
