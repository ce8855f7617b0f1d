"""inference.GRPCInferenceService: the methods that kanserve implements. The server rejects all others by name."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections import deque
from collections.abc import AsyncIterator

from kanexport.shared.error_bars import NAME as ERROR_BAR
from kanserve.auth.authenticator import require
from kanserve.auth.permissions import Role
from kanserve.errors import Draining, KanserveError, Unauthenticated, Unsupported
from kanserve.grpc_api import call_context, infer_codec, model_codec
from kanserve.grpc_api.call_context import Call, CallFailed, Code
from kanserve.grpc_api.interceptor import STRICT_HEADER, Interceptor, StreamRequest, UnaryMethod
from kanserve.observability import logs
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb.wire import varint
from kanserve.services.control import Catalogue, Control
from kanserve.services.inference import Inference
from kanserve.types import InferRequest, InferResponse
from kanserve.version import version

EXTENSIONS = (
    "model_configuration",
    "statistics",
    "parameters",
    "binary_tensor_data",
    "classification",
    "kan_describe",
    "kan_edges",
    "kan_interpret",
    "kan_coverage",
    "kan_interval",
    "kan_error_bar",
)

SLOW = 2**14  # bytes of typed contents that take longer to read than the hop to a thread


class InferenceService:
    """Methods of GRPCInferenceService, from message bytes to response bytes: server_live has ServerLive, and so on.
    `hot_path.method` has ModelInfer."""

    descriptor = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def __init__(
        self,
        inference: Inference,
        catalogue: Catalogue,
        control: Control,
        max_typed_contents_bytes: int,
    ) -> None:
        self.inference, self._control = inference, control
        self._catalogue = catalogue
        self._max_typed_contents_bytes = max_typed_contents_bytes
        self._version = version()

    async def server_live(self, data: bytes, call: Call) -> bytes:
        """True until the process begins to exit."""
        await infer_codec.parsed(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=self._catalogue.live()).SerializeToString()

    async def server_ready(self, data: bytes, call: Call) -> bytes:
        """True once every version is loaded, until the server begins to shut down."""
        await infer_codec.parsed(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=self._catalogue.ready()).SerializeToString()

    async def server_metadata(self, data: bytes, call: Call) -> bytes:
        """Name, version, and the extensions that are implemented."""
        await infer_codec.parsed(pb.ServerMetadataRequest, data)
        return pb.ServerMetadataResponse(
            name="kanserve", version=self._version, extensions=EXTENSIONS
        ).SerializeToString()

    async def model_ready(self, data: bytes, call: Call) -> bytes:
        """Whether a version is ready; False for an unknown version."""
        message = await infer_codec.parsed(pb.ModelReadyRequest, data)
        ready = self._catalogue.model_ready(message.name, message.version)
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    async def model_metadata(self, data: bytes, call: Call) -> bytes:
        """Names, datatypes and shapes of inputs and outputs."""
        message = await infer_codec.parsed(pb.ModelMetadataRequest, data)
        info, versions = self._catalogue.info(message.name, message.version)
        return model_codec.metadata(info, versions).SerializeToString()

    async def model_config(self, data: bytes, call: Call) -> bytes:
        """The configuration of a version in Triton's format."""
        message = await infer_codec.parsed(pb.ModelConfigRequest, data)
        model = self._catalogue.registry.resolve(message.name, message.version)
        return pb.ModelConfigResponse(config=model_codec.config(model.info, model.serving)).SerializeToString()

    async def model_statistics(self, data: bytes, call: Call) -> bytes:
        """Counts and durations since the start."""
        message = await infer_codec.parsed(pb.ModelStatisticsRequest, data)
        models = self._catalogue.statistics(message.name, message.version)
        return model_codec.statistics(models).SerializeToString()

    async def read(self, data: bytes, call: Call) -> tuple[pb.ModelInferRequest, InferRequest]:
        """The request in a message of ModelInfer, and its facts for the access log. Raises BadRequest."""
        message = await infer_codec.parsed(pb.ModelInferRequest, data)
        call.adopt(message.id)
        call.facts["model"] = message.model_name[:128]
        read = functools.partial(
            infer_codec.request_from_pb,
            message,
            deadline=call.deadline,
            max_typed_contents_bytes=self._max_typed_contents_bytes,
        )
        slow = not message.raw_input_contents and message.ByteSize() > SLOW
        return message, await asyncio.to_thread(read) if slow else read()

    async def run(self, request: InferRequest, call: Call) -> InferResponse:
        """Run a request of any protocol, and note its facts for the access log. Raises what `Inference.infer` does."""
        if request.insight is not None or ERROR_BAR in request.outputs:  # both reveal more than predictions
            require(call.caller, Role.INTERPRET)
        if request.insight is not None:
            request = dataclasses.replace(request, caller=call.caller.name)
        response = await self.inference.infer(request)
        call.facts["version"] = response.version
        if response.outputs and response.outputs[0].shape:
            call.facts["rows"] = response.outputs[0].shape[0]
        return response

    async def repository_index(self, data: bytes, call: Call) -> bytes:
        """Every version in the repository, with its state and the reason if it is not ready."""
        message = await infer_codec.parsed(pb.RepositoryIndexRequest, data)
        only_repository(message.repository_name)
        response = pb.RepositoryIndexResponse()
        for status in self._catalogue.registry.index(only_ready=message.ready):
            response.models.add(name=status.name, version=str(status.version), state=status.state, reason=status.reason)
        return response.SerializeToString()

    async def repository_model_load(self, data: bytes, call: Call) -> bytes:
        """Load a model from the repository. The server rejects this without explicit model control."""
        message = await infer_codec.parsed(pb.RepositoryModelLoadRequest, data)
        only_repository(message.repository_name)
        call.facts["model"] = message.model_name[:128]
        await self._control.load(message.model_name, set(message.parameters))
        return b""

    async def repository_model_unload(self, data: bytes, call: Call) -> bytes:
        """Unload a model. The server rejects this without explicit model control."""
        message = await infer_codec.parsed(pb.RepositoryModelUnloadRequest, data)
        only_repository(message.repository_name)
        call.facts["model"] = message.model_name[:128]
        await self._control.unload(message.model_name, set(message.parameters))
        return b""


def only_repository(name: str) -> None:
    """Raises Unsupported for a repository name, because a server has one repository. KServe's clients pass the model's
    name there."""
    if name:
        raise Unsupported(
            "'repository_name' specification is not supported",
            code="repository-name-not-supported",
            hint="send the request without repository_name: a server has one repository",
        )


STRICT = (STRICT_HEADER, "true")
# Messages are merged by writing them one after the other.
FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
INSIDE = bytes([2 << 3 | 2])  # the tag of ModelStreamInferResponse.infer_response
ERROR_CODE, ERROR_HELP = "kan.error_code", "kan.error_help"  # parameters of a response in place of an error

log = logs.get_logger("rpc")


async def infer_stream(
    guard: Interceptor, infer: UnaryMethod, most: int, messages: AsyncIterator[bytes], call: Call
) -> AsyncIterator[bytes]:
    """ModelStreamInfer: a ModelStreamInferResponse for each message. Raises the errors of reading, and Draining when
    the server shuts down, after the responses to the messages so far. Raises the KanserveError of a request if the
    client chose that with `triton_grpc_error`.

    infer  method that responds to one request
    most   number of requests of one stream that are in progress or wait to be sent
    """
    flow = _Flow(guard, infer, most, call)
    reader = asyncio.ensure_future(flow.read(messages))
    reader.add_done_callback(flow.no_more)
    leaving = asyncio.ensure_future(guard.lifecycle.closing.wait())
    leaving.add_done_callback(lambda _: reader.cancel())
    try:
        async for response in flow.responses(reader):
            yield response
        if reader.cancelled() and leaving.done():
            raise Draining
        reader.result()
    finally:
        leaving.cancel()
        reader.cancel()
        flow.close()
        call.facts |= {"requests": flow.requests, "rejected": flow.refused}
        if flow.error_code:
            call.facts["error_code"] = flow.error_code


class _Flow:
    """Requests of one stream, and their responses in order.

    requests    number of requests so far
    refused     number of rejected requests among them
    error_code  code of the last error, "" without one
    """

    def __init__(self, guard: Interceptor, infer: UnaryMethod, most: int, call: Call) -> None:
        self._guard, self._infer, self._call = guard, infer, call
        self._strict = STRICT in call.metadata
        self._slots, self._more = asyncio.Semaphore(most), asyncio.Event()
        self._waiting: deque[tuple[asyncio.Task[bytes], StreamRequest]] = deque()
        self.requests = self.refused = 0
        self.error_code = ""

    async def read(self, messages: AsyncIterator[bytes]) -> None:
        """Begin every request when it arrives, within the limit of requests in progress."""
        await self._slots.acquire()
        async for data in messages:
            self.requests += 1
            share = StreamRequest(self._guard, len(data), self._call.caller)
            task = asyncio.ensure_future(self._one(data, share))
            # Retrieves an exception, so that asyncio does not report it as lost: the stream has ended with another.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._waiting.append((task, share))
            self._more.set()
            await self._slots.acquire()

    def no_more(self, reader: asyncio.Task[None]) -> None:
        """Note the end of reading. If the client has disconnected, cancel its requests."""
        error = None if reader.cancelled() else reader.exception()
        if error is not None and not isinstance(error, CallFailed):
            for task, _ in self._waiting:
                task.cancel()
        self._more.set()

    async def responses(self, reader: asyncio.Task[None]) -> AsyncIterator[bytes]:
        """The responses in the order of the requests, until all requests have one."""
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
        """Cancel the requests that have no response yet."""
        while self._waiting:
            task, share = self._waiting.popleft()
            task.cancel()
            share.close()

    async def _one(self, data: bytes, share: StreamRequest) -> bytes:
        """The response to a request, or its error as a response."""
        call = Call(self._call.request_id, self._call.has_client_id, self._call.deadline)
        call.caller = self._call.caller
        try:
            share.admit()
            response = await self._infer(data, call) + FINAL
        except KanserveError as error:
            self.refused += 1
            self.error_code = error.code
            share.failed(error)
            if self._strict or isinstance(error, Unauthenticated):  # later requests of this stream may not pass either
                raise
            return _refusal(error, call)
        share.succeeded(len(response))
        return INSIDE + varint(len(response)) + response


def _refusal(error: KanserveError, call: Call) -> bytes:
    if call_context.code(error) is Code.INTERNAL:
        log.error("stream_request_failed", method="ModelStreamInfer", request_id=call.request_id, exc_info=error)
    response = pb.ModelInferResponse(id=call.message_id)
    for name, value in ((ERROR_CODE, error.code), (ERROR_HELP, call_context.hint(error))):
        if value:
            response.parameters[name].string_param = value
    text = call_context.text(error, call.request_id)
    return pb.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()
