"""Cache of request heads, so that the server parses and checks a repeated head only once.

A ModelInferRequest is a head (model, version, names, types and shapes of the inputs, requested outputs), an id, and the
bytes of the inputs. Clients send the same head repeatedly. `split` divides a message without building it. The cache
stores the head of a successful request together with the beginning of its response. Equal bytes are equal requests, so
the cache decides nothing: it does not store rejected requests. If a model is loaded or unloaded, the cache drops all
entries.

Source: the Protocol Buffers documentation, "Encoding"; the field numbers are those of proto/grpc_service.proto.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kanserve.grpc_api.infer_codec import read_varint, varint
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.scheduling.batching import NAMED, FastBatch, FastJob, FastPath, NativeQueue, RequestSignature
from kanserve.services import inference
from kanserve.services.inference import ValidatedRequest
from kanserve.types import NUMPY_DTYPES, Array, InferRequest, InferResponse

ID, PARAMETERS, INPUTS, OUTPUTS, RAW = 3, 4, 5, 6, 7  # of ModelInferRequest
BYTES = 2  # the wire type of strings, bytes and messages
ID_FIELD, RAW_TAG = ID << 3 | BYTES, bytes([RAW << 3 | BYTES])
ID_ANSWER, RAW_ANSWER = bytes([3 << 3 | BYTES]), bytes([6 << 3 | BYTES])  # tags of ModelInferResponse
# The only parameter without effect on a request with one response; perf_analyzer adds it to every request.
EMPTY_FINAL = b"\n\x22triton_enable_empty_final_response"
HARMLESS = frozenset((EMPTY_FINAL + b"\x12\x02\x08\x01", EMPTY_FINAL + b"\x12\x02\x08\x00"))
MOST_HEADS = 1024
MOST_BYTES = 4096  # of one head, or one id
MOST_RAW = 1024  # inputs with bytes
NATIVE, NATIVE_VERSION = "kanserve_kernel.calls", 2  # the version is that of the module's functions
LARGE = 2**16  # bytes of a message whose execution takes longer than the regular path
MOST_QUEUES = 16  # heads that the native module compares with a message


@dataclass(slots=True)
class Parts:
    """Message divided into its head, its id and its inputs.

    head  all fields except `id` and the bytes of the inputs
    id    bytes of the request id
    raw   begin and end of the bytes of each input
    cut   position in the head at which an id belongs
    """

    head: bytes
    id: bytes
    raw: list[tuple[int, int]]
    cut: int


# radon: one pass over the fields, each read once; divided it would cost more than it saves.
def split(data: bytes) -> Parts | None:
    """Divide a message. None for a message with relevant parameters, a long head or id, or an unusual order of
    fields."""
    at, last, end = 0, 0, len(data)
    id_at = id_end = cut = 0
    named, raw_at = b"", -1
    raw: list[tuple[int, int]] = []
    try:
        while at < end:
            tag, length, begin = data[at], data[at + 1], at + 2
            number = tag >> 3
            if length > 0x7F:
                length, begin = read_varint(data, at + 1, end)
            stop = begin + length
            if tag & 7 != BYTES or number < last or number == last <= ID or stop > end:
                return None
            if len(raw) > MOST_RAW or (at > 2 * MOST_BYTES and number != RAW):
                return None  # immediately: megabytes of fields would block the event loop for a second
            if number == RAW:
                raw_at = at if raw_at < 0 else raw_at
                raw.append((begin, stop))
            elif number == ID and length <= MOST_BYTES:
                id_at, id_end, named = at, stop, data[begin:stop]
            elif number == PARAMETERS and data[begin:stop] in HARMLESS:
                pass
            elif number >= ID and number not in (INPUTS, OUTPUTS):
                return None
            if number < ID:
                cut = stop
            at, last = stop, number
    except IndexError:
        return None
    if not raw or raw_at - (id_end - id_at) > MOST_BYTES:
        return None
    return Parts(data[:id_at] + data[id_end:raw_at] if id_end else data[:raw_at], named, raw, cut)


@functools.cache
def native_calls() -> Any:
    """The extension module of the package kanserve-kernel for direct calls; None if it is absent or of another version.
    Without it, the server handles these calls in Python, with the same results."""
    try:
        module = importlib.import_module(NATIVE)
    except ImportError:
        return None
    if module.VERSION != NATIVE_VERSION:
        return None
    Coroutine.register(module.Call)  # so that asyncio makes tasks of them
    return module


class Account(Protocol):
    """Account of the calls whose request the fast path takes directly; see `interceptor.DirectCalls`."""

    def answered(self, calls: int, size: int, seconds: Sequence[float]) -> None:
        """Count successful calls. `size`: bytes of their requests. `seconds`: duration of each."""
        ...

    def abandoned(
        self, size: int, seconds: float, deadline: float | None, named: bytes, facts: dict[str, object]
    ) -> None:
        """Count a call whose client disconnected."""
        ...

    def room(self) -> int:
        """Number of calls that may begin now."""
        ...

    def began(self, calls: int, size: int) -> None:
        """Count calls in progress, and the bytes of their messages."""
        ...

    def moved(self, calls: int, size: int) -> None:
        """Forget calls in progress, which the regular path counts again."""
        ...


@dataclass(slots=True)
class Responses:
    """Responses to requests with one head; the `Recipient` of their fast path.

    ready    the validated request
    before   bytes of a response before its id
    after    bytes of a response after its id
    leads    bytes before each output's data
    facts    facts for the access log
    account  account of direct calls
    """

    ready: ValidatedRequest
    before: bytes
    after: bytes
    leads: list[bytes]
    facts: dict[str, object]
    account: Account | None

    def answer(self, named: bytes, outputs: Sequence[bytes]) -> bytes:
        """The response as a message, with the bytes of outputs of the expected shapes."""
        parts = [self._start(named)]
        for lead, output in zip(self.leads, outputs, strict=True):
            parts += (lead, output)
        return b"".join(parts)

    def responses(self, jobs: Sequence[FastJob], outputs: Sequence[bytes]) -> list[bytes]:
        """The response to each request, from the bytes of each output for all of them."""
        plain, count, responses = self._start(b""), len(jobs), []
        for at, job in enumerate(jobs):
            response = self._start(job[NAMED]) if job[NAMED] else plain
            for lead, output in zip(self.leads, outputs, strict=True):
                size = len(output) // count
                response += lead + output[at * size : (at + 1) * size]
            responses.append(response)
        return responses

    def _start(self, named: bytes) -> bytes:
        """Bytes of a response before its outputs, with the id of the request if it has one."""
        id_field = ID_ANSWER + varint(len(named)) + named if named else b""
        return self.before + id_field + self.after

    def answered(self, batch: FastBatch) -> None:
        """Count the requests of a batch."""
        took = inference.record_batch(self.ready, batch)
        if self.account is None or not batch.direct:
            return
        if len(batch.direct) < len(took):
            took = [(batch.answered - at) / 1e9 for at in batch.direct]
        self.account.answered(len(took), batch.size, took)

    def abandoned(self, waited: int, size: int, named: bytes, deadline: float | None) -> None:
        """Count a request whose client has disconnected."""
        inference.record_cancelled(self.ready, waited)
        if size and self.account is not None:
            self.account.abandoned(size, waited / 1e9, deadline, named, self.facts)

    def room(self) -> int:
        """Number of direct calls that may begin now."""
        return 0 if self.account is None else self.account.room()

    def began(self, calls: int, size: int) -> None:
        """Count direct calls in progress."""
        if self.account is not None:
            self.account.began(calls, size)

    def moved(self, calls: int, size: int) -> None:
        """Forget direct calls that the executor will handle."""
        if self.account is not None:
            self.account.moved(calls, size)


@dataclass(slots=True)
class CacheEntry:
    """Head of a successful request.

    ready      the validated request
    inputs     name, dtype, shape and size in bytes of each input
    responses  encoder of the responses
    shapes     shape of each output
    fast_path  fast path for such requests, if there is one
    """

    ready: ValidatedRequest
    inputs: list[tuple[str, np.dtype[np.generic], tuple[int, ...], int]]
    responses: Responses
    shapes: list[tuple[int, ...]]
    fast_path: FastPath | None

    def raws(self, data: bytes, spans: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """The bytes of the message's inputs, copied, because a runtime needs aligned bytes. None if they do not fit the
        shapes."""
        if len(spans) != len(self.inputs):
            return None
        buffers = [data[begin:stop] for begin, stop in spans]
        for raw, (_, _, _, size) in zip(buffers, self.inputs, strict=True):
            if len(raw) != size:
                return None
        return buffers

    def feeds(self, raws: Sequence[bytes]) -> dict[str, Array]:
        """The tensors in the bytes, by input."""
        return {
            name: np.frombuffer(raw, dtype).reshape(shape)
            for raw, (name, dtype, shape, _) in zip(raws, self.inputs, strict=True)
        }

    def expected(self, arrays: Sequence[Array]) -> bool:
        """Whether the outputs have the shapes of the first response."""
        return [array.shape for array in arrays] == self.shapes


@dataclass(slots=True)
class MessageTemplate:
    """Template of messages that have one input and a known head.

    known  cache entry of the head
    lead   bytes before the id
    rest   bytes between the id and the input
    size   bytes of the input
    """

    known: CacheEntry
    lead: bytes
    rest: bytes
    size: int

    def match(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The id and the input's bytes, if the message fits the template, as `split` would divide it."""
        at, stop = len(self.lead), len(data) - self.size
        begin = stop - len(self.rest)
        if begin < at or not data.startswith(self.lead) or data[begin:stop] != self.rest:
            return None
        if begin == at:
            return b"", data[stop:]
        if begin < at + 2 or data[at] != ID_FIELD or data[at + 1] != begin - at - 2 or data[at + 1] > 0x7F:
            return None
        return data[at + 2 : begin], data[stop:]


class RequestCache:
    """Cache of at most `MOST_HEADS` heads; it drops the oldest one. `generation` is that of the registry."""

    def __init__(self) -> None:
        self._known: dict[bytes, CacheEntry] = {}
        self._generation = -1
        self._template: MessageTemplate | None = None  # of the last message
        self._module: Any = None
        self._queues: list[NativeQueue] = []

    def attach(self, module: Any, queues: list[NativeQueue]) -> None:
        """Make a native queue for each head with a fast path, one input and one output, and add it to `queues`, the
        newest first. `module`: `kanserve_kernel.calls`."""
        self._module, self._queues = module, queues

    def lookup(self, data: bytes, generation: int) -> tuple[Parts | None, CacheEntry | None, bytes, list[bytes]]:
        """A message's parts, the cache entry of its head, and if there is one, its id and the bytes of its inputs.
        There are no parts for a message that fits the template of the last one."""
        if self._template is not None and generation == self._generation:
            match = self._template.match(data)
            if match is not None:
                return None, self._template.known, match[0], [match[1]]
        parts = split(data)
        if parts is None:
            return None, None, b"", []
        known = self.find(parts.head, generation)
        raws = known.raws(data, parts.raw) if known is not None else None
        if known is None or raws is None:
            return parts, None, b"", []
        if len(raws) == 1:
            self._template = _template(known, parts, data)
            self._learn_queue(self._template)
        return parts, known, parts.id, raws

    def find(self, head: bytes, generation: int) -> CacheEntry | None:
        """The cache entry of a head, if no model was loaded or unloaded since."""
        if generation != self._generation:
            self._known.clear()
            self._template, self._generation = None, generation
        return self._known.get(head)

    def forget(self) -> None:
        """Drop all entries, because they keep unloaded models in memory."""
        self._known.clear()
        self._queues.clear()
        self._template = None

    def _learn_queue(self, template: MessageTemplate) -> None:
        path, responses = template.known.fast_path, template.known.responses
        size = len(template.lead) + len(template.rest) + template.size
        if self._module is None or path is None or len(path.form.outputs) != 1 or size > LARGE:
            return
        if path.native is None:
            (lead,) = responses.leads
            head = (template.lead, template.rest, responses.before, responses.after + lead, template.size)
            path.native = self._module.Queue(path.open_native, path.run_native, *head)
        if path.native not in self._queues:
            self._queues.insert(0, path.native)
            del self._queues[MOST_QUEUES:]

    def learn(
        self,
        parts: Parts,
        message: pb.ModelInferRequest,
        request: InferRequest,
        ready: ValidatedRequest,
        done: InferResponse,
        account: Account | None,
    ) -> None:
        """Store the head of a successful request; call this right after `lookup`. The cache stores no head whose
        responses may differ in more than the output bytes."""
        parameters = [
            *(tensor.parameters for tensor in message.inputs),
            *(tensor.parameters for tensor in message.outputs),
        ]
        if not ready.fixed or any(parameters):
            return
        if len(self._known) >= MOST_HEADS:
            del self._known[next(iter(self._known))]
        start = pb.ModelInferResponse(model_name=done.model, model_version=str(done.version))
        rest = pb.ModelInferResponse()
        for tensor in done.outputs:
            rest.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        responses = Responses(
            ready,
            start.SerializeToString(),
            rest.SerializeToString(),
            [RAW_ANSWER + varint(len(tensor.data)) for tensor in done.outputs],
            {"model": done.model, "version": done.version, "rows": ready.rows},
            account,
        )
        self._known[parts.head] = CacheEntry(
            ready,
            [(tensor.name, NUMPY_DTYPES[tensor.datatype], tensor.shape, len(tensor.data)) for tensor in request.inputs],
            responses,
            [tensor.shape for tensor in done.outputs],
            ready.model.fast_path(_form(request, done, ready.rows), responses),
        )


def _template(known: CacheEntry, parts: Parts, data: bytes) -> MessageTemplate:
    """The template of a message with one input."""
    ((begin, stop),) = parts.raw
    mark = data[begin - len(RAW_TAG) - len(varint(stop - begin)) : begin]
    return MessageTemplate(known, parts.head[: parts.cut], parts.head[parts.cut :] + mark, stop - begin)


def _form(request: InferRequest, done: InferResponse, rows: int) -> RequestSignature:
    return RequestSignature(
        tuple(
            (tensor.name, NUMPY_DTYPES[tensor.datatype], tensor.shape[1:], len(tensor.data))
            for tensor in request.inputs
        ),
        tuple((tensor.name, tensor.shape[1:], len(tensor.data)) for tensor in done.outputs),
        rows,
    )
