"""Tests of `grpc_api/inference.py`."""

import grpc
import numpy as np

from kanserve.grpc_api.inference import InferenceService
from kanserve.pb import grpc_service_pb2 as pb
from tests.support.bad_requests import refused
from tests.support.server_process import INFERENCE, Server, request

ROWS = np.full((2, 3), 0.123456, np.float32)


SERVED = {
    *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"),
    *("ModelInfer", "ModelStreamInfer", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
}


def test_every_other_method_is_refused_with_a_sentence(server: Server) -> None:
    for method in InferenceService.descriptor.methods:
        if method.name in SERVED:
            continue
        path = INFERENCE + method.name
        with refused(grpc.StatusCode.UNIMPLEMENTED, f"{method.name} is not supported by kanserve"):
            _ = (
                list(server.channel.stream_stream(path)(iter([b""]), timeout=60))
                if method.client_streaming
                else server.call(path, b"")
            )


def test_versions(server: Server) -> None:
    for requested, supplied in (("", "2"), ("1", "1"), ("2", "2"), ("+1", "1")):
        data = request(ROWS, model_version=requested, id="an id").SerializeToString()
        response = pb.ModelInferResponse.FromString(server.call(f"{INFERENCE}ModelInfer", data))
        assert (response.model_name, response.model_version, response.id) == ("toy", supplied, "an id")
