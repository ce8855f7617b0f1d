"""Control calls of an operator, as functions of a `Client`: default version of a model, shadow deployments.

Each changes one server, so a client with several addresses raises ArgumentError."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from kanexport.shared.sections import Edit
from kanserve.client import model_info
from kanserve.client.calls import rpc
from kanserve.client.encoding import from_fields, version_text
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
    return client._perform(rpc(kan, "PromoteModel", request, _choice, response=kan.VersionChoice, single=True))


def rollback(client: Client, name: str) -> VersionChoice:
    """Restore the default version before the last choice, or the next lower version if there was no choice. The client
    does not retry, because a server that exited meanwhile may have done it."""
    request = kan.RollbackModelRequest(model_name=name)
    return client._perform(
        rpc(kan, "RollbackModel", request, _choice, response=kan.VersionChoice, again=False, single=True)
    )


def _choice(message: kan.VersionChoice) -> VersionChoice:
    return from_fields(VersionChoice, message, model=message.model_name, version=message.model_version)


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
    share: float = 1.0,
    tolerance: float = 0.0,
    stop: bool = False,
) -> ShadowReport:
    """Start a shadow deployment of a version; "": only return the results; `stop`: end it. `share`: of the
    requests, above 0 up to 1. 0 for `tolerance` means the tolerance of the version's export."""
    request = kan.ShadowModelRequest(
        model_name=name, model_version=version_text(version), share=share, tolerance=tolerance, stop=stop
    )

    def report(message: kan.ShadowReport) -> ShadowReport:
        changed = message.rows_with_other_class if message.HasField("rows_with_other_class") else None
        names = {"model": message.model_name, "version": message.model_version}
        return from_fields(ShadowReport, message, **names, rows_with_other_class=changed)

    return client._perform(rpc(kan, "ShadowModel", request, report, response=kan.ShadowReport, single=True))


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

    def counts(message: oip.ModelStatisticsResponse) -> RequestCounts:
        (entry,) = message.model_stats
        failures = entry.inference_stats.fail.count
        return RequestCounts(entry.inference_stats.success.count + failures, failures, entry.inference_count)

    return client._perform(rpc(oip, "ModelStatistics", request, counts))


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

    def result(message: kan.EditEdgesResponse) -> EditedEdges:
        curves = {
            (curve.layer, curve.source, curve.destination): (
                tuple(curve.x),
                tuple(curve.phi_before),
                tuple(curve.phi_after),
            )
            for curve in message.curves
        }
        edit = model_info.edit_from_pb(message.edit)
        return EditedEdges(message.model_name, message.model_version, edit, curves, tuple(message.notes))

    return client._perform(rpc(kan, "EditEdges", request, result, again=False, single=True))
