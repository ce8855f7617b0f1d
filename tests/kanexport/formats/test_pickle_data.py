"""Pickles in checkpoints: parsed as data. Hostile pickles are rejected, and no code runs."""

import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanexport.cli import export_command
from kanexport.errors import CheckpointError, ExportError, UnsafeCheckpoint
from kanexport.formats import checkpoint, pickle_data
from tests.support.hostile_files import ENDLESS, MISUSE, attacks, entry, tensor, text
from tests.support.tiers import spread

MEMORY = 64 * 2**20  # bytes
# These pickles are not attacks: they name a global without a call, put opcodes after STOP, or are damaged.
INERT = (
    *("builtins getattr", "stack global of no text", "build", "build of a class", "after stop", "dotted name"),
    "numpy scalar",
)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def load(canary: Path, data: bytes) -> dict[str, Any]:
    """The tensors of a file."""
    path = canary.with_name("evil.pt")
    path.write_bytes(data)
    return checkpoint.load(path).tensors


def test_nothing_a_pickle_asks_for_is_run(canary: Path, torch_zip: Callable[..., bytes]) -> None:
    for name, data in attacks(canary).items():
        with pytest.raises(ExportError) as caught:
            load(canary, torch_zip(data, {"0": bytes(16)}))
        assert len(caught.value.message) < 400 + len(str(canary)), name
        assert isinstance(caught.value, UnsafeCheckpoint) == (name not in INERT), name
        assert not canary.exists(), name
    pickle.loads(attacks(canary)["dumps 2"])  # Python's own unpickler runs it: the canary can appear
    assert canary.exists()


def test_a_refusal_names_what_was_asked_for_and_advises(canary: Path) -> None:
    for name in ("global reduce", "stack global", "dumps 5", "torch load inside"):
        with pytest.raises(UnsafeCheckpoint, match=r"system|torch\.serialization\.load") as caught:
            pickle_data.read(attacks(canary)[name])
        assert "nothing was executed" in caught.value.message
        assert "state_dict()" in caught.value.hint


def test_misuse_is_an_error_that_explains(canary: Path, torch_zip: Callable[..., bytes]) -> None:
    good = torch_zip(tensor(b"I1\nI2\n\x85I2\n\x85"), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert load(canary, good)["w"].tolist() == [2.0, 4.0]
    for name, data in MISUSE.items():
        with pytest.raises(CheckpointError) as caught:
            load(canary, torch_zip(data, {"0": bytes(16)}))
        assert 20 < len(caught.value.message) - len(str(canary)) < 400, name


@spread("name", ENDLESS, 2, "rare")
def test_endless_values_end_quickly_and_small(name: str, canary: Path, torch_zip: Callable[..., bytes]) -> None:
    """pytest ends what does not end."""
    data = torch_zip(ENDLESS[name], {"0": bytes(2**20)})
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            load(canary, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


def test_every_protocol_is_read() -> None:
    value = {"a": [1, -5, 2**70, 1.5, True, None, "text", b"bytes"], "b": {"c": ((), (1,), (1, 2, 3), (1, 2, 3, 4))}}
    for protocol in range(2, 6):
        sample = value if protocol >= 3 else {**value, "a": [item for item in value["a"] if item != b"bytes"]}
        data = pickle.dumps(sample, protocol)
        assert pickle_data.read(data) == sample, protocol
        assert pickle_data.read(pickletools.optimize(data)) == sample, protocol


def test_names_in_errors_cannot_steer_a_terminal(canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = canary.with_name("evil.pt")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", entry(text("os\x1b[2J") + text("x") + b"\x93"))
    assert export_command.main([str(path), "--repository", str(canary.with_name("models"))]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "\\x1b[2J" in error
