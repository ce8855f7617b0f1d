"""Symbolic models of pykan, compared with torch's export of them and with pykan itself."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.matrix import contestants, module
from benchmarks.matrix.cells import Case, Made, Work
from benchmarks.matrix.contestants import EXPORT, ONE_RUN, Truth
from kanexport.shared.manifest import MODEL_FILE
from kanserve.contrib.bench.entrants import Absent

SYMBOLIC, PYKAN = "symbolic", "pykan in torch"
SHAPES, BATCHES = ((8, 8, 1), (16, 16, 4)), (1, 64)
NAMES = ("sin", "x^2", "exp", "tanh", "x", "abs", "gaussian", "x^3")  # every edge has one of them
NODES = "our nodes"


def symbolic(quick: bool) -> Iterator[Case]:
    """Each edge has a function of pykan's table, with separate parameters."""
    for widths in SHAPES[: 1 if quick else None]:
        yield Case(SYMBOLIC, str(list(widths)), BATCHES, functools.partial(make, widths))


def make(widths: tuple[int, ...], work: Work) -> Made:
    """No system if pykan is not installed."""
    x = module.rows(widths[0], max(BATCHES))
    try:
        network = model(widths)
    except ImportError:
        return Made((), {"x": x}, (Absent("pykan", "it is not installed; `make notebook` has it"),))
    with contextlib.redirect_stdout(io.StringIO()):
        network.saveckpt(str(work.folder / "symbolic"))
    truth = Truth({"x": x}, module.exactly(network, x), "pykan in float64")
    version = contestants.exported(work, work.folder / "symbolic")
    every = [
        contestants.served(work, version, truth),
        contestants.one_graph(version / MODEL_FILE, truth, ONE_RUN, "the exported graph"),
        contestants.torchs(work, network, truth),
        contestants.eager(network, truth, PYKAN),
    ]
    edges = sum(n * m for n, m in itertools.pairwise(widths))
    theirs = module.exported(network, widths[0], work.keep)
    facts = {"edges": edges, NODES: nodes((version / MODEL_FILE).read_bytes()), f"nodes of {EXPORT}": nodes(theirs)}
    return Made.of(every, truth.feeds, **facts)


def model(widths: tuple[int, ...]) -> Any:
    """A pykan model all of whose edges are symbolic; it keeps nothing of its runs. Raises ImportError."""
    from kan import MultKAN

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = MultKAN(width=list(widths), grid=5, k=3, seed=0, auto_save=False, save_act=False)
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        for source, destination in np.ndindex(n, m):
            name = NAMES[(source + destination) % len(NAMES)]
            quiet = {"fit_params_bool": False, "verbose": False, "log_history": False}
            with contextlib.redirect_stdout(io.StringIO()):
                network.fix_symbolic(at, source, destination, name, **quiet)
        numbers = rng.standard_normal((m, n, 4)) * np.array([1.0, 0.3, 1 / n, 0.1 / n])  # c f(a x + b) + d
        network.symbolic_fun[at].affine.data = torch.from_numpy(numbers.astype(np.float32))
    return network.eval()


def nodes(graph: bytes) -> int:
    """Number of nodes in a graph; each call of a local function counts the function's nodes."""
    loaded = onnx.load_from_string(graph)
    inner = {function.name: len(function.node) for function in loaded.functions}
    return sum(inner.get(node.op_type, 1) for node in loaded.graph.node)
