"""Tests of `parity/data.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import OptionError
from kanexport.parity import data
from kanexport.shared import manifest
from tests.support.golden_cases import case, exported

DIGITS = "efficient-kan-digits"


def test_every_form_of_file(tmp_path: Path) -> None:
    reference = case(DIGITS).reference()
    x, y = reference["x"], reference["y"]
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    names = [f"x{i}" for i in range(x.shape[1])] + [f"y{j}" for j in range(y.shape[1])]
    table = np.concatenate([x, y], axis=1)
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header=",".join(names), comments="", fmt="%.9g")
    for files in (["a.npz"], ["x.npy", "y.npy"], ["a.csv"]):
        loaded = data.load([tmp_path / name for name in files])
        np.testing.assert_array_equal(loaded.x.astype(np.float32), x)
        np.testing.assert_array_equal(loaded.y.astype(np.float32), y)
        assert loaded.dtype == "float32"
    result = exported(DIGITS, tmp_path / "m", options=(), expected_outputs=(tmp_path / "x.npy", tmp_path / "y.npy"))
    assert result.manifest.verification_basis == manifest.EXPECTED_OUTPUTS


def test_the_tokens_of_recorded_rows_are_rows_of_a_checkpoint(tmp_path: Path) -> None:
    reference, file = case(DIGITS).reference(), tmp_path / "a.npz"
    x, y = (reference[name][:24].reshape(4, 3, 2, -1) for name in "xy")
    np.savez(file, x=x, y=y, seed=np.arange(4), zone=np.array(["given", "far"] * 2))
    with pytest.raises(OptionError, match="has the inputs x, seed"):
        data.load([file]).of_network()
    np.savez(file, x=x, y=y, seed=np.arange(4))  # not recorded: other arrays may be anything
    loaded = data.load([file]).of_network()
    np.testing.assert_array_equal(loaded.x.astype(np.float32), reference["x"][:24])
    result = exported(DIGITS, tmp_path / "m", options=(), expected_outputs=(file,))
    assert result.manifest.verification.expected_outputs[0].rows == 24


def test_inputs_of_any_name_and_outputs_of_any_kind_are_recorded(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import kanexport

    class Odd(torch.nn.Module):
        def forward(self, file: Any, zone: Any) -> Any:
            return file @ torch.ones(2, 3), {"loss": file.sum(), "beside": zone > 0}, None

    x = np.ones((5, 2), np.float32)
    with np.load(kanexport.record_outputs(Odd(), (x, x[:, 0]), tmp_path / "a.npz")) as file:
        assert set(file.files) == {"file", "x.zone", "y.y0", "y.y1_beside", "zone"}
    loaded = data.load([tmp_path / "a.npz"])
    assert [port.name for port in loaded.inputs] == ["file", "zone"]
    np.testing.assert_array_equal(loaded.of_model(loaded.inputs, loaded.outputs).y, loaded.y)
    with pytest.raises(OptionError, match=r"returns float32 of shape \(\) for"):
        kanexport.record_outputs(lambda rows: rows.sum(), x, tmp_path / "b.npz")
    # A module of half precision is asked in float32.
    module = torch.nn.Linear(3, 4).to(torch.bfloat16)
    loaded = data.load([kanexport.record_outputs(module, np.ones((2, 3), np.float32), tmp_path / "outputs.npz")])
    assert module.weight.dtype == torch.bfloat16
    expected = module.float()(torch.from_numpy(loaded.x.astype(np.float32)))
    np.testing.assert_array_equal(loaded.y, expected.detach().numpy())
