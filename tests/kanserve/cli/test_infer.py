"""`kanserve infer`: every input and output format, many rows, and rejected arguments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.support.command_line import Server, document, kanserve, program, serving

ROWS = np.random.default_rng(1).uniform(-2, 2, (5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(server: Server) -> Any:
    """Outputs that Triton's client receives for ROWS."""
    with triton.InferenceServerClient(server.url) as client:
        tensor = triton.InferInput("x", ROWS.shape, "FP32")
        tensor.set_data_from_numpy(ROWS)
        return client.infer("tiny", [tensor]).as_numpy("y")


def write(path: Path) -> Path:
    """ROWS in the form that the suffix says."""
    if path.suffix == ".npy":
        np.save(path, ROWS.astype(np.float64))  # the command converts
    elif path.suffix == ".npz":
        np.savez(path, anything=ROWS)
    elif path.suffix == ".csv":
        path.write_text("a,b,c\n" + "\n".join(",".join(map(str, row)) for row in ROWS) + "\n\n")
    else:
        path.write_text(json.dumps(ROWS.tolist()))
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".json"])
@pytest.mark.parametrize("by_stdin", [False, True])
def test_every_input_form_gives_the_same(
    suffix: str, by_stdin: bool, server: Server, expected: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / f"rows{suffix}")
    common = ("infer", "tiny", "--url", server.url, "--json", "--input")
    done = program(*common, "-", stdin=path.read_bytes()) if by_stdin else kanserve(*common, path)
    result = document(done)
    assert (result["model"], result["version"], result["rows"]) == ("tiny", "1", 5)
    np.testing.assert_array_equal(np.array(result["outputs"]["y"], np.float32), expected)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".json"])
def test_every_output_form_holds_the_same(suffix: str, server: Server, expected: Any, tmp_path: Path) -> None:
    target = tmp_path / f"y{suffix}"
    done = kanserve("infer", "tiny", "--input", write(tmp_path / "rows.npy"), "--output", target, "--url", server.url)
    assert (done.returncode, done.stdout) == (0, "")
    assert str(target) in done.stderr
    if suffix == ".csv":
        result = np.loadtxt(target, delimiter=",", skiprows=1, dtype=np.float32)
    elif suffix == ".json":
        result = np.array(json.loads(target.read_text())["y"], np.float32)
    else:
        loaded = np.load(target, allow_pickle=False)
        result = loaded if suffix == ".npy" else loaded["y"]
    np.testing.assert_array_equal(result, expected)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_results_go_to_stdout_as_csv(server: Server, expected: Any, tmp_path: Path) -> None:
    done = program("infer", "tiny", "--input", write(tmp_path / "rows.npy"), "--url", server.url)
    header, *lines = done.stdout.splitlines()
    reported = [line for line in done.stderr.splitlines() if "rows per second" not in line]  # printed on a busy machine
    assert (header, reported) == ("y0,y1", [])
    np.testing.assert_array_equal(np.array([line.split(",") for line in lines], np.float32), expected)


def test_more_rows_than_one_request_may_hold(server: Server, tmp_path: Path) -> None:
    # The server's batch limit is 1024 rows, and its answers end at 16 KiB: 2048 rows of two floats.
    rows = np.random.default_rng(2).uniform(-2, 2, (5000, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    arguments = ("--output", tmp_path / "y.npy", "--url", server.url)
    assert kanserve("infer", "tiny", "--input", tmp_path / "rows.npy", *arguments).returncode == 0
    result = np.load(tmp_path / "y.npy")
    np.save(tmp_path / "part.npy", rows[4990:])
    document(kanserve("infer", "tiny", "--input", tmp_path / "part.npy", *arguments, "--json"))
    assert result.shape == (5000, 2)
    np.testing.assert_allclose(result[4990:], np.load(tmp_path / "y.npy"), rtol=1e-6)


def test_zero_rows_are_an_empty_answer(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((0, 3)))
    result = document(kanserve("infer", "tiny", "--input", tmp_path / "rows.npy", "--url", server.url, "--json"))
    assert result["outputs"] == {"y": []}


def test_non_finite_values_travel_both_ways(server: Server) -> None:
    result = document(
        kanserve("infer", "tiny", "--input", "-", "--url", server.url, "--json", stdin=b'[["NaN", 0, 0]]')
    )
    assert result["outputs"]["y"] == [["NaN", "NaN"]]


def test_a_version_can_be_chosen(server: Server, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.npy")
    arguments = ("infer", "tiny", "--input", rows, "--url", server.url, "--json", "--model-version")
    assert document(kanserve(*arguments, 1))["version"] == "1"
    missing = kanserve(*arguments, 9)
    assert missing.returncode == 2
    assert "version 9" in missing.stderr
    assert json.loads(missing.stdout)["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    ("suffix", "content", "says"),
    [
        (".csv", b"1,2,3\n4,five,6\n", ("line 2, column 2", "'five'", "a number")),
        (".csv", b"1,2,3\n4,5\n", ("line 2", "found 2 columns", "3")),
        (".csv", b"1,2\n3,4\n", ("2 columns", "3 columns")),
        (".csv", b"", ("is empty", "rows of numbers")),
        (".csv", b"a,b,c\n\n", ("a header line and no rows",)),
        (".csv", b"a;b;c\n1;2;3\n", ("line 2, column 1", "separated by commas")),
        (".csv", b"\xff\xfe\x00", ("not UTF-8",)),
        (".json", b"[[1, 2, null]]", ("[0][2]", "null", "a number")),
        (".json", b"[[1, 2], [3]]", ("different lengths",)),
        (".json", b"[[1, 2, 3]", ("not valid JSON",)),
        (".json", b'"text"', ("a string", "a list of rows")),
        (".json", b"[[1e300, 0, 0]]", ("[0, 0]", "1e+300", "FP32")),
        (".npy", b"no array", ("not an .npy file",)),
        (".npz", b"no archive", ("not an .npz file",)),
        (".txt", b"1,2,3", (".npy, .npz, .csv, .json", "unknown file format .txt")),
    ],
)
def test_bad_files_are_explained(
    suffix: str, content: bytes, says: tuple[str, ...], server: Server, tmp_path: Path
) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    done = kanserve("infer", "tiny", "--input", path, "--url", server.url)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(path) in done.stderr
    assert [text for text in says if text not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr


def test_an_archive_of_several_arrays_is_named(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, train=ROWS, test=ROWS)
    done = kanserve("infer", "tiny", "--input", path, "--url", server.url)
    assert done.returncode == 2
    assert "train, test" in done.stderr
    done = kanserve("infer", "tiny", "--input", path, "--array", "tset", "--url", server.url)
    assert (done.returncode, "unknown array 'tset'" in done.stderr) == (2, True)
    assert "did you mean 'test'?" in done.stderr
    assert kanserve("infer", "tiny", "--input", path, "--array", "test", "--url", server.url).returncode == 0


def test_a_pickle_is_not_executed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    done = kanserve("infer", "tiny", "--input", path, "--url", server.url)
    assert done.returncode == 2
    assert "not an .npy file of numbers" in done.stderr


def test_no_server_is_explained(tmp_path: Path) -> None:
    done = program("infer", "tiny", "--input", write(tmp_path / "rows.npy"), "--url", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "kanserve serve REPOSITORY" in done.stderr


def test_an_unknown_model_is_wrong_input(server: Server, tmp_path: Path) -> None:
    done = kanserve("infer", "nobody", "--input", write(tmp_path / "rows.npy"), "--url", server.url)
    assert done.returncode == 2
    assert "unknown model: 'nobody'" in done.stderr
    assert "  help: models of the server: tiny\n" in done.stderr


@pytest.mark.parametrize("command", ["infer", "edges", "formula", "models", "health"])
def test_a_misspelt_model_is_helped(command: str, server: Server, tmp_path: Path) -> None:
    words: dict[str, tuple[object, ...]] = {"health": ("--service", "tinny"), "models": ("tinny",)}
    rows = ("--input", write(tmp_path / "rows.npy")) if command in ("infer", "edges") else ()
    done = kanserve(command, *words.get(command, ("tinny",)), *rows, "--url", server.url, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"], error["hint"]) == (2, "NotFound", "did you mean 'tiny'?")


def test_a_plain_graph_of_several_outputs(repository: Path, tmp_path: Path) -> None:
    # Without its manifest, the vectors between the layers are outputs like any other.
    (tmp_path / "models" / "plain" / "1").mkdir(parents=True)
    shutil.copy(repository / "tiny" / "1" / "model.onnx", tmp_path / "models" / "plain" / "1")
    rows = write(tmp_path / "rows.npy")
    with serving(tmp_path / "models", tmp_path / "log", "--plain-onnx") as server:
        common = ("--input", rows, "--url", server.url)
        refused = kanserve("infer", "plain", *common, "--output", tmp_path / "y.csv")
        assert refused.returncode == 2
        assert "error[output-format-too-small]" in refused.stderr
        assert kanserve("infer", "plain", *common, "--output", tmp_path / "y.npz").returncode == 0
        edges = kanserve("edges", "plain", *common)
        assert edges.returncode == 2
        assert "kanserve export" in edges.stderr
        (row,) = document(kanserve("models", "--url", server.url, "--json"))["models"]
    with np.load(tmp_path / "y.npz") as archive:
        assert archive["y"].shape == (5, 2)
        assert len(archive.files) == 2
    assert (row["state"], row["family"]) == ("READY", "")
