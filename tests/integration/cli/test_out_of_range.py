"""`kanserve export --out-of-range`: the command's output, and the policy that server and commands report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kanexport.contract.sections import AS_TRAINED, OUT_OF_RANGE_POLICIES
from tests.support.command_line import Server, checkpoint, document, kanserve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outside")
    checkpoint(root / "tiny.safetensors", (3, 4, 2))
    return root


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("policy", ["", *OUT_OF_RANGE_POLICIES])
def test_the_policy_is_told_by_the_export_and_of_the_folder(folder: Path, policy: str) -> None:
    name = f"m-{policy}".rstrip("-")
    chosen = ("--out-of-range", policy) if policy else ()
    ask = ("export", folder / "tiny.safetensors", "--repository", folder / "models", "--name", name, *chosen)
    done = kanserve(*ask)
    assert done.returncode == 0, done.stderr
    expected = policy or AS_TRAINED
    loud = expected != AS_TRAINED
    assert (f"out of range: {expected}: {OUT_OF_RANGE_POLICIES[expected]}" in words(done.stdout)) == loud
    assert document(kanserve(*ask, "--force", "--json"))["out_of_range"] == expected
    assert document(kanserve("models", folder / "models", name, "--json"))["model"]["out_of_range_policy"] == expected
    shown = words(kanserve("models", folder / "models", name).stdout)
    assert (OUT_OF_RANGE_POLICIES[expected] in shown) == loud


def test_a_server_tells_it(server: Server) -> None:
    assert (
        document(kanserve("models", "tiny", "--url", server.url, "--json"))["model"]["out_of_range_policy"]
        == AS_TRAINED
    )


def test_another_policy_and_a_grid_that_is_missing_are_refused(folder: Path) -> None:
    ask = ("export", folder / "tiny.safetensors", "--repository", folder / "models", "--name", "no")
    done = kanserve(*ask, "--out-of-range", "drop")
    assert (done.returncode, "invalid choice 'drop'" in done.stderr) == (2, True), done.stderr


def test_a_module_is_not_clamped(folder: Path) -> None:
    pytest.importorskip("torch")
    np.save(folder / "rows.npy", np.zeros((4, 3), np.float32))
    created = ("--module", "torch.nn:Identity", "--example", folder / "rows.npy", "--name", "module")
    done = kanserve("export", *created, "--repository", folder / "models", "--out-of-range", "clamp")
    assert done.returncode == 2
    assert "--out-of-range clamp does not fit a PyTorch module" in words(done.stderr)
