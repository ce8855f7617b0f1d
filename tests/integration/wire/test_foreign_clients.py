"""A generic client without knowledge of kanserve, in a separate process."""

import subprocess
import sys

import pytest

from tests.support.server_process import SHARED, Server

TRITON = """
import queue, sys
import kanserve.grpc_api.infer_codec, kanserve.transport.grpc_aio  # beside tritonclient, in one process
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("toy") and client.is_model_ready("toy", "1")
metadata = client.get_server_metadata()
assert metadata.name == "kanserve" and "statistics" in metadata.extensions
assert client.get_model_metadata("toy", as_json=True)["inputs"][0]["shape"] == ["-1", "3"]
assert client.get_model_config("toy").config.max_batch_size == 64
assert {m.name for m in client.get_model_repository_index().models} == {"toy", "toy64"}

rows = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
def ask(model="toy", array=rows, **options):
    kind = {"float32": "FP32", "float64": "FP64", "int32": "INT32"}[array.dtype.name]
    tensor = triton.InferInput("x", list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return client.infer(model, [tensor], **options)

plain = ask().as_numpy("y")
assert plain.shape == (5, 2) and plain.dtype == np.float32
full = ask(outputs=[triton.InferRequestedOutput("y")], request_id="r1", priority=1, timeout=10**6,
           headers={"x-request-id": "h1"}, compression_algorithm="gzip", client_timeout=60,
           parameters={"own": "value"})
assert full.get_response().id == "r1" and np.array_equal(full.as_numpy("y"), plain)
double = ask("toy64", rows.astype(np.float64)).as_numpy("y")
assert double.dtype == np.float64 and np.allclose(double, plain, atol=1e-5)
assert ask(array=rows[:0]).as_numpy("y").shape == (0, 2)
try:
    ask(array=rows.astype(np.int32))
except InferenceServerException as error:
    assert "data-type is 'INT32', but model 'toy' expects 'FP32'" in error.message(), error
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
else:
    raise AssertionError("a wrong datatype was accepted")
before = client.get_inference_statistics("toy", "2").model_stats[0].inference_count
ask()
assert client.get_inference_statistics("toy", "2").model_stats[0].inference_count == before + 5
done = queue.Queue()
tensor = triton.InferInput("x", [1, 3], "FP32"); tensor.set_data_from_numpy(rows[:1])
client.async_infer("toy", [tensor], lambda result, error: done.put(error))
assert done.get(timeout=60) is None
print("all well")
"""


@pytest.mark.parametrize("server", SHARED, indirect=True)
def test_tritonclient(server: Server) -> None:
    result = subprocess.run([sys.executable, "-c", TRITON, server.address], capture_output=True, text=True, timeout=240)
    assert (result.returncode, result.stdout.strip()) == (0, "all well"), result.stderr
