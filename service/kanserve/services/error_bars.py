"""Use case of error bars: the optional output `kan.error_bar`, its parameters, and the bars of explained rows.

Only requests for error bars pay for them. `kanexport.shared.error_bars` has the formula and the assumption.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.error_bars import NAME, Bars
from kanexport.shared.sections import ErrorBars
from kanserve.errors import FailedPrecondition
from kanserve.models.model import Model
from kanserve.services import intervals, validation
from kanserve.types import Array, InferRequest, ModelInfo, OutputTensor, ParameterValue

LARGE = 2**16  # numbers; more are computed off the event loop


@dataclass(frozen=True, slots=True)
class RowErrorBars:
    """Error bars of B explained rows."""

    # float32 [B, O] for the explained outputs; infinite for a row outside of the certified box.
    values: NDArray[np.float32]
    assumption: str  # under which no error exceeds its bar, in one sentence
    contradicted: bool  # whether the calibration rows contradict it
    note: str  # how they do; empty if they do not


def requested(model: Model, request: InferRequest) -> bool:
    """Whether a request names the optional output. Raises FailedPrecondition for a model without error bars, BadRequest
    for a number of classes."""
    if not intervals.names(model.info, request, NAME):
        return False
    bars(model)
    return True


def section(info: ModelInfo) -> ErrorBars:
    """The error bars of a model. Raises FailedPrecondition if it has none."""
    if info.manifest is None or not info.manifest.error_bars:
        raise FailedPrecondition(
            f"model '{info.name}' has no error bars, because its export did not request them",
            code="error-bars-missing",
            hint="export the model with --certify --calibration rows.npz --error-bars",
        )
    return info.manifest.error_bars


def bars(model: Model) -> Bars:
    """The error bars of a loaded version. Raises FailedPrecondition if it has none, or does not run on a CPU."""
    section(model.info)
    if model.error_bars is None:
        raise FailedPrecondition(
            f"model '{model.info.name}' has no error bars on this server: a certificate covers CPUs only",
            code="error-bars-need-cpu",
            hint="request error bars from a server with --device cpu",
        )
    return model.error_bars


def row_bytes(info: ModelInfo) -> int:
    """Bytes of the error bars of one row."""
    return info.outputs[0].row_bytes


async def tensor(model: Model, feeds: Mapping[str, Array]) -> tuple[OutputTensor, list[tuple[str, ParameterValue]]]:
    """The optional output for rows [B, ...] by input, and the response parameters. Raises FailedPrecondition."""
    info = model.info
    values = await _values(model, feeds)
    outside = int(np.isinf(values).any(axis=1).sum())
    shaped = values.reshape(len(values), *info.outputs[0].shape[1:])
    output = OutputTensor(NAME, "FP32", shaped.shape, validation.packed("FP32", shaped))
    own = section(info)
    facts: list[tuple[str, ParameterValue]] = [(f"{NAME}_factor", own.factor), (f"{NAME}_note", note(own))]
    facts += [(f"{NAME}_reliable", False)] if own.contradicted else []
    return output, [*facts, (f"{NAME}_unbounded_rows", outside)]


def note(own: ErrorBars) -> str:
    """The assumption, and how the calibration rows contradict it."""
    return f"assumption: {own.assumption}{'; ' if own.contradicted else ''}{own.contradiction}"


async def of_rows(model: Model, rows: Mapping[str, Array], outputs: Sequence[int]) -> RowErrorBars | None:
    """The error bars of rows [B, ...] by input, for some numbers of the first output; None for a model without error
    bars."""
    if model.error_bars is None:
        return None
    own, values = section(model.info), await _values(model, rows)
    return RowErrorBars(values[:, list(outputs)], own.assumption, own.contradicted, own.contradiction)


async def _values(model: Model, feeds: Mapping[str, Array]) -> NDArray[np.float32]:
    """The error bars [B, m]."""
    own, x = bars(model), feeds[model.info.inputs[0].name]
    if len(x) * own.numbers > LARGE:
        return await asyncio.to_thread(own.of, x)
    return own.of(x)
