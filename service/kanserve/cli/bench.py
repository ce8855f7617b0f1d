"""Command `kanserve bench NAME`: execution time of a model on this machine, next to an MLP of equal size and
PyTorch."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kanexport.contract.cli import tables
from kanexport.contract.cli.console import Exit, note, print_json, say
from kanexport.contract.manifest import Manifest
from kanserve.bench import entrants, runner, summary
from kanserve.bench.entrants import Feeds
from kanserve.bench.summary import Measurement
from kanserve.cli import input_rows, inventory, output_results, plot, session
from kanserve.cli.options import InputError, add_json_option, add_row_options
from kanserve.config import sources
from kanserve.errors import KanserveError
from kanserve.plotting import render
from kanserve.repository.layout import Bundle
from kanserve.runtime import base
from kanserve.sandbox import verify
from kanserve.system.resources import budget

DRAWN = "rows drawn inside the grids, and where an input has none, from the range of the reference rows"
COLUMNS = 100  # characters on a terminal
MOST = 2**20  # rows of a run, threads, rounds
TEXT = """Time a model on this machine, in this process, without a server: the exported graph in the
runtime and in the pieces of a server, beside an MLP of as many parameters on the same runtime
and, where torch is installed and can say the same layers, torch's own eager evaluation.

In turns; medians and quartiles. Beside each time is the largest error in runs of as many rows
on as many threads, against the float64 evaluation of the export. Where answers are wrong the
exit code is 1.
"""
EXAMPLES = """examples:
  kanserve bench digits                          a version in the folder `models`
  kanserve bench net.pt --batch 1,1024           a checkpoint here
  kanserve bench digits --input rows.npy --plot digits.svg
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a model in the repository folder; or a checkpoint's path, with a / in it or a suffix (./net, net.pt)",
    )
    parser.set_defaults(files=True)
    parser.add_argument("--repository", type=Path, default=Path("models"), metavar="DIR", help="the folder (models)")
    parser.add_argument("--model-version", default="", metavar="N", help="default: the highest")
    add_row_options(parser, "rows drawn inside the grids")
    parser.add_argument("--batch", type=_counts, default=(1, 16, 64, 256), metavar="N,...", help="rows (1,16,64,256)")
    parser.add_argument("--threads", type=_counts, metavar="N,...", help="default: one, and all that are granted")
    parser.add_argument("--rounds", type=_count, default=9, metavar="N", help="turns of each (9)")
    parser.add_argument("--plot", metavar="FILE", help="rows a second as a picture, .svg or .png")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """0, or 1 where answers were wrong. Raises CommandError."""
    output_results.check(args.plot, plot.SUFFIXES, option="--plot")
    with _version(args) as (bundle, manifest):
        measurement = _measured(args, bundle, manifest)
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
        note(f"the answers of {wrong} are wrong; their times say nothing")
        return Exit.FAILED
    return Exit.DONE


@contextlib.contextmanager
def _version(args: argparse.Namespace) -> Iterator[tuple[Bundle, Manifest]]:
    """The version that NAME means. If NAME is a path, the command exports the checkpoint. Otherwise NAME is a model of
    the repository."""
    if session.is_path(args.name):
        rows_given = args.input if args.input != "-" else None
        with session.exported(args.name, rows_given, then="timing it") as (place, name):
            yield inventory.version(place / session.MODELS, name, "")
        return
    if not inventory.holds(args.repository, args.name) and (hint := session.server_advice(args, args.name)):
        raise InputError(f"{args.repository}: there is no {args.name}", hint=hint)
    yield inventory.version(args.repository, args.name, args.model_version)


def _measured(args: argparse.Namespace, bundle: Bundle, manifest: Manifest) -> Measurement:
    threads = args.threads or tuple(sorted({1, budget()}))
    if max(args.batch) > manifest.max_batch_size:
        raise InputError(f"--batch {max(args.batch)}: the model takes {manifest.max_batch_size} rows at most")
    feeds, row_source = _rows(args, manifest)
    load = os.getloadavg()[0]
    try:
        settings = sources.load({}, without={"repository": Path()}).settings
        backend = base.load(settings.backend)
        with tables.bar(f"timing {manifest.name}", unit="rounds") as report:
            taking_part = runner.field(bundle, manifest, backend, settings, feeds)
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
        raise InputError(f"{manifest.name} version {manifest.version} does not run here: {error}") from error
    return Measurement(
        manifest=manifest,
        field=taking_part,
        times=times,
        rows=row_source,
        rounds=args.rounds,
        runtime=backend.version(),
        load=load,
    )


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
        raise InputError(f"{source.name} holds no row")
    return feeds, f"the {count} rows of {source.name}, again and again"


def _count(text: str) -> int:
    """An argparse type."""
    value = int(text)
    if not 0 < value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to {MOST}")
    return value


def _counts(text: str) -> tuple[int, ...]:
    """An argparse type: such as 1,16,64; each once."""
    return tuple(dict.fromkeys(_count(part) for part in text.split(",")))
