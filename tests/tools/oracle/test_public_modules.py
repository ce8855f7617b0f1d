"""The oracle of published modules: it separates right from wrong on a test repository."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiers import full

ORACLE = Path(__file__).parents[3] / "tools" / "oracle"
TABLE = """
stand_ins = ["surely_not_there"]
[repositories."some/body"]
files."layers.py" = [
  { make = "Bumps(3, 2)", rows = [[3]] },
  { make = "nn.Sequential(Bumps(3, 2), BatchMean())", rows = [[3]], expected = "class C" },
  { make = "nn.Sequential(Bumps(3, 2), Noise())", rows = [[3]], expected = "random" },
  { make = "Bumps(3)", rows = [[3]] },
]
[repositories."no/body"]
files."layers.py" = [{ make = "Bumps(3, 2)", rows = [[3]] }]
"""
LAYERS = """
import surely_not_there
import torch
from torch import nn

class Bumps(nn.Module):
    def __init__(self, inputs, outputs, width=1.0):
        super().__init__()
        self.width = width
        self.register_buffer("centres", torch.linspace(-2, 2, 6))
        self.coefficients = nn.Parameter(torch.zeros(inputs, outputs, 6))
    def forward(self, x):
        bumps = torch.exp(-(((x[..., None] - self.centres) / self.width) ** 2))
        return torch.einsum("big,iog->bo", bumps, self.coefficients)

class BatchMean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)

class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)
"""


@pytest.fixture
def clones(tmp_path: Path) -> Path:
    (tmp_path / "some" / "body").mkdir(parents=True)
    (tmp_path / "some" / "body" / "layers.py").write_text(LAYERS)
    (tmp_path / "table.toml").write_text(TABLE)
    return tmp_path


def oracle(folder: Path, *code: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the oracle's files on its path."""
    path = [str(ORACLE), *sys.path]
    return subprocess.run(
        [sys.executable, *code],
        cwd=folder,
        env={"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@full("rare")
def test_each_becomes_what_it_should(clones: Path) -> None:
    done = oracle(clones, str(ORACLE / "public_modules.py"), ".", "--table", "table.toml", "--json", "found.json")
    document = json.loads((clones / "found.json").read_text())
    result: list[dict[str, Any]] = document["results"]
    outcomes = [item["outcome"] for item in result]
    assert outcomes == ["right", "class C", "random", "not run upstream", "no clone"], done.stdout + done.stderr
    assert result[0]["edges"] == 1
    assert result[0]["compared"] > 300
    assert 0 < result[0]["worst"] < 1e-5
    assert document["totals"]["with edges"] == 1
    assert done.returncode == 1, "what did not run is no success"


@full("combination")
def test_forms_of_public_code_become_what_their_table_says(tmp_path: Path) -> None:
    """Every fifth form; `make wild-test` exports all."""
    shared = ["--table", str(ORACLE / "wild.toml"), "--every", "5", "--first", "2"]
    done = oracle(tmp_path, str(ORACLE / "public_modules.py"), str(ORACLE / "wild"), *shared)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "module-too-large" in done.stdout


WRONG = """
import json, pathlib, sys, public_trial
folder = pathlib.Path.cwd()
one = {"clones": str(folder), "repository": "some/body", "file": "layers.py", "root": ".", "paths": [],
       "definitions": False, "stand_ins": ["surely_not_there"], "tokens": [], "rows": [[3]], "make": "Bumps(3, 2)"}
assert public_trial.prepare(one, folder)["outcome"] == "runs upstream"
document = public_trial.export(one, folder)
(folder / "export.json").write_text(json.dumps(document))
print(json.dumps(public_trial.compare(one | {"make": "Bumps(3, 2, width=1.01)"}, folder)))
"""


@full("rare")
def test_a_wrong_export_would_be_seen(clones: Path) -> None:
    done = oracle(clones, "-c", WRONG)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["outcome"] == "SILENT"
    assert "its largest answer" in result["why"]
