"""Shadow deployment: correct reports on a version that receives mirrored traffic, and unaffected clients."""

import asyncio
import math
import shutil
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from kanserve.models.shadow import BYTES, WAIT, Shadow, differences, other_classes
from kanserve.observability.metrics import Metrics
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.types import TensorInfo
from tests.kanserve.grpc_api.hot_path import test_method
from tests.support import reload_tools, toy_model
from tests.support.bad_requests import refused
from tests.support.command_line import document, kanserve
from tests.support.server_process import INFERENCE, KAN, Server, request, serving
from tests.support.wait import until

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("supplied", "actual", "apart"),
    [
        ([[1.0, 2.0], [0.1, 0.2]], [[1.0, 2.5], [0.1, 0.3]], [0.25, 0.1]),  # by the largest, or by 1
        ([[NAN, 1.0], [INF, 1.0], [-INF, 1.0]], [[NAN, 1.0], [INF, 1.0], [INF, 1.0]], [0, 0, INF]),
        ([[NAN, 1.0], [1.0, 1.0]], [[1.0, 1.0], [NAN, 1.0]], [INF, INF]),
        ([["a", "b"], ["a", "b"]], [["a", "b"], ["a", "c"]], [0, INF]),
    ],
)
def test_how_far_rows_are_apart(supplied: list, actual: list, apart: list) -> None:
    kind = object if isinstance(supplied[0][0], str) else np.float32
    same = np.zeros((len(supplied), 1), np.float32)
    pairs = ([np.array(item, kind), same] for item in (supplied, actual))
    np.testing.assert_allclose(differences(*pairs), apart, rtol=1e-6)


@pytest.mark.parametrize(
    ("supplied", "actual", "count"),
    [
        ([[1, 2], [2, 1], [1, 2]], [[1, 3], [1, 2], [5, 4]], 2),
        ([[NAN, 1], [NAN, 1], [1, 2]], [[1, NAN], [0, 1], [1, NAN]], 2),  # NaN is a separate class
        ([[1, 1]], [[2, 2]], 0),  # the first of equal outputs
        ([[[1, 2], [1, 2]], [[1, 2], [1, 2]]], [[[1, 2], [2, 1]], [[1, 2], [1, 2]]], 1),  # any position of a row
    ],
)
def test_rows_of_another_class(supplied: list, actual: list, count: int) -> None:
    assert other_classes(np.array(supplied, np.float32), np.array(actual, np.float32)) == count


def test_other_shapes_are_no_output() -> None:
    with pytest.raises(ValueError, match="the output has the shape"):
        differences([np.zeros((2, 3))], [np.zeros((2, 2))])


def asked(server: Server, model: str = "toy", **fields: object) -> kan_pb2.ShadowReport:
    message = kan_pb2.ShadowModelRequest(model_name=model, **fields)
    return kan_pb2.ShadowReport.FromString(server.call(f"{KAN}ShadowModel", message.SerializeToString()))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Version 1 is the toy, version 2 gives twice its outputs."""
    for version in (1, 2):
        reload_tools.write(tmp_path / "toy" / str(version), float(version), version=version)
    return tmp_path


def test_what_is_told(two: Path, transport: str) -> None:
    with serving(two, transport=transport, repository_poll_seconds=0.1) as server:
        result = asked(server, model_version="1", tolerance=0.4)
        assert (result.model_version, result.baseline_version, result.running, result.share) == ("1", "2", True, 1)
        rows = np.concatenate([np.zeros((1, 3), np.float32), reload_tools.ROWS])  # of zeros the responses are alike
        for count in range(20):  # the first by the long way, others by the short one
            assert reload_tools.factor(server) == 2
            server.infer(rows[: 1 + count % 3])
        # A half of the output, by the largest of its row or by 1.
        size = np.abs(2 * toy_model.outputs(rows)).max(axis=1)
        apart = size / 2 / np.maximum(1, size)
        sent = 20 * 2 + sum(1 + count % 3 for count in range(20))
        beyond = 20 * int((apart[1:] > 0.4).sum()) + sum(int((apart[: 1 + c % 3] > 0.4).sum()) for c in range(20))
        series = '{model="toy",version="1"}'
        until(lambda: asked(server).requests == 40)
        mismatched = f"kanserve_shadow_mismatched_rows_total{series}"
        until(lambda: reload_tools.shown(server, mismatched) == beyond)  # the shadow counts it last
        reported = asked(server)
        assert (reported.rows, reported.rows_out_of_tolerance) == (sent, beyond)
        assert (reported.requests_dropped, reported.requests_failed) == (0, 0)
        assert reported.largest_difference == pytest.approx(apart.max(), rel=1e-5)
        assert reload_tools.shown(server, f"kanserve_shadow_rows_total{series}") == sent
        assert reload_tools.shown(server, f"nv_inference_count{series}") == 0, "nobody asked it"
        assert reported.HasField("rows_with_other_class")
        assert reported.rows_with_other_class == 0
        reload_tools.swap(reload_tools.write(two / "made", -2.0), two / "toy" / "1")  # the other output is the largest
        until(lambda: asked(server).rows == 0)
        assert reload_tools.factor(server) == 2
        until(lambda: asked(server).rows == 2)
        assert (asked(server).rows_with_other_class, asked(server).rows_out_of_tolerance) == (2, 2)
        until(lambda: reload_tools.shown(server, f"kanserve_shadow_other_class_rows_total{series}") == 2)
        done = document(kanserve("shadow", "toy", "--stop", "--url", server.address, "--json"))
        assert (done["running"], done["rows"], done["rows_with_other_class"]) == (False, 2, 2)
        assert reload_tools.factor(server) == 2
        assert reload_tools.factor(server) == 2  # a request of which the server would have told the shadow by now
        assert asked(server).rows == 2


class Slow:
    """A version whose runs wait until they are let go."""

    def __init__(self) -> None:
        self.info = types.SimpleNamespace(name="toy", version=1, outputs=[TensorInfo("y", "FP32", (-1, 1))])
        self.began, self.go, self.session = threading.Event(), threading.Event(), self

    def run(self, names: object, feeds: object) -> list[np.ndarray]:
        self.began.set()
        self.go.wait(600)
        return [np.ones((1, 1))]


def test_what_is_too_much_is_dropped_and_delays_nobody() -> None:
    slow = Slow()
    shadow = Shadow(slow, 2, 1.0, 0.1, Metrics())  # type: ignore[arg-type]  # as much of a model as it asks for
    for _ in range(WAIT + 10):
        shadow.offer(["y"], 10, lambda: ({}, [np.zeros((1, 1))]))
    shadow.offer(["y"], BYTES, lambda: ({}, [np.zeros((1, 1))]))
    assert shadow.requests_dropped == 11
    slow.go.set()
    until(lambda: (shadow.requests, shadow._bytes) == (WAIT, 0))  # a copy is let go after it is counted
    shadow.offer(["y"], BYTES, lambda: ({}, [np.zeros((1, 1))]))
    until(lambda: (shadow.requests, shadow._bytes) == (WAIT + 1, 0))
    assert (shadow.rows_out_of_tolerance, shadow.largest_difference, shadow.requests_dropped) == (WAIT + 1, 1.0, 11)
    shadow.end()


def test_a_run_that_ends_after_the_unload_creates_no_series() -> None:
    slow, metrics = Slow(), Metrics()
    shadow = Shadow(slow, 2, 1.0, 0.1, metrics)  # type: ignore[arg-type]  # as above
    assert b'kanserve_shadow_rows_total{model="toy",version="1"} 0' in metrics.text()
    shadow.offer(["y"], 10, lambda: ({}, [np.zeros((1, 1))]))
    assert slow.began.wait(60)
    shadow.end()
    metrics.forget("toy", "1")
    slow.go.set()
    until(lambda: (shadow.rows, shadow._bytes) == (1, 0))
    assert b'model="toy"' not in metrics.text()


def test_what_cannot_be_tried_and_a_share_of_the_requests(two: Path) -> None:
    with serving(two) as server:
        for fields, code in (
            ({}, "FAILED_PRECONDITION"),
            ({"stop": True}, "FAILED_PRECONDITION"),
            ({"model_version": "2"}, "FAILED_PRECONDITION"),
            ({"model_version": "7"}, "NOT_FOUND"),
            ({"model_version": "1", "share": 1.5}, "INVALID_ARGUMENT"),
            ({"model_version": "1", "tolerance": NAN}, "INVALID_ARGUMENT"),
        ):
            with refused(grpc.StatusCode[code]):
                asked(server, **fields)
        asked(server, model_version="1", share=0.25)
        for _ in range(40):
            reload_tools.factor(server)
        until(lambda: asked(server).requests == 10)
        kanserve("promote", "toy", "1", "--url", server.address)
        assert not asked(server).running, "it serves itself"


class Broken:
    def __init__(self) -> None:
        self.offers = 0

    def offer(self, names: object, size: int, copy: object) -> None:
        self.offers += 1
        raise RuntimeError("it is broken")


def test_who_observes_is_never_in_the_way_of_a_response(tmp_path: Path) -> None:
    """On the usual path and the hot path; and observers get no request of an unloaded model."""
    toy_model.write(tmp_path)
    served, broken, reported = test_method.Served(tmp_path), Broken(), []
    served.loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
    model = served.registry.resolve("toy", "")
    asked = request(test_method.ROWS).SerializeToString()
    try:
        responses = [served.first(asked)]
        model.observe("shadow", broken)
        responses += [served.again(asked) for _ in range(3)]
        assert all(response == responses[0] for response in responses)
        served.loop.run_until_complete(asyncio.sleep(0))
        assert broken.offers == 3
        assert reported == ["it is broken"] * 3
        served.loop.call_soon(model.leave)
        served.loop.run_until_complete(asyncio.sleep(0))
        assert not model.observed
    finally:
        served.registry.close()
        served.loop.close()


def test_a_version_that_leaves_under_a_shadow_ends_what_it_has_in_flight(
    tmp_path: Path, transport: str, hold: Path
) -> None:
    """Before, the request ended with INTERNAL: the server offered it to the shadow of the removed version."""
    toy_model.write_slow(tmp_path, steps=1)
    shutil.copytree(tmp_path / "slow" / "1", tmp_path / "slow" / "2")
    message = request(np.ones((1, 1), np.float32), "slow")
    how = {"model_control": "explicit", "load_model": "*", "plain_onnx": True}
    with serving(tmp_path, transport=transport, **how) as server, ThreadPoolExecutor(1) as pool:
        assert asked(server, "slow", model_version="1", tolerance=1.0).running
        response = pool.submit(server.call, f"{INFERENCE}ModelInfer", message.SerializeToString(), 60)
        until(lambda: "kanserve_inflight_requests 1.0" in server.metrics())
        policy = "version_policy { specific { versions: [1] } }"
        (tmp_path / "slow" / "config.pbtxt").write_text(f'platform: "onnxruntime_onnx"\n{policy}\n')
        load = pb.RepositoryModelLoadRequest(model_name="slow").SerializeToString()
        server.call(f"{INFERENCE}RepositoryModelLoad", load)
        assert not asked(server, "slow").running
        hold.unlink()
        assert pb.ModelInferResponse.FromString(response.result(60)).model_version == "2"
