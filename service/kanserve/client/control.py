"""What an operator asks of a server: which version answers, and how another one does on the same traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kanserve.client.connection import KAN, Client
from kanserve.pb import kan_pb2 as kan


@dataclass(frozen=True, slots=True)
class VersionChoice:
    """The version of a model that answers requests without one, and the one that did before."""

    model: str
    version: str
    before: str


def promote(client: Client, name: str, version: str = "") -> VersionChoice:
    """Have a version answer requests that name none; "": the highest that is ready. Until the server ends."""
    request = kan.PromoteModelRequest(model_name=name, model_version=version)
    return _choice(client._call(f"{KAN}PromoteModel", request, kan.VersionChoice))


def rollback(client: Client, name: str) -> VersionChoice:
    """Have the version answer that did before the last choice; where nobody chose, the one below."""
    request = kan.RollbackModelRequest(model_name=name)
    return _choice(client._call(f"{KAN}RollbackModel", request, kan.VersionChoice))


def _choice(answer: Any) -> VersionChoice:
    return VersionChoice(answer.model_name, answer.model_version, answer.before)
