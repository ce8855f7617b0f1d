"""ModelInfer: a request with a known head skips parsing and checks, and runs in a batch on the event loop if it can."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

from kanserve.grpc_api.call_context import Call
from kanserve.grpc_api.hot_path.account import Account
from kanserve.grpc_api.hot_path.batch import Batches, NativeQueue
from kanserve.grpc_api.hot_path.heads import Heads, Parts, Template
from kanserve.grpc_api.infer_codec import response_to_pb
from kanserve.grpc_api.inference import InferenceService
from kanserve.observability.statistics import Timing

NATIVE, NATIVE_VERSION = "kanserve_kernel.calls", 3  # the version is that of the module's functions
LARGE = 2**16  # bytes of a message whose execution takes longer than the regular path
MOST_QUEUES = 16  # heads that the native module compares with a message


Sampled = Callable[[bytes | None], bool]


class HotMethod:
    """ModelInfer of one server.

    account  callers and counters of native calls
    native   the module of `native_calls`; None: every call takes the regular path
    queues   native queues of the last heads, the newest first
    sampled  whether tracing samples a call with this header `traceparent`; None: tracing is off
    """

    def __init__(self, service: InferenceService, account: Account, native: Any, sampled: Sampled | None) -> None:
        self._service, self._inference = service, service.inference
        self.account, self.native, self.sampled = account, native, sampled
        self.queues: list[NativeQueue] = []
        self._heads = Heads(self._matched)
        service.inference.registry.subscribe(self.forget)

    async def infer(self, data: bytes, call: Call) -> bytes:
        """Run inference."""
        started = time.perf_counter_ns()
        parts, head, id, raws = self._heads.lookup(data, self._inference.registry.generation)
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

    async def _first(self, data: bytes, parts: Parts | None, call: Call) -> bytes:
        """Run a request with an unknown head, and learn the head."""
        registry = self._inference.registry
        call.facts, generation = {}, registry.generation
        message, request = await self._service.read(data, call)
        response = await self._service.run(request, call)
        if parts is not None and generation == registry.generation:
            model = registry.resolve(request.model, request.version)
            head = self._heads.learn(parts, message, request, self._inference.check(model, request), response)
            if head is not None and model.executor.inline(head.ready.rows):
                head.batches = Batches(head, model.executor, self.account)
        return response_to_pb(response).SerializeToString()

    def _matched(self, template: Template) -> None:
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
        self._heads.forget()
        self.queues.clear()


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
