"""Fixtures of the exporter's tests: golden files and small checkpoints."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import yaml

from tests.support.golden_cases import BESIDE, OWN, cases


@pytest.fixture(scope="session")
def torch_files() -> list[Path]:
    """Every file in torch's format of the golden sets that are present."""
    result = [path for folder in (OWN, BESIDE) for path in sorted(folder.glob("*/*"))]
    files = [path for path in result if path.suffix == ".pt" or path.name == "model_state"]
    assert len(files) >= 12, "the golden checkpoints of the repository are missing"
    return files


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[Path, tuple[str, ...]]]:
    """A golden case by name: the path to export, and its --option values."""
    known = {case.name: (case.path, case.options) for case in cases()}
    return known.__getitem__


@pytest.fixture(scope="session")
def torch_zip() -> Callable[..., bytes]:
    """An archive as torch.save writes it, around any pickle and any storages."""

    def make(
        pickled: bytes, storages: dict[str, bytes] | None = None, *, compression: int = zipfile.ZIP_STORED
    ) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", compression) as archive:
            archive.writestr("archive/data.pkl", pickled)
            for key, data in (storages or {}).items():
                archive.writestr(f"archive/data/{key}", data)
            archive.writestr("archive/version", "3\n")
        return target.getvalue()

    return make


def _pykan_tensors(levels: list[tuple[int, list[int]]], k: int, g: int, rng: Any, dtype: str) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for at in range(len(levels) - 1):
        n = levels[at][0] + len(levels[at][1])
        n_sum, arities = levels[at + 1]
        m, nodes = n_sum + sum(arities), n_sum + len(arities)
        gaps = rng.uniform(0.2, 0.6, size=(n, g + 2 * k))
        knots = np.cumsum(np.concatenate([np.zeros((n, 1)), gaps], axis=1), axis=1)
        tensors |= {
            f"act_fun.{at}.grid": knots - knots.mean(axis=1, keepdims=True),
            f"act_fun.{at}.coef": rng.normal(size=(n, m, g + k)),
            f"act_fun.{at}.mask": np.ones((n, m)),
            f"act_fun.{at}.scale_base": rng.normal(size=(n, m)),
            f"act_fun.{at}.scale_sp": rng.normal(size=(n, m)),
            f"symbolic_fun.{at}.mask": np.zeros((m, n)),
            f"symbolic_fun.{at}.affine": np.tile([1.0, 0.0, 1.0, 0.0], (m, n, 1)),
            f"node_scale_{at}": np.ones(nodes),
            f"node_bias_{at}": np.zeros(nodes),
            f"subnode_scale_{at}": np.ones(m),
            f"subnode_bias_{at}": np.zeros(m),
        }
    return {key: value.astype(dtype) for key, value in tensors.items()}


class PykanCheckpoint:
    """A small synthetic pykan model: change `tensors` and `config`, then `write`.

    `width` as in pykan: numbers, or (sums, multiplications); `arity` as its mult_arity.
    """

    def __init__(
        self, width: list[Any], *, k: int = 3, g: int = 4, arity: Any = 2, dtype: str = "float32", seed: int = 0
    ) -> None:
        pairs = [(w, 0) if isinstance(w, int) else tuple(w) for w in width]
        levels = [
            (sums, list(arity[at]) if isinstance(arity, list) else [arity] * count)
            for at, (sums, count) in enumerate(pairs)
        ]
        self.rng = np.random.default_rng(seed)
        self.tensors = _pykan_tensors(levels, k, g, self.rng, dtype)
        self.config: dict[str, Any] = {
            "width": [list(pair) for pair in pairs], "mult_arity": arity, "base_fun_name": "silu",
            "symbolic_enabled": True, "grid": g, "k": k,
        }  # fmt: skip
        for at in range(len(levels) - 1):
            m, n = self.tensors[f"symbolic_fun.{at}.mask"].shape
            self.config[f"symbolic.funs_name.{at}"] = [["0"] * n for _ in range(m)]

    def symbolic(self, layer: int, i: int, j: int, name: Any, affine: Any, mask: float = 1.0) -> None:
        self.tensors[f"symbolic_fun.{layer}.mask"][j, i] = mask
        self.tensors[f"symbolic_fun.{layer}.affine"][j, i] = affine
        self.config[f"symbolic.funs_name.{layer}"][j][i] = name

    def write(self, folder: Path, config: str | None = None) -> Path:
        """Write both files and return their prefix. The state is safetensors: the loader detects formats by their
        bytes."""
        prefix = folder / "toy"
        Path(f"{prefix}_state").write_bytes(safetensors.numpy.save(self.tensors))
        Path(f"{prefix}_config.yml").write_text(config or yaml.safe_dump(self.config))
        return prefix


@pytest.fixture(scope="session")
def pykan() -> type[PykanCheckpoint]:
    return PykanCheckpoint
