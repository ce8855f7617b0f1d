"""ModelInfer: a request with a known head gets the same response or error as the first one."""

import asyncio
import gc
import time
import weakref
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.config.settings import Settings
from kanserve.errors import KanserveError
from kanserve.execution.executor import Limits
from kanserve.grpc_api.call_context import Call
from kanserve.grpc_api.hot_path import method
from kanserve.grpc_api.hot_path.method import HotMethod
from kanserve.grpc_api.inference import InferenceService
from kanserve.models.loader import Loader
from kanserve.models.reconciler import Reconciler
from kanserve.models.registry import Registry
from kanserve.observability.metrics import Metrics
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.repository import layout
from kanserve.services.control import Catalogue, Control, Shadows, WorkerBus
from kanserve.services.explain import Explainer
from kanserve.services.inference import Inference
from kanserve.services.kan import Kan
from kanserve.system.lifecycle import Lifecycle
from tests.support import toy_model
from tests.support.server_process import request
from tests.support.wait import turns, until_async

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3) / 4


async def nothing() -> None:
    """No client watches for changed models."""


class Served:
    """One model in this process; `first` handles each request as if it were the first."""

    def __init__(self, root: Path) -> None:
        self.loop = asyncio.new_event_loop()
        (candidate,) = layout.scan(root, plain_onnx=False)
        chosen = Settings(repository=root, inline_run_seconds=1.0)  # a slow machine uses the same path
        self.registry, metrics = Registry(), Metrics()
        self.loader = Loader(chosen, 1, metrics)
        self.bundle = layout.load(candidate, chosen.max_file_bytes)
        self.registry.begin_load("toy", 1)
        self.registry.swap_in(self.loader.load(self.bundle))
        reconciler = Reconciler(chosen, 1, self.registry, metrics, nothing)
        control = Control(reconciler, self.registry, Shadows(self.registry, metrics), WorkerBus())
        kan = Kan(self.registry, 2**10, 2**20, 2**20)
        explainer = Explainer(kan)
        inference, catalogue = (
            Inference(self.registry, metrics, 2**20, 2**10, explainer),
            Catalogue(self.registry, Lifecycle()),
        )
        account: Any = None  # no call is native
        self._make = lambda: HotMethod(InferenceService(inference, catalogue, control, 2**20), account, None, None)
        self.service = self._make()

    def first(self, data: bytes) -> bytes | tuple[type, str]:
        return self._ask(self._make().infer(data, Call("call", False, None)))

    def again(self, data: bytes) -> bytes | tuple[type, str]:
        return self._ask(self.service.infer(data, Call("call", False, None)))

    def _ask(self, query: Coroutine[Any, Any, bytes]) -> bytes | tuple[type, str]:
        try:
            return self.loop.run_until_complete(query)
        except KanserveError as error:
            return type(error), str(error)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("known")
    toy_model.write(root)
    created = Served(root)
    yield created
    created.registry.close()
    created.loop.close()


@pytest.mark.parametrize(
    ("id", "outputs", "version"), [("", (), ""), ("a", ("y",), "1"), ("é" * 100, (), "1"), ("é" * 100, ("y",), "")]
)
def test_the_second_response_is_the_first(toys: Served, id: str, outputs: tuple[str, ...], version: str) -> None:
    message = request(ROWS, id=id, model_version=version)
    for name in outputs:
        message.outputs.add(name=name)
    requested = message.SerializeToString()
    assert toys.again(requested) == toys.again(requested) == toys.first(requested)
    others = request(ROWS + 1, id="other", model_version=version)
    for name in outputs:
        others.outputs.add(name=name)
    response = pb.ModelInferResponse.FromString(toys.again(others.SerializeToString()))
    assert response.id == "other"
    values = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(2, 2)
    np.testing.assert_allclose(values, toy_model.outputs(ROWS + 1), rtol=1e-6)


@pytest.mark.parametrize("wanted", [None, True, False], ids=["bare", "as perf_analyzer", "as perf_analyzer, false"])
def test_known_heads_are_used(toys: Served, monkeypatch: pytest.MonkeyPatch, wanted: bool | None) -> None:
    message = request(ROWS, id="x")
    if wanted is not None:
        message.parameters["triton_enable_empty_final_response"].bool_param = wanted
    requested = message.SerializeToString()
    expected = toys.again(requested)
    assert expected == toys.first(requested)
    monkeypatch.setattr(toys.service, "_first", None)
    assert toys.again(requested) == expected


def test_a_message_like_the_last_is_neither_parted_nor_queued(toys: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        toys.again(request(ROWS, id="x").SerializeToString())
    others = [request(ROWS + 1, id=id).SerializeToString() for id in ("", "y" * 100)]
    expected = [toys.first(requested) for requested in others]
    monkeypatch.setattr(method, "split", None)
    monkeypatch.setattr(Inference, "run", None)
    assert [toys.again(requested) for requested in others] == expected


@settings(max_examples=settings.default.max_examples // 5)
@given(st.data())
def test_a_changed_byte_is_served_as_if_it_were_the_first(toys: Served, data: st.DataObject) -> None:
    """Bytes changed, inserted, removed: the service with a cache gives the same result as one without."""
    whole = request(ROWS, id="abc").SerializeToString()
    toys.again(whole)
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    requested = bytes(changed)
    assert toys.again(requested) == toys.first(requested)


def test_all_is_forgotten_when_a_model_comes_or_goes(toys: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = request(ROWS).SerializeToString()
    toys.again(requested)
    toys.registry.begin_load("another", 1)
    monkeypatch.setattr(toys.service, "_first", None)
    with pytest.raises(TypeError):
        toys.again(requested)


def test_heads_are_bounded(toys: Served) -> None:
    known = toys.service._known
    for rows in range(1, 9):
        toys.again(request(np.zeros((rows, 3), np.float32)).SerializeToString())
    assert 8 <= len(known) <= method.MOST_HEADS
    large = request(ROWS)
    large.outputs.add(name="y")
    large.model_name = "toy"
    large.model_version = "0" * method.MOST_BYTES + "1"
    before = len(known)
    toys.again(large.SerializeToString())
    assert len(known) == before


@pytest.mark.parametrize("known", [True, False])
def test_a_model_that_left_is_gone_without_the_collector(tmp_path: Path, *, known: bool) -> None:
    """Requests in flight keep an unloaded model. No known head, deadline timer or reference cycle keeps it longer."""
    toy_model.write(tmp_path)
    created = Served(tmp_path)
    registry, data = created.registry, request(ROWS).SerializeToString()
    # A request with an unknown head waits for a thread and has a deadline timer.
    threads = Loader(Settings(repository=tmp_path, inline_run_seconds=0), 1, Metrics())

    async def main() -> None:
        if not known:
            registry.swap_in(threads.load(created.bundle))
        old = registry.resolve("toy", "")
        for _ in range(3 * known):
            await created.service.infer(data, Call("call", False, None))
        limits = Limits(deadline=time.monotonic() + 3600)
        waiting = [asyncio.create_task(old.executor.run(["y"], {"x": ROWS}, 2, limits)) for _ in range(70)]
        await turns(2)
        assert registry.swap_in(created.loader.load(created.bundle)) is old
        left, session = old.leave(), weakref.ref(old.session)
        del old
        assert [(await item).outputs[0].shape for item in waiting] == [(2, 2)] * 70
        waiting.clear()
        await until_async(lambda: [user() for user in left.users] == [None, None])
        assert session() is not None, "it is dropped where that may take its time"
        left.parts.clear()
        await until_async(lambda: session() is None)  # a thread may still end its last run

    gc.disable()
    try:
        created.loop.run_until_complete(main())
    finally:
        gc.enable()
        registry.close()
        created.loop.close()


TENSORS = st.builds(
    lambda name, shape: pb.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=shape),
    st.sampled_from(["x", "y" * 200]),
    st.lists(st.integers(-1, 2**40), max_size=3),
)
MESSAGES = st.builds(
    pb.ModelInferRequest,
    model_name=st.text(max_size=3),
    model_version=st.sampled_from(["", "1"]),
    id=st.text(max_size=300),
    inputs=st.lists(TENSORS, max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=300), min_size=1, max_size=2),
)


@settings(max_examples=settings.default.max_examples // 5)
@given(MESSAGES, st.binary(max_size=60))
def test_parts_are_the_message(message: pb.ModelInferRequest, data: bytes) -> None:
    parts = method.split(data)
    assert parts is None or parts.raw, "any bytes are parted or not"
    requested = message.SerializeToString()
    parts = method.split(requested)
    assert parts is not None
    assert parts.id.decode() == message.id
    assert [requested[begin:stop] for begin, stop in parts.raw] == list(message.raw_input_contents)
    rest = pb.ModelInferRequest.FromString(parts.head)
    message.ClearField("id")
    message.ClearField("raw_input_contents")
    assert rest == message


def test_what_has_parameters_or_a_field_twice_is_not_remembered() -> None:
    """The last value of a field counts."""
    whole, other = request(ROWS).SerializeToString(), pb.ModelInferRequest(model_name="other").SerializeToString()
    late, text = request(ROWS), request(ROWS)
    late.parameters["timeout"].int64_param = 10**6
    text.parameters["triton_enable_empty_final_response"].string_param = "x"
    for message in (late.SerializeToString(), text.SerializeToString(), whole + other, other + whole):
        assert method.split(message) is None


@pytest.mark.parametrize("fields", [b"\x2a\x00", b"\x3a\x00"], ids=["inputs", "bytes"])
def test_a_message_of_a_million_fields_is_given_up_early(fields: bytes) -> None:
    """Parting it whole took a second of the event loop."""
    few, many = (pb.ModelInferRequest(model_name="toy").SerializeToString() + fields * n for n in (10_000, 2_000_000))
    assert method.split(few) is None
    begun = time.thread_time()
    assert method.split(many) is None
    assert time.thread_time() - begun < 0.5
