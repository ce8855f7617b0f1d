"""`kanserve score` from and to an S3 server (SeaweedFS) and from a web server, also with a connection that is lost."""

import datetime
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import obstore
import pyarrow as pa
import pytest
from obstore.store import from_url
from pyarrow import parquet
from pyarrow.fs import S3FileSystem

from tests.support import model_stores, programs, toy_model
from tests.support.command_line import document, program
from tests.support.model_stores import Relay
from tests.support.tiers import full

pytestmark = full("peer")

FILES, ROWS = 3, 20_000
BUCKET = "s3://tables"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_model.write(tmp_path_factory.mktemp("models")).parent


def rows(at: int) -> pa.Table:
    values = np.random.default_rng(at).normal(size=(ROWS, 3)).astype(np.float32)
    ids = np.arange(at * ROWS, (at + 1) * ROWS)
    return pa.table({"id": ids, **{name: values[:, column] for column, name in enumerate("abc")}})


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for at in range(FILES):
        parquet.write_table(rows(at), folder / f"{at}.parquet", row_group_size=5000)
    return folder


@pytest.fixture(scope="module")
def store(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of an S3 server whose bucket has the tables below `data/`. They are set until the end."""
    programs.interpreter("kserve_storage")  # without it, `make test` downloads no S3 server
    with model_stores.s3_server(tmp_path_factory.mktemp("s3")) as variables:
        environment = {**variables, "AWS_ALLOW_HTTP": "true"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            host = variables["AWS_ENDPOINT_URL"].removeprefix("http://")
            S3FileSystem(endpoint_override=host, scheme="http", allow_bucket_creation=True).create_dir("tables")
            bucket = from_url(BUCKET)
            for path in tables.iterdir():
                obstore.put(bucket, f"data/{path.name}", path.read_bytes())
            obstore.put(bucket, "data/_temporary/part.parquet", b"half")
            yield environment


def check(table: pa.Table, at: int) -> None:
    source = rows(at)
    assert table.column("id").equals(source.column("id"))
    inputs = np.stack([source.column(name).to_numpy() for name in "abc"], axis=1)
    found = np.stack([table.column(name).to_numpy() for name in ("y0", "y1")], axis=1)
    np.testing.assert_allclose(found, toy_model.outputs(inputs), rtol=1e-4, atol=1e-5)


def score(model: Path, *words: object, store: dict[str, str]) -> dict[str, object]:
    return dict(document(program("score", model, *words, "--keep", "id", "--json", **store)))


def test_tables_of_a_bucket_are_scored_into_a_bucket(model: Path, store: dict[str, str]) -> None:
    out = f"{BUCKET}/out"
    first = score(model, "--input", f"{BUCKET}/data/", "--output", out, store=store)
    assert (first["files"], first["rows"]) == (FILES, FILES * ROWS)  # not the file in a folder with an underscore
    for at in range(FILES):
        result = obstore.get(from_url(BUCKET), f"out/{at}.parquet")
        check(parquet.read_table(pa.BufferReader(bytes(result.bytes()))), at)
    again = score(model, "--input", f"{BUCKET}/data/*.parquet", "--output", out, store=store)
    assert (again["files"], again["files_complete_before"]) == (0, FILES)
    one = score(model, "--input", f"{BUCKET}/data/[2-9].parquet", "--output", f"{BUCKET}/one", store=store)
    assert one["files"] == 1


def test_a_lost_connection_leaves_no_half_and_the_next_run_continues(
    model: Path, store: dict[str, str], tmp_path: Path
) -> None:
    words = (model, "--input", f"{BUCKET}/data/", "--output", tmp_path / "out")
    with Relay(store["AWS_ENDPOINT_URL"].removeprefix("http://"), 700_000) as relay:
        broken = {**store, "AWS_ENDPOINT_URL": f"http://{relay.address}"}

        def end() -> None:
            """Close the connections of the relay, as a network that ends, when it has stopped halfway."""
            relay.stopped.wait()
            relay.__exit__()

        threading.Thread(target=end, daemon=True).start()
        done = program("score", *words, "--keep", "id", **broken)
    assert done.returncode == 1, done.stderr
    assert f"{BUCKET}/data/" in done.stderr
    assert "run the same command again" in done.stderr
    complete = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert len(complete) < FILES
    found = score(*words, store=store)
    assert found["files_complete_before"] == len(complete)
    for at in range(FILES):
        check(parquet.read_table(tmp_path / "out" / f"{at}.parquet"), at)


def test_wrong_keys_and_a_missing_bucket_are_named(model: Path, store: dict[str, str], tmp_path: Path) -> None:
    out = ("--output", tmp_path / "out")
    done = program("score", model, "--input", f"{BUCKET}/data/", *out, **{**store, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert done.returncode == 1
    assert "403" in done.stderr or "Forbidden" in done.stderr or "denied" in done.stderr
    assert "Traceback" not in done.stderr
    for url, reason in (
        ("s3://none/data/*.parquet", "the store has no such bucket"),
        ("s3://none/data/", "the store has no such bucket"),
        ("s3://none/data/0.parquet", "no file fits"),  # the store says nothing about the bucket of an object
        (f"{BUCKET}/data/9.parquet", "no file fits"),
        (f"{BUCKET}/none/", "no file fits"),
    ):
        done = program("score", model, "--input", url, *out, **store)
        assert done.returncode == 2, (url, done.stderr)
        assert url in done.stderr
        assert reason in done.stderr, url


def test_a_signed_url_needs_no_keys_and_its_signature_is_secret(
    model: Path, store: dict[str, str], tmp_path: Path
) -> None:
    """A URL with another signature of the same object continues the run."""
    good, again = (
        obstore.sign(from_url(BUCKET), "GET", "data/1.parquet", datetime.timedelta(minutes=end)) for end in (9, 10)
    )
    words = (model, "--output", tmp_path / "out", "--keep", "id", "--json")
    first = document(program("score", *words, "--input", good))
    assert (first["files"], first["rows"]) == (1, ROWS)
    check(parquet.read_table(tmp_path / "out" / "1.parquet"), 1)
    assert document(program("score", *words, "--input", again))["files_complete_before"] == 1
    texts = [path.read_text() for path in (tmp_path / "out" / "_score").rglob("*.json")]
    wrong = program("score", *words[:-1], "--input", good[:-4] + "0000")
    assert wrong.returncode == 1
    assert f"{store['AWS_ENDPOINT_URL']}/tables/data/1.parquet: " in wrong.stderr
    assert "403" in wrong.stderr
    assert not any("Signature" in text for text in (*texts, wrong.stderr, wrong.stdout))


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A web server with ranges and entity tags."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, header = path.read_bytes(), self.headers.get("Range")
        first, last = map(int, header.removeprefix("bytes=").split("-")) if header else (0, len(data) - 1)
        self.send_response(206 if header else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[first : last + 1])

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Write no lines into the output of the tests."""


def test_a_table_of_a_web_server_is_scored(model: Path, tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "web").mkdir()
    for name, at in (("1", 1), ("a b", 0)):
        (tmp_path / "web" / f"{name}.parquet").symlink_to(tables / f"{at}.parquet")
    handler = partial(Ranges, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = program("score", model, "--input", f"{url}/1.parquet", "--output", out, "--keep", "id")
        assert done.returncode == 0, done.stderr
        missing = program("score", model, "--input", f"{url}/9.parquet", "--output", out, "--keep", "id")
        escaped = program("score", model, "--input", f"{url}/a%20b.parquet", "--output", out, "--keep", "id")
        server.shutdown()
    check(parquet.read_table(out / "1.parquet"), 1)
    assert missing.returncode == 2
    assert "no file fits" in missing.stderr
    assert escaped.returncode == 0, escaped.stderr
    check(parquet.read_table(out / "a b.parquet"), 0)
