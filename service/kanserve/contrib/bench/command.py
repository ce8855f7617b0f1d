"""Command `kanserve bench NAME`: execution time of a model on this machine, next to an MLP of equal size and
PyTorch."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kanexport.shared.cli import tables
from kanexport.shared.cli.console import Exit, exit_codes_of, note, print_json, say
from kanexport.shared.manifest import Manifest
from kanserve.cli import inventory, plot, session
from kanserve.cli.options import InputError, add_json_option, add_measured_model, option, whole
from kanserve.config import sources
from kanserve.contrib.bench import entrants, runner, summary
from kanserve.contrib.bench.entrants import Feeds
from kanserve.contrib.bench.summary import Measurement
from kanserve.errors import KanserveError
from kanserve.plotting import render
from kanserve.repository.layout import Bundle
from kanserve.sandbox import verify
from kanserve.system.resources import budget
from kanserve.tables import input_rows, output_results

DRAWN = "random rows within the grids, or within the range of the reference rows for an input without a grid"
COLUMNS = 100  # characters on a terminal
MOST = 2**20  # rows of an execution, threads, rounds
TEXT = """Benchmark a model on this machine, in this process, without a server.

The table compares the exported graph, executed as a server does it, with an MLP that has as many parameters. If torch
is installed and supports the layers, the table also has PyTorch's eager execution. Measurements are interleaved, and
the table shows medians and quartiles. It also shows the largest error of each system against a float64 reference.
"""
EXAMPLES = """examples:
  kanserve bench digits                                           # a version in the folder `models`
  kanserve bench tests/golden/checkpoints/pykan-hello-adapted/model --batch 1,1024
  kanserve bench digits --input examples/digits.csv --plot digits.svg
"""
EXITS = exit_codes_of(FAILED="an output was wrong, or another failure")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="model in the repository, or path of a checkpoint (./net, net.pt)",
    )
    parser.set_defaults(files=True)
    add_measured_model(parser, "the highest version")
    text = "batch sizes in rows, separated by commas"
    option(parser, "--batch", "N,...", text, (1, 16, 64, 256), type=_counts, shown="1,16,64,256")
    text = "numbers of threads, separated by commas"
    option(parser, "--threads", "N,...", text, type=_counts, shown="1, and the CPU limit of the process")
    option(parser, "--rounds", "N", "number of measurements of each system", 9, type=whole(1, MOST))
    option(parser, "--plot", "FILE", "write a plot of rows per second to this file, .svg or .png", shown="no plot")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if an output was wrong. Raises CommandError."""
    output_results.check(args.plot, plot.SUFFIXES, option="--plot")
    with _version(args) as (bundle, manifest):
        threads = args.threads or tuple(sorted({1, budget()}))
        if max(args.batch) > manifest.max_batch_size:
            raise InputError(
                f"--batch {max(args.batch)}: too many rows, expected at most {manifest.max_batch_size}",
                code="batch-too-large",
                hint="pass smaller batch sizes, or export the model with a larger --max-batch-size",
            )
        feeds, row_source = _rows(args, manifest)
        load = os.getloadavg()[0]
        try:
            settings = sources.load({}, without={"repository": Path()}).settings
            with tables.bar(f"benchmarking {manifest.name}", unit="rounds") as report:
                taking_part = runner.field(bundle, manifest, settings, feeds)
                times = list(
                    runner.run(
                        taking_part.entrants,
                        feeds,
                        threads=threads,
                        batches=args.batch,
                        rounds=args.rounds,
                        report=report,
                    )
                )
        except KanserveError as error:
            raise InputError(
                f"{manifest.name} version {manifest.version} does not run on this machine: {error}",
                code=error.code,
                hint=error.hint,
            ) from error
        from kanserve.runtime import ort  # the help needs no runtime

        measurement = Measurement(
            manifest=manifest,
            field=taking_part,
            times=times,
            rows=row_source,
            rounds=args.rounds,
            runtime=ort.version(),
            load=load,
        )
    scene = summary.picture(measurement)
    if args.plot:
        plot.write(args.plot, scene)
    if args.json:
        print_json(summary.document(measurement))
    else:
        summary.table(measurement).show()
        for line in render.lines(scene, COLUMNS):
            say(line)
    if measurement.right is False:
        wrong = ", ".join(dict.fromkeys(time.name for time in measurement.times if time.right is False))
        note(f"wrong outputs: {wrong}; ignore the times of these systems")
        return Exit.FAILED
    return Exit.DONE


@contextlib.contextmanager
def _version(args: argparse.Namespace) -> Iterator[tuple[Bundle, Manifest]]:
    """The version that NAME means. If NAME is a path, the command exports the checkpoint. Otherwise NAME is a model of
    the repository."""
    if session.is_path(args.name):
        rows_given = args.input if args.input != "-" else None
        with session.exported(args.name, rows_given, then="benchmarking it") as (place, name):
            yield inventory.version(place / session.MODELS, name, "")
        return
    if not inventory.holds(args.repository, args.name) and (hint := session.server_advice(args, args.name)):
        raise InputError(f"{args.repository}: unknown model {args.name!r}", code="model-unknown", hint=hint)
    yield inventory.version(args.repository, args.name, args.model_version)


def _rows(args: argparse.Namespace, manifest: Manifest) -> tuple[Feeds, str]:
    """Rows by input, and their description in words."""
    tensors = verify.tensors(manifest.inputs)
    if not args.input:
        return entrants.drawn(manifest, max(args.batch)), DRAWN
    source = input_rows.contents(args.input)
    rows = input_rows.rows_for_all(tensors, source, array=args.array, names=manifest.names)
    feeds = rows if isinstance(rows, dict) else {tensors[0].name: rows}
    count = len(next(iter(feeds.values())))
    if not count:
        raise InputError(
            f"{source.name} has 0 rows, expected at least 1",
            code="rows-empty",
            hint="pass a file with rows, or remove --input for random rows",
        )
    return feeds, f"the {count} rows of {source.name}, repeated"


def _counts(text: str) -> tuple[int, ...]:
    """An argparse type: such as 1,16,64; each once."""
    return tuple(dict.fromkeys(map(whole(1, MOST), text.split(","))))
