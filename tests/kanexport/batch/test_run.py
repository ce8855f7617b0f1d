"""A folder of checkpoints: what is found, what it is called, and that one bad file stops nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.batch import discover, worker
from kanexport.batch import run as sweep
from kanexport.batch.discover import Item
from kanexport.bundle import repository
from kanexport.cli import export_command, render
from kanexport.contract import naming
from kanexport.errors import CheckpointError, ExportError, FamilyError, OptionError, RepositoryError
from kanexport.formats import checkpoint
from kanexport.pipeline import Request

pytestmark = pytest.mark.slow

Golden = Callable[[str], tuple[Path, tuple[str, ...]]]
GOLDEN = Path(__file__).parents[2] / "golden"
ZIP = b"PK\x03\x04" + bytes(22)


def torch_head(name: bytes = b"archive/data.pkl") -> bytes:
    return ZIP + len(name).to_bytes(2, "little") + b"\0\0" + name


def write(root: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def places(root: Path, repository: Path | None = None) -> list[str]:
    return [item.place for item in discover.find(root, repository or root / "models")]


def test_formats_are_found_by_content_and_names_by_habit(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(4)
    write(
        tmp_path,
        **{
            "deep/er/torch_without_a_suffix": torch_head(),
            "saved.bin": torch_head(),
            "saved.pkl": b"\x80\x02ccollections\nOrderedDict\nctorch._utils\n",
            "old.model": checkpoint.LEGACY_MAGIC,
            "named_only.pth": b"an error page",
            "named_only.PT": b"",
            "tensors": tensors,
            # and what is not
            "scaler.pkl": b"\x80\x04\x95csklearn",
            "table.xlsx": torch_head(b"xl/workbook.xml"),
            "notes.txt": b"text",
            "weights.onnx": bytes(100),
            "short": b"PK",
            "blob": len(header).to_bytes(8, "little") + b"{" + bytes(300),
            "app_config.yml": b"port: 80",
        },
    )
    assert places(tmp_path) == [
        "deep/er/torch_without_a_suffix",
        "named_only.PT",
        "named_only.pth",
        "old.model",
        "saved.bin",
        "saved.pkl",
        "tensors",
    ]


def test_a_pykan_checkpoint_is_one_and_its_training_data_is_not_opened(tmp_path: Path, pykan: Any) -> None:
    prefix = pykan([2, 1]).write(tmp_path)
    shutil.copy(f"{prefix}_state", tmp_path / "bare_state")
    write(tmp_path, toy_cache_data=torch_head(), **{"lost_config.yml": b"base_fun_name: silu\n"})
    os.mkfifo(tmp_path / "pipe.pt")
    assert places(tmp_path) == ["bare_state", "lost_config.yml", "toy"]


def test_a_checkpoint_in_several_files_is_one_for_a_file_and_for_a_folder(tmp_path: Path, pykan: Any) -> None:
    for number, name in enumerate(("a.weight", "b.weight"), start=1):
        shard = safetensors.numpy.save({name: np.ones((2, 2), np.float32)})
        write(tmp_path, **{f"model-0000{number}-of-00002.safetensors": shard})
    write(tmp_path, **{"model.safetensors.index.json": b"{}"})
    write(tmp_path, **{"whole-00001-of-00001.safetensors": shard})
    prefix = pykan([2, 1]).write(tmp_path)

    listed = checkpoint.entry_points(sorted(tmp_path.iterdir()))
    assert [item.path for item in discover.find(tmp_path, tmp_path / "models")] == sorted(listed)
    first, *others = sorted(listed)
    assert first.name == "model-00001-of-00002.safetensors"
    assert [path.name for path in others] == ["toy", "whole-00001-of-00001.safetensors"]
    for part in (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ):
        with pytest.raises(CheckpointError, match=r"is a part of model\.safetensors, a checkpoint in several files"):
            checkpoint.load(tmp_path / part)
    assert checkpoint.load(others[1]).tensors.keys() == {"b.weight"}
    for name in (prefix, f"{prefix}_state", f"{prefix}_config.yml"):
        assert checkpoint.load(Path(name)).files == checkpoint.load(others[0]).files
    with pytest.raises(CheckpointError) as refused:
        checkpoint.load(tmp_path)
    assert all(str(path) in refused.value.hint for path in listed)


def test_each_golden_checkpoint_is_found_without_its_suffix(tmp_path: Path) -> None:
    kept = [path for path in GOLDEN.rglob("*") if path.suffix in naming.CHECKPOINTS]
    assert {path.suffix for path in kept} >= {".pt", ".keras", ".safetensors"}
    for at, path in enumerate(kept):
        shutil.copy(path, tmp_path / str(at))
    assert len(discover.find(tmp_path, tmp_path / "models")) == len(kept)


def test_hidden_linked_and_published_files_are_left_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    for place in ("a.pt", ".hidden.pt", ".git/b.pt", "models/m/1/c.pt", "sub/models/d.pt"):
        write(root, **{place: torch_head()})
    write(outside, **{"e.pt": torch_head()})
    (root / "link.pt").symlink_to(outside / "e.pt")
    (root / "linked").symlink_to(outside)
    (root / "round").symlink_to(root)
    assert places(root) == ["a.pt", "sub/models/d.pt"]
    assert places(root, tmp_path / "elsewhere") == ["a.pt", "models/m/1/c.pt", "sub/models/d.pt"]
    (tmp_path / "repository").symlink_to(root / "models")
    assert places(root, tmp_path / "repository") == ["a.pt", "sub/models/d.pt"]


def test_nothing_to_export_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, **{"notes.txt": b"", "a.pt": b"", "b.pt": b""})
    for path, text in [(tmp_path / "no", "is not a folder"), (tmp_path / "a.pt", "is not a folder")]:
        with pytest.raises(CheckpointError, match=text):
            discover.find(path, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint is below"):
        discover.find(tmp_path / "empty", tmp_path)
    monkeypatch.setattr(discover, "ITEM_LIMIT", 1)
    with pytest.raises(CheckpointError, match="holds 2 checkpoints, more than 1"):
        discover.find(tmp_path, tmp_path / "models")
    monkeypatch.setattr(discover, "ENTRY_LIMIT", 2)
    with pytest.raises(CheckpointError, match="more than 2 files"):
        discover.find(tmp_path, tmp_path / "models")


def named(*given: str, prefix: str = "") -> list[str]:
    return discover.names([Item(Path(place), place) for place in given], prefix)


def test_names_come_from_places() -> None:
    assert named("model/0.5", "runs/best.pt", "x_state") == ["model-0.5", "runs-best", "x"]
    assert named("a.pt", "a.safetensors", "b.pt", prefix="wine") == ["wine-a-pt", "wine-a-safetensors", "wine-b"]
    assert named("a.pt.pt", "b.PTH/c") == ["a-pt", "b.PTH-c"]  # commands take a name with this suffix for a file
    assert named("_odd name (1).pth", "ü.pt") == ["odd-name-1-", "model"]
    assert [name[:6] for name in named("ä.pt", "ö.pt")] == ["model-", "model-"]
    first, second = named("a/b.pt", "a-b.pt")
    assert first != second
    assert {first[:4], second[:4]} == {"a-b-"}
    assert named("a/b.pt", "a-b.pt", "c.pt")[:2] == [first, second]  # whatever else there is


@given(st.lists(st.text(alphabet="ab./-_ü ", min_size=1, max_size=150), unique=True, min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_names_are_usable_and_different(given: list[str]) -> None:
    found = named(*given)
    assert len(set(found)) == len(given)
    assert all(repository.check_target(Path("/nowhere"), name, 1, force=True) is None for name in found)


@pytest.fixture
def three(tmp_path: Path, golden: Golden, pykan: Any) -> Path:
    """Two good checkpoints, and one with a function of its own."""
    root = tmp_path / "files"
    (root / "sub").mkdir(parents=True)
    shutil.copy(golden("efficient-kan-wine-update-grid")[0], root / "sub" / "wine.pt")
    pykan([2, 1]).write(root)
    foreign = pykan([2, 1])
    foreign.symbolic(0, 0, 0, "mystery", (1, 0, 1, 0))
    foreign.write(tmp_path)
    for end in ("_state", "_config.yml"):
        (tmp_path / f"toy{end}").rename(root / f"foreign{end}")
    return root


@pytest.fixture
def mixed(three: Path) -> Path:
    """The same, and three that are refused for other reasons."""
    root = three
    write(root, **{"evil\x1b[2J.pt": (root / "sub" / "wine.pt").read_bytes()[:1000], "empty.pth": b""})
    (root / "cnn.safetensors").write_bytes(safetensors.numpy.save({"conv.weight": np.ones((2, 2, 3, 3))}))
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = export_command.main([*map(str, arguments)])
    return code, *capsys.readouterr()


def test_a_report_tells_what_became_of_each(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = (mixed, "--recursive", "--repository", tmp_path / "models", "--report", tmp_path / "report.json")
    code, out, err = run(capsys, *where)
    assert (code, err) == (4, "")
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert (report["format"], report["exported"], report["tried"]) == (1, 2, 6)
    files = {entry["path"]: entry for entry in report["files"]}
    assert {path: entry["error"]["kind"] for path, entry in files.items() if entry["status"] == "refused"} == {
        "cnn.safetensors": "FamilyError",
        "empty.pth": "CheckpointError",
        "evil\x1b[2J.pt": "CheckpointError",
        "foreign": "UnknownFunction",
    }
    wine = files["sub/wine.pt"]
    assert (wine["name"], wine["family"], wine["widths"], wine["edge_class"]) == (
        "sub-wine",
        "efficient-kan",
        [13, 6, 3],
        "A",
    )
    assert 0 < wine["outputs_max_rel"] <= 1e-5
    assert 0 < wine["edges_max_rel"] <= 5e-5
    for entry in files.values():
        assert (tmp_path / "models" / entry["name"]).exists() == (entry["status"] == "exported")
        assert entry["seconds"] > 0
    assert "2 of 6 exported" in out
    assert "empty.pth: CheckpointError" in out
    assert {entry["error"]["exit_code"] for entry in files.values() if "error" in entry} == {2}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert "'mystery'" in out
    assert "\x1b" not in out
    code, out, _ = run(capsys, *where, "--json", "--force")
    assert code == 4
    assert json.loads(out)["exported"] == 2


def test_what_rounding_makes_large_is_starred(tmp_path: Path, pykan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pykan([2, 1]).write(tmp_path)
    report = sweep.document(sweep.sweep(Request(path=tmp_path, repository=tmp_path / "models")))
    render.folder(report)
    assert "*" not in capsys.readouterr().out
    report["files"][0]["edges_max_rel"] = 6e-5
    render.folder(report)
    out = capsys.readouterr().out
    assert "6.0e-05*" in out
    assert "* the model itself" in out


def test_all_exported_is_success_and_twice_is_not(
    tmp_path: Path, pykan: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pykan([2, 1]).write(tmp_path)
    where = (tmp_path, "--recursive", "--repository", tmp_path / "models", "--name", "mine", "--json")
    assert run(capsys, *where)[0] == 0
    assert (tmp_path / "models" / "mine-toy" / "1" / "manifest.json").is_file()
    code, out, _ = run(capsys, *where)
    assert code == 4
    assert json.loads(out)["files"][0]["error"]["kind"] == "RepositoryError"


def test_options_go_where_they_are_known_and_are_missed_where_they_are_not(three: Path, tmp_path: Path) -> None:
    request = Request(path=three, repository=tmp_path / "models", options=("base_activation=tanh", "base_fun=tanh"))
    report = sweep.sweep(request)
    given = {row.place: row.result["options"]["given"] for row in report.rows if row.result}
    assert given == {"sub/wine.pt": {"base_activation": "tanh"}, "toy": {"base_fun": "tanh"}}
    assert report.unused == ()
    misspelt = Request(path=three / "sub", repository=tmp_path / "models", options=("base_activaton=tanh",), force=True)
    report = sweep.sweep(misspelt)
    assert report.exported == 1
    assert report.unused == ("--option base_activaton",)
    assert report.exit_code == 4


def test_functions_of_ones_own_go_where_an_edge_uses_them(three: Path, tmp_path: Path) -> None:
    given = ("mystery=x*sin(x)", "other=x")
    report = sweep.sweep(Request(path=three, repository=tmp_path / "models", functions=given, symbolic=("7,0,0=sin",)))
    used = {row.place: row.result["options"]["given"] for row in report.rows if row.result}
    assert used == {"sub/wine.pt": {}, "toy": {}, "foreign": {"function mystery": "x*sin(x)"}}
    assert report.unused == ("--symbolic 7,0,0", "--function other")


def test_an_architecture_is_for_the_files_that_have_its_keys(three: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps.toml"
    steps.write_text('[[step]]\nlayer="layers.0"\n[[step]]\nfunction="tanh"\n[[step]]\nlayer="layers.1"\n')
    report = sweep.sweep(Request(path=three, repository=tmp_path / "models", architecture=steps))
    reasons = {row.place: row.result["family_reason"] for row in report.rows if row.result}
    assert reasons["sub/wine.pt"] == "given with --architecture"
    assert reasons["toy"] == "act_fun.0.coef has three axes"
    assert report.unused == ()
    steps.write_text('[[step]]\nlayer="elsewhere"\n')
    report = sweep.sweep(Request(path=three, repository=tmp_path / "models", architecture=steps, force=True))
    assert report.unused == ("--architecture",)
    assert report.exported == 2


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"options": ("a",)}, OptionError),
        ({"name": "../up"}, RepositoryError),
        ({"version": 0}, RepositoryError),
        ({"tolerance": 7.0}, OptionError),
        ({"dtype": "float8"}, OptionError),
        ({"family": "magic"}, FamilyError),
        ({"functions": ("f=import os",)}, OptionError),
        ({"architecture": Path("/no/such.toml")}, OptionError),
        ({"path": Path("/no/such/folder")}, CheckpointError),
    ],
)
def test_what_is_wrong_for_all_is_said_before_the_first(
    mixed: Path, tmp_path: Path, changes: dict[str, Any], kind: type[ExportError]
) -> None:
    with pytest.raises(kind):
        sweep.sweep(Request(**({"path": mixed, "repository": tmp_path / "models"} | changes)))
    assert not (tmp_path / "models").exists()


def test_limits_are_checked(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = (mixed, "--recursive", "--repository", tmp_path / "models")
    for flags in (
        ("--time-limit", "0"),
        ("--time-limit", "nan"),
        ("--memory-limit", "3"),
        ("--report", tmp_path),
        ("--report", tmp_path / "no" / "r.json"),
    ):
        code, _, err = run(capsys, *where, *flags)
        assert code == 2
        assert "limit is" in err or "--report" in err
    assert run(capsys, mixed / "sub" / "wine.pt", "--report", tmp_path / "r.json")[0] == 2
    assert not (tmp_path / "models").exists()


def test_a_file_that_takes_too_long_or_too_much_costs_itself_alone(
    tmp_path: Path, pykan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds are real: a wide model against a short time and a small memory."""
    pykan([2, 1]).write(tmp_path)
    width = 2000
    rng = np.random.default_rng(0)
    wide = {
        "base_weight": rng.normal(size=(width, width)),
        "spline_weight": rng.normal(size=(width, width, 8)),
        "grid": np.tile(np.linspace(-2.2, 2.2, 12), (width, 1)),
    }
    (tmp_path / "wide.safetensors").write_bytes(safetensors.numpy.save(wide))
    request = Request(path=tmp_path, repository=tmp_path / "models")
    rows = {row.place: row for row in sweep.sweep(request, memory=512).rows}
    assert rows["toy"].result
    assert rows["wide.safetensors"].error is not None
    assert rows["wide.safetensors"].error["kind"] == "LimitExceeded"
    assert "more than 512 MiB" in rows["wide.safetensors"].error["message"]
    size = (tmp_path / "wide.safetensors").stat().st_size / 2**20
    assert f"a file of {size:.0f} MiB needs about " in rows["wide.safetensors"].error["message"]
    needed = int(rows["wide.safetensors"].error["hint"].split()[-1])
    assert 4 * size < needed < 4 * size + 400
    started = time.monotonic()
    rows = {row.place: row for row in sweep.sweep(request, seconds=0.05).rows}
    assert time.monotonic() - started < 10
    assert {row.error["kind"] for row in rows.values() if row.error} == {"LimitExceeded"}
    assert "--time-limit" in (rows["toy"].error or {})["hint"]


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("import os; os.kill(os.getpid(), 11)", "Crashed", "signal SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "LimitExceeded", "killed"),
        ("raise SystemExit('gone')", "Crashed", "exit code 1: gone"),
        ("print('no JSON')", "Crashed", "exit code 0"),
    ],
)
def test_a_process_that_dies_is_an_error_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: str, text: str
) -> None:
    """Another interpreter in the place of ours: it reads the request and then dies."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.buffer.read()\n{code}\n")
    script.chmod(0o755)
    write(tmp_path, **{"a.pt": b"", "b.pt": b""})
    monkeypatch.setattr(sweep.sys, "executable", str(script))
    rows = sweep.sweep(Request(path=tmp_path, repository=tmp_path / "models")).rows
    assert [row.error and row.error["kind"] for row in rows] == [kind, kind]
    assert all(row.error and text in row.error["message"] for row in rows)


def test_requests_reach_the_process_whole() -> None:
    request = Request(
        path=Path("a\udcff.pt"),
        repository=Path("models"),
        options=("a=1", "b=2"),
        symbolic=("0,0,0=sin",),
        functions=("f=x",),
        architecture=Path("steps.toml"),
        family="pykan",
        version=3,
        tolerance=1e-6,
        expected_outputs=(Path("x.npy"), Path("y.npy")),
        shared=True,
    )
    assert worker.decode(worker.encode(request, 10)) == (request, 10)


def test_a_file_in_the_current_folder_is_not_imported(tmp_path: Path, pykan: Any, monkeypatch: Any) -> None:
    pykan([2, 1]).write(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert sweep.sweep(Request(path=Path(), repository=Path("models"))).exported == 1
