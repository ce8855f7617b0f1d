"""Certificates of served models: gRPC, REST, both clients, commands, the report, and versions that are rejected."""

import asyncio
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanexport.bundle.certification import CertifyOptions
from kanexport.pipeline import Request, export
from kanexport.shared import manifest
from kanexport.shared.naming import Names
from kanexport.shared.sections import AS_TRAINED, FLAG, NO_CERTIFICATE, REJECT, CertificateInfo
from kanserve.client.aio import AsyncClient
from kanserve.client.errors import NotFound
from kanserve.client.sync import Client
from kanserve.grpc_api import model_codec
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.types import ModelInfo, TensorInfo
from tests.support import http_client, toy_model
from tests.support.bad_requests import refused
from tests.support.command_line import document, kanserve, program
from tests.support.golden_cases import cases
from tests.support.server_process import INFERENCE, SHARED, Server, serving
from tests.support.server_process import request as request_of
from tests.support.tiers import full
from tests.support.wait import until

NAMES = Names(features=("a", "b"), classes=("z",))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a certificate, and one without."""
    root = tmp_path_factory.mktemp("certificates") / "models"
    (case,) = (case for case in cases() if case.name == "pykan-hello-pruned")
    certified = CertifyOptions(budget=1.0)
    export(Request(path=case.path, repository=root, name="hello", names=NAMES, certification=certified))
    toy_model.write(root, "toy")
    return root


served = http_client.served(SHARED, "models", repository_poll_seconds=0.2)


def stored(models: Path) -> CertificateInfo:
    return manifest.load(models / "hello" / "1").certificate


def test_the_clients(served: Server, models: Path) -> None:
    with Client(served.address) as client:
        assert client.certificates("hello") == (stored(models),)
        assert client.describe("hello").certificate == stored(models)
        assert client.certificates("toy") == ()
        assert client.describe("toy").certificate == NO_CERTIFICATE
        with pytest.raises(NotFound):
            client.certificates("none")
        with pytest.raises(NotFound):
            client.certificates("hello", "7")

    async def awaited() -> tuple[CertificateInfo, ...]:
        async with AsyncClient(served.address) as peer:
            return await peer.certificates("hello", "1")

    assert asyncio.run(awaited()) == (stored(models),)


def test_the_routes(served: Server, models: Path) -> None:
    for route in ("/v1/kan/models/hello/certificates", "/v1/kan/models/hello/versions/1/certificates"):
        reply = http_client.ask(served, route)
        assert reply.status == 200
        (box,) = reply.json["certificates"]
        assert box["low"] == list(stored(models).low)
        assert box["outputs"][0]["high"] == stored(models).output_high[0]
        assert box["effects"][0]["direction"] == "neither"
    assert http_client.ask(served, "/v1/kan/models/toy/certificates").json["certificates"] == []
    assert http_client.ask(served, "/v1/kan/models/none/certificates").status == 404
    parts = {part["heading"]: part for part in http_client.ask(served, "/v1/kan/models/hello/report").json["parts"]}
    assert parts["Certified ranges"]["lines"][0][0] == "z"
    assert [line[0] for line in parts["Certified effects"]["lines"]] == ["a", "b"]
    assert [line[-1] for line in parts["Certified effects"]["lines"]] == ["neither", "neither"]
    assert len(parts["Certificate"]["lines"]) == len(stored(models).assumptions)
    assert b"Certified ranges" not in http_client.ask(served, "/v1/kan/models/toy/report", accept="text/html").body


def test_the_commands(served: Server, models: Path) -> None:
    for where in (("hello", "--url", served.address), (models, "hello")):
        printed = kanserve("models", *where)
        assert printed.returncode == 0, printed.stderr
        assert "certified over the training grid" in printed.stdout
        assert "z: neither in 'a', 'b'" in printed.stdout
        told = document(kanserve("models", *where, "--json"))["model"]
        assert told["certified"]["outputs"][0]["low"] == stored(models).output_low[0]
        first = told["certified"]["monotone"][0]
        assert (first["input"], first["output"], first["direction"]) == ("a", "z", "neither")
        assert first["rises"] == list(stored(models).witnesses[0].pair(stored(models).witnesses[0].rises))
    assert document(kanserve("models", "toy", "--url", served.address, "--json"))["model"]["certified"] is None


@full("package")
@pytest.mark.parametrize("served", ["asgi"], indirect=True)
def test_the_certificate_of_a_served_model(served: Server, models: Path, tmp_path: Path) -> None:
    """Without the extra `export`, and next to a folder of the same name."""
    (tmp_path / "hello").mkdir()
    (tmp_path / "onnx.py").write_text("raise ModuleNotFoundError('none', name='onnx')")
    shown, rejected = (
        program("certify", *words, "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
        for words in (("hello", "--url", served.address), (models / "hello" / "1",))
    )
    assert shown.returncode == 0, shown.stderr
    assert "which is not installed" in rejected.stderr
    of_folder = document(kanserve("certify", models / "hello" / "1", "--json"))
    assert json.loads(shown.stdout) == {"model": "hello", "version": "1", **of_folder}
    printed = kanserve("certify", "hello", "--model-version", "1", "--url", served.address)
    assert printed.returncode == 0, printed.stderr
    title, *table = printed.stdout.splitlines()
    assert title.startswith("hello version 1: outputs of the served graph over the box of the training grid")
    assert table == kanserve("certify", models / "hello" / "1").stdout.splitlines()[1:]
    assert f"method: {stored(models).method}, with a budget of 1 s" in table
    assert f"assumes: {stored(models).assumptions[0]}" in table


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["toy"], "certificate-missing", "model toy version 1 has no certificate", "kanserve export --certify"),
        (["none"], "model-unknown", "none", "models of the server: hello, toy"),
        (["hello", "--model-version", "7"], "version-unknown", "7", ""),
        (["hello", "--box", "grid"], "arguments-conflict", "--box cannot be combined with", "models/hello/1"),
        (["hello", "--option", "a=3", "--budget", "1s"], "arguments-conflict", "--budget cannot be", "version folder"),
        (["./hello"], "path-with-url", "the path ./hello cannot be combined with --url", "remove --url"),
    ],
)
@pytest.mark.parametrize("served", ["asgi"], indirect=True)
def test_names_that_have_no_certificate(
    served: Server, arguments: list[str], code: str, message: str, hint: str
) -> None:
    done = kanserve("certify", *arguments, "--url", served.address, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, code)
    assert message in error["message"]
    assert hint in error["hint"]


def test_the_rows_of_a_certificate_show_what_it_says(served: Server, models: Path) -> None:
    """The served graph has the found outputs at the stored rows, and rises and falls between the pairs of rows."""
    told = document(kanserve("certify", "hello", "--url", served.address, "--json"))
    with Client(served.address) as client:

        def outputs(*rows: list[float]) -> list[float]:
            return list(client.infer("hello", np.array(rows, np.float32)).outputs["y"][:, 0].tolist())

        (output,) = told["outputs"]
        found = outputs(output["at_low"], output["at_high"])
        assert found == pytest.approx([output["found_low"], output["found_high"]], rel=1e-4)
        for at, effect in enumerate(told["monotone"]):
            for word, sign in (("rises", 1), ("falls", -1)):
                first, second = effect[word]
                assert [a == b for a, b in zip(first, second, strict=True)] == [other != at for other in range(2)]
                before, after = outputs(first, second)
                assert sign * (after - before) * (second[at] - first[at]) > 0


def test_many_effects_are_only_in_their_own_response(models: Path) -> None:
    whole = manifest.load(models / "hello" / "1")
    outputs, inputs = 40, 30
    many = dataclasses.replace(
        stored(models),
        low=(-1.0,) * inputs,
        high=(1.0,) * inputs,
        **{name: (0.0,) * outputs for name in ("output_low", "output_high", "found_low", "found_high", "slack")},
        directions=((1,) * outputs,) * inputs,
        lipschitz=((2.0,) * outputs,) * inputs,
        at_low=(),
        at_high=(),
        witnesses=(),
    )
    large = dataclasses.replace(whole, certificate=many, names=Names())
    tensor = TensorInfo("x", "FP32", (-1, inputs))
    info = ModelInfo("hello", 1, 8, (tensor,), (tensor,), "digest", large)
    assert len(model_codec.certificates(info, large).certificates[0].effects) == outputs * inputs
    described = model_codec.describe(info, large, kan_pb2.QueryLimits()).certificate
    assert (len(described.effects), len(described.outputs), described.outputs[39].name) == (0, outputs, "y39")


BROKEN = {
    "box": (lambda section: section | {"low": section["high"], "high": section["low"]}, "the box has 0.99"),
    "row": (lambda section: section | {"at_low": [[0.0]]}, "at_low does not fit 2 inputs and 1 outputs"),
    "witness": (
        lambda section: section | {"witnesses": [section["witnesses"][0] | {"input": 2}]},
        "witnesses does not fit 2 inputs and 1 outputs",
    ),
    "more": (lambda section: section | {"proof": True}, "certificate: unknown key 'proof'"),
}


@pytest.mark.parametrize("served", ["asgi"], indirect=True)
def test_versions_with_a_broken_certificate_are_rejected(served: Server, models: Path, tmp_path: Path) -> None:
    source, numbers = models / "hello" / "1", dict(zip(BROKEN, range(2, 99), strict=False))
    whole: dict[str, Any] = json.loads((source / "manifest.json").read_text())
    for fault, (broken, _) in BROKEN.items():
        staged = shutil.copytree(source, tmp_path / fault)
        changed = whole | {"version": numbers[fault], "certificate": broken(whole["certificate"])}
        (staged / "manifest.json").write_text(json.dumps(changed))
        staged.rename(models / "hello" / str(numbers[fault]))
    try:
        with Client(served.address) as client:
            reasons = until(lambda: found if len(found := rejections(client)) == len(BROKEN) else None)
            assert client.certificates("hello") == (stored(models),)
        judged = kanserve("models", models)
    finally:
        for number in numbers.values():
            shutil.rmtree(models / "hello" / str(number))
    assert judged.returncode == 2
    for fault, (_, text) in BROKEN.items():
        assert text in reasons[numbers[fault]]
        assert text in judged.stdout


def rejections(client: Client) -> dict[int, str]:
    return {int(entry.version): entry.reason for entry in client.index() if entry.name == "hello" and entry.reason}


# In the box, and the outputs are wider than certified.
INSIDE = np.array([[0.1, -0.2, 0.3], [0.5, -0.5, 0.5]], np.float32)
BOX = CertificateInfo(
    method="by hand", box="grid", low=(-0.5,) * 3, high=(0.5,) * 3, budget=1.0, boxes=1, output_low=(-0.1, -50.0),
    output_high=(0.1, 50.0), found_low=(-0.1, -1.0), found_high=(0.1, 1.0), slack=(0.0, 0.0),
    directions=((0, 0),) * 3, lipschitz=((50.0, 50.0),) * 3,
)  # fmt: skip


def by_hand(root: Path, name: str, section: CertificateInfo, policy: str = AS_TRAINED) -> None:
    """A toy model with a certificate that no exporter wrote."""
    folder = toy_model.write(root, name)
    toy_model.save(folder, dataclasses.replace(manifest.load(folder), certificate=section, out_of_range=policy))


@pytest.fixture(scope="module", params=SHARED)
def watched(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Toys: one with a range that its outputs leave, one with a true range, and policies that check the box."""
    root = tmp_path_factory.mktemp("watched") / "models"
    by_hand(root, "false", BOX)
    by_hand(root, "true", dataclasses.replace(BOX, output_low=(-50.0, -50.0), output_high=(50.0, 50.0)))
    for policy in (FLAG, REJECT):
        by_hand(root, policy, dataclasses.replace(BOX, range_check=True), policy)
    toy_model.write(root, "none")
    transport, chosen = http_client.way(request.param)
    with serving(root, transport, **chosen) as running:
        yield running


def violations(server: Server, model: str) -> float | None:
    pattern = rf'kanserve_certified_range_violations_total{{model="{model}",version="1"}} (\S+)'
    match = re.search(pattern, server.metrics())
    return float(match[1]) if match else None


def test_outputs_that_leave_the_certified_range_are_counted_and_logged(watched: Server) -> None:
    assert [violations(watched, name) for name in ("false", "true", "none")] == [0, 0, None]
    for name in ("false", "true", "none"):
        np.testing.assert_allclose(watched.infer(INSIDE, name), toy_model.outputs(INSIDE), rtol=1e-5)
    until(lambda: violations(watched, "false") == 2)
    (line,) = watched.logged("output_outside_certified_range")
    assert (line["model"], line["version"], line["rows"], line["checked"]) == ("false", 1, 2, 2)
    assert (line["level"], line["low"], line["high"], line["output"]) == ("error", -0.1, 0.1, 0)
    assert float(line["value"]) == pytest.approx(toy_model.outputs(INSIDE)[0, 0], rel=1e-5)
    assert violations(watched, "true") == 0


def test_policies_that_check_the_box(watched: Server) -> None:
    outside = np.array([[0.1, 0.1, 0.1], [0.1, 0.50001, 0.1], [np.nan, 0, 0]], np.float32)
    response = pb.ModelInferResponse.FromString(
        watched.call(f"{INFERENCE}ModelInfer", request_of(outside, FLAG).SerializeToString())
    )
    assert response.parameters["kan.out_of_range_rows"].int64_param == 2
    outside_box = "row 1: 'x1' is 0.50001 for model 'reject', outside its range -0.5 to 0.5"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, outside_box) as caught:
        watched.infer(outside, REJECT)
    assert "rows outside: 2 of 3" in caught.value.details()
    np.testing.assert_allclose(watched.infer(INSIDE, REJECT), toy_model.outputs(INSIDE), rtol=1e-5)


def test_a_watched_version_is_freed(tmp_path: Path) -> None:
    for name in ("toy", "later"):
        by_hand(tmp_path / "m", name, BOX)
    with serving(tmp_path / "m", model_control="explicit", load_model="toy,later") as server:
        for name in ("toy", "later"):
            server.infer(INSIDE, name)
            until(lambda name=name: violations(server, name) == len(INSIDE))
        message = pb.RepositoryModelUnloadRequest(model_name="toy").SerializeToString()
        server.call(f"{INFERENCE}RepositoryModelUnload", message)
        server.logged("model_unloaded")

        def paused() -> bool:
            server.infer(INSIDE, "later")
            return violations(server, "later") == len(INSIDE)

        until(lambda: not paused())  # the pause of the other version is over too
        events = {line["event"] for line in server.lines()}
        assert events.isdisjoint({"model_unload_delayed", "unhandled_exception"})
        assert violations(server, "toy") is None
