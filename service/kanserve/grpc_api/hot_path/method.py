"""ModelInfer: a request with a known head skips parsing and checks, and runs in a batch on the event loop if it can.

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
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanserve.grpc_api.call_context import Call
from kanserve.grpc_api.hot_path.batch import Account, Batches, NativeQueue
from kanserve.grpc_api.infer_codec import LENGTH_DELIMITED, response_to_pb
from kanserve.grpc_api.inference import InferenceService
from kanserve.observability.statistics import Timing
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb.wire import read_varint, varint
from kanserve.services.inference import ValidatedRequest
from kanserve.types import NUMPY_DTYPES, Array, InferRequest, InferResponse

ID, PARAMETERS, INPUTS, OUTPUTS, RAW = 3, 4, 5, 6, 7  # of ModelInferRequest
ID_FIELD, RAW_TAG = ID << 3 | LENGTH_DELIMITED, bytes([RAW << 3 | LENGTH_DELIMITED])
# Tags of ModelInferResponse.
ID_RESPONSE, RAW_RESPONSE = bytes([3 << 3 | LENGTH_DELIMITED]), bytes([6 << 3 | LENGTH_DELIMITED])
# The only parameter without effect on a request with one response; perf_analyzer adds it to every request.
EMPTY_FINAL = b"\n\x22triton_enable_empty_final_response"
HARMLESS = frozenset((EMPTY_FINAL + b"\x12\x02\x08\x01", EMPTY_FINAL + b"\x12\x02\x08\x00"))
MOST_HEADS = 1024
MOST_BYTES = 4096  # of one head, or one id
MOST_RAW = 1024  # inputs with bytes
COPIED = 4096  # bytes up to which a copy is faster than a view
Raw = bytes | memoryview
NATIVE, NATIVE_VERSION = "kanserve_kernel.calls", 3  # the version is that of the module's functions
LARGE = 2**16  # bytes of a message whose execution takes longer than the regular path
MOST_QUEUES = 16  # heads that the native module compares with a message
Sampled = Callable[[bytes | None], bool]


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
            if tag & 7 != LENGTH_DELIMITED or number < last or number == last <= ID or stop > end:
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


@dataclass(slots=True)
class Head:
    """Head of a successful request, and what all requests with this head have in common.

    ready    the validated request
    inputs   name, dtype, shape and size in bytes of each input
    outputs  name, shape and size in bytes of each output
    before   bytes of a response before its id
    after    bytes of a response after its id
    leads    bytes before each output's data
    facts    facts for the access log
    batches  the batches of such requests, if they may run on the event loop
    queue    the native queue of these batches
    """

    ready: ValidatedRequest
    inputs: list[tuple[str, np.dtype[np.generic], tuple[int, ...], int]]
    outputs: list[tuple[str, tuple[int, ...], int]]
    before: bytes
    after: bytes
    leads: list[bytes]
    facts: dict[str, object]
    batches: Batches | None = None
    queue: NativeQueue | None = None

    def raws(self, data: bytes, spans: Sequence[tuple[int, int]]) -> list[Raw] | None:
        """The bytes of the message's inputs. None if they do not fit the shapes."""
        if len(spans) != len(self.inputs):
            return None
        buffers = [_part(data, begin, stop) for begin, stop in spans]
        for raw, (_, _, _, size) in zip(buffers, self.inputs, strict=True):
            if len(raw) != size:
                return None
        return buffers

    def feeds(self, raws: Sequence[Raw], requests: int = 1) -> dict[str, Array]:
        """The tensors in the bytes of this number of requests, by input."""
        rows = requests * self.ready.rows
        return {
            name: np.frombuffer(raw, dtype).reshape(rows, *shape[1:])
            for raw, (name, dtype, shape, _) in zip(raws, self.inputs, strict=True)
        }

    def expected(self, arrays: Sequence[Array], requests: int = 1) -> bool:
        """Whether the outputs of this number of requests have the shapes of the first response."""
        if len(arrays) != len(self.outputs):
            return False
        rows = requests * self.ready.rows
        for array, (_, shape, _) in zip(arrays, self.outputs, strict=True):  # noqa: SIM110 - a generator takes three times as long
            if array.shape != (rows, *shape[1:]):
                return False
        return True

    def responses(self, ids: Sequence[bytes], arrays: Sequence[Array]) -> list[bytes]:
        """The response to each request, from the outputs of all of them."""
        outputs, plain, responses = [_bytes(array) for array in arrays], self.before + self.after, []
        for at, id in enumerate(ids):
            parts: list[Raw] = [self.before + ID_RESPONSE + varint(len(id)) + id + self.after if id else plain]
            for lead, output, (_, _, size) in zip(self.leads, outputs, self.outputs, strict=True):
                parts += (lead, output[at * size : (at + 1) * size])
            responses.append(b"".join(parts))
        return responses


@dataclass(slots=True)
class Template:
    """Template of messages that have one input and a known head.

    head   the head
    lead   bytes before the id
    rest   bytes between the id and the input
    size   bytes of the input
    """

    head: Head
    lead: bytes
    rest: bytes
    size: int

    def match(self, data: bytes) -> tuple[bytes, Raw] | None:
        """The id and the input's bytes, if the message fits the template, as `split` would divide it."""
        at, stop = len(self.lead), len(data) - self.size
        begin = stop - len(self.rest)
        if begin < at or not data.startswith(self.lead) or data[begin:stop] != self.rest:
            return None
        if begin == at:
            return b"", _part(data, stop, len(data))
        if begin < at + 2 or data[at] != ID_FIELD or data[at + 1] != begin - at - 2 or data[at + 1] > 0x7F:
            return None
        return data[at + 2 : begin], _part(data, stop, len(data))


def _part(data: bytes, begin: int, stop: int) -> Raw:
    """Bytes of a message: a copy, which is aligned, or a view of many bytes, because their copy would block the event
    loop. The executor aligns them."""
    return data[begin:stop] if stop - begin <= COPIED else memoryview(data)[begin:stop]


def _bytes(array: Array) -> Raw:
    """The bytes of an output."""
    return array.tobytes() if array.nbytes <= COPIED else np.ascontiguousarray(array).data.cast("B")


def _template(known: Head, parts: Parts, data: bytes) -> Template:
    """The template of a message with one input."""
    ((begin, stop),) = parts.raw
    mark = data[begin - len(RAW_TAG) - len(varint(stop - begin)) : begin]
    return Template(known, parts.head[: parts.cut], parts.head[parts.cut :] + mark, stop - begin)


def _fixed(message: pb.ModelInferRequest, ready: ValidatedRequest, done: InferResponse) -> bool:
    """Whether the responses to such requests differ in the output bytes only, if no row is out of range."""
    if not ready.fixed or any(value for _, value in done.parameters):
        return False
    return not any(tensor.parameters for tensors in (message.inputs, message.outputs) for tensor in tensors)


class HotMethod:
    """ModelInfer of one server. Its cache has at most `MOST_HEADS` heads; it drops the oldest one.

    account  callers and counters of native calls
    native   the module of `native_calls`; None: every call takes the regular path
    queues   native queues of the last heads, the newest first
    sampled  whether tracing samples a call with this header `traceparent`; None: tracing is off
    """

    def __init__(self, service: InferenceService, account: Account, native: Any, sampled: Sampled | None) -> None:
        self._service, self._inference = service, service.inference
        self.account, self.native, self.sampled = account, native, sampled
        self.queues: list[NativeQueue] = []
        self._known: dict[bytes, Head] = {}
        self._generation = -1  # of the registry
        self._template: Template | None = None  # of the last message
        service.inference.registry.subscribe(self.forget)

    async def infer(self, data: bytes, call: Call) -> bytes:
        """Run inference."""
        started = time.perf_counter_ns()
        parts, head, id, raws = self._lookup(data)
        if head is None or (message_id := _decoded(id)) is None:
            return await self._first(data, parts, call)
        call.adopt(message_id)
        call.facts = head.facts
        running = None if head.batches is None else head.batches.submit(raws, id, call.deadline)
        result = None if running is None else await running
        if result is not None:
            response, queue_ns, infer_ns = result
            head.ready.model.metrics.traced(head.ready.rows, Timing(queue_ns, 0, infer_ns, 0))
            return response
        if head.ready.model.range_guard is not None:
            return await self._first(data, parts, call)
        arrays = await self._inference.run(head.ready, head.feeds(raws), call.deadline, started)
        return head.responses([id], arrays)[0] if head.expected(arrays) else await self._first(data, parts, call)

    def _lookup(self, data: bytes) -> tuple[Parts | None, Head | None, bytes, list[Raw]]:
        """Divide a message, and look up its head. Returns its parts, its head, its id and the bytes of its inputs. The
        head is None if it is unknown. The parts are None for a message that `split` cannot divide, and for one that
        fits the template of the last message."""
        generation = self._inference.registry.generation
        if generation != self._generation:
            self.forget()
            self._generation = generation
        if self._template is not None and (match := self._template.match(data)) is not None:
            return None, self._template.head, match[0], [match[1]]
        parts = split(data)
        if parts is None:
            return None, None, b"", []
        known = self._known.get(parts.head)
        raws = known.raws(data, parts.raw) if known is not None else None
        if known is None or raws is None:
            return parts, None, b"", []
        if len(raws) == 1:
            self._template = template = _template(known, parts, data)
            self._offer(template)
        return parts, known, parts.id, raws

    async def _first(self, data: bytes, parts: Parts | None, call: Call) -> bytes:
        """Run a request with an unknown head, and learn the head."""
        registry = self._inference.registry
        call.facts, generation = {}, registry.generation
        message, request = await self._service.read(data, call)
        response = await self._service.run(request, call)
        if parts is not None and generation == registry.generation:
            model = registry.resolve(request.model, request.version)
            head = self._learn(parts, message, request, self._inference.check(model, request), response)
            if head is not None and model.executor.inline(head.ready.rows):
                head.batches = Batches(head, model.executor, self.account)
        return response_to_pb(response).SerializeToString()

    def _learn(
        self,
        parts: Parts,
        message: pb.ModelInferRequest,
        request: InferRequest,
        ready: ValidatedRequest,
        done: InferResponse,
    ) -> Head | None:
        """Store the head of a successful request; call this right after `_lookup`. The cache stores no head whose
        responses may differ in more than the output bytes, and then returns None."""
        if parts.head in self._known or not _fixed(message, ready, done):
            return None
        if len(self._known) >= MOST_HEADS:
            self._drop(next(iter(self._known)))
        start = pb.ModelInferResponse(model_name=done.model, model_version=str(done.version))
        rest = response_to_pb(done)
        for name in ("model_name", "model_version", "id", "raw_output_contents"):
            rest.ClearField(name)
        head = self._known[parts.head] = Head(
            ready,
            [(tensor.name, NUMPY_DTYPES[tensor.datatype], tensor.shape, len(tensor.data)) for tensor in request.inputs],
            [(tensor.name, tensor.shape, len(tensor.data)) for tensor in done.outputs],
            start.SerializeToString(),
            rest.SerializeToString(),
            [RAW_RESPONSE + varint(len(tensor.data)) for tensor in done.outputs],
            {"model": done.model, "version": done.version, "rows": ready.rows},
        )
        return head

    def _offer(self, template: Template) -> None:
        """Offer messages like this one to the native module."""
        head, lead, rest, size = template.head, template.lead, template.rest, template.size
        batches = head.batches
        if self.native is None or batches is None or len(lead) + len(rest) + size > LARGE or len(head.outputs) != 1:
            return
        if head.queue is None:
            parts = (lead, rest, head.before, head.after + head.leads[0], size)
            head.queue = self.native.Queue(batches.open_native, batches.run_native, *parts)
        if head.queue not in self.queues:
            self.queues.insert(0, head.queue)
            del self.queues[MOST_QUEUES:]

    def forget(self) -> None:
        """Drop all heads, because they keep unloaded models in memory."""
        for head in tuple(self._known):
            self._drop(head)
        self._template = None
        self.queues.clear()

    def _drop(self, head: bytes) -> None:
        """Drop an entry and the references in a circle. Batches in progress stay."""
        entry = self._known.pop(head)
        entry.batches = entry.queue = None


@functools.cache
def native_calls() -> Any:
    """The extension module of the package kanserve-kernel; None if it is absent or of another version. Without it, the
    server handles every call in Python, with the same results."""
    try:
        module = importlib.import_module(NATIVE)
    except ImportError:
        return None
    if module.VERSION != NATIVE_VERSION:
        return None
    Coroutine.register(module.Call)  # so that asyncio makes tasks of them
    return module


def _decoded(id: bytes) -> str | None:
    """The id of a message; None if it is not UTF-8, which makes the message invalid."""
    try:
        return id.decode()
    except UnicodeDecodeError:
        return None
