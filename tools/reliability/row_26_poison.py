"""One bad request among good ones: a row on which the graph fails does not fail other requests of its batch."""

from __future__ import annotations

import asyncio
import collections
import random
import tempfile
from pathlib import Path

import grpc
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kanexport.shared import manifest as manifests
from kanserve.pb import grpc_service_pb2 as pb
from tests.support import toy_model
from tests.support.server_process import INFERENCE, serving
from tools.reliability.base import Outcome, Row, Scale, suite

TABLE = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
TOGETHER = 8  # requests of one moment, one of them bad


def write(repository: Path) -> None:
    """A plain graph x [B, 1] -> y [B, 2] that looks numbers up, and fails for one that is not in the table."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["at"]),
        helper.make_node("Gather", ["table", "at"], ["y"], axis=0),
    ]
    values = [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array([-1], np.int64), "flat")]
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["B", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 2])
    body = helper.make_graph(nodes, "lookup", [x], [y], values)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = repository / "lookup" / "1"
    folder.mkdir(parents=True)
    (folder / manifests.MODEL_FILE).write_bytes(model.SerializeToString())


def message(number: int) -> bytes:
    """A request for one row."""
    requested = pb.ModelInferRequest(model_name="lookup")
    requested.inputs.add(name="x", datatype="INT64", shape=[1, 1])
    requested.raw_input_contents.append(np.array([number], "<i8").tobytes())
    return requested.SerializeToString()


async def moments(address: str, rng: random.Random, count: int, scale: Scale) -> collections.Counter[str]:
    """Outcomes of good and bad requests; the client sends those of one moment together."""
    seen: collections.Counter[str] = collections.Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(f"{INFERENCE}ModelInfer")

        async def ask(number: int) -> None:
            bad = not 0 <= number < len(TABLE)
            try:
                answer = pb.ModelInferResponse.FromString(await call(message(number), timeout=30))
            except grpc.aio.AioRpcError as error:
                seen["bad refused" if bad else f"good {error.code().name}"] += 1
                return
            right = not bad and answer.raw_output_contents[0] == TABLE[number].tobytes()
            seen["good answered" if right else "wrong"] += 1

        for at in range(count):
            numbers = [rng.randrange(len(TABLE)) for _ in range(TOGETHER - 1)] + [rng.choice([10**6, -(10**6)])]
            rng.shuffle(numbers)
            await asyncio.gather(*map(ask, numbers))
            scale.tell(at + 1, count)
    return seen


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Outputs of a batch equal the unbatched outputs, bit by bit."""
    count = scale.of(100, 10_000)
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        write(Path(folder))
        with serving(
            Path(folder), transport=transport, plain_onnx=True, access_log="none", log_level="error"
        ) as server:
            seen = asyncio.run(moments(server.address, random.Random(seed), count, scale))
    failed = {name for name in seen if name.startswith("good ")} - {"good answered"}
    figures = {
        "moments": count,
        "good ones answered, bit by bit": seen["good answered"],
        "bad ones refused": seen["bad refused"],
        "others that failed": sum(seen[name] for name in failed),
        "wrong": seen["wrong"],
    }
    good = seen["good answered"] == count * (TOGETHER - 1) and seen["bad refused"] == count
    return Outcome(figures, good, count * TOGETHER, ", ".join(sorted(failed)))


ROW = Row(
    number="26",
    title="Invalid row in a batch",
    method="8 requests arrive at once, 10,000 times. The graph fails on one of them.",
    goal="The other 7 succeed with the same bits as unbatched.",
    result="{good ones answered, bit by bit} bit-identical, {others that failed} failed, {wrong} wrong.",
    wire=True,
    guarded_by=("tests/kanserve/execution/test_executor.py::test_one_bad_row_does_not_fail_its_neighbours",),
    run=run,
)
test_row = suite(ROW)
