"""Control calls of an operator, as functions of a `Client`: default version of a model, shadow deployments.

Each changes one server, so a client with several addresses raises ArgumentError."""

from __future__ import annotations

from dataclasses import dataclass

from kanserve.client.calls import KAN, Call
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2 as kan


@dataclass(frozen=True, slots=True)
class VersionChoice:
    """Default version of a model, and the previous default version."""

    model: str
    version: str
    previous_version: str


def promote(client: Client, name: str, version: str = "") -> VersionChoice:
    """Set the default version, until the server ends. "": the highest ready version."""
    request = kan.PromoteModelRequest(model_name=name, model_version=version)
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
    """Result of a shadow deployment. A difference is the largest of a row, relative to its largest output or to 1."""

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


def shadow(
    client: Client, name: str, version: str = "", *, share: float = 0.0, tolerance: float = 0.0, stop: bool = False
) -> ShadowReport:
    """Start a shadow deployment of a version; "": only return the results; `stop`: end it. 0 for `share` and
    `tolerance` means all requests, and the tolerance of the version's export."""
    request = kan.ShadowModelRequest(
        model_name=name, model_version=version, share=share, tolerance=tolerance, stop=stop
    )
    return client._do(Call(f"{KAN}ShadowModel", request, kan.ShadowReport.FromString, _shadowed, single=True))


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
    )


def _choice(answer: kan.VersionChoice) -> VersionChoice:
    return VersionChoice(answer.model_name, answer.model_version, answer.previous_version)
