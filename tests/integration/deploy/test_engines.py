"""Examples of the guide for engines: each block runs as written, with the engine itself."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset, parquet

from kanexport.pipeline import Request, export
from kanserve.scoring import Scorer
from tests.support import ray_cluster
from tests.support.command_line import CLEAN
from tests.support.tiers import full

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "guides" / "score" / "engines.md").read_text()
BLOCKS = re.findall(r"^```py\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
FILES, ROWS = 3, 20_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and tables."""
    folder = tmp_path_factory.mktemp("desk")
    checkpoint = ROOT / "tests" / "golden" / "checkpoints" / "pykan-hello-adapted" / "model"
    export(Request(path=checkpoint, repository=folder / "models", name="hello"))
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for at in range(FILES):
        values = rng.uniform(-1, 1, (ROWS, 2))
        table = pa.table({"id": np.arange(at * ROWS, (at + 1) * ROWS), "x0": values[:, 0], "x1": values[:, 1]})
        parquet.write_table(table, folder / "data" / f"{at}.parquet")
    return folder


def block(engine: str) -> str:
    (found,) = [text for text in BLOCKS if engine in text]
    return str(found)


def run(desk: Path, code: str, **environment: str) -> dict[int, float]:
    """Run an example; the score of each id that it wrote."""
    for name in ("scores", "scores.parquet"):
        shutil.rmtree(desk / name, ignore_errors=True)
        if (desk / name).is_file():
            (desk / name).unlink()
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=desk, env={**CLEAN, **environment}, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    written = desk / "scores" if (desk / "scores").is_dir() else desk / "scores.parquet"
    table = dataset.dataset(written, format="parquet").to_table()
    scores = table.column(table.schema.names[0] if table.schema.names[0] != "id" else table.schema.names[1])
    values = [value[0] if isinstance(value, list) else value for value in scores.to_pylist()]
    ids = table.column("id").to_pylist()
    assert len(ids) == FILES * ROWS
    return dict(zip(ids, values, strict=True))


def check(desk: Path, scores: dict[int, float]) -> None:
    """Each row has the score of this process, once."""
    expected = Scorer(desk / "models" / "hello", keep=["id"], check=False)(dataset.dataset(desk / "data").to_table())
    ids = expected.column("id").to_pylist()
    assert sorted(scores) == sorted(ids)
    found = np.array([scores[key] for key in ids])
    np.testing.assert_allclose(found, expected.column("y0").to_numpy(), rtol=1e-5, atol=1e-6)


def needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the package {module} is not installed; make data-test or make stack-test ARGS=ray installs it")


def test_every_block_has_a_test() -> None:
    engines = ("ray.data", "mapInArrow", "predict_batch_udf", "duckdb", "polars")
    assert sorted(BLOCKS) == sorted(map(block, engines))


@full("peer")
@pytest.mark.parametrize("engine", ["duckdb", "polars"])
def test_engines_on_one_machine(desk: Path, engine: str) -> None:
    needs(engine)
    check(desk, run(desk, block(engine)))


@full("peer")
@pytest.mark.parametrize("engine", ["mapInArrow", "predict_batch_udf"])
def test_spark(desk: Path, engine: str) -> None:
    needs("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (Debian: apt-get install openjdk-21-jre-headless)")
    check(desk, run(desk, block(engine), SPARK_LOCAL_IP="127.0.0.1", PYSPARK_PYTHON=sys.executable))


@full("peer")
def test_ray_data_on_two_nodes(desk: Path) -> None:
    needs("ray")
    with ray_cluster.running() as cluster:
        code = (
            block("ray.data")
            .replace("/shared", str(desk))
            .replace("import ray\n", f"import ray\nray.init({cluster.address!r})\n", 1)
        )
        check(desk, run(desk, code, **cluster.environment))
