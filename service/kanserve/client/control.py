"""Control calls of an operator, as functions of a `Client`: default version of a model, shadow deployments.

Each changes one server, so a client with several addresses raises ArgumentError."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from kanexport.shared.sections import Edit
from kanserve.client import model_info
from kanserve.client.calls import INFERENCE, KAN, Call
from kanserve.client.encoding import version_text
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.pb import kan_pb2 as kan


@dataclass(frozen=True, slots=True)
class VersionChoice:
    """Default version of a model, and the previous default version."""

    model: str
    version: str
    previous_version: str


def promote(client: Client, name: str, version: int | str = "") -> VersionChoice:
    """Set the default version, until the server ends or the file `default` of the model changes. "": the highest ready
    version."""
    request = kan.PromoteModelRequest(model_name=name, model_version=version_text(version))
    return client._do(Call(f"{KAN}PromoteModel", request, kan.VersionChoice.FromString, _choice, single=True))


def rollback(client: Client, name: str) -> VersionChoice:
    """Restore the default version before the last choice, or the next lower version if there was no choice. The client
    does not retry, because a server that exited meanwhile may have done it."""
    request = kan.RollbackModelRequest(model_name=name)
    return client._do(
        Call(f"{KAN}RollbackModel", request, kan.VersionChoice.FromString, _choice, again=False, single=True)
    )


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Result of a shadow deployment. A difference is the largest of a row, relative to its largest output or to 1. The
    class of a row is the number of its largest output; `rows_with_other_class` is None for a model without classes."""

    model: str
    version: str
    baseline_version: str
    running: bool
    share: float
    tolerance: float
    requests: int
    rows: int
    rows_out_of_tolerance: int
    requests_dropped: int
    requests_failed: int
    largest_difference: float
    rows_with_other_class: int | None = None


def shadow(
    client: Client,
    name: str,
    version: int | str = "",
    *,
    share: float = 0.0,
    tolerance: float = 0.0,
    stop: bool = False,
) -> ShadowReport:
    """Start a shadow deployment of a version; "": only return the results; `stop`: end it. 0 for `share` and
    `tolerance` means all requests, and the tolerance of the version's export."""
    request = kan.ShadowModelRequest(
        model_name=name, model_version=version_text(version), share=share, tolerance=tolerance, stop=stop
    )
    return client._do(Call(f"{KAN}ShadowModel", request, kan.ShadowReport.FromString, _shadowed, single=True))


class RequestCounts(NamedTuple):
    """Number of requests of a version since the server started, of failed ones among them, and of computed rows."""

    requests: int
    failures: int
    rows: int

    def minus(self, before: RequestCounts) -> RequestCounts:
        """The counts since an earlier reading."""
        return RequestCounts(*(now - then for now, then in zip(self, before, strict=True)))


def request_counts(client: Client, name: str, version: int | str) -> RequestCounts:
    """Request counts of a version. With several worker processes, those of the worker that handles the call."""
    request = oip.ModelStatisticsRequest(name=name, version=version_text(version))
    return client._do(Call(f"{INFERENCE}ModelStatistics", request, oip.ModelStatisticsResponse.FromString, _counted))


def _counted(answer: oip.ModelStatisticsResponse) -> RequestCounts:
    (entry,) = answer.model_stats
    failures = entry.inference_stats.fail.count
    return RequestCounts(entry.inference_stats.success.count + failures, failures, entry.inference_count)


@dataclass(frozen=True, slots=True)
class EdgeEdit:
    """Operation on an edge: "to" an expression in `text`, "zero", "clamp" to two `numbers`, "monotone" with "up" or
    "down" in `text`, "shift" or "raise" by one of `numbers`, or "points" with pairs of x and y in `numbers`."""

    layer: int
    source: int
    destination: int
    operation: str
    text: str = ""
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class EditedEdges:
    """Result of edits. `version`: the new one, empty for a preview; `curves`: by (layer, source, destination), the
    points x, and the curve before and after."""

    model: str
    version: str
    edit: Edit
    curves: Mapping[tuple[int, int, int], tuple[tuple[float, ...], ...]]
    notes: tuple[str, ...]


def edit(
    client: Client, name: str, edits: Iterable[EdgeEdit], *, version: int | str = "", preview: bool = False
) -> EditedEdges:
    """Edit edges of a version, and write a new version, which the server does not serve by default. The server must
    have been started with --allow-edits."""
    entries = [kan.EdgeEdit(**asdict(entry)) for entry in edits]
    request = kan.EditEdgesRequest(model_name=name, model_version=version_text(version), edits=entries, preview=preview)
    return client._do(
        Call(f"{KAN}EditEdges", request, kan.EditEdgesResponse.FromString, _edited, again=False, single=True)
    )


def _edited(answer: kan.EditEdgesResponse) -> EditedEdges:
    curves = {
        (curve.layer, curve.source, curve.destination): (
            tuple(curve.x),
            tuple(curve.phi_before),
            tuple(curve.phi_after),
        )
        for curve in answer.curves
    }
    edit = model_info.edit_from_pb(answer.edit)
    return EditedEdges(answer.model_name, answer.model_version, edit, curves, tuple(answer.notes))


def _shadowed(report: kan.ShadowReport) -> ShadowReport:
    return ShadowReport(
        report.model_name,
        report.model_version,
        report.baseline_version,
        report.running,
        report.share,
        report.tolerance,
        report.requests,
        report.rows,
        report.rows_out_of_tolerance,
        report.requests_dropped,
        report.requests_failed,
        report.largest_difference,
        report.rows_with_other_class if report.HasField("rows_with_other_class") else None,
    )


def _choice(answer: kan.VersionChoice) -> VersionChoice:
    return VersionChoice(answer.model_name, answer.model_version, answer.previous_version)
