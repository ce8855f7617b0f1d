"""`kanserve explain`: one row, many rows, the file, references, names, and rejected arguments."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import Server, wrong_refusals

ROWS = np.random.default_rng(6).uniform(-0.9, 0.9, (30, 3)).astype(np.float32)


def test_one_row_from_its_base_to_its_prediction_and_many_on_average(server: Server, rows: Path) -> None:
    lines = server.shown("explain", "tiny", "--input", rows, "--row", 4, "--show", 2, "--of", "y1").splitlines()
    response = server.ask("infer", "tiny", "--input", rows)["outputs"]["y"][4][1]
    title, _, _, base, *inputs, others, prediction, caption = lines
    assert title == f"tiny version 1, row 4: y1 = {response:.6g}"
    assert [line.split()[0] for line in (base, *inputs, prediction)][0::3] == ["base", "prediction"]
    assert {line.split()[0] for line in inputs} < {"x0", "x1", "x2"}
    assert others.startswith("1 others")
    numbers = [float(line.split()[2]) for line in (*inputs, others)]
    assert abs(numbers[0]) >= abs(numbers[1])
    assert float(base.split()[2]) + sum(numbers) == pytest.approx(response, abs=1e-4)
    assert caption.startswith("reference: middle of each input's grid; method: rescale; residual ")
    text = server.shown("explain", "tiny", "--input", rows)
    assert "tiny version 1: 30 rows, 2 outputs" in text
    assert "3 of 3 inputs; --row N explains one row" in text


def test_the_file_and_json_hold_the_same(server: Server, rows: Path, tmp_path: Path) -> None:
    target = tmp_path / "e.npz"
    written = server.ask("explain", "tiny", "--input", rows, "--output", target)
    said = server.ask("explain", "tiny", "--input", rows)
    assert (said["inputs"], said["outputs"], said["reference"]) == (["x0", "x1", "x2"], ["y0", "y1"], "grid_center")
    assert said["largest_completeness_error"] < 1e-5
    shapes = {"contributions": [30, 3, 2], "base": [2], "predictions": [30, 2], "completeness_error": [30, 2]}
    shapes["out_of_range"] = [30]
    assert written["shapes"] == shapes
    with np.load(target, allow_pickle=False) as arrays:
        for name, values in arrays.items():
            assert values.dtype == (np.uint8 if name == "out_of_range" else np.float64)
            np.testing.assert_array_equal(values, said[name])
        total = arrays["base"] + arrays["contributions"].sum(axis=1)
        np.testing.assert_allclose(total, arrays["predictions"], rtol=0, atol=1e-5)


def test_what_is_refused(server: Server, rows: Path) -> None:
    cases = {
        "explain tiny --of y7": "--of y7: unknown name, expected a name or an index from 0 to 1",
        "explain tiny --row 30": "--row 30: ",
        "explain tiny --reference grid-centre": "or a file of rows\n  help: did you mean 'grid_center'?",
        "explain tiny --output e.csv": "e.csv: unknown file format .csv",
    }
    assert wrong_refusals(cases, "--input", rows, "--url", server.url) == []
