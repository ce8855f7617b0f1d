"""The HTTP application from the settings. What it needs beyond gRPC is imported when a door asks for it."""

from __future__ import annotations

from typing import Any

from kanserve.config import Settings
from kanserve.handlers.catalogue import Catalogue
from kanserve.observe.merged import Page
from kanserve.observe.metrics import Metrics
from kanserve.rpc.guard import Guard
from kanserve.rpc.inference import InferenceService


def build(
    settings: Settings, guard: Guard, metrics: Metrics, page: Page, service: InferenceService, catalogue: Catalogue
) -> Any:
    """An ASGI application; `page` is what /metrics shows. Raises ImportError without starlette and orjson."""
    from kanserve.web import application
    from kanserve.web.exchange import Bounds

    bounds = Bounds(settings.max_request_bytes, settings.arrival_timeout, settings.max_typed_bytes)
    return application.build(guard, metrics, page, bounds, service, catalogue)
