"""Every call there is, as a value: what is sent where, and what its answer means.

Nothing is sent here; those of KanService are in `kan_calls`. `Client` and `AsyncClient` have a method for each, and
differ in how they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message

from kanserve.client import errors
from kanserve.client import parameters as params
from kanserve.client.answers import Answer, IndexEntry, ServedModel
from kanserve.client.rows import of_frame, pairs
from kanserve.client.serving import in_words, names_of
from kanserve.nouns import DTYPES, TensorInfo, Word
from kanserve.pb import grpc_service_pb2 as oip

T = TypeVar("T", covariant=True)

INFERENCE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/Check"
NONE: Mapping[str, Word] = MappingProxyType({})
HEALTH_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """`request` goes to the method at `path`, whose messages `parse` reads; `result` makes the answer of the message,
    of a `stream` from the list of them. `again`: it may be sent twice without harm."""

    path: str
    request: Message | bytes
    parse: Callable[[bytes], Any]
    result: Callable[[Any], T]
    stream: bool = False
    again: bool = True

    @property
    def data(self) -> bytes:
        """What is sent."""
        return self.request if isinstance(self.request, bytes) else self.request.SerializeToString()


def health(service: str = "") -> Call[str]:
    """State of the standard health service, such as SERVING."""
    name = service.encode()
    if len(name) > 127:
        raise ValueError("a health service name has at most 127 bytes")
    # NOTE: two fields, encoded by hand, so that a client needs no grpcio-health-checking.
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    return Call(HEALTH, request, bytes, _health)


def ready() -> Call[bool]:
    """Whether the server says it is ready for inference."""
    return Call(
        f"{INFERENCE}ServerReady",
        oip.ServerReadyRequest(),
        oip.ServerReadyResponse.FromString,
        lambda answer: bool(answer.ready),
    )


def index() -> Call[tuple[IndexEntry, ...]]:
    """Every model version the server knows of."""
    return Call(
        f"{INFERENCE}RepositoryIndex",
        oip.RepositoryIndexRequest(),
        oip.RepositoryIndexResponse.FromString,
        lambda answer: tuple(IndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models),
    )


def metadata(name: str, version: str) -> Call[oip.ModelMetadataResponse]:
    """A model's inputs and outputs."""
    request = oip.ModelMetadataRequest(name=name, version=version)
    return Call(f"{INFERENCE}ModelMetadata", request, oip.ModelMetadataResponse.FromString, _as_it_is)


def config(name: str, version: str) -> Call[oip.ModelConfigResponse]:
    """How the server runs a model."""
    request = oip.ModelConfigRequest(name=name, version=version)
    return Call(f"{INFERENCE}ModelConfig", request, oip.ModelConfigResponse.FromString, _as_it_is)


def served(meta: oip.ModelMetadataResponse, config: oip.ModelConfigResponse) -> ServedModel:
    """Both together."""
    return ServedModel(
        name=meta.name,
        versions=tuple(meta.versions),
        platform=meta.platform,
        inputs=tuple(TensorInfo(t.name, t.datatype, tuple(t.shape)) for t in meta.inputs),
        outputs=tuple(TensorInfo(t.name, t.datatype, tuple(t.shape)) for t in meta.outputs),
        max_batch_size=config.config.max_batch_size,
        serving=in_words(config.config),
        names=names_of(config.config.parameters),
    )


def infer(
    tensors: ServedModel | TensorInfo | Sequence[TensorInfo],
    rows: Any,
    *,
    model: str = "",
    version: str = "",
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Word] = NONE,
) -> Call[Answer]:
    """One request: `rows` into an input, or into several, then a mapping by their names; the outputs named (none: all)
    as arrays by name. With a ServedModel (`client.model(name)`) in the place of inputs, `model` is its name, and rows
    may be a DataFrame, whose columns are put in the model's order. `parameters` of the request:
    {"kan.explain_top_k": 5} has the server tell why, {"kan.coverage": True} where the rows are."""
    if isinstance(tensors, ServedModel):
        rows, model = of_frame(rows, tensors.names), model or tensors.name
        tensors = tensors.inputs if isinstance(rows, Mapping) else tensors.inputs[0]
    request = oip.ModelInferRequest(model_name=model, model_version=version)
    for tensor, given in pairs(tensors, rows):
        array = np.asarray(given, DTYPES[tensor.datatype])
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    params.say(request.parameters, parameters)
    return Call(f"{INFERENCE}ModelInfer", request, oip.ModelInferResponse.FromString, _answer)


def _as_it_is(message: Any) -> Any:
    return message


def _health(answer: bytes) -> str:
    state = answer[1] if len(answer) == 2 else 0
    return HEALTH_STATES[state] if state < len(HEALTH_STATES) else "UNKNOWN"


def _answer(answer: oip.ModelInferResponse) -> Answer:
    """Raises NotSupported for an output of a datatype that numpy has not."""
    arrays = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if output.datatype not in DTYPES:
            raise errors.of(
                "UNIMPLEMENTED", f"output {output.name} is {output.datatype}, which this client cannot read"
            )
        arrays[output.name] = np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
    return Answer(answer.model_version, arrays, params.said(answer.parameters))
