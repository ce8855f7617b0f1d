"""Without torch, the files of this folder are skipped before their imports."""

import importlib.util
from pathlib import Path

import pytest


class WithoutTorch(pytest.File):
    """A file of tests that cannot be imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("could not import 'torch'", allow_module_level=True)


@pytest.fixture(autouse=True)
def _same_everywhere() -> None:
    """The same random weights in each run, and one thread: several workers share the cores."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.File | None:
    return None if importlib.util.find_spec("torch") else WithoutTorch.from_parent(parent, path=module_path)
