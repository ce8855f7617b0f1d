"""torch.save archives: equal to torch.load bit for bit, and safe against malicious archives."""

import collections
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import CheckpointError
from kanexport.formats import checkpoint, torch_archive

EMPTY = b"\x80\x02}."
ONE_TENSOR = (
    b"\x80\x02}Vw\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI%d\ntQ"
    b"I0\nI%d\n\x85I1\n\x85I00\nccollections\nOrderedDict\n)RtRs."
)


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, item in value.items() for key, leaf in flatten(item, f"{prefix}/{name}").items()}


def assert_same(torch: Any, data: bytes) -> None:
    """Our reading and torch.load(weights_only=True) agree in keys, types, shapes and bits."""
    expected = flatten(torch.load(io.BytesIO(data), weights_only=True, map_location="cpu"))
    result = flatten(torch_archive.read(data))
    assert list(result) == list(expected)
    for key, tensor in expected.items():
        if not isinstance(tensor, torch.Tensor):
            assert result[key] == tensor or isinstance(tensor, torch.dtype | torch.device | torch.Size), key
            continue
        tensor = tensor.detach()
        exact = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        assert result[key].dtype == exact.dtype, key
        assert result[key].shape == exact.shape, key
        assert result[key].tobytes() == exact.tobytes(), key
        assert result[key].flags.c_contiguous, key
        assert result[key].flags.owndata or result[key].base.size == result[key].size, key


def saved(torch: Any, value: Any, **options: Any) -> bytes:
    target = io.BytesIO()
    torch.save(value, target, **options)
    return target.getvalue()


def test_every_dtype_and_unusual_numbers(torch: Any) -> None:
    values = torch.tensor([[0.0, 1.0, 2.5], [100.0, 7.0, 1.0]])
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38])
    floating = ("float32", "float64", "float16", "bfloat16")
    for name in (*floating, "int64", "int32", "int16", "int8", "uint8", "bool"):
        typed = values.to(getattr(torch, name))
        own = {"odd": odd.to(typed.dtype)} if name in floating else {}
        assert_same(torch, saved(torch, {"plain": typed, "transposed": typed.T, "one": typed[1, 2], **own}))


def test_views_offsets_and_shared_storages(torch: Any) -> None:
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    value = {
        "offset": base[1, 2], "strided": base[:, ::2, 1:3, ::3], "permuted": base.permute(3, 1, 0, 2),
        "expanded": torch.tensor([3.0, 4.0]).expand(7, 2), "same": base, "empty": torch.zeros(0),
        "empty matrix": base[:, :, 4:, :], "scalar": torch.tensor(2.5), "scalar view": base[1, 1, 1, 1],
        "one row": base[:1].as_strided((1, 5), (10**9, 1)),
    }  # fmt: skip
    assert_same(torch, saved(torch, value))


def test_nested_dictionaries_parameters_and_other_values(torch: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    value = {
        "model": model.state_dict(), "parameters": collections.OrderedDict(model.named_parameters()), "epoch": 3,
        "loss": 0.5, "name": "kan", "history": [1.0, 2.0], "size": torch.Size([2, 3]), "dtype": torch.float32,
        "device": torch.device("cpu"), "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
    }  # fmt: skip
    assert_same(torch, saved(torch, value))


def test_formats_that_are_not_read_say_what_to_do(torch: Any, tmp_path: Path) -> None:
    legacy = saved(torch, {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    cases = {
        "legacy": (legacy, "before 1.6"),
        "single tensor": (saved(torch, torch.ones(2)), "single tensor"),
        "list": (saved(torch, [torch.ones(2)]), "a list"),
    }
    for name, (data, text) in cases.items():
        path = tmp_path / f"{name}.pt"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=text) as caught:
            checkpoint.load(path)
        assert "state_dict()" in caught.value.hint, name


def test_other_files_are_refused(tmp_path: Path) -> None:
    files = {"empty.pt": b"", "text.pt": b"these are no weights\n" * 10, "short.pt": b"PK"}
    for name, data in (files | {"plain.pkl": pickle.dumps({"w": [1.0]})}).items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=name):
            checkpoint.load(tmp_path / name)
    (tmp_path / "a_state").mkdir()
    no_files = {tmp_path: "is a folder", tmp_path / "no.pt": "does not exist", tmp_path / "a": "not exist"}
    for path, text in (no_files | {tmp_path / ("long" * 500): "cannot be read"}).items():
        with pytest.raises(CheckpointError, match=text):
            checkpoint.load(path)


def test_torchscript_is_refused_with_advice(torch_zip: Callable[..., bytes]) -> None:
    data = io.BytesIO(torch_zip(EMPTY))
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("archive/constants.pkl", EMPTY)
    with pytest.raises(CheckpointError, match="TorchScript") as caught:
        torch_archive.read(data.getvalue())
    assert "state_dict()" in caught.value.hint


def test_a_file_cut_off_anywhere_is_an_error(torch_files: list[Path]) -> None:
    data = min((path.read_bytes() for path in torch_files), key=len)
    for length in sorted({*range(0, 200, 7), *range(0, len(data), 997), *range(len(data) - 200, len(data), 3)}):
        with pytest.raises(CheckpointError):
            checkpoint._parse(data[:length])


def test_bombs_are_refused_before_they_unpack(torch_zip: Callable[..., bytes]) -> None:
    by_ratio = torch_zip(EMPTY, {"0": bytes(40 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    assert len(by_ratio) < 10**5
    by_pickle = torch_zip(
        bytes(2**20 * 65), {"0": np.random.default_rng(0).bytes(2**22)}, compression=zipfile.ZIP_DEFLATED
    )
    for data in (by_ratio, by_pickle):
        with pytest.raises(CheckpointError, match=r"unpacks? to"):
            torch_archive.read(data)


def _directory_says(data: bytes, name: str, **lies: int) -> bytes:
    """Change an entry's sizes, in its own header and in the central directory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entry = archive.getinfo(name)
        start = archive.start_dir
        central = data.index(name.encode(), start) - 46
    changed = bytearray(data)
    for field, (local, there) in {"compress_size": (18, 20), "file_size": (22, 24)}.items():
        value = struct.pack("<I", lies.get(field, getattr(entry, field)))
        changed[entry.header_offset + local : entry.header_offset + local + 4] = value
        changed[central + there : central + there + 4] = value
    return bytes(changed)


def test_an_entry_shorter_than_it_claims_gives_no_bytes_beyond_it(torch_zip: Callable[..., bytes]) -> None:
    """The checksum of the short entry is right; the tensor would reach outside it."""
    honest = torch_zip(ONE_TENSOR % (4, 4), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert torch_archive.read(honest)["w"].tolist() == [1, 2, 3, 4]
    count = 100_000
    data = _directory_says(
        torch_zip(ONE_TENSOR % (count, count), {"0": bytes(16)}), "archive/data/0", file_size=count * 4
    )
    with pytest.raises(CheckpointError, match=r"shorter|damaged"):
        torch_archive.read(data)


def test_a_deflated_entry_unpacks_no_further_than_it_claims(torch_zip: Callable[..., bytes], tmp_path: Path) -> None:
    """In a separate process, to read its peak memory: 200 MiB behind 16 bytes."""
    data = torch_zip(ONE_TENSOR % (4, 4), {"0": bytes(200 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "bomb.pt").write_bytes(_directory_says(data, "archive/data/0", file_size=16))
    script = """
import pathlib, resource, sys
from kanexport.formats import torch_archive
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    torch_archive.read(pathlib.Path(sys.argv[1]).read_bytes())
except torch_archive.CheckpointError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""
    command = [sys.executable, "-c", script, tmp_path / "bomb.pt"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    grown, _, message = printed.partition(" ")
    assert "damaged" in message
    assert int(grown) < 50_000  # KiB


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_trick_are_refused(torch_zip: Callable[..., bytes], tmp_path: Path) -> None:
    def extended(*names: str) -> bytes:
        target = io.BytesIO(torch_zip(EMPTY))
        with zipfile.ZipFile(target, "a") as archive:
            for name in names:
                archive.writestr(name, EMPTY)
        return target.getvalue()

    for names in (("archive/data.pkl",), ("other/data.pkl",), ("../data.pkl",)):
        with pytest.raises(CheckpointError, match=r"duplicate|not a torch checkpoint"):
            torch_archive.read(extended(*names))
    # Names that climb or are absolute name nothing: no entry is ever written to disk.
    assert torch_archive.read(extended("../../evil", "/evil", str(tmp_path / "evil"))) == {}
    assert list(tmp_path.iterdir()) == []


def test_other_packings_and_passwords_are_refused(torch_zip: Callable[..., bytes]) -> None:
    for packing in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(CheckpointError, match="compression type"):
            torch_archive.read(torch_zip(EMPTY, compression=packing))
    encrypted = bytearray(torch_zip(EMPTY))
    encrypted[6] |= 1
    encrypted[bytes(encrypted).index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(CheckpointError, match="damaged"):
        torch_archive.read(bytes(encrypted))


def test_big_endian_files_are_turned(torch_zip: Callable[..., bytes]) -> None:
    target = io.BytesIO(torch_zip(ONE_TENSOR % (3, 3), {"0": struct.pack(">3f", 1.5, -2, 3)}))
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("archive/byteorder", b"big")
    result = torch_archive.read(target.getvalue())["w"]
    assert result.tolist() == [1.5, -2.0, 3.0]
    assert result.dtype == np.dtype("=f4")
