"""Edited networks as new versions: opens a version, changes its network, compares both, and exports the result.

    kanexport.republish.edit_version(Path("models/hello/1"), [parse("0:1:2", "to", "sin(x)")], author="ada")

The new version has the settings of its parent and a section `edit` in its manifest. A server never serves it by
default. Prediction intervals, error bars and the baseline of the parent are not valid for another network, so that they
are dropped, with a note. A certificate is computed again, for the same box and with the same budget.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport import pipeline
from kanexport.bundle import baseline, calibration, certification
from kanexport.bundle import repository as writer
from kanexport.bundle.baseline import Rows
from kanexport.bundle.certification import CertifyOptions
from kanexport.bundle.description import Signature
from kanexport.bundle.publish import Result
from kanexport.certify import certificate
from kanexport.certify.certificate import Certificate
from kanexport.edit import apply as edits
from kanexport.edit import difference
from kanexport.edit.apply import Change
from kanexport.edit.difference import Difference
from kanexport.edit.operations import EdgeEdit
from kanexport.errors import ExportError, InvalidKan, OptionError
from kanexport.ir.model import Kan
from kanexport.ir.scaling import standardize
from kanexport.pipeline import Reopened
from kanexport.shared import safe_files
from kanexport.shared.manifest import FILE_NAME, SIZE_LIMIT
from kanexport.shared.naming import LONGEST
from kanexport.shared.sections import GRID_BOX, Edit, EditedEdge

Array = npt.NDArray[np.float64]
Advance = Callable[[int, int], None]

BUDGET = 2.0  # seconds for each certificate
NARROW = 1e-6  # of the width, below which two certified ranges count as equal
ROWS = "--rows"


@dataclass(frozen=True, slots=True)
class EditResult:
    """Result of an edit: the export, whose folder is empty if nothing was written, and the difference report."""

    result: Result
    difference: Difference


def edit_version(
    folder: Path,
    requested: Sequence[EdgeEdit],
    *,
    author: str = "",
    rows: Rows | None = None,
    version: int | None = None,
    repository: Path | None = None,
    budget: float = BUDGET,
    dry_run: bool = False,
    advance: Advance = lambda done, total: None,
) -> EditResult:
    """Edit the network of a version, and write the result as another version.

    folder      of the version, such as models/hello/1
    rows        of the user's data, for the comparison and the baseline of the new version
    version     its number (None: the next free one)
    repository  where it is written (None: next to its parent)
    budget      seconds for each certificate; 0: none
    dry_run     export and verify, but write nothing

    Raises ExportError; then nothing has changed.
    """
    opened = pipeline.reopen(folder)
    edited = edits.apply(opened.kan, requested, standardize(opened.served.layers[0]))
    report = compare(opened, edited.kan, edited.changes, rows=rows, budget=budget)
    section = edit_section(opened, folder, edited.changes, report, author)
    result = publish_version(
        opened,
        edited.kan,
        section,
        rows=rows,
        version=version,
        repository=repository,
        notes=edited.notes(),
        dry_run=dry_run,
        advance=advance,
    )
    return EditResult(result, report)


def compare(
    opened: Reopened, kan: Kan, changes: Sequence[Change], *, rows: Rows | None = None, budget: float = BUDGET
) -> Difference:
    """The difference of a changed network from that of the opened version, in the units of the user. `rows`, `budget`:
    as in `edit_version`. Raises OptionError for rows that do not fit the model."""
    before, after = opened.served, opened.served_like(kan)
    x, rows_from = comparison_rows(opened, rows)
    classes = tuple(map(opened.target.names.output, range(before.n_outputs)))
    report = difference.compare(before, after, x, rows_from, changes, classes)
    certificates, note = None, "not requested"
    if budget and opened.request.dtype != "float32":
        note = f"certificates are for float32 graphs, the version has {opened.request.dtype}"
    elif budget:  # over the training grid
        try:
            low, high = certificate.grid_box(before)
            own = [certificate.certify(network, low, high, budget) for network in (before, after)]
            certificates = certificate_changes(opened, *own)
            note = f"certified over the training grid within {budget:g} s each"
        except ExportError as error:
            note = f"the network has no certificate: {error.message}"
    return dataclasses.replace(report, certificates=certificates, certificates_note=note)


def comparison_rows(opened: Reopened, rows: Rows | None) -> tuple[Array, str]:
    """Rows [B, n] in the units of the user, and where they are from: the rows of the user, or else the baseline of the
    version, the training grid, or the reference rows. Raises OptionError."""
    if rows is not None:
        signature = Signature.of_network(opened.kan, opened.request.dtype)
        return baseline.fitting(rows, signature.inputs(), opened.target.names, ROWS), f"{rows.name}"
    sampled = difference.of_baseline(opened.manifest)
    if sampled is not None:
        return sampled, "sampled from the input histograms of the baseline"
    try:
        return difference.in_box(*certificate.grid_box(opened.served)), "sampled from the training grid"
    except InvalidKan as error:
        if not opened.manifest.reference.inputs:
            raise OptionError(
                f"the network has no rows to compare: {error.message}",
                code="rows-required",
                hint=f"pass rows of your data with {ROWS} FILE",
            ) from error
    return np.array(opened.manifest.reference.inputs, dtype=np.float64), "reference rows of the export"


def certificate_changes(opened: Reopened, before: Certificate, after: Certificate) -> dict[str, Any]:
    """The outputs whose certified range changes, and the directions that change."""
    names = opened.target.names
    outputs = []
    for o in range(len(before.y_low)):
        old, new = ([float(own.y_low[o]), float(own.y_high[o])] for own in (before, after))
        if max(abs(old[0] - new[0]), abs(old[1] - new[1])) > NARROW * max(old[1] - old[0], new[1] - new[0]):
            outputs.append({"name": names.output(o), "before": old, "after": new})
    directions = [
        {"input": names.feature(i), "output": names.output(o), "before": old, "after": new}
        for i, (olds, news) in enumerate(zip(before.direction, after.direction, strict=True))
        for o, (old, new) in enumerate(zip(olds, news, strict=True))
        if old != new
    ]
    return {"outputs": outputs, "directions": directions}


def edit_section(
    opened: Reopened, folder: Path, changes: Sequence[Change], report: Difference, author: str = ""
) -> Edit:
    """The section `edit` of the manifest of a changed version. `folder`: of the opened version. Raises OptionError for
    an author that is not valid."""
    if len(author) > LONGEST or not (author.isprintable() and author == author.strip()):
        raise OptionError(
            f"--author is {author[:40]!r}, expected at most {LONGEST} printable characters",
            code="author-invalid",
            hint="pass a name, such as --author ada",
        )
    data = safe_files.read(folder / FILE_NAME, SIZE_LIMIT)
    return Edit(
        parent_version=opened.manifest.version,
        parent_sha256=hashlib.sha256(data).hexdigest(),
        author=author,
        edges=tuple(
            EditedEdge(
                layer=change.edit.layer,
                source=change.edit.source,
                destination=change.edit.destination,
                operation=change.edit.summary,
                form=change.form,
                error=change.error_max,
            )
            for change in changes
        ),
        rows=report.rows,
        rows_from=report.rows_from,
        largest=tuple(output.largest for output in report.outputs),
        mean=tuple(output.mean for output in report.outputs),
        changed=report.changed,
    )


def publish_version(
    opened: Reopened,
    kan: Kan,
    edit: Edit,
    *,
    rows: Rows | None = None,
    version: int | None = None,
    repository: Path | None = None,
    notes: tuple[str, ...] = (),
    dry_run: bool = False,
    advance: Advance = lambda done, total: None,
) -> Result:
    """Export a changed network with the settings of the opened version. The graphs are verified against it. The
    arguments are those of `edit_version`; `notes`: sentences for the manifest. Raises ExportError; then nothing has
    changed."""
    require_exact(opened)
    home = repository or _home(opened)
    number = next_version(home, opened.manifest.name, opened.manifest.version) if version is None else version
    own, certify = opened.manifest.certificate, certification.NO_OPTIONS
    if own:  # the same box, budget and range check
        ends = None if own.box == GRID_BOX else Rows(np.array([own.low, own.high]), (), own.box, own.sha256)
        certify = CertifyOptions(budget=own.budget, rows=ends, range_check=own.range_check)
    target = dataclasses.replace(
        opened.target,
        repository=home,
        version=number,
        baseline=rows,
        intervals=calibration.NO_OPTIONS,
        edit=edit,
        range_of_certificate=certify.range_check,
    )
    request = dataclasses.replace(opened.request, repository=home, version=number, certification=certify)
    target.check()
    request.check_kernel()
    if dry_run:
        target, request = dataclasses.replace(target, repository=None), dataclasses.replace(request, repository=None)
    notes += _dropped(opened, rows)
    try:
        return pipeline.export_network(kan, request, target, opened.manifest.source, notes, advance=advance)
    except InvalidKan as error:
        if not error.code.startswith("certificate-") or certify.range_check:
            raise
        request = dataclasses.replace(request, certification=certification.NO_OPTIONS)
        notes += (f"the edited network has no certificate: {error.message}",)
    return pipeline.export_network(kan, request, target, opened.manifest.source, notes, advance=advance)


def _home(opened: Reopened) -> Path:
    """The repository of the opened version. Raises OptionError for a folder outside of a repository."""
    folder = opened.request.path.absolute()
    if folder.parent.name != opened.manifest.name or opened.target.repository is None:
        raise OptionError(
            f"{folder} is not in a model repository: the model is {opened.manifest.name!r}",
            code="repository-missing",
            hint="name the repository of the result with --repository FOLDER",
        )
    return opened.target.repository


def require_exact(opened: Reopened) -> None:
    """Raises OptionError for a quantized version, which cannot be edited."""
    if opened.quantize:
        raise OptionError(
            f"version {opened.manifest.version} is quantized ({opened.quantize}), and its rounding is not known for "
            "another network",
            code="edit-of-quantized-version",
            hint="export the checkpoint without --quantize, and edit that version",
        )


def check_version(opened: Reopened, version: int, repository: Path | None) -> None:
    """Reject early a version number that `publish_version` would reject. Raises RepositoryError and OptionError."""
    writer.check_target(repository or _home(opened), opened.manifest.name, version, force=False)


def next_version(repository: Path, name: str, parent: int) -> int:
    """The number after the highest version of a model, also after its parent version. Raises OptionError."""
    try:
        taken = [int(path.name) for path in (repository / name).iterdir() if path.name.isdecimal()]
    except FileNotFoundError:
        taken = []
    except OSError as error:
        raise OptionError(
            f"{repository / name} cannot be read: {error.strerror or error}",
            code="repository-unreadable",
            hint="check the path and the permissions of the repository",
        ) from error
    return max([parent, *taken]) + 1


def _dropped(opened: Reopened, rows: Rows | None) -> tuple[str, ...]:
    """Notes on what the parent has and the edited version does not."""
    parent = opened.manifest
    notes = []
    if parent.intervals.method:
        notes.append(
            f"the prediction intervals of version {parent.version} are dropped: they were calibrated for another "
            "network, and the calibration rows are not stored"
        )
    if parent.error_bars:
        notes.append(
            f"the error bars of version {parent.version} are dropped: their errors are those of another network; a new "
            "export with --error-bars can make them again"
        )
    if parent.baseline.rows and rows is None:
        notes.append(
            f"the baseline of version {parent.version} is dropped: its hidden nodes and outputs are those of another "
            f"network; pass the rows with {ROWS}"
        )
    return tuple(notes)
