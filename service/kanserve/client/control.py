"""Control calls of an operator, as functions of a `Client`: default version of a model, shadow deployments."""

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
    """Have a version answer requests that name none; "": the highest that is ready. Until the server ends."""
    request = kan.PromoteModelRequest(model_name=name, model_version=version)
    return client._do(Call(f"{KAN}PromoteModel", request, kan.VersionChoice.FromString, _choice))


def rollback(client: Client, name: str) -> VersionChoice:
    """Have the version answer that did before the last choice; where nobody chose, the one below. Not tried again: a
    server that went away meanwhile may have done it."""
    request = kan.RollbackModelRequest(model_name=name)
    return client._do(Call(f"{KAN}RollbackModel", request, kan.VersionChoice.FromString, _choice, again=False))


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
    """Try a version on a copy of the traffic; "": tell what came of it. `stop`: end it. 0 is the server's choice: all
    requests, and what the version's export allowed."""
    request = kan.ShadowModelRequest(
        model_name=name, model_version=version, share=share, tolerance=tolerance, stop=stop
    )
    return client._do(Call(f"{KAN}ShadowModel", request, kan.ShadowReport.FromString, _shadowed))


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
