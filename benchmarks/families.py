"""Errors of served models against their trained libraries, per library, for docs/reference/supported-libraries.md.

    make families        prints the table and writes it into the page

The script exports every golden checkpoint of tests/golden/checkpoints with the options of its
case and serves it on loopback. It requests over gRPC the rows whose outputs and edge values the
library computed in float64. Errors are relative to the largest magnitude, in each group of rows
for outputs and in each layer for edges. Torch modules with KAN layers have no edge values from a
library; for them the table shows the largest error that the export's verification found. The last
figure is the residual of Explain's contributions, the maximum over all rows and outputs of a
family, relative to the largest prediction.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from kanexport.bundle.publish import Result, Target  # noqa: E402 - as above
from kanexport.pipeline import Request, export  # noqa: E402 - after the path
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from kanserve.client import chunking  # noqa: E402 - as above
from kanserve.client.errors import NotSupported  # noqa: E402 - as above
from kanserve.client.sync import Client  # noqa: E402 - as above
from kanserve.types import Description  # noqa: E402 - as above
from tests.support import torch_modules  # noqa: E402 - beside the tests
from tests.support.golden_cases import OWN, cases, relative_error  # noqa: E402 - beside the tests
from tools.reference import libraries  # noqa: E402 - after the path

HYBRIDS = {
    "hybrid-cnn-efficient-kan": torch_modules.GoldenCnn,
    "hybrid-transformer-fastkan": torch_modules.GoldenTransformer,
}
STOP_SECONDS = 30


@dataclass(frozen=True)
class Measured:
    """Errors of one served case, all relative. `missed`: residual of the explanations, NaN if the model has none."""

    family: str
    output_error: float
    edge_error: float
    edge_class: str
    missed: float


def export_all(models: Path) -> dict[str, tuple[dict[str, Any], Path, Result]]:
    """Facts, folder and result of every case."""
    exported = {}
    for case in track([case for case in cases() if OWN in case.path.parents], "exporting"):
        result = export(Request(path=case.path, repository=models, name=case.name, options=case.options))
        exported[case.name] = (case.facts, case.path.parent, result)
    for name, make in HYBRIDS.items():
        folder, module = OWN / name, make()
        module.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        with np.load(folder / "reference.npz") as arrays:
            result = convert(module, arrays["x"], Target(repository=models, name=name), options={})
        exported[name] = (json.loads((folder / "case.json").read_text()), folder, result)
    return exported


@contextlib.contextmanager
def serving(models: Path) -> Iterator[str]:
    """A server on free ports; its gRPC address. Stopped in any case."""
    command = [sys.executable, "-m", "kanserve", "serve", str(models), "--grpc-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "server_ready":
                yield event["grpc"]
                return
        raise SystemExit("the server ended before it was ready")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=STOP_SECONDS)


def measure(client: Client, name: str, facts: dict[str, Any], folder: Path, result: Result) -> Measured:
    """Request the rows of the case and compare."""
    with np.load(folder / "reference.npz") as arrays:
        reference = dict(arrays)
    described = client.describe(name)
    y = client.infer(described.input, reference["x"], name=name).outputs["y"]
    outputs = max(relative_error(y[rows], reference["y64"][rows]) for rows in facts["row_groups"].values())
    if "layer0_edges" in reference:
        layers = client.edges(described, reference["x"])
        edges = max(relative_error(layer.values, reference[f"layer{layer.layer}_edges"]) for layer in layers)
    else:
        edges = max(zone.edges_max_rel for zone in result.manifest.verification.zones)
    return Measured(facts["family"], outputs, edges, described.edge_class, missing(client, described, reference["x"]))


def missing(client: Client, described: Description, rows: Any) -> float:
    """The largest residual of the contributions, relative; NaN if the model has no explanations."""
    try:
        explanation = chunking.explain(client, described, rows[np.isfinite(rows).reshape(len(rows), -1).all(axis=1)])
    except NotSupported:
        return float("nan")
    return float(explanation.completeness_error.max() / np.abs(explanation.predictions).max())


def table(measured: list[Measured]) -> str:
    """Markdown, one line per library."""
    lines = [
        "| library | checkpoints | largest output error | largest edge error | largest residual | edge class |",
        "|---|---|---|---|---|---|",
    ]
    for family in sorted({case.family for case in measured}, key=lambda name: (name == "hybrid", name)):
        own = [case for case in measured if case.family == family]
        classes = ", ".join(sorted({case.edge_class for case in own}))
        outputs, edges = max(case.output_error for case in own), max(case.edge_error for case in own)
        missed = [case.missed for case in own if not np.isnan(case.missed)]
        error = f"{max(missed):.1e}" if missed else "not explained"
        lines.append(f"| `{family}` | {len(own)} | {outputs:.1e} | {edges:.1e} | {error} | {classes} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Export, serve and measure. Print the table and write it into the page."""
    with tempfile.TemporaryDirectory(prefix="kanserve-families-") as folder:
        models = Path(folder)
        exported = export_all(models)
        with serving(models) as url, Client(url) as client:
            measured = [measure(client, name, *entry) for name, entry in exported.items()]
    text = table(measured)
    print(text)
    libraries.PAGE.write_text(libraries.with_errors(libraries.PAGE.read_text(), text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
