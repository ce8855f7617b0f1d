"""`kanserve infer`: every input and output format, many rows, and rejected arguments."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.support.command_line import Server, document, kanserve, program, serving, wrong_refusals
from tests.support.named_models import MODELS

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
def test_every_form_of_a_file_holds_the_same(suffix: str, server: Server, expected: Any, tmp_path: Path) -> None:
    path, target = write(tmp_path / f"rows{suffix}"), tmp_path / f"y{suffix}"
    common = ("infer", "tiny", "--url", server.url, "--input")
    for done in (kanserve(*common, path, "--json"), kanserve(*common, "-", "--json", stdin=path.read_bytes())):
        result = document(done)
        assert (result["model"], result["version"], result["rows"]) == ("tiny", "1", 5)
        np.testing.assert_array_equal(np.array(result["outputs"]["y"], np.float32), expected)
    done = kanserve(*common, path, "--output", target)
    assert (done.returncode, done.stdout) == (0, "")
    assert str(target) in done.stderr
    if suffix == ".csv":
        result = np.loadtxt(target, delimiter=",", skiprows=1, dtype=np.float32)
    elif suffix == ".json":
        result = np.array(json.loads(target.read_text())["y"], np.float32)
    else:
        with open(target, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            result = loaded if suffix == ".npy" else loaded["y"]
    np.testing.assert_array_equal(result, expected)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_results_go_to_stdout_as_csv(server: Server, expected: Any, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.npy").read_bytes()
    done = program("infer", "tiny", "--input", "-", "--url", server.url, stdin=rows)
    header, *lines = done.stdout.splitlines()
    reported = [line for line in done.stderr.splitlines() if "rows per second" not in line]  # printed on a busy machine
    assert (header, reported) == ("y0,y1", [])
    np.testing.assert_array_equal(np.array([line.split(",") for line in lines], np.float32), expected)


def test_rows_that_are_none_or_no_numbers_are_served_by_the_version_chosen(server: Server, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    for values, y in (([], []), ([[np.nan, 0, 0]], [["NaN", "NaN"]])):
        np.save(rows, np.array(values).reshape(-1, 3))
        response = server.ask("infer", "tiny", "--input", rows, "--model-version", 1)
        assert (response["outputs"], response["version"]) == ({"y": y}, "1")
    assert wrong_refusals({"infer tiny --model-version 9": "version 9"}, "--input", rows, "--url", server.url) == []


def test_bad_files_are_explained(server: Server, tmp_path: Path) -> None:
    for name, content, *says in (
        ("a.csv", b"1,2,3\n4,five,6\n", "line 2, column 2", "'five'", "a number"),
        ("b.csv", b"1,2,3\n4,5\n", "line 2", "found 2 columns", "3"),
        ("c.csv", b"1,2\n3,4\n", "2 columns", "3 columns"),
        ("d.csv", b"", "is empty", "rows of numbers"),
        ("e.csv", b"a,b,c\n\n", "a header line and no rows"),
        ("f.csv", b"a;b;c\n1;2;3\n", "line 2, column 1", "separated by commas"),
        ("g.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("a.json", b"[[1, 2, null]]", "[0][2]", "null", "a number"),
        ("b.json", b"[[1, 2], [3]]", "different lengths"),
        ("c.json", b"[[1, 2, 3]", "not valid JSON"),
        ("d.json", b'"text"', "a string", "a list of rows"),
        ("e.json", b"[[1e300, 0, 0]]", "[0, 0]", "1e+300", "FP32"),
        ("a.npy", b"no array", "not an .npy file"),
        ("a.npz", b"no archive", "not an .npz file"),
        ("a.txt", b"1,2,3", ".npy, .npz, .csv, .json", "unknown file format .txt"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert wrong_refusals({"infer tiny": (str(path), *says)}, "--input", path, "--url", server.url) == []


def test_archives_and_pickles_are_read_as_far_as_they_are_numbers(server: Server, tmp_path: Path) -> None:
    archive, pickle = tmp_path / "rows.npz", tmp_path / "rows.npy"
    np.savez(archive, train=ROWS, test=ROWS)
    np.save(pickle, np.array([{"a": 1}], object), allow_pickle=True)
    assert server.ask("infer", "tiny", "--input", archive, "--array", "test")["rows"] == 5
    cases = {
        f"infer tiny --input {archive}": "train, test",
        f"infer tiny --input {archive} --array tset": ("unknown array 'tset'", "did you mean 'test'?"),
        f"infer tiny --input {pickle}": "not an .npy file of numbers",
    }
    assert wrong_refusals(cases, "--url", server.url) == []


def test_a_server_or_a_model_that_is_not_there_is_explained(server: Server, tmp_path: Path) -> None:
    rows = ("--input", write(tmp_path / "rows.npy"), "--url")
    no_server = {"infer tiny": ("error[server-unreachable]: no server at 127.0.0.1:1", "kanserve serve REPOSITORY")}
    assert wrong_refusals(no_server, *rows, "127.0.0.1:1", code=1) == []
    texts = ("unknown model: 'nobody'", f"  help: models of the server: {', '.join(MODELS)}\n")
    assert wrong_refusals({"infer nobody": texts}, *rows, server.url) == []
    for command in ("infer tinny", "edges tinny", "formula tinny", "models tinny", "health --service tinny"):
        given = rows if command.startswith(("infer", "edges")) else rows[2:]
        done = kanserve(*command.split(), *given, server.url, "--json")
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["kind"], error["hint"]) == (2, "NotFound", "did you mean 'tiny'?")


def test_a_plain_graph_of_several_outputs(repository: Path, tmp_path: Path) -> None:
    # Without its manifest, the vectors between the layers are outputs like any other.
    (tmp_path / "models" / "plain" / "1").mkdir(parents=True)
    shutil.copy(repository / "tiny" / "1" / "model.onnx", tmp_path / "models" / "plain" / "1")
    rows = write(tmp_path / "rows.npy")
    with serving(tmp_path / "models", tmp_path / "log", "--plain-onnx") as server:
        cases = {
            f"infer plain --output {tmp_path / 'y.csv'}": "error[output-format-too-small]",
            "edges plain": ("error[model-without-edge-graphs]", "kanserve export"),
        }
        assert wrong_refusals(cases, "--input", rows, "--url", server.url) == []
        server.ask("infer", "plain", "--input", rows, "--output", tmp_path / "y.npz")
        (row,) = server.ask("models")["models"]
    with np.load(tmp_path / "y.npz") as archive:
        assert archive["y"].shape == (5, 2)
        assert len(archive.files) == 2
    assert (row["state"], row["family"]) == ("READY", "")
