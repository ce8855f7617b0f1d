"""Command `kanserve score FOLDER --input 'data/*.parquet' --output out/`: scores of tables, without a server."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kanexport.shared.cli import tables as progress
from kanexport.shared.cli.console import Exit, exit_codes_of, note, print_json
from kanexport.shared.naming import listed
from kanserve.cli import session
from kanserve.cli.options import CommandError, InputError, add_json_option, flag, number, option, whole
from kanserve.errors import BackendError, KanserveError, ResourceExhausted
from kanserve.scoring import files
from kanserve.scoring.run import Run, Summary
from kanserve.scoring.scorer import ERROR, NON_FINITE, Scorer
from kanserve.tables import record_batches

TEXT = """Score tables with a model, without a server: Parquet, Arrow IPC and CSV files, local or in an object store.

Each input file gives one result file with the same name: one column for each output, in the order of the rows. The
columns of a table are found by the feature names of the model, in any order, and other columns are ignored. Memory does
not grow with the size of the files. A result appears only when it is complete. If the command was stopped, the same
command continues: it skips the files that are complete.
"""
EXAMPLES = """examples:
  kanserve score models/digits --input examples/digits.csv --output scores
  kanserve score models/digits --input 'examples/d*.csv' --output scores-parquet --format parquet --threads 1
  kanserve score models/hello --input examples/hello.csv --output explained --explain-top-k 2 --coverage
"""
EXITS = exit_codes_of(FAILED="a file cannot be read or written, or the model cannot compute")
MOST_THREADS, MOST_INPUTS = 1024, 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "model",
        metavar="FOLDER|FILE",
        help="folder of a model or of a version, or a checkpoint, which is exported first",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders, patterns or URLs (s3://, gs://, az://, https://)",
    )
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="folder or URL of the results; a folder is created"
    )
    option(parser, "--version", "N", "version of the model", type=_version, shown="the highest")
    parser.add_argument(
        "--format", choices=record_batches.FORMS, help="format of the results (default: that of each input file)"
    )
    option(parser, "--keep", "COLUMN", "columns that the results keep", [], nargs="+", shown="none")
    text = "add the N inputs with the largest contributions to the output, or to the largest of several outputs"
    option(parser, "--explain-top-k", "N", text, 0, type=whole(0, MOST_INPUTS))
    flag(parser, "--coverage", "add the number of inputs out of range, and the farthest one")
    text = "add the prediction interval of each output, or for a classifier whether each class is in the prediction set"
    flag(parser, "--intervals", text)
    text = (
        "add the error bar of each output, of a model that was exported with --error-bars; inf for a row outside "
        "of the certified box"
    )
    flag(parser, "--error-bars", text)
    cores = len(os.sched_getaffinity(0))
    option(parser, "--threads", "N", "compute threads", cores, type=whole(1, MOST_THREADS), shown="one per core")
    parser.add_argument(
        "--non-finite",
        choices=NON_FINITE,
        default=ERROR,
        help="error: reject NaN and infinities; pass: score them as the model computes them (default: error)",
    )
    flag(parser, "--overwrite", "replace the results of another model or of other options")
    add_json_option(parser)


def _version(text: str) -> int:
    return number(text, int, "a version number from 1", lambda value: value > 0)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    try:
        with _folder(args) as folder, progress.bar("score", unit="rows") as report:
            scorer = Scorer(
                folder,
                version=args.version,
                keep=args.keep,
                explain_top_k=args.explain_top_k,
                coverage=args.coverage,
                intervals=args.intervals,
                error_bars=args.error_bars,
                non_finite=args.non_finite,
            )
            inputs = files.inputs(args.input, tuple(record_batches.SUFFIXES), args.output)
            job = Run(scorer, files.output(args.output), args.format or "", args.threads)
            try:
                summary = job.score(inputs, report, overwrite=args.overwrite)
            except KeyboardInterrupt:
                done = job.summary.files + job.summary.skipped
                note(f"interrupted: {done} of {len(inputs)} files complete, run the same command again to go on")
                raise
    except (BackendError, ResourceExhausted) as error:
        raise CommandError(str(error), code=error.code, hint=error.hint, exit_code=Exit.FAILED) from error
    except KanserveError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error
    except OSError as error:
        raise CommandError(
            f"{error.filename or args.output}: {error.strerror or error}",
            code="file-failed",
            hint="correct the cause, and run the same command again: it skips the files that are complete",
            exit_code=Exit.FAILED,
        ) from error
    _print(args, scorer, summary)
    return Exit.DONE


@contextlib.contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Path]:
    """The folder of the model. A checkpoint is exported into a temporary one. Raises CommandError."""
    path = Path(args.model)
    if path.is_dir():
        yield path
        return
    if not path.exists() and not session.is_here(args.model):
        near = Path("models") / args.model
        hint = f"pass {near}" if near.is_dir() else "pass a folder that `kanserve export` wrote, or a checkpoint"
        raise InputError(f"folder not found: {args.model}", code="model-folder-not-found", hint=hint)
    with session.exported(args.model, None, then="scoring with it") as (folder, name):
        yield folder / session.MODELS / name


def _print(args: argparse.Namespace, scorer: Scorer, summary: Summary) -> None:
    if args.json:
        print_json(document(args, scorer, summary))
        return
    if summary.by_position:
        note("the model has no feature names, so the first columns are its inputs, in the order of the file")
    if summary.ignored:
        note(f"ignored columns: {listed(list(summary.ignored))}")
    state = scorer.reliability
    if state is not None and state.note:
        note(f"{'warning: ' * (state.reliable is False)}{state.note}")
    if scorer.error_bar_note:
        note(f"error bars: {scorer.error_bar_note}")
    rate = summary.rows / max(summary.seconds, 1e-9)
    parts = [f"{summary.rows:,} rows in {summary.files} file{'s' * (summary.files != 1)}"]
    parts.append(f"{summary.seconds:.1f} s, {rate:,.0f} rows/s" if summary.files else "nothing to do")
    if summary.skipped:
        parts.append(f"{summary.skipped} complete before")
    if summary.out_of_range is not None:
        parts.append(f"{summary.out_of_range:,} rows out of range")
    print(f"{args.output}: {'; '.join(parts)}")


def document(args: argparse.Namespace, scorer: Scorer, summary: Summary) -> dict[str, Any]:
    """The JSON document of a run."""
    info = scorer.model.info
    state = scorer.reliability
    return {
        "model": info.name,
        "version": str(info.version),
        "output": args.output,
        "files": summary.files,
        "files_complete_before": summary.skipped,
        "rows": summary.rows,
        "rows_out_of_range": summary.out_of_range,
        "rows_complete_before": summary.before[0],
        "rows_out_of_range_before": summary.before[1],
        "columns": list(scorer.columns) + args.keep,
        "columns_ignored": list(summary.ignored),
        "columns_by_position": summary.by_position,
        "intervals_reliable": None if state is None else state.reliable,
        "intervals_note": "" if state is None else state.note,
        "error_bars_note": scorer.error_bar_note,
        "seconds": round(summary.seconds, 3),
        "rows_per_second": round(summary.rows / max(summary.seconds, 1e-9), 1),
    }
