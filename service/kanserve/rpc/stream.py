"""ModelStreamInfer: many requests on one stream. They are handled side by side and answered in their order.

As Triton does for a model that gives one answer to a request: what is wrong with a request is said in its place
(`error_message`, with its id) and the stream goes on; every answer is a final one, and says so. With
`triton_grpc_error: true` in the metadata the first error ends the stream with its status.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from kanserve.errors import Draining, KanserveError, Unauthenticated
from kanserve.observe import logs
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.rpc import status
from kanserve.rpc.call import Call
from kanserve.rpc.guard import STRICT_HEADER, CallFailed, Guard, Share, UnaryMethod
from kanserve.rpc.known import varint
from kanserve.rpc.status import Code

STRICT = (STRICT_HEADER, "true")
# Messages are merged by writing them one after the other.
FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
INSIDE = bytes([2 << 3 | 2])  # the tag of ModelStreamInferResponse.infer_response

log = logs.get_logger("rpc")


class InferStream:
    """`infer` answers one request; no more than `most` of a stream are handled, or wait to be sent, at once."""

    def __init__(self, guard: Guard, infer: UnaryMethod, most: int) -> None:
        self._guard, self._infer, self._most = guard, infer, most

    async def answers(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """A ModelStreamInferResponse for each message. Raises what reading does; Draining when the server leaves,
        after what was read is answered; the KanserveError of a request if the caller asks for that."""
        flow = _Flow(self._guard, self._infer, self._most, call)
        reader = asyncio.ensure_future(flow.read(messages))
        reader.add_done_callback(flow.no_more)
        leaving = asyncio.ensure_future(self._guard.closing.wait())
        leaving.add_done_callback(lambda _: reader.cancel())
        try:
            async for answer in flow.answers(reader):
                yield answer
            if reader.cancelled() and leaving.done():
                raise Draining
            reader.result()
        finally:
            leaving.cancel()
            reader.cancel()
            flow.close()
            call.facts |= {"requests": flow.requests, "refused": flow.refused}


class _Flow:
    """The requests of one stream."""

    def __init__(self, guard: Guard, infer: UnaryMethod, most: int, call: Call) -> None:
        self._guard, self._infer, self._call = guard, infer, call
        self._strict = STRICT in call.metadata
        self._slots, self._more = asyncio.Semaphore(most), asyncio.Event()
        self._waiting: deque[tuple[asyncio.Task[bytes], Share]] = deque()
        self.requests = self.refused = 0

    async def read(self, messages: AsyncIterator[bytes]) -> None:
        """Begin every request as it comes, while there is room."""
        await self._slots.acquire()
        async for data in messages:
            self.requests += 1
            share = self._guard.share(len(data), self._call)
            task = asyncio.ensure_future(self._one(data, share))
            task.add_done_callback(_seen)
            self._waiting.append((task, share))
            self._more.set()
            await self._slots.acquire()

    def no_more(self, reader: asyncio.Task[None]) -> None:
        """Nothing is read any more. Requests of a caller that went away are given up."""
        error = None if reader.cancelled() else reader.exception()
        if error is not None and not isinstance(error, CallFailed):
            for task, _ in self._waiting:
                task.cancel()
        self._more.set()

    async def answers(self, reader: asyncio.Task[None]) -> AsyncIterator[bytes]:
        """In the order of the requests, until nothing is read any more and all are answered."""
        while self._waiting or not reader.done():
            if not self._waiting:
                self._more.clear()
                await self._more.wait()
                continue
            task, share = self._waiting[0]
            if not task.done():
                await asyncio.wait({task})
            if task.cancelled() and reader.done():
                return
            yield task.result()
            self._waiting.popleft()
            share.close()
            self._slots.release()

    def close(self) -> None:
        """Give up what is not answered."""
        while self._waiting:
            task, share = self._waiting.popleft()
            task.cancel()
            share.close()

    async def _one(self, data: bytes, share: Share) -> bytes:
        """The answer to a request, or what is wrong with it."""
        call = Call(self._call.request_id, self._call.given, self._call.deadline)
        call.caller = self._call.caller
        try:
            share.admit()
            answer = await self._infer(data, call) + FINAL
        except KanserveError as error:
            self.refused += 1
            if self._strict or isinstance(error, Unauthenticated):  # later requests of this stream may not pass either
                raise
            return _refusal(error, call)
        share.answered(len(answer))
        return INSIDE + varint(len(answer)) + answer


def _refusal(error: KanserveError, call: Call) -> bytes:
    if status.code(error) is Code.INTERNAL:
        log.error("rpc", method="ModelStreamInfer", request_id=call.request_id, exc_info=error)
    return pb.ModelStreamInferResponse(
        error_message=status.text(error, call.request_id), infer_response=pb.ModelInferResponse(id=call.message_id)
    ).SerializeToString()


def _seen(task: asyncio.Task[bytes]) -> None:
    """What a task raised is not lost where nobody waits for it any more: its stream has ended by another."""
    if not task.cancelled():
        task.exception()
