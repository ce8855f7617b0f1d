"""inference.GRPCInferenceService: the methods kanserve has. The rest is refused by name."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time

from kanserve.access.roles import Role, require
from kanserve.errors import Unsupported
from kanserve.handlers.catalogue import Catalogue
from kanserve.handlers.control import Control
from kanserve.handlers.inference import Inference
from kanserve.nouns import InferRequest, InferResponse
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.rpc import convert, describe, known
from kanserve.rpc.call import Call
from kanserve.rpc.guard import UnaryMethod
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
)

SLOW = 2**14  # bytes of typed contents that take longer to read than the hop to a thread


class InferenceService:
    """From message bytes to a use case and back."""

    descriptor = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def __init__(self, inference: Inference, catalogue: Catalogue, control: Control, max_typed_bytes: int) -> None:
        self._inference, self._control = inference, control
        self._catalogue = catalogue
        self._max_typed_bytes = max_typed_bytes
        self._version = version()
        self._heads = known.Heads()
        inference.registry.tell(self._heads.forget)

    def methods(self) -> dict[str, UnaryMethod]:
        """Name of the RPC -> what answers it."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "ModelInfer": self.model_infer,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_model_load,
            "RepositoryModelUnload": self.repository_model_unload,
        }

    async def server_live(self, data: bytes, call: Call) -> bytes:
        """True while the process means to go on."""
        await convert.parsed(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=self._catalogue.live()).SerializeToString()

    async def server_ready(self, data: bytes, call: Call) -> bytes:
        """True once every version is loaded, until the server begins to leave."""
        await convert.parsed(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=self._catalogue.ready()).SerializeToString()

    async def server_metadata(self, data: bytes, call: Call) -> bytes:
        """Name, version, and the extensions that are implemented."""
        await convert.parsed(pb.ServerMetadataRequest, data)
        return pb.ServerMetadataResponse(
            name="kanserve", version=self._version, extensions=EXTENSIONS
        ).SerializeToString()

    async def model_ready(self, data: bytes, call: Call) -> bytes:
        """Whether a version can be used; one that is not there is not ready."""
        message = await convert.parsed(pb.ModelReadyRequest, data)
        ready = self._catalogue.model_ready(message.name, message.version)
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    async def model_metadata(self, data: bytes, call: Call) -> bytes:
        """Names, datatypes and shapes of inputs and outputs."""
        message = await convert.parsed(pb.ModelMetadataRequest, data)
        info, versions = self._catalogue.info(message.name, message.version)
        return describe.metadata(info, versions).SerializeToString()

    async def model_config(self, data: bytes, call: Call) -> bytes:
        """The configuration Triton would have made."""
        message = await convert.parsed(pb.ModelConfigRequest, data)
        model = self._catalogue.model(message.name, message.version)
        return pb.ModelConfigResponse(config=describe.config(model.info, model.serving)).SerializeToString()

    async def model_statistics(self, data: bytes, call: Call) -> bytes:
        """Counts and durations since the start."""
        message = await convert.parsed(pb.ModelStatisticsRequest, data)
        models = self._catalogue.statistics(message.name, message.version)
        return describe.statistics(models).SerializeToString()

    async def model_infer(self, data: bytes, call: Call) -> bytes:
        """The main thing."""
        started = time.perf_counter_ns()
        parts, head, named, raws = self._heads.part(data, self._inference.registry.generation)
        if head is not None and _text(named, call):
            call.facts = head.facts
            if head.lane is not None:
                outputs = await self._inference.together(head.ready, head.lane, raws, call.deadline, started)
                if outputs is not None:
                    return head.answer(named, outputs)
            arrays = await self._inference.run(head.ready, head.feeds(raws), call.deadline, started)
            if head.expected(arrays):
                return head.answer(named, [array.tobytes() for array in arrays])
        return await self._first(data, parts, call)

    async def _first(self, data: bytes, parts: known.Parts | None, call: Call) -> bytes:
        """A request whose head is not known."""
        call.facts = {}
        generation = self._inference.registry.generation
        message = await convert.parsed(pb.ModelInferRequest, data)
        request, response = await self.infer(message, call)
        if parts is not None and generation == self._inference.registry.generation:
            model = self._inference.registry.resolve(request.model, request.version)
            self._heads.learn(parts, message, request, self._inference.check(model, request), response)
        return convert.response_to_pb(response).SerializeToString()

    async def infer(self, message: pb.ModelInferRequest, call: Call) -> tuple[InferRequest, InferResponse]:
        """What a message asks for, in whatever form it came, and the answer. Raises what `Inference.infer` does."""
        call.adopt(message.id)
        call.facts["model"] = message.model_name[:128]
        read = functools.partial(
            convert.request_from_pb, message, deadline=call.deadline, max_typed_bytes=self._max_typed_bytes
        )
        slow = not message.raw_input_contents and message.ByteSize() > SLOW
        request = await asyncio.to_thread(read) if slow else read()
        if request.insight is not None:
            require(call.caller, Role.INTERPRET)
            request = dataclasses.replace(request, caller=call.caller.name)
        response = await self._inference.infer(request)
        call.facts["version"] = response.version
        if response.outputs and response.outputs[0].shape:
            call.facts["rows"] = response.outputs[0].shape[0]
        return request, response

    async def repository_index(self, data: bytes, call: Call) -> bytes:
        """Every version found, with its state and what is wrong with it."""
        message = await convert.parsed(pb.RepositoryIndexRequest, data)
        only_repository(message.repository_name)
        response = pb.RepositoryIndexResponse()
        for status in self._catalogue.index(only_ready=message.ready):
            response.models.add(name=status.name, version=str(status.version), state=status.state, reason=status.reason)
        return response.SerializeToString()

    async def repository_model_load(self, data: bytes, call: Call) -> bytes:
        """As it lies in the repository; refused unless models are loaded by hand."""
        message = await convert.parsed(pb.RepositoryModelLoadRequest, data)
        only_repository(message.repository_name)
        call.facts["model"] = message.model_name[:128]
        await self._control.load(message.model_name, set(message.parameters))
        return b""

    async def repository_model_unload(self, data: bytes, call: Call) -> bytes:
        """Refused as `repository_model_load`."""
        message = await convert.parsed(pb.RepositoryModelUnloadRequest, data)
        only_repository(message.repository_name)
        call.facts["model"] = message.model_name[:128]
        await self._control.unload(message.model_name, set(message.parameters))
        return b""


def only_repository(name: str) -> None:
    """Raises Unsupported for a repository by name: there is one. KServe's clients put the model's name there."""
    if name:
        raise Unsupported("'repository_name' specification is not supported")


def _text(named: bytes, call: Call) -> bool:
    """Take a message's id over, if there is one; False if it is no text, and the message none."""
    if named:
        try:
            call.adopt(named.decode())
        except UnicodeDecodeError:
            return False
    return True
