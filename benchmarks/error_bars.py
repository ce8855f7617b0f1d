"""Error bars on new rows of known functions, for docs/guides/explain/error-bars.md.

    make setup TORCH=1
    python benchmarks/error_bars.py [--seeds 3] [--docs]

The script measures the regressions of `interval_coverage.py`, each with its noise and without noise. For each seed, it
trains a KAN, and exports it with `--certify --error-bars --coverage 0.9` on other rows. The certified box has the
ranges of these rows. Then it runs the exported graph on test rows, and compares the error bars with the distances to
the true function and to new targets. It prints Markdown on stdout. `--docs` stores the results and writes the table
into the page.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from benchmarks import interval_coverage as common  # noqa: E402 - as above
from benchmarks import pages  # noqa: E402 - after the path is set
from benchmarks.interval_coverage import CALIBRATION, COVERAGE, TESTING, TRAINING, DataSet  # noqa: E402 - as above
from kanexport.bundle import baseline, calibration, error_bars  # noqa: E402 - as above
from kanexport.bundle.certification import CertifyOptions  # noqa: E402 - as above
from kanexport.pipeline import Request, export  # noqa: E402 - as above
from kanexport.shared.error_bars import Bars  # noqa: E402 - as above
from kanexport.shared.manifest import Manifest  # noqa: E402 - as above
from kanexport.shared.ort import onnxruntime  # noqa: E402 - as above
from kanserve.analysis import intervals  # noqa: E402 - as above

PAGE, WRITER = ROOT / "docs" / "guides" / "explain" / "error-bars.md", "benchmarks/error_bars.py"
RESULTS = ROOT / "docs" / "benchmarks" / "results" / "error_bars.json"
BUDGET = 5.0  # seconds of a certificate
Rows = Any  # [N, inputs]


def exponential(x: Rows) -> Any:
    """The function of `interval_coverage.noisy`, without its noise."""
    return np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)


def feynman(x: Rows) -> Any:
    """The function of `interval_coverage.feynman`, without its noise."""
    return np.exp(-(x[:, 0] ** 2) / (2 * x[:, 1] ** 2)) / (np.sqrt(2 * np.pi) * x[:, 1])


TRUE: tuple[Callable[[Rows], Any], ...] = (exponential, feynman)  # of the first data sets; the third has labels


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of a data set, one entry per seed.

    unbounded  share of test rows outside of the box, which have no bar
    above      share of the other rows whose distance to the true function exceeds the bar
    targets    share of them whose distance to a new target exceeds the bar
    bar        median bar
    error      median distance to the true function
    width      median width of the prediction interval
    needed     smallest factor with which the calibration rows agree; -1 for none
    """

    name: str
    noise: bool
    unbounded: tuple[float, ...]
    above: tuple[float, ...]
    targets: tuple[float, ...]
    bar: tuple[float, ...]
    error: tuple[float, ...]
    width: tuple[float, ...]
    needed: tuple[float, ...]


def measured(data: DataSet, true: Callable[[Rows], Any], seed: int, *, noise: bool) -> tuple[float, ...]:
    """The results of one seed, in the order of `Measured`."""
    rng = np.random.default_rng(1000 + seed)
    x, y = data.draw(rng, TRAINING + CALIBRATION + TESTING)
    y = y if noise else true(x)
    parts = np.split(np.arange(len(x)), [TRAINING, TRAINING + CALIBRATION])
    network = common.trained(data, seed, x[parts[0]], y[parts[0]])
    with tempfile.TemporaryDirectory() as folder:
        whole, predicted = exported(Path(folder), network, x[parts[1]], y[parts[1]], x[parts[2]])
    bars = Bars(whole.error_bars, whole.certificate).of(x[parts[2]].astype(np.float32))[:, 0]
    own = intervals.of(whole.intervals, predicted)[:, 0]
    inside = np.isfinite(bars)
    errors, misses = (np.abs(predicted[:, 0] - values)[inside] for values in (true(x[parts[2]]), y[parts[2]]))
    return (
        float(1 - inside.mean()),
        float((errors > bars[inside]).mean()),
        float((misses > bars[inside]).mean()),
        float(np.median(bars[inside])),
        float(np.median(errors)),
        float(np.median(own[:, 1] - own[:, 0])),
        whole.error_bars.needed,
    )


def exported(folder: Path, network: torch.nn.Module, x: Rows, y: Any, test: Rows) -> tuple[Manifest, Any]:
    """The manifest of the network, calibrated on rows, and its outputs on test rows."""
    torch.save(network.state_dict(), folder / "net.pt")
    np.savez(folder / "rows.npz", x=x, y=y)
    done = export(
        Request(
            path=folder / "net.pt",
            repository=folder / "models",
            name="net",
            intervals=calibration.options(folder / "rows.npz", COVERAGE),
            certification=CertifyOptions(BUDGET, baseline.load(folder / "rows.npz")),
            error_bars=error_bars.options(folder / "rows.npz", enabled=True, certify=True),
        )
    )
    session = onnxruntime.InferenceSession((done.directory / "model.onnx").read_bytes())
    return done.manifest, session.run(["y"], {"x": test.astype(np.float32)})[0]


def measure(data: DataSet, true: Callable[[Rows], Any], seeds: int, *, noise: bool) -> Measured:
    """The results of a data set."""
    about = f"{data.name}{'' if noise else ', without noise'}"
    every = [
        measured(data, true, seed, noise=noise)
        for seed in track(range(seeds), description=about, console=Console(stderr=True))
    ]
    return Measured(data.name.partition(",")[0], noise, *zip(*every, strict=True))


def table(results: list[Mapping[str, Any]], about: str) -> str:
    """Markdown."""
    lines = [
        "| data | noise | true function above the bar | new target above the bar | median bar | median error | "
        "bar / interval width | needed factor | rows without a bar |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for own in results:
        mean = {key: float(np.mean(values)) for key, values in own.items() if key not in ("name", "noise")}
        needed = "none is enough" if min(own["needed"]) < 0 else f"{min(own['needed']):.3g} to {max(own['needed']):.3g}"
        lines.append(
            f"| {own['name']} | {'yes' if own['noise'] else 'no'} | {mean['above']:.3%} | {mean['targets']:.2%} | "
            f"{mean['bar']:.3g} | {mean['error']:.3g} | {mean['bar'] / mean['width']:.3g} | {needed} | "
            f"{mean['unbounded']:.2%} |"
        )
    return "\n".join([*lines, "", about, ""])


def main() -> None:
    args = common.arguments(__doc__, 3)
    torch.set_num_threads(1)
    pairs = tuple(zip(common.SETS, TRUE, strict=False))
    results = [asdict(measure(*pair, args.seeds, noise=noise)) for pair in pairs for noise in (False, True)]
    sentence = common.about(WRITER, args.seeds, f"factor 1, {COVERAGE:.0%} intervals")
    text = table(results, sentence)
    print(text)
    if args.docs:
        RESULTS.write_text(json.dumps({"about": sentence, "results": results}, indent=1) + "\n")
        pages.put(PAGE, "errors and bars", WRITER, text)


if __name__ == "__main__":
    main()
