"""MLServer with an onnxruntime session: with_mlserver.py PORT MODEL.onnx NAME, in MLServer's environment."""

import asyncio
import sys

import numpy as np
import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

PORT, PATH, NAME = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Served(MLModel):
    """An MLServer model that runs the graph in `predict`."""

    async def load(self) -> bool:
        """Prepare the session."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(PATH, options)
        self.output = self.session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Respond to one request."""
        tensor = payload.inputs[0]
        rows = NumpyCodec.decode_input(tensor).astype(np.float32, copy=False)
        values = self.session.run([self.output], {tensor.name: rows})[0]
        return InferenceResponse(model_name=NAME, outputs=[NumpyCodec.encode_output(self.output, values)])


async def main() -> None:
    """Serve until a signal."""
    settings = Settings(
        http_port=PORT + 1, grpc_port=PORT, metrics_endpoint=None, parallel_workers=0, host="127.0.0.1", debug=False
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name=NAME, implementation=Served)])


if __name__ == "__main__":
    asyncio.run(main())
