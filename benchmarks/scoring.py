"""Speed and memory of `kanserve score`.

    python benchmarks/scoring.py [--rounds 5] [--rows 1000000] [--gigabytes 10] [--docs]

Two networks of random weights are exported. Four measurements:

* a scorer, relative to `session.run` in a loop on the same arrays, interleaved, on one thread: once from a column for
  each input, once from a column of lists
* `kanserve score` from Parquet to Parquet on one core, start of the command excluded
* `kanserve infer` of the same rows through a server on this machine, relative to `kanserve score` on as many cores
* peak memory of `kanserve score` for a large Parquet file

`--docs` writes the table into docs/guides/score/tables.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
from pyarrow import parquet

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import pages  # noqa: E402 - beside this file
import scale  # noqa: E402 - as above

from kanserve.scoring import Scorer  # noqa: E402 - as above
from kanserve.tables import record_batches  # noqa: E402 - as above

PAGE, WRITER = ROOT / "docs" / "guides" / "score" / "tables.md", "benchmarks/scoring.py"
SMALL, WIDE = (20, 10, 1), (784, 64, 10)
GROUP = 500_000  # rows of a row group of the generated files
Row = tuple[str, str, str, str]  # what was measured, target, result, verdict


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the file for `infer`")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of the file for the peak memory")
    parser.add_argument("--folder", help="where the large files are written (default: the folder of temporary files)")
    parser.add_argument("--docs", action="store_true", help="write the table into the guide")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for shape in (SMALL, WIDE):
            checkpoint = folder / f"{shape[0]}"
            checkpoint.mkdir()
            scale.export(scale.write(scale.Shape(shape, 5), checkpoint), folder / f"models-{shape[0]}")
        rows = [*loops(folder, args.rounds), *commands(folder, args), memory(folder, args.gigabytes)]
    text = markdown(rows, args, load)
    print(text)
    if args.docs:
        pages.put(PAGE, "scoring", WRITER, text)


def model(folder: Path, shape: tuple[int, ...]) -> Path:
    """The folder of the exported model."""
    return folder / f"models-{shape[0]}" / "model"


def drawn(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, width)).astype(np.float32)


def loops(folder: Path, rounds: int) -> Iterator[Row]:
    """Rates of a scorer relative to a loop on its session."""
    for shape in (WIDE, SMALL):
        count = record_batches.batch_rows(shape[0])  # as the command reads them
        values = drawn(count, shape[0])
        scorer = Scorer(model(folder, shape), check=False)
        wide = pa.record_batch([pa.array(column) for column in values.T], names=[f"x{at}" for at in range(shape[0])])
        tensor = scorer.model.info.inputs[0].name
        lists = pa.record_batch([pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), shape[0])], [tensor])
        step = scorer.model.most_rows

        def loop(values: np.ndarray = values, scorer: Scorer = scorer, step: int = step, tensor: str = tensor) -> None:
            for at in range(0, len(values), step):
                scorer.model.run({tensor: values[at : at + step]})

        for what, batch in (("a column of lists", lists), ("a column for each input", wide)):
            ratios, rates = [], []
            for _ in range(rounds):
                base, own = seconds(loop, lambda scorer=scorer, batch=batch: scorer(batch))
                ratios.append(base / own)
                rates.append(count / own)
            target = 0.9 if shape == WIDE else 0.0
            result = f"{spread(ratios)} ({statistics.median(rates):,.0f} rows/s)"
            name = f"scorer / `session.run` in a loop, {list(shape)}, {what}"
            yield name, f"≥ {target}" if target else "-", result, verdict(statistics.median(ratios) >= target, target)


def seconds(*works: Callable[[], Any]) -> list[float]:
    """The best of a few runs of each, interleaved."""
    best = [float("inf")] * len(works)
    for _ in range(10):
        for at, work in enumerate(works):
            began = time.perf_counter()
            work()
            best[at] = min(best[at], time.perf_counter() - began)
    return best


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def verdict(met: bool, target: float) -> str:
    return "" if not target else "met" if met else "**missed**"


def write(path: Path, rows: int, width: int) -> None:
    """A Parquet file of random rows, in bounded memory."""
    schema = pa.schema([(f"x{at}", pa.float32()) for at in range(width)])
    with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for first in range(0, rows, GROUP):
            values = drawn(min(GROUP, rows - first), width, seed=first)
            writer.write_table(pa.table([pa.array(column) for column in values.T], schema=schema))


def score(folder: Path, source: Path, *options: str, cores: str = "") -> tuple[dict[str, Any], int]:
    """The document of `kanserve score`, and its peak memory in KiB."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    prefix = ["taskset", "-c", cores] if cores else []
    command = [sys.executable, "-m", "kanserve", "score", str(model(folder, SMALL)), "--input", str(source)]
    with subprocess.Popen(
        [*prefix, *command, "--output", str(out), "--json", *options], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(text.decode())
    return dict(json.loads(text)), usage.ru_maxrss


def commands(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    """Rates of `kanserve score` from file to file, and of `kanserve infer` through a server."""
    source = folder / "rows.parquet"
    write(source, max(args.rows, 3_000_000), SMALL[0])
    rates = [score(folder, source, "--threads", "1", cores="0")[0]["rows_per_second"] for _ in range(args.rounds)]
    name = f"`kanserve score --threads 1`, {list(SMALL)}, Parquet to Parquet, one core"
    yield name, "≥ 2,000,000 rows/s", spread_of_rates(rates), verdict(statistics.median(rates) >= 2e6, 1)
    source.unlink()
    write(source, args.rows, SMALL[0])
    ratios, rates = [], []
    with served(folder) as url:
        for _ in range(args.rounds):
            own = score(folder, source)[0]["rows_per_second"]
            command = [sys.executable, "-m", "kanserve", "infer", "model", "--input", str(source), "--url", url]
            done = subprocess.run(
                [*command, "--output", str(folder / "out.npy"), "--json"], capture_output=True, text=True, check=True
            )
            rate = json.loads(done.stdout)["rows_per_second"]
            ratios.append(rate / own)
            rates.append(rate)
    result = f"{spread(ratios)} ({statistics.median(rates):,.0f} rows/s)"
    name = f"`kanserve infer` of {args.rows:,} rows to a local server / `kanserve score`"
    yield name, "≥ 0.4", result, verdict(statistics.median(ratios) >= 0.4, 1)


def spread_of_rates(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) rows/s"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the small model."""
    command = [sys.executable, "-m", "kanserve", "serve", str(folder / f"models-{SMALL[0]}"), "--json"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--drain-delay-seconds", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["grpc"])
        finally:
            process.terminate()


def memory(folder: Path, gigabytes: float) -> Row:
    """Peak memory of the command for a large file."""
    source = folder / "large.parquet"
    rows = int(gigabytes * 1e9 / (4 * SMALL[0]))
    write(source, rows, SMALL[0])
    size = source.stat().st_size
    document, peak = score(folder, source)
    source.unlink()
    assert document["rows"] == rows
    text = f"{peak / 1024:,.0f} MiB ({rows:,} rows, {document['rows_per_second']:,.0f} rows/s)"
    return f"peak memory, Parquet of {size / 1e9:.1f} GB", "< 500 MiB", text, verdict(peak < 500 * 1024, 1)


def markdown(rows: list[Row], args: argparse.Namespace, load: float) -> str:
    lines = ["| measurement | target | result: median (range) | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    when = datetime.datetime.now(datetime.UTC).date()
    facts = f"{os.cpu_count()} shared {platform.machine()} cores, onnxruntime {onnxruntime.__version__}"
    facts += f", pyarrow {pa.__version__}, load {load:.1f} before, {when}"
    return "\n".join([*lines, "", f"`python {WRITER}`, {args.rounds} rounds, {facts}.", ""])


if __name__ == "__main__":
    main()
