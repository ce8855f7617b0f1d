"""Systems that the matrix compares: one function each, which returns a `kanserve bench` entrant or the reason for none.

A new system is a function here and a line in the groups that include it. `Truth` checks all systems in the same way.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.matrix import gemms, module
from benchmarks.matrix.cells import Work
from kanexport.pipeline import Request, export
from kanexport.shared import custom_ops
from kanexport.shared.manifest import MODEL_FILE
from kanexport.shared.ort import onnxruntime
from kanserve.cli import inventory
from kanserve.contrib.bench import entrants
from kanserve.contrib.bench.entrants import OURS, TORCH, Absent, Entrant, Execute, Feeds, error, one_run, repeated
from kanserve.types import Array

TOLERANCE = 1e-5
SEEN = 64  # rows at least that are held against the truth, in runs of as many as are timed
ONE_RUN, KERNEL, EXPORT = f"{OURS}, one run", f"{OURS} --kernel", "torch.onnx.export"
COMPILE, GEMMS = "torch.compile", "GEMMs alone"
NAME, SAME = "model", "the same graph"

Run = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Truth:
    """Reference outputs. `right` [N, m] are the outputs for `feeds`; `against` names their source."""

    feeds: Feeds
    right: NDArray[np.float64]
    against: str = "the torch module in float64"
    tolerance: float = TOLERANCE

    def check(self, answer: Execute, rows: int) -> float:
        """The largest error over runs of `rows` rows: of the first rows, `SEEN` at least."""
        worst = 0.0
        for start in range(0, min(len(self.right), max(rows, SEEN)), rows):
            at = (np.arange(rows) + start) % len(self.right)
            worst = max(worst, error(answer(repeated(self.feeds, rows, start))[0], self.right[at], self.right))
        return worst

    def holds(self, entrant: Entrant) -> Entrant:
        """The same entrant, checked against this reference."""
        return dataclasses.replace(entrant, check=self.check, against=self.against, tolerance=self.tolerance)

    def entrant(self, name: str, about: str, threads: Callable[[int], tuple[Run, str]]) -> Entrant:
        """An entrant from a function that maps rows to rows."""

        def ready(count: int) -> tuple[Execute, str]:
            run, how = threads(count)
            return functools.partial(_by_rows, run), how

        return Entrant(name, about, self.against, self.tolerance, ready, self.check)


def _by_rows(run: Run, feeds: Feeds) -> list[Array]:
    (x,) = feeds.values()
    return [run(x)]


def exported(work: Work, checkpoint: Path, *, name: str = NAME, **options: Any) -> Path:
    """The folder of the version, exported from a checkpoint without the custom operator, unless `options` has it;
    `options` as of Request."""
    place = Path(tempfile.mkdtemp(dir=work.folder))
    export(Request(path=checkpoint, repository=place, name=name, **({"kernel": False} | options)))
    return place / name / "1"


def served(work: Work, version: Path, truth: Truth, name: str = OURS) -> Entrant:
    """In the pieces and on the threads of a server."""
    bundle, manifest = inventory.version(version.parents[1], version.parent.name, version.name)
    entrant = entrants.kanserve_entrant(bundle, manifest, work.settings)
    return dataclasses.replace(truth.holds(entrant), name=name)


def one_graph(path: Path | bytes, truth: Truth, name: str, about: str) -> Entrant:
    """A graph in onnxruntime with default options except that threads do not spin; all rows in one call, the first
    output."""

    def threads(count: int) -> tuple[Run, str]:
        return runner(path, count), one_run(count)

    return truth.entrant(name, about, threads)


def runner(path: Path | bytes, threads: int) -> Run:
    """A session from the bytes of a graph, or from a file and the files next to it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = path if isinstance(path, bytes) else str(path)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    input_name, wanted = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    return lambda x: session.run(wanted, {input_name: x})[0]


def ours(work: Work, checkpoint: Path, truth: Truth, *, rows: int) -> tuple[Path, list[Entrant | Absent]]:
    """The export's default and that for runs of `rows` rows, each as a server runs it and in one run; the folder is
    that of the first."""
    plain, many = exported(work, checkpoint), exported(work, checkpoint, optimize_for_batch=rows)
    systems: list[Entrant | Absent] = [
        served(work, plain, truth),
        one_graph(plain / MODEL_FILE, truth, ONE_RUN, "the exported graph, in the runtime as anybody runs it"),
    ]
    names = (f"{OURS} --optimize-for-batch {rows}", f"{OURS} --optimize-for-batch {rows}, one run")
    if _files(plain) == _files(many):
        systems += [Absent(name, SAME) for name in names]
    else:
        systems += [served(work, many, truth, names[0])]
        systems += [one_graph(many / MODEL_FILE, truth, names[1], f"exported with --optimize-for-batch {rows}")]
    return plain, systems


def by_kernel(work: Work, checkpoint: Path, truth: Truth, name: str = KERNEL, **options: Any) -> Entrant | Absent:
    """As a server runs it that has the package with the custom operators: by these if they measure faster. `options`:
    as of Request."""
    if not custom_ops.library():
        return Absent(name, f"kanserve-kernel is not installed; {custom_ops.HOW_TO_INSTALL}")
    return served(work, exported(work, checkpoint, kernel=True, **options), truth, name)


def _files(version: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in version.iterdir() if path.suffix != ".json"}


def torchs(work: Work, network: torch.nn.Module, truth: Truth) -> Entrant:
    """The graph that torch exports."""
    (x,) = truth.feeds.values()
    data = module.exported(network, x.shape[1], work.keep)
    return one_graph(data, truth, EXPORT, "what torch exports of the module, with dynamo")


def eager(network: torch.nn.Module, truth: Truth, name: str = TORCH) -> Entrant:
    """The module itself."""

    def threads(count: int) -> tuple[Run, str]:
        return functools.partial(_torch, network, count), one_run(count)

    return truth.entrant(name, f"torch {torch.__version__}, the module itself", threads)


def compiled(network: torch.nn.Module, truth: Truth) -> Entrant | Absent:
    """By torch.compile, for rows that change; needs a C++ compiler."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        return Absent(COMPILE, "there is no C++ compiler")
    compiled_module = torch.compile(network, dynamic=True)

    def threads(count: int) -> tuple[Run, str]:
        return functools.partial(_torch, compiled_module, count), one_run(count)

    return truth.entrant(COMPILE, "with dynamic=True, compiled before it is timed", threads)


def _torch(network: Callable[[torch.Tensor], torch.Tensor], threads: int, x: NDArray[Any]) -> NDArray[Any]:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with torch.inference_mode():
        result: NDArray[Any] = network(torch.from_numpy(x)).numpy()
        return result


def products(depths: Sequence[tuple[int, int]], most: int) -> Entrant:
    """The layers' matrix products on random numbers, which is the remaining cost if the edge functions are free. For
    batches of up to `most` rows."""
    random_products = gemms.random(depths, most)

    def threads(count: int) -> tuple[Execute, str]:
        return random_products.answer(count), one_run(count)

    about = f"products of {', '.join(f'[rows, {depth}] and [{depth}, {m}]' for depth, m in depths)}"
    return Entrant(GEMMS, about, "their float64 evaluation by numpy", TOLERANCE, threads, random_products.check)


def mlp(work: Work, version: Path, feeds: Feeds) -> Entrant | Absent:
    """As `kanserve bench` has it."""
    _, manifest = inventory.version(version.parents[1], version.parent.name, version.name)
    return entrants.mlp(manifest, work.settings.device, feeds)
