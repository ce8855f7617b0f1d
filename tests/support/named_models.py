"""Server of a model whose numbers have names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.command_line import Server, checkpoint, document, program, serving

NAMES = ["height", "width", "depth"]


ROWS = np.random.default_rng(3).uniform(-0.9, 0.9, (20, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`tiny`, whose numbers have names, and which was exported with rows."""
    folder = tmp_path_factory.mktemp("frames")
    state = checkpoint(folder / "tiny.safetensors", (3, 4, 2))
    np.save(folder / "rows.npy", ROWS)
    arguments = ("--features", ",".join(NAMES), "--classes", "no,yes", "--baseline", folder / "rows.npy", "--json")
    document(program("export", state, "--repository", folder / "models", "--name", "tiny", *arguments))
    with serving(folder / "models", folder / "log") as server:
        yield server
