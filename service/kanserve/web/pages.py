"""The HTTP application from the settings. What it needs beyond gRPC is imported when a door asks for it."""

from __future__ import annotations

from typing import Any

from kanserve.config import Settings
from kanserve.handlers.catalogue import Catalogue
from kanserve.handlers.control import Control
from kanserve.handlers.insight import Insights
from kanserve.handlers.operations import Operations
from kanserve.observe.merged import Page
from kanserve.observe.metrics import Metrics
from kanserve.rpc.guard import Guard
from kanserve.rpc.inference import InferenceService
from kanserve.rpc.kan import KanService


def build(
    settings: Settings,
    guard: Guard,
    metrics: Metrics,
    page: Page,
    service: InferenceService,
    kan: KanService,
    catalogue: Catalogue,
    control: Control,
    insights: Insights,
) -> Any:
    """An ASGI application; `page` is what /metrics shows. Raises ImportError without starlette and orjson."""
    from kanserve.web import application
    from kanserve.web.card import Card
    from kanserve.web.exchange import Bounds
    from kanserve.web.kan import KanPages
    from kanserve.web.oip import Oip
    from kanserve.web.probes import Probes
    from kanserve.web.views import Views

    bounds = Bounds(settings.max_request_bytes, settings.arrival_timeout, settings.max_typed_bytes)
    pages = Oip(service, catalogue, control, bounds.typed)
    views = KanPages(kan, catalogue, bounds.typed, settings.max_response_bytes)
    seen = Views(insights, views, Operations(catalogue, control, page), Card(kan))
    return application.build(guard, metrics, bounds, pages, views, seen, Probes(catalogue, page))
