"""Fixtures: one server with tight limits over tiny models, for commands and clients that only read from it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kanexport.conftest import PykanCheckpoint
from tests.support.command_line import Server, checkpoint, exported, serving

NAMES, CLASSES = ["height", "width", "depth"], ["no", "yes"]
ROWS = np.random.default_rng(3).normal(0, 0.4, (500, 3)).astype(np.float32)
BASELINE = ROWS[:300]
HELLO = Path(__file__).parents[1] / "golden" / "checkpoints" / "pykan-hello-symbolic" / "model"
MODELS = ("counted", "hello", "mixed", "named", "tiny")
STARTED: list[Server] = []  # conftest.py of several folders import the fixtures, and the process has one server


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only `tiny`: an efficient-kan state of widths 3, 4, 2. Tests only read from the folder."""
    return exported(checkpoint(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", (3, 4, 2)), "tiny")


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of MODELS with limits of 16 KiB per response and 500 rows per edge query."""
    if not STARTED:
        folder = tmp_path_factory.mktemp("server")
        shutil.copytree(repository, write(folder) / "models", dirs_exist_ok=True)
        limits = ("--max-response-bytes", "16KiB", "--max-edge-query-rows", "500")
        with serving(folder / "models", folder / "log", *limits) as running:
            STARTED.append(running)
            yield running
    else:
        yield STARTED[0]


def write(folder: Path) -> Path:
    """`tiny` with names as `counted`, and with a baseline of BASELINE as `named`, whose file has another order of the
    columns; a symbolic network, `hello`, and `mixed`, which has one numeric edge (1,2,0)."""
    state, models = checkpoint(folder / "tiny.safetensors", (3, 4, 2)), folder / "models"
    lines = ["depth,height,width", *(f"{row[2]},{row[0]},{row[1]}" for row in BASELINE.tolist())]
    (folder / "train.csv").write_text("\n".join(lines))
    names = ("--features", ",".join(NAMES), "--classes", ",".join(CLASSES))
    exported(state, "counted", *names, into=models)
    exported(state, "named", *names, "--baseline", folder / "train.csv", into=models)
    exported(HELLO, "hello", into=models)
    mixed = symbolic([2, 3, 1], ["sin"])
    mixed.tensors["act_fun.1.mask"][2, 0] = 1
    exported(mixed.write(folder), "mixed", into=models)
    return folder


def symbolic(width: list, names: list[str], **settings: object) -> PykanCheckpoint:
    """A checkpoint whose edges are symbolic, by turns with the functions named; affine values on all nodes."""
    toy = PykanCheckpoint(width, **settings)
    for at in range(len(width) - 1):
        toy.tensors[f"act_fun.{at}.mask"][:] = 0
        for i, j in np.ndindex(toy.tensors[f"act_fun.{at}.mask"].shape):
            toy.symbolic(at, i, j, names[(i + j + at) % len(names)], toy.rng.uniform(0.4, 0.9, size=4))
        for kind in ("node", "subnode"):
            for part, low in (("scale", 0.5), ("bias", -0.2)):
                values = toy.tensors[f"{kind}_{part}_{at}"]
                values[:] = toy.rng.uniform(low, low + 0.5, size=values.shape)
    return toy
