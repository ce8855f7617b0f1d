"""Text output of an export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kanexport.bundle.publish import Result
from kanexport.ccode.generate import CodeFiles
from kanexport.shared.cli import certificates
from kanexport.shared.cli.console import say
from kanexport.shared.cli.tables import Table
from kanexport.shared.manifest import HYBRID, READING, Manifest, arrows
from kanexport.shared.sections import AS_TRAINED, OUT_OF_RANGE_POLICIES, Approximation

ASSUMED = "assumed, because the checkpoint does not store it"
COMPARE = (
    "to compare: run kanexport.record_outputs(model, rows, 'outputs.npz') with the trained model, "
    "then export with --expected-outputs outputs.npz"
)
MORE = re.compile(r" and (\d+) more$")  # the end of a list that is cut off
SEVERAL = "; "  # between what else a fact may be
STAR = "* tolerance relaxed for ill-conditioning; the notes in the report say where"


REGIONS = {
    "inside": "in grid",
    "extension": "extended grid",
    "knots": "on knots",
    "far": "out of grid",
    "nonfinite": "NaN, infinity",
    "single": "batch of 1",
}
EXAMPLE = {"inside": "example rows", "scaled": "example, scaled", "noise": "example, noise"}  # regions of a module
NOTHING = "-"  # shown if nothing was compared


def result(result: Result, *, verbose: bool = False) -> None:
    """Print one export as a table. `verbose`: also print the known alternatives of each assumed fact."""
    manifest = result.manifest
    edges = sum(layer.active_edges for layer in manifest.layers)
    say(
        f"{manifest.name} version {manifest.version}: {manifest.source.family}, "
        f"{arrows(manifest.shapes)}, {edges} edges"
    )
    say(manifest.claim)
    if manifest.verification_basis == READING:
        say(COMPARE, indent=2)
    _assumed(manifest.source.options_assumed, manifest.source.alternatives, verbose=verbose)
    _facts("decided by the expected outputs", manifest.source.options_decided, {})
    for what, scaler, name in (
        ("input", manifest.scalers.inputs, manifest.names.feature),
        ("output", manifest.scalers.outputs, manifest.names.output),
    ):
        if scaler:
            say(f"{what} scaler: {scaler.text(name)}")
    if manifest.out_of_range != AS_TRAINED:
        say(f"out of range: {manifest.out_of_range}: {OUT_OF_RANGE_POLICIES[manifest.out_of_range]}")
    if manifest.certificate:
        certificates.show_ranges(manifest.certificate, manifest.names, manifest.certificate.text)
    if manifest.approximation.quantize:
        say(manifest.approximation.text)
        _branches(manifest.approximation).show()
    for note in manifest.notes[len(manifest.approximation.notes()) :]:
        say(f"note: {note}")
    _graphs(manifest)
    if result.code is not None:
        _code(result.code)
    say(f"written to {result.directory}")


def _code(code: CodeFiles) -> None:
    """Print the generated files, their sizes and their verification."""
    sizes = f"{code.code.tables} bytes of constants"
    if code.code.explain_tables:
        sizes += f", {code.code.explain_tables} of them for contributions"
    say(f"{', '.join(code.files)}: {sizes}; {code.verified}")
    say(f"contributions: {code.explained}" if code.contributes else f"no contributions: {code.explained}", indent=2)
    for note in code.notes:
        say(f"note: {note}")


def _assumed(facts: Mapping[str, str], words: Mapping[str, str], *, verbose: bool) -> None:
    """Print facts that the file does not record: in one line, with the number of known alternatives. `verbose`:
    print the alternatives."""
    if verbose:
        _facts(ASSUMED, facts, words)
    elif facts:
        counts = {key: _count(words.get(key, "")) for key in facts}
        others = {key: f" ({count} known alternatives)" if count > 1 else "" for key, count in counts.items()}
        texts = [f"{key}={value}{others[key]}" for key, value in facts.items()]
        more = "; --verbose shows the alternatives" if any(counts.values()) else ""
        say(f"{ASSUMED}: {', '.join(texts)}{more}")


def _count(words: str) -> int:
    """The number of other values that a fact may have. `words`: a plain list, such as "or relu, tanh", or sentences."""
    if not words.startswith("or "):
        return len(words.split(SEVERAL)) if words else 0
    more = MORE.search(words)
    return len(words.split(", ")) + (int(more[1]) if more else 0)


def _facts(what: str, facts: Mapping[str, str], words: Mapping[str, str]) -> None:
    """Print facts that the file does not record: one line for each, or more if it has several alternatives."""
    if not facts:
        return
    say(f"{what}:")
    for key, value in facts.items():
        others = words.get(key, "").split(SEVERAL)
        say(f"{key}={value}" + (f" ({others[0]})" if others[0] and len(others) == 1 else ""), indent=2)
        for other in others if len(others) > 1 else ():
            say(other, indent=4)


def _graphs(manifest: Manifest) -> None:
    """Print the largest errors of each region, and the graphs next to the one for inference."""
    words = REGIONS | (EXAMPLE if manifest.source.family == HYBRID else {})
    numbers = ("rows", "outputs, relative", "outputs, absolute", "edges, relative", "edges, absolute")
    table = Table("largest errors against float64", ("region", *numbers, "worst edge"), numbers=numbers)
    for zone in manifest.verification.zones:
        outputs = _errors(zone.worst_output, zone.outputs_max_rel, zone.outputs_max_abs)
        edges = _errors(zone.worst_edge, zone.edges_max_rel, zone.edges_max_abs)
        table.add(words.get(zone.name, zone.name), str(zone.rows), *outputs, *edges, zone.worst_edge or NOTHING)
    table.show()
    for variant in manifest.variants:
        worst = max(zone.outputs_max_rel for zone in variant.zones)
        say(f"{variant.file}: large-batch variant; largest relative difference of outputs and nodes {worst:.1e}")
    if manifest.explanations.file:
        say(f"{manifest.explanations.file}: {', '.join(tensor.name for tensor in manifest.explanations.tensors)}")


def _errors(where: str, *errors: float) -> tuple[str, ...]:
    """Errors as text. `where`: the place of the largest error, empty if nothing was compared."""
    return tuple(f"{error:.1e}" if where or error else NOTHING for error in errors)


def _branches(approximation: Approximation) -> Table:
    """Table of the branches: the form of each, and the error that it causes by itself."""
    numbers = ("by itself, relative", "most quantized")
    table = Table("branches", ("layer", "branch", "computed in", *numbers), numbers=("layer", *numbers))
    for branch in approximation.branches:
        table.add(str(branch.layer), branch.kind, branch.form, f"{branch.error:.1e}", f"{branch.first:.1e}")
    return table


def folder(report: dict[str, Any]) -> None:
    """Print the report of a folder (`batch.run.document`): the exported models with their errors, and the reasons
    for rejected files. A star marks an error above the tolerance."""
    numbers = ("outputs", "edges")
    table = Table(
        "largest relative errors against float64", ("file", "family", "widths", "class", *numbers), numbers=numbers
    )
    rejected = []
    for entry in report["files"]:
        if entry["status"] == "refused":
            table.add(entry["path"], "rejected", *[""] * 4, style="red")
            rejected.append((entry["path"], entry["error"]))
            continue
        errors = []
        for kind in numbers:
            error = entry[f"{kind}_max_rel"]
            relaxed = error > entry["verification"][f"{kind}_tolerance"]
            errors.append(f"{error:.1e}" + "*" * relaxed)
            table.caption = (STAR,) if relaxed else table.caption
        table.add(entry["path"], entry["family"], " → ".join(map(str, entry["widths"])), entry["edge_class"], *errors)
    table.show()
    for place, error in rejected:
        message = error["message"].rpartition(f"{report['root']}/{place}: ")[2]
        say(f"{place}: {error['kind']}: {message}")
        if error["hint"]:
            say(f"help: {error['hint']}", indent=2)
    for option in report["unused"]:
        say(f"{option} was not used by an exported file")
    say(f"{report['exported']} of {report['tried']} exported")
