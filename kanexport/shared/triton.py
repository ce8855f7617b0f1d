"""Options of execution in an exported config.pbtxt, which are for Triton.

The exporter chooses them by the size of the model, because Triton does not measure. The figures are of Triton 2.51 with
the ONNX Runtime backend, on two cores that it shared with its client; see `docs/reference/config-pbtxt.md`. kanserve
measures each model at load. It recognizes unchanged options by the name of their instance group, and ignores them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kanexport.shared.manifest import MODEL_FILE, WEIGHTS_FILE, Manifest

FEW_EDGES = 1000  # edges of a model whose runs take less time than the requests around them
LARGE = 256 * 2**20  # bytes of the graph and its weights, of which a second copy takes too much memory
THREADS = "intra_op_thread_count"  # a parameter of the ONNX Runtime backend


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """Options of execution.

    name       name of the instance group, by which kanserve recognizes them
    instances  runs at the same time, each with its copy of the weights
    threads    threads of one run; 0: Triton's default, one per core
    batching   combine waiting requests, without a delay
    """

    name: str
    instances: int
    threads: int
    batching: bool

    def text(self) -> str:
        """The lines of config.pbtxt."""
        lines = [f'instance_group [ {{ name: "{self.name}" count: {self.instances} kind: KIND_CPU }} ]']
        if self.threads:
            lines.append(f'parameters {{ key: "{THREADS}" value: {{ string_value: "{self.threads}" }} }}')
        if self.batching:
            lines.append("dynamic_batching { }")
        return "".join(f"{line}\n" for line in lines)


# [4, 8, 1], one row: batching gives 1.12 to 1.83 times as many requests per second from 8 in flight on, and 0.70 to
# 0.87 times as many with one.
BATCHED = TritonOptions("kanexport-batched", 2, 1, batching=True)
# [784, 64, 10], 64 rows: two runs of one thread give 1.61 times as many rows per second as one run on both cores.
# Batching gives 0.88 to 0.92 times as many there.
SEPARATE = TritonOptions("kanexport", 2, 1, batching=False)
SINGLE = TritonOptions("kanexport-large", 1, 0, batching=False)
ALL = (BATCHED, SEPARATE, SINGLE)


def choose(manifest: Manifest) -> TritonOptions:
    """The options for a model of this size."""
    if sum(entry.size for entry in manifest.files if entry.path in (MODEL_FILE, WEIGHTS_FILE)) > LARGE:
        return SINGLE
    edges = sum(layer.sources * layer.destinations * math.prod(layer.positions) for layer in manifest.layers)
    return BATCHED if 0 < edges <= FEW_EDGES else SEPARATE


def find(names: Iterable[str]) -> TritonOptions | None:
    """The exporter's options by the names of the instance groups; None if an operator wrote other groups."""
    listed = list(names)
    return next((options for options in ALL if listed == [options.name]), None)
