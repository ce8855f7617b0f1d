"""Every call there is, as a value: what is sent where, and what its answer means.

Nothing is sent here; those of KanService are in `kan_calls`. `Client` and `AsyncClient` have a method for each, and
differ in how they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message

from kanexport.shared.naming import UNNAMED, Names
from kanserve.client import errors
from kanserve.client import parameters as params
from kanserve.client.answers import Answer, IndexEntry, ServedModel
from kanserve.client.frames import index_of
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


@dataclass(frozen=True, slots=True)
class After(Generic[T]):
    """What is asked once `first` is answered: `then` makes it of the answer."""

    first: Call[Any] | After[Any]
    then: Callable[[Any], Call[T] | After[T]]


Ask = Call[T] | After[T]


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


def model(name: str, version: str = "") -> Ask[ServedModel]:
    """Inputs, outputs and batch limit of a model. Raises NotFound."""
    meta = oip.ModelMetadataRequest(name=name, version=version)
    config = oip.ModelConfigRequest(name=name, version=version)
    return After(
        Call(f"{INFERENCE}ModelMetadata", meta, oip.ModelMetadataResponse.FromString, _as_it_is),
        lambda meta: Call(
            f"{INFERENCE}ModelConfig", config, oip.ModelConfigResponse.FromString, partial(_served, meta)
        ),
    )


def infer(
    tensors: ServedModel | TensorInfo | Sequence[TensorInfo] | str,
    rows: Any,
    *,
    model: str = "",
    version: str = "",
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Word] = NONE,
) -> Ask[Answer]:
    """One request: `rows` into an input, or into several, then a mapping by their names; the outputs named (none: all)
    as arrays by name. With a ServedModel (`client.model(name)`) in the place of inputs, `model` is its name, and rows
    may be a DataFrame, whose columns are put in the model's order. The same with a model's name there, which
    is looked up each time. `parameters` of the request: {"kan.explain_top_k": 5} has the server tell why,
    {"kan.coverage": True} where the rows are."""
    asked = partial(inference, rows=rows, version=version, outputs=outputs, parameters=parameters)
    if isinstance(tensors, str):
        return _after_model(tensors, version, asked)
    return asked(tensors, model=model)


def inference(
    tensors: ServedModel | TensorInfo | Sequence[TensorInfo],
    rows: Any,
    *,
    model: str = "",
    version: str = "",
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Word] = NONE,
) -> Call[Answer]:
    """The same of what is known of a model."""
    names, called = UNNAMED, index_of(rows)
    if isinstance(tensors, ServedModel):
        names = tensors.names
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
    return Call(
        f"{INFERENCE}ModelInfer",
        request,
        oip.ModelInferResponse.FromString,
        partial(_answer, names=names, index=called),
    )


def _after_model(name: str, version: str, then: Callable[[ServedModel], Call[Answer]]) -> After[Answer]:
    return After(model(name, version), then)


def _served(meta: oip.ModelMetadataResponse, config: oip.ModelConfigResponse) -> ServedModel:
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


def _as_it_is(message: Any) -> Any:
    return message


def _health(answer: bytes) -> str:
    state = answer[1] if len(answer) == 2 else 0
    return HEALTH_STATES[state] if state < len(HEALTH_STATES) else "UNKNOWN"


def _answer(answer: oip.ModelInferResponse, *, names: Names, index: Any) -> Answer:
    """Raises NotSupported for an output of a datatype that numpy has not."""
    arrays = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if output.datatype not in DTYPES:
            raise errors.of(
                "UNIMPLEMENTED", f"output {output.name} is {output.datatype}, which this client cannot read"
            )
        arrays[output.name] = np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
    return Answer(answer.model_version, arrays, params.said(answer.parameters), names, index)
