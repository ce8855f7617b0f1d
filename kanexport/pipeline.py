"""The page: read, lower, verify, pack. Nothing is kept unless the proof holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from kanexport import graphs
from kanexport.answers import held, rows
from kanexport.answers.decide import Search, Way
from kanexport.answers.rows import Answers
from kanexport.errors import OptionError
from kanexport.files import checkpoint
from kanexport.files.checkpoint import Checkpoint
from kanexport.form.ir import Kan
from kanexport.manifest import READING, Source
from kanexport.operators import graph, precision
from kanexport.options import Options
from kanexport.packing.publish import Claim, ProvedModel, Result, publish
from kanexport.packing.signature import Signature
from kanexport.recognise import assemble, detect, steplist
from kanexport.recognise.registry import Reader
from kanexport.request import Request as Request

ARCHITECTURE = "given with --architecture"


def export(request: Request, *, advance: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Export one checkpoint. `advance(done, total)` follows the verification.

    Raises ExportError; then nothing in the repository has changed.
    """
    loaded = checkpoint.load(request.path)
    target = request.target(loaded.stem)
    target.check()
    request.check_rows()
    request.check_kernel()
    request.fewer.check(request.dtype, explain=target.explain.wanted)
    answers = rows.load(request.answers).of_network() if request.answers else None
    found = _read(loaded, request, answers, advance)
    kan, options, files = found.kan, found.options, loaded.files
    del loaded  # the network has copies of its tensors
    options.finish(found.family, shared=request.shared)
    signature = Signature.of_network(kan, request.dtype)
    target.check_names(signature)
    made = graphs.make(kan, request, target, signature, advance)
    source = Source(
        family=found.family,
        family_reason=found.reason,
        dtype=kan.dtype,
        files=files,
        options_given=options.given,
        options_assumed=options.assumed,
        options_decided=options.decided,
        alternatives=options.alternatives(),
    )
    model = ProvedModel(
        lowered=made.lowered,
        proof=made.proof,
        claim=Claim(READING) if answers is None else held.network(answers, kan, made.plain, made.held),
        layers=made.layers,
        edge_class=kan.edge_class,
        opset=graph.OPSET,
        signature=signature,
        source=source,
        notes=made.kan.notes + precision.notes(kan.dtype, request.dtype) + made.notes + found.notes,
        approximation=made.approximation,
    )
    return publish(target, model)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The result of reading a file: the network, its family and the reason for it, the assumed facts, and notes on
    the decision."""

    kan: Kan
    family: str
    reason: str
    options: Options
    notes: tuple[str, ...] = ()


def _read(loaded: Checkpoint, request: Request, answers: Answers | None, advance: Callable[[int, int], None]) -> _Found:
    """The network, as answers of the trained model mean it, or else as the one reader that takes it does."""
    ways = _ways(loaded, request, several=answers is not None)
    if answers is not None:
        decision = Search(ways, answers, request.facts, request.tolerance, advance).decide()
        one = decision.reading
        one.options.settle(decision.decided, decision.also)
        return _Found(one.kan, one.family, one.way.reason, one.options, decision.notes)
    options = request.facts()
    kan, family = ways[0].read(options)
    return _Found(kan, family, ways[0].reason, options)


def _ways(loaded: Checkpoint, request: Request, *, several: bool) -> list[Way]:
    """How the file may be read: by the user's list of steps, or by the reader that takes it; where `several`
    may take it, by each. Raises ExportError where there is none, or more than one and not `several`."""
    if request.architecture is not None:
        if request.family is not None:
            raise OptionError("--family and --architecture exclude each other; a step has family = ...")
        steps = steplist.load(request.architecture)
        if not request.shared or assemble.holds(loaded, steps):
            return [Way(ARCHITECTURE, functools.partial(assemble.assemble, loaded, steps))]
    readings = detect.readings if several else detect.one
    fitting = readings(loaded, request.family)
    return [Way(reason, functools.partial(_by_reader, reader, loaded)) for reader, reason in fitting]


def _by_reader(reader: Reader, loaded: Checkpoint, options: Options) -> tuple[Kan, str]:
    return detect.read(reader, loaded, options), reader.FAMILY
