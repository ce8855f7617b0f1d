"""Command `kanserve plan NAME --rate N --p99 TIME`: measures a server of a model, and plans replicas for a rate."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.shared.cli import tables
from kanexport.shared.cli.console import CodedError, Exit, exit_codes_of, print_json, say
from kanserve.cli import inventory, plot, session
from kanserve.cli.options import (
    CommandError,
    InputError,
    add_client_options,
    add_measured_model,
    flag,
    invalid,
    number,
    option,
    token,
    whole,
)
from kanserve.client import base, calls, targets
from kanserve.client.base import Tls
from kanserve.client.results import ServedModel
from kanserve.config.settings import Settings
from kanserve.contrib.bench import entrants, runner
from kanserve.contrib.capacity import forecast, measure, sizing, summary, usage
from kanserve.contrib.capacity import probe as probing
from kanserve.contrib.capacity.probe import Access
from kanserve.contrib.capacity.sizing import Goal, Memory
from kanserve.contrib.capacity.summary import Study
from kanserve.errors import KanserveError
from kanserve.tables import input_rows, output_results
from kanserve.types import DTYPES, Array

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
CONNECTIONS = 8
MOST_ROWS, MOST_ZONES, MOST_CORES = 2**20, 100, 1024
TEXT = """Measure how many requests one replica serves within a latency goal, and plan replicas for a rate.

The command starts a server of the model on this machine. A load generator sends requests at random times, which do not
depend on responses, at rising rates. From the highest rate at which the p99 meets the goal, the command plans replicas,
so that the others meet the goal without one zone. It prints thresholds for autoscalers, memory, and values of the Helm
chart. Server and generator run on separate cores if the machine has enough.
"""
EXAMPLES = """examples:
  kanserve plan hello --rate 50000 --p99 5ms
  kanserve plan digits --rate 2000 --p99 20ms --rows 64 --cores 2 --plot curve.svg
  kanserve plan hello --rate 50000 --p99 5ms --url 127.0.0.1:8001
  kanserve plan hello --rate 50000 --p99 5ms --simulate-rate 1e6
"""
EXITS = exit_codes_of(FAILED="no rate met the goal, or another failure")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("name", metavar="NAME", help="name of a model in the repository, or of the server at --url")
    parser.add_argument(
        "--rate", type=_rate, required=True, metavar="N", help="goal: requests per second of all replicas together"
    )
    parser.add_argument(
        "--p99", type=_time, required=True, metavar="TIME", help="goal: 99th percentile of the latency, such as 5ms"
    )
    option(parser, "--rows", "N", "rows of a request", 1, type=whole(1, MOST_ROWS))
    option(parser, "--cores", "N", "CPU cores of a replica", 1, type=whole(1, MOST_CORES))
    text = "zones of the cluster; the plan permits the loss of one, if there are two or more"
    option(parser, "--zones", "N", text, 3, type=whole(1, MOST_ZONES))
    option(parser, "--seconds", "N", "time limit of the measurement in seconds", 30.0, type=_seconds)
    add_measured_model(parser, "the server's default version")
    option(parser, "--plot", "FILE", "write a plot of latency by rate to this file, .svg or .png", shown="no plot")
    group = parser.add_argument_group("simulation of a fleet")
    flag(group, "--simulate", "simulate the fleet with an autoscaler, a burst and a lost zone")
    text = "requests per second of the simulated fleet; turns --simulate on"
    option(group, "--simulate-rate", "N", text, type=_rate, shown="--rate")
    option(group, "--pod-start", "TIME", "time until a new pod is ready", 20.0, type=_time, shown="20s")
    add_client_options(parser, url="")


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.plot, plot.SUFFIXES, option="--plot")
    try:
        goal = Goal(rate=args.rate, p99=args.p99, zones=args.zones, cores=args.cores)
        load = os.getloadavg()[0]
        served = _named(args) if args.url_given else _own(args)
        with served as server, session.connection(args, model=args.name) as client:
            model = client.model(args.name, args.model_version)
            rows = _rows(args, model, server)
            latency = probing.first_latency(lambda: client.infer(model, rows, version=args.model_version))
            call = calls.inference(model, rows, version=args.model_version)
            with probing.probe(
                server.access, call, args.name, latency=latency, cores=server.cores, connections=CONNECTIONS
            ) as probe:
                with tables.bar(f"measuring {args.name}", unit="s") as report:
                    curve = measure.search(
                        probe.measure,
                        args.p99,
                        args.seconds,
                        lambda done, place: report(round(done), round(args.seconds), place),
                        latency=latency,
                    )
                default: Any = Settings.model_fields["max_inflight_bytes"].default
                memory = Memory(probe.peak_bytes, server.files, int(default))
        study = Study(
            title=f"{args.name}, {args.rows} row{'s' * (args.rows > 1)} per request",
            place=server.place,
            machine=runner.facts("", load),
            rows=args.rows,
            most_rows=model.max_batch_size,
            goal=goal,
            curve=curve,
            memory=memory,
            plan=sizing.plan(curve, goal, memory),
        )
    except KanserveError as error:
        raise CommandError(str(error), code=error.code, hint=error.hint, exit_code=Exit.FAILED) from error
    except CodedError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error
    if args.plot:
        plot.write(args.plot, summary.picture(study))
    simulated = None
    if args.simulate or args.simulate_rate:
        limit: int = Settings.model_fields["max_pending_requests"].default
        fleet_goal = replace(goal, rate=args.simulate_rate or args.rate)
        most = max(1, study.most_rows // args.rows)
        simulated = forecast.forecast(
            study.curve, study.plan, fleet_goal, most=most, limit=limit, pod_start=args.pod_start
        )
    if args.json:
        simulation = {"simulation": forecast.document(simulated)} if simulated else {}
        print_json({**summary.document(study), **simulation})
        return Exit.DONE
    _show(study)
    if simulated is not None:
        forecast.checks_table(simulated).show()
        forecast.phases_table(simulated).show()
        say("assumed in the simulation:")
        for fact in forecast.assumed(simulated):
            say(f"- {fact}", indent=2)
    return Exit.DONE


def _show(study: Study) -> None:
    summary.table(study).show()
    for line in summary.lines(study):
        say(line)
    for title, facts in (("measured", summary.measured(study)), ("assumed", summary.assumed(study))):
        say(f"{title}:")
        for fact in facts:
            say(f"- {fact}", indent=2)
    say("values of the Helm chart:")
    for line in sizing.yaml(study.values):
        say(line, indent=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """A server under measurement.

    access  how the generator reaches it
    place   server and generator in words
    cores   cores of the generator; empty: all
    feeds   rows for a request, by input; None: random ones
    files   bytes of the files of the model; 0: unknown
    """

    access: Access
    place: str
    cores: Sequence[int] = ()
    feeds: entrants.Feeds | None = None
    files: int = 0


@contextlib.contextmanager
def _own(args: argparse.Namespace) -> Iterator[_Served]:
    """A server of the repository, on cores that the generator does not use if there are enough."""
    available = usage.cores()
    if args.cores > len(available):
        raise InputError(
            f"--cores {args.cores}: this machine has {len(available)} for this process",
            code="capacity-cores-missing",
            hint=f"pass --cores {len(available)} or less, or run the command on a larger machine",
        )
    _, manifest = inventory.version(args.repository, args.name, args.model_version)
    feeds = entrants.drawn(manifest, args.rows)
    own, others = available[: args.cores], available[args.cores :]
    with (
        tempfile.TemporaryDirectory(prefix="kanserve-") as folder,
        session.started(args.repository, Path(folder) / "log", "--drain-delay-seconds", "0", cores=own) as facts,
    ):
        args.url, args.url_given = facts["grpc"], True
        shared = f"load generator on {_listed(others)}" if others else "the load generator shares them"
        yield _Served(
            access=_access(args, facts["grpc"], str(facts["metrics"] or "")),
            place=f"server without TLS on {_listed(own)}, {shared}",
            cores=others,
            feeds=feeds,
            files=sum(file.size for file in manifest.files),
        )


def _listed(cores: Sequence[int]) -> str:
    return f"core{'s' * (len(cores) > 1)} {', '.join(map(str, cores))}"


@contextlib.contextmanager
def _named(args: argparse.Namespace) -> Iterator[_Served]:
    """The server at `--url`."""
    targets.require_single(args.url, "kanserve plan")
    yield _Served(
        access=_access(args, args.url, ""), place=f"server at {args.url}; the load generator may share its cores"
    )


def _access(args: argparse.Namespace, url: str, metrics: str) -> Access:
    tls = Tls.from_files(args.ca, args.cert, args.key, args.server_name)
    secure = base.is_secure(url, tls)
    fields = list(base.carried(token(args), url, secure=secure, in_clear=args.token_in_clear))
    fields.append(("grpc-timeout", f"{max(1, round(args.timeout))}S"))
    files = {"ca": args.ca, "cert": args.cert, "key": args.key, "server_name": args.server_name}
    return Access(
        target=targets.parse(url), fields=fields, tls={"secure": True, **files} if secure else {}, metrics=metrics
    )


def _rows(args: argparse.Namespace, model: ServedModel, server: _Served) -> dict[str, Array]:
    """Rows of one request, by input."""
    if args.input:
        source = input_rows.contents(args.input)
        rows = input_rows.rows_for_all(model.inputs, source, array=args.array, names=model.names)
        feeds = rows if isinstance(rows, dict) else {model.inputs[0].name: rows}
        return entrants.repeated(feeds, args.rows)
    if server.feeds is not None:
        return dict(server.feeds)
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.uniform(-1, 1, (args.rows, *tensor.shape[1:])).astype(DTYPES[tensor.datatype])
        for tensor in model.inputs
    }


def _time(text: str) -> float:
    """An argparse type: a time with a unit, such as 5ms, in seconds."""
    expected = "a time with a unit, such as 5ms or 0.5s"
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    if not unit:
        raise invalid(text, expected)
    return UNITS[unit] * number(text.removesuffix(unit), float, expected, lambda value: 0 < value < 1e6)


def _rate(text: str) -> float:
    return number(text, float, "a number of requests per second above 0", lambda value: 0 < value <= 1e12)


def _seconds(text: str) -> float:
    return number(text, float, "a number of seconds from 1 to 3600", lambda value: 1 <= value <= 3600)
