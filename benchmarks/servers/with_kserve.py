"""KServe's Python server with an onnxruntime session: with_kserve.py PORT MODEL.onnx NAME, in KServe's environment."""

import sys
from typing import Any

import kserve
import numpy as np
import onnxruntime
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse

PORT, PATH, NAME = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Served(kserve.Model):
    """A KServe model that runs the graph in `predict`."""

    def __init__(self) -> None:
        super().__init__(NAME)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(PATH, options)
        self.output = self.session.get_outputs()[0].name
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Respond to one request."""
        tensor = payload.inputs[0]
        values = self.session.run([self.output], {tensor.name: tensor.as_numpy()})[0]
        output = InferOutput(self.output, list(values.shape), "FP32")
        output.set_data_from_numpy(np.ascontiguousarray(values), binary_data=True)
        return InferResponse(payload.id or "", NAME, [output])


if __name__ == "__main__":
    arguments = ["--http_port", str(PORT + 1), "--grpc_port", str(PORT), "--enable_grpc", "true"]
    sys.argv[1:] = arguments
    kserve.ModelServer(http_port=PORT + 1, grpc_port=PORT, enable_grpc=True, workers=1, access_log_format=None).start(
        [Served()]
    )
