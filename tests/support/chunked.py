"""Inference of any number of rows, in requests within the limits of a server."""

from typing import Any

import numpy as np

from kanserve.client import chunking
from kanserve.client.encoding import index_of, of_frame
from kanserve.client.results import InferenceResult, ServedModel
from kanserve.client.sync import Client


def infer(client: Client, model: ServedModel, rows: Any, *, version: int | str = "") -> InferenceResult:
    """Outputs by name for all `rows` [rows, ...], in order. `rows`: for several inputs, a mapping by name."""
    parts = list(chunking.stream(client, model, [of_frame(rows, model.names)], version=version))
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    return InferenceResult(parts[-1].version, outputs, parts[-1].parameters, model.names, index_of(rows))
