"""What a model's explaining graph gives: a part of the manifest, and told by the graph too. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

EXPLAIN_FILE = "explain.onnx"
OUTPUT, NODES, EDGES, CONTRIBUTIONS = "output", "nodes", "edges", "contributions"  # what a tensor holds


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedTensor:
    """An output of the explaining graph. `shape` starts with -1 for the rows. `holds`:

    output  an output of the model, as `model.onnx` gives it
    nodes   what the layer is given, [rows, *positions, n]
    edges   the value of every edge of the layer, [rows, *positions, sources, destinations]; over the sources they add
            up, with the layer's bias, to what its steps after make the next layer's nodes of
    contributions  what each input has to do with each answer, [rows, inputs, outputs]: over the inputs they add up,
            with the base, to the answer
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    holds: str
    layer: int  # -1 for an output, and for contributions


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanations:
    """A graph that tells, with the model's answers, how they came about: for any onnxruntime, without kanserve. `file`
    lies beside `model.onnx` and takes what that takes; empty: the export was not asked for one. `base`: the answer that
    contributions are the difference from, that of the mean of the baseline's rows; empty where there are none."""

    file: str = ""
    tensors: tuple[ExplainedTensor, ...] = ()
    base: tuple[float, ...] = ()


NO_EXPLANATIONS = Explanations()
