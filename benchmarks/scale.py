"""Memory, CPU time and disk space that the export of a large checkpoint needs, per network shape.

    python benchmarks/scale.py              large shapes of efficient-kan and pykan
    python benchmarks/scale.py golden       CPU seconds of every golden case, one process after the other

A checkpoint is made for each shape (random weights, float32, in efficient-kan's or pykan's format) in a
temporary folder, and exported by `kanserve export` in a process of its own, on one thread. Peak and CPU
seconds are those that the kernel counts for that process and its children. `file` is the checkpoint,
`disk` the version folder in the model repository, manifest included; `error` is the largest relative
error of outputs and of edges that the proof found. MiB everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

Floats = npt.NDArray[np.floating]

DEGREE = 3
MIB = 2**20


@dataclass(frozen=True)
class Shape:
    """Widths of the layers, grid intervals, and the library whose format the checkpoint has."""

    widths: tuple[int, ...]
    intervals: int
    family: str = "efficient-kan"

    def __str__(self) -> str:
        same = len(set(self.widths)) == 1 and len(self.widths) > 3
        widths = f"{len(self.widths) - 1} layers of {self.widths[0]}" if same else f"{list(self.widths)}"
        return f"{widths}, G = {self.intervals}, {self.family}"


SHAPES = (
    Shape((64, 64, 10), 5),
    Shape((784, 64, 10), 5),
    Shape((64,) * 21, 100),
    Shape((1000, 1000), 100),
    Shape((1000, 1000), 100, "pykan"),
    Shape((3072, 512, 10), 100),
    Shape((3072, 512, 10), 100, "pykan"),
)


@dataclass(frozen=True)
class Taken:
    """Resource use of one process: peak memory in MiB, user and kernel CPU seconds, and its output."""

    peak: float
    seconds: float
    out: str


def write(shape: Shape, folder: Path) -> Path:
    """A checkpoint of random weights whose hidden values stay near the grid."""
    tensors: dict[str, Floats] = {}
    for at, (grid, coef, base, scale) in enumerate(_layers(shape)):
        named = _pykan if shape.family == "pykan" else _efficient_kan
        tensors |= named(at, grid, coef, base, scale)
    path = folder / "model.pt"
    save(path, tensors)
    return path


def _layers(shape: Shape) -> Iterator[tuple[Floats, Floats, Floats, Floats]]:
    """For each layer, the extended knots [I, T], coefficients [I, O, K], base and spline scales [I, O]."""
    random = np.random.default_rng(0)
    knots = np.arange(-DEGREE, shape.intervals + DEGREE + 1, dtype=np.float32) * np.float32(2 / shape.intervals) - 1
    for n, m in zip(shape.widths, shape.widths[1:], strict=False):
        coef = random.standard_normal((n, m, shape.intervals + DEGREE), dtype=np.float32)
        base, scale = (random.standard_normal((n, m), dtype=np.float32) for _ in range(2))
        coef *= n**-0.5
        yield np.tile(knots, (n, 1)), coef, base * np.float32(n**-0.5), 1 + scale


def _efficient_kan(at: int, grid: Floats, coef: Floats, base: Floats, scale: Floats) -> dict[str, Floats]:
    tensors = {"grid": grid, "base_weight": base.T, "spline_weight": coef.swapaxes(0, 1), "spline_scaler": scale.T}
    return {f"layers.{at}.{name}": tensor for name, tensor in tensors.items()}


def _pykan(at: int, grid: Floats, coef: Floats, base: Floats, scale: Floats) -> dict[str, Floats]:
    n, m, _ = coef.shape
    edges = {"grid": grid, "coef": coef, "mask": np.ones((n, m)), "scale_base": base, "scale_sp": scale}
    tensors = {f"act_fun.{at}.{name}": tensor for name, tensor in edges.items()}
    for name in ("node", "subnode"):
        tensors |= {f"{name}_bias_{at}": np.zeros(m), f"{name}_scale_{at}": np.ones(m)}
    symbolic = {"mask": np.zeros((m, n)), "affine": np.zeros((m, n, 4))}
    return tensors | {f"symbolic_fun.{at}.{name}": tensor for name, tensor in symbolic.items()}


def save(path: Path, tensors: dict[str, Floats]) -> None:
    """As `torch.save` of a state dict does, without torch: a pickle of names and shapes, and one raw entry a tensor."""
    described = [b"\x80\x02}("]
    with zipfile.ZipFile(path, "w") as archive:
        for at, (name, tensor) in enumerate(tensors.items()):
            stored = np.ascontiguousarray(tensor, dtype=np.float32)
            archive.writestr(f"archive/data/{at}", stored.data.cast("B"))
            strides = [step // stored.itemsize for step in stored.strides]
            described += [
                b"X" + len(name).to_bytes(4, "little") + name.encode(),
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                f"((Vstorage\nctorch\nFloatStorage\nV{at}\nVcpu\nI{stored.size}\ntQI0\n".encode(),
                _tuple(stored.shape) + _tuple(strides) + b"I00\n}tR",
            ]
        archive.writestr("archive/data.pkl", b"".join([*described, b"u."]))


def _tuple(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(f"I{number}\n".encode() for number in numbers) + b"t"


def take(command: Sequence[str]) -> Taken:
    """Run a command on one thread. Raises CalledProcessError where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command), printed)
    return Taken(usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, printed)


def export(path: Path, models: Path, *arguments: str) -> tuple[Taken, dict[str, Any]]:
    """`kanserve export`, and its JSON document."""
    command = [sys.executable, "-P", "-m", "kanserve", "export", str(path), "--repository", str(models)]
    taken = take([*command, "--name", "model", "--force", "--json", *arguments])
    return taken, json.loads(taken.out)


def large(shapes: Sequence[Shape]) -> None:
    """Print the table."""
    print("| shape | file | disk | peak | CPU s | error of outputs, edges |")
    print("|---|---|---|---|---|---|")
    for shape in shapes:
        with tempfile.TemporaryDirectory() as place:
            path = write(shape, Path(place))
            taken, document = export(path, Path(place) / "models")
            file = path.stat().st_size
            disk = sum(entry.stat().st_size for entry in (Path(place) / "models" / "model" / "1").iterdir())
            zones = document["verification"]["zones"]
            errors = ", ".join(f"{max(zone[f'{what}_max_rel'] for zone in zones):.1e}" for what in ("outputs", "edges"))
            sizes = f"{file / MIB:.1f} | {disk / MIB:.1f} | {taken.peak:.0f}"
            print(f"| {shape} | {sizes} | {taken.seconds:.1f} | {errors} |", flush=True)


def golden() -> None:
    """Print the CPU seconds of every golden export, each the least of three, and their sum."""
    from tests.support.golden_cases import cases

    total = 0.0
    for case in cases():
        with tempfile.TemporaryDirectory() as place:
            runs = [export(case.path, Path(place), *case.facts["export_args"])[0] for _ in range(3)]
        least = min(run.seconds for run in runs)
        total += least
        print(f"{case.name:50} {least:6.2f} s {min(run.peak for run in runs):6.0f} MiB", flush=True)
    print(f"{'all':50} {total:6.2f} s")


if __name__ == "__main__":
    if sys.argv[1:] == ["golden"]:
        golden()
    else:
        wanted = [int(at) for at in sys.argv[1:]]
        large([SHAPES[at] for at in wanted] if wanted else SHAPES)
