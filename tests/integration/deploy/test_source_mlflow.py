"""The guide of MLflow: versions are logged to a registry in SQLite with artifacts in a bucket, and a server follows."""

import ast
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kanserve import Client
from tests.support import model_stores, programs, reload_tools, toy_model
from tests.support.command_line import checkpoint, kanserve
from tests.support.model_stores import PAD, ROOT, Desk, Load, commands, desk, follow, survive
from tests.support.server_process import serving
from tests.support.tiers import full

pytestmark = full("peer")

GUIDE = commands("from-mlflow.md", Log=1, Load=1, Fetch=1, Move=1, Download=1)
(LOG,), (LOADED,), (FETCH,) = (GUIDE[title] for title in ("Log a version", "Load it in Python", "Fetch a version"))
(MOVE,), (DIRECT,) = GUIDE["Move the alias, and roll back"], GUIDE["Download into the live repository"]
PREPARE = """
import boto3, mlflow, os
boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"]).create_bucket(Bucket="artifacts")
mlflow.create_experiment("toy", artifact_location="s3://artifacts")
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    """The variables of an S3 server, and a database with an experiment whose artifacts are there."""
    interpreter, folder = programs.source_tool("python"), tmp_path_factory.mktemp("s3")
    with model_stores.s3_server(folder) as variables:
        variables |= {"MLFLOW_S3_ENDPOINT_URL": variables["AWS_ENDPOINT_URL"], "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment = os.environ | variables | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        subprocess.run([interpreter, "-c", PREPARE], env=environment, check=True, timeout=180, capture_output=True)
        yield variables, folder / "mlflow.db"


@pytest.fixture
def here(store: tuple[dict[str, str], Path], tmp_path: Path) -> Iterator[Desk]:
    """A desk with a separate registry."""
    variables, database = store
    shutil.copy(database, tmp_path)
    variables = variables | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "toy",
        "PATH": f"{programs.SOURCES}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'service'}",
    }
    with desk(tmp_path, **variables) as made:
        yield made


def python(here: Desk, code: str) -> str:
    """Run a block of Python of the guide. Returns its output."""
    (here.folder / "block.py").write_text(code)
    return here.run("python block.py")


def publish(here: Desk, version: int, factor: float, pad: int = 0) -> None:
    """Log a version, and move the alias to it."""
    folder = here.release(version, factor, pad)
    (folder.parent / "config.pbtxt").write_text('name: "toy"\n')
    python(here, LOG.replace("release/toy/2", f"release/toy/{version}"))


def stalled(here: Desk, block: str) -> None:
    """Run a block through a relay that stops halfway, and kill it."""
    server = here.environment["MLFLOW_S3_ENDPOINT_URL"].removeprefix("http://")
    here.stalled(block, server, MLFLOW_S3_ENDPOINT_URL="http://127.0.0.1:RELAY")


def test_servers_follow_an_alias_forward_and_back_and_no_call_is_lost(here: Desk) -> None:
    with Load(here) as load:
        publish(here, 1, 1.0)
        follow(here, load, lambda version, factor: publish(here, version, factor), FETCH)
        python(here, MOVE)
        here.run(FETCH)
        assert here.factor() == 1.0
        assert here.factor("3") == 4.0
    assert reload_tools.events(here.server, "model_load_failed") == []
    assert sorted(path.name for path in here.models.iterdir() if not path.name.startswith(".")) == ["toy"]


def test_mlflow_loads_the_plain_graph_and_gives_the_served_outputs(here: Desk) -> None:
    publish(here, 2, 2.0)
    here.run(FETCH)
    printed, name = python(here, LOADED + "print(repr(model.predict(rows)['y'].tolist()))").splitlines()[-2:][::-1]
    rows = np.array([[0.5, -1.0, 2.0]], np.float32)
    np.testing.assert_allclose(ast.literal_eval(printed), here.server.infer(rows, model_version="2"), rtol=1e-6)
    assert name == "x"
    assert "mlflow" not in here.server.log.read_text()


def test_the_logged_model_has_signature_example_and_tags(here: Desk) -> None:
    publish(here, 2, 2.0)
    code = """
import mlflow
client = mlflow.MlflowClient()
version = client.get_model_version_by_alias("toy", "champion")
model = mlflow.models.get_model_info("models:/toy@champion")
print([version.tags, sorted(model.flavors), str(model.signature.inputs), model.flavors["kanserve"]["data"]])
print(mlflow.pyfunc.load_model("models:/toy@champion").input_example.tolist())
"""
    about, example = map(ast.literal_eval, python(here, code).splitlines()[-2:])
    assert about[0] == {"kanserve.model": "toy", "kanserve.version": "2"}
    assert about[1:] == [["kanserve", "onnx", "python_function"], "[Tensor('float32', (-1, 3))]", "toy/2"]
    rows = np.array(toy_model.manifest("toy").reference.inputs)
    np.testing.assert_allclose(example, rows[:5], rtol=1e-6)


SAVE = """
import sys, numpy as np, mlflow, kanexport.contrib.mlflow
kanexport.contrib.mlflow.save_model(sys.argv[1], "logged")
predicted = mlflow.pyfunc.load_model("logged").predict(np.load("rows.npy"))
names = {output.name for output in mlflow.onnx.load_model("logged").graph.output}
assert set(predicted) == names and "y" in names
np.save("predicted.npy", predicted["y"])
"""


@pytest.mark.parametrize(("name", "width"), [("hello", 2), ("large", 600)])
def test_a_real_export_serves_from_the_logged_folder_and_predicts_alike(tmp_path: Path, name: str, width: int) -> None:
    """The weights of the large one are in a separate file."""
    interpreter, source = programs.source_tool("python"), ROOT / "tests/golden/checkpoints/pykan-hello-adapted/model"
    if name == "large":
        source = checkpoint(tmp_path / "net.safetensors", (width, 400, 10))
    done = kanserve("export", source, "--repository", tmp_path / "release", "--name", name, "--version", 2)
    assert done.returncode == 0, done.stderr
    version = tmp_path / "release" / name / "2"
    assert (version / "weights.bin").exists() == (name == "large")
    rows = np.random.default_rng(0).uniform(-1, 1, (16, width)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'service'}",
    }
    command = [interpreter, "-c", SAVE, str(version)]
    saved = subprocess.run(command, cwd=tmp_path, env=environment, timeout=180, capture_output=True, text=True)
    assert saved.returncode == 0, saved.stderr
    with serving(tmp_path / "logged") as server, Client(server.address) as client:
        result = client.infer(name, rows)
        assert result.version == "2"
        served = result.outputs["y"]
        # The server runs another graph of the same network. The error of a float32 sum is relative to its terms.
        largest = float(np.abs(served).max())
        np.testing.assert_allclose(np.load(tmp_path / "predicted.npy"), served, rtol=1e-5, atol=2e-6 * largest)


@pytest.mark.parametrize("block", [FETCH, DIRECT], ids=["fetch", "direct"])
def test_a_killed_download_is_not_served(here: Desk, block: str) -> None:
    publish(here, 2, 2.0, PAD)
    survive(here, lambda: stalled(here, block), block, served=1.0, factor=2.0)
