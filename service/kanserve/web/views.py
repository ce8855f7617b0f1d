"""What the observatory page asks beyond KanService: rows that were kept, where the nodes of rows are, how it all does.

JSON under /v1/kan, as of `web/kan`.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np

from kanserve.errors import BadRequest
from kanserve.handlers import statistics
from kanserve.handlers.insight import Insights
from kanserve.handlers.operations import Operations
from kanserve.nouns import Array
from kanserve.pb import kan_pb2
from kanserve.rpc import interpreting
from kanserve.rpc.call import Call
from kanserve.web import arrays, document
from kanserve.web.card import Card
from kanserve.web.exchange import Answer, Asked, Method, json_answer
from kanserve.web.kan import KanPages

OPERATIONS, OVERVIEW = "/v1/kan/operations", "/v1/kan/overview"
ZONES = ("unknown", "inside", "extension", "outside")  # what the numbers of zones mean
VALUES = 64  # of a request for operations, which has one


class Views:
    """From a request to a use case and back. `pages`: what reads rows in JSON."""

    def __init__(self, insights: Insights, pages: KanPages, operations: Operations, card: Card) -> None:
        self._card = card
        self._kan, self._insights, self._pages, self._operations = insights.kan, insights, pages, operations

    def methods(self) -> dict[str, tuple[str, Method]]:
        """Of a model: last part of the path -> verb, and what answers it."""
        return {
            "rows": ("GET", self.rows),
            "coverage": ("POST", self.coverage),
            "report": ("GET", self._card.report),
        }

    async def rows(self, asked: Asked, call: Call) -> Answer:
        """Some of the latest that a version was asked, the newest first, where the operator has them kept."""
        name = asked.path["name"]
        call.facts["model"] = name[:128]
        kept = statistics.kept(self._kan, name, asked.path.get("version", ""))
        call.facts |= {"version": kept.info.version, "rows": len(kept.rows)}
        told = {
            "model_name": kept.info.name,
            "model_version": str(kept.info.version),
            "kept": kept.most,
            "counted": kept.counted,
            "note": kept.note,
        }

        def answer() -> Answer:
            rows = [
                {"at": one.at, "values": {key: _plain(value) for key, value in one.values.items()}} for one in kept.rows
            ]
            return json_answer(told | {"rows": rows})

        return await asyncio.to_thread(answer)

    async def coverage(self, asked: Asked, call: Call) -> Answer:
        """Where the nodes of each layer are on their grids for rows, as `kan.coverage` of ModelInfer tells it."""
        message = await self._pages.message(asked, kan_pb2.GetStatisticsRequest)
        call.adopt(message.id)
        request = interpreting.batch_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        call.facts |= {"model": request.model[:128], "rows": request.row_count}
        info, layers = await self._insights.covered(request)
        call.facts["version"] = info.version
        told = {"model_name": info.name, "model_version": str(info.version), "digest": info.digest, "id": request.id}

        def answer() -> Answer:
            return json_answer(told | {"zones": ZONES, "layers": [_layer(at, one) for at, one in enumerate(layers)]})

        return await asyncio.to_thread(answer)

    async def overview(self, asked: Asked, call: Call) -> Answer:
        """A summary of all versions."""
        told = await self._operations.overview()
        return await asyncio.to_thread(json_answer, told)

    async def operations(self, asked: Asked, call: Call) -> Answer:
        """How the server does. A request may say `since` when the page knows the readings."""
        said = document.read(asked.body, VALUES) if asked.body else {}
        since = said.get("since", 0) if isinstance(said, dict) and set(said) <= {"since"} else None
        if isinstance(since, bool) or not isinstance(since, int | float) or not math.isfinite(since):
            raise BadRequest('expected an object with `since`, seconds since the epoch, such as {"since": 0}')
        told = await self._operations.tell(float(since))
        return await asyncio.to_thread(json_answer, told)


def _layer(at: int, one: Any) -> dict[str, Any]:
    """Of a `models.coverage.LayerCoverage`."""
    found = {name: arrays.fragment(np.asarray(getattr(one, name))) for name in ("zones", "counts", "worst", "cells")}
    return {"layer": at, "definition": one.definition, **found}


def _plain(value: Array) -> Any:
    if value.dtype.hasobject:
        words = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in value.ravel().tolist()]
        return words
    return arrays.fragment(value)
