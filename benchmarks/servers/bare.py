"""Baseline servers for the comparison: a no-op server per transport, and a minimal grpc.aio server.

    python bare.py noop-grpcio|noop-asgi|handler PORT REPOSITORY MODEL

`noop-*` respond to every request with the same bytes, which measures the cost of the transport. `handler` is a minimal
server that runs the session inside a grpc.aio handler. Each server prints "ready" and stops on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format

from kanexport.shared.ort import onnxruntime
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import model_config_pb2

SERVICE = "inference.GRPCInferenceService"
Fixed = dict[str, bytes]


class Model:
    """One exported model: its session, and the metadata and config that perf_analyzer requests before it starts."""

    def __init__(self, repository: Path, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = repository / name / "1" / "model.onnx"
        self.session = onnxruntime.InferenceSession(path.read_bytes(), options)
        self.name = name
        self.input, self.output = self.session.get_inputs()[0], self.session.get_outputs()[0]
        config = text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        meta = pb.ModelMetadataResponse(name=name, versions=["1"], platform="onnxruntime_onnx")
        for tensors, tensor in ((meta.inputs, self.input), (meta.outputs, self.output)):
            tensors.add(name=tensor.name, datatype="FP32", shape=[-1, tensor.shape[1]])
        self.fixed: Fixed = {
            "ServerMetadata": pb.ServerMetadataResponse(name="bare", version="1").SerializeToString(),
            "ModelMetadata": meta.SerializeToString(),
            "ModelConfig": pb.ModelConfigResponse(config=config).SerializeToString(),
            "ModelInfer": self.answer(np.zeros((1, self.input.shape[1]), np.float32)),
        }

    def answer(self, rows: Any) -> bytes:
        """A ModelInferResponse for `rows` [B, I]."""
        (values,) = self.session.run([self.output.name], {self.input.name: rows})
        response = pb.ModelInferResponse(model_name=self.name, model_version="1")
        response.outputs.add(name=self.output.name, datatype="FP32", shape=values.shape)
        response.raw_output_contents.append(values.tobytes())
        return response.SerializeToString()

    def infer(self, data: bytes) -> bytes:
        """The response to a ModelInferRequest, without checks."""
        request = pb.ModelInferRequest.FromString(data)
        rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(tuple(request.inputs[0].shape))
        return self.answer(rows)


async def grpcio(port: int, answers: Fixed, infer: Callable[[bytes], bytes]) -> Callable[[], Awaitable[None]]:
    """Serve with grpc.aio. Returns what stops it."""

    def handler(name: str) -> Any:
        async def handle(data: bytes, context: Any) -> bytes:
            return infer(data) if name == "ModelInfer" else answers[name]

        return grpc.unary_unary_rpc_method_handler(handle)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {name: handler(name) for name in answers}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()

    async def stop() -> None:
        await server.stop(0)

    return stop


async def asgi(port: int, answers: Fixed) -> Callable[[], Awaitable[None]]:
    """Serve with h2corn, as the asgi transport has it. Returns what stops it."""
    import h2corn

    bodies = {f"/{SERVICE}/{name}": b"\0" + struct.pack(">I", len(data)) + data for name, data in answers.items()}
    start = {"type": "http.response.start", "status": 200, "trailers": True}
    start["headers"] = [(b"content-type", b"application/grpc")]
    end = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start)
        await send({"type": "http.response.body", "body": bodies.get(scope["path"], b"")})
        await send(end)

    config = h2corn.Config(
        bind=(f"127.0.0.1:{port}",), grpc=True, lifespan="off", loop="asyncio", runtime_threads=1, access_log=False
    )
    server = h2corn.Server(application, config)
    serving = asyncio.create_task(server.serve())
    await server.wait_started()

    async def stop() -> None:
        server.shutdown()
        await serving

    return stop


async def main(kind: str, port: int, model: Model) -> None:
    """Serve until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    if kind == "noop-asgi":
        stop = await asgi(port, model.fixed)
    elif kind == "noop-grpcio":
        stop = await grpcio(port, model.fixed, lambda data: model.fixed["ModelInfer"])
    else:
        stop = await grpcio(port, model.fixed, model.infer)
    print("ready", flush=True)
    await stopped.wait()
    await stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Model(Path(sys.argv[3]), sys.argv[4])))
