"""Structured fuzz: requests that are valid except for one field, which the error must name."""

from __future__ import annotations

import random
from collections.abc import Callable

import grpc
import numpy as np

from kanserve.pb import grpc_service_pb2 as pb
from tests.support.server_process import INFERENCE, request
from tools import fuzz_wire
from tools.reliability.base import Outcome, Row, Scale, suite
from tools.reliability.helpers import toys

Break = Callable[[random.Random, pb.ModelInferRequest], str]
DATATYPES = ("FP64", "FP16", "BF16", "INT64", "INT8", "UINT32", "BOOL", "BYTES", "float", "", "FP33", "ü" * 40)


def datatype(rng: random.Random, message: pb.ModelInferRequest) -> str:
    message.inputs[0].datatype = rng.choice(DATATYPES)
    return "'x'"


def shape(rng: random.Random, message: pb.ModelInferRequest) -> str:
    extremes = (-1, 0, 1, 2, 4, 65, 2**31, 2**40, 2**63 - 1, -(2**63))
    result = [rng.choice(extremes) for _ in range(rng.randrange(5))]
    message.inputs[0].shape[:] = result if result not in ([4, 3], [0, 3]) else [3, 4]
    return "x|batch-size"


def length(rng: random.Random, message: pb.ModelInferRequest) -> str:
    size = rng.choice([0, 1, 47, 49, 96, rng.randrange(1, 10_000)])
    message.raw_input_contents[0] = bytes(size if size != 48 else 44)
    return "'x'"


def name(rng: random.Random, message: pb.ModelInferRequest) -> str:
    message.inputs[0].name = rng.choice(["", "X", "xx", "y", "input 1", "\n", "é"])
    return message.inputs[0].name.strip() or "x"


def twice(rng: random.Random, message: pb.ModelInferRequest) -> str:
    for _ in range(rng.randrange(1, 4)):
        message.inputs.append(message.inputs[0])
        message.raw_input_contents.append(message.raw_input_contents[0])
    return "'x'"


def both(rng: random.Random, message: pb.ModelInferRequest) -> str:
    message.inputs[0].contents.fp32_contents.extend([0.5] * rng.randrange(1, 20))
    return "x"


def more_raw(rng: random.Random, message: pb.ModelInferRequest) -> str:
    message.raw_input_contents.extend([bytes(48)] * rng.randrange(1, 5))
    return "raw"


def output(rng: random.Random, message: pb.ModelInferRequest) -> str:
    wanted = rng.choice(["z", "Y", "", "layer1_in"])
    message.outputs.add(name=wanted)
    return wanted or "output"


def too_many_rows(rng: random.Random, message: pb.ModelInferRequest) -> str:
    rows = rng.randrange(65, 500)
    message.inputs[0].shape[:] = [rows, 3]
    message.raw_input_contents[0] = bytes(rows * 12)
    return "batch-size must be <= 64"


BREAKS: tuple[Break, ...] = (datatype, shape, length, name, twice, both, more_raw, output, too_many_rows)


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Separate calls, one after the other."""
    rng, count = random.Random(seed), scale.of(150, 20_000)
    odd: list[str] = []
    with toys(transport) as server:
        for number in range(count):
            change = rng.choice(BREAKS)
            message = request(np.zeros((4, 3), np.float32))
            named = change(rng, message)
            try:
                server.call(f"{INFERENCE}ModelInfer", message.SerializeToString())
                code, words = "OK", ""
            except grpc.RpcError as error:
                code, words = error.code().name, error.details() or ""
            reported = any(item in words for item in named.split("|"))
            if code != "INVALID_ARGUMENT" or not reported or fuzz_wire.LEAK.search(words):
                odd.append(f"{change.__name__}: {code} {words[:150]!r}")
            scale.tell(number, count)
        alive = server.process.poll() is None
    figures = {"requests": count, "INVALID_ARGUMENT and named": count - len(odd), "other": len(odd)}
    return Outcome(figures, alive and not odd, count, "; ".join(sorted(set(odd))[:3]))


ROW = Row(
    number="3",
    title="Structured fuzzing",
    method=(
        "Valid requests get one defect each: data type, shape, length, name, a duplicate name, raw and typed "
        "contents together, outputs."
    ),
    goal="100% INVALID_ARGUMENT with a message that names the field.",
    result="{INVALID_ARGUMENT and named} of {requests} requests.",
    wire=True,
    run=run,
)
test_row = suite(ROW)
