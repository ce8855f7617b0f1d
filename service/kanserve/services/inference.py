"""Use case of inference: check a request against its model, run it, count it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.sections import FLAG, REJECT
from kanserve.errors import (
    BackendError,
    BadRequest,
    DeadlineExceeded,
    KanserveError,
    QueueFull,
    QueueTimeout,
    ResourceExhausted,
)
from kanserve.execution.executor import Limits
from kanserve.models.model import Model
from kanserve.models.registry import Registry
from kanserve.observability.metrics import Metrics, ModelMetrics
from kanserve.observability.statistics import FailureReason, Timing
from kanserve.services import error_bars, intervals, validation
from kanserve.services.explain import Explainer
from kanserve.types import (
    BYTES,
    DTYPES,
    NUMPY_DTYPES,
    Array,
    InferRequest,
    InferResponse,
    ModelInfo,
    OutputTensor,
    ParameterValue,
    TensorInfo,
)

OUT_OF_RANGE_ROWS = "kan.out_of_range_rows"
REJECTED = (QueueFull, QueueTimeout, DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class ValidatedRequest:
    """Request that passed the checks."""

    model: Model  # version that runs
    outputs: tuple[TensorInfo, ...]  # requested outputs, in their order
    # Names of the outputs that run: these, and the first output if its intervals or bars are requested.
    names: tuple[str, ...]
    rows: int  # number of rows
    queue_timeout: float | None  # seconds
    priority: int  # as in the request
    interval: bool = False  # whether the intervals of the first output are requested
    error_bar: bool = False  # whether its error bars are requested

    @property
    def fixed(self) -> bool:
        """Whether every response without rows out of range has outputs of the same shapes and sizes."""
        info = self.model.info
        sized = not any(-1 in tensor.shape[1:] for tensor in self.outputs)
        return (
            sized
            and not (self.interval or self.error_bar)
            and self.rows > 0 < info.max_batch_size
            and BYTES not in {t.datatype for t in (*info.inputs, *info.outputs)}
        )


@dataclass(frozen=True, slots=True)
class Inference:
    """Use case of inference; one object per server."""

    registry: Registry
    metrics: Metrics
    max_response_bytes: int
    max_input_strings: int
    explainer: Explainer

    async def infer(self, request: InferRequest) -> InferResponse:
        """The response to one request. Raises any KanserveError that `errors.py` lists for requests."""
        with _Attempt(self.metrics.unknown, time.perf_counter_ns()) as attempt:
            model = self.registry.resolve(request.model, request.version)
            attempt.series = model.metrics
            ready = self.check(model, request)
            info = model.info
            insight, work = request.insight, None
            if insight is not None:
                work = self.explainer.check(model, request, insight, ready.rows)
            most, prefix = self.max_input_strings, validation.prefix_of(request)
            feeds = {
                tensor.name: validation.strings(tensor, info.name, most=most, prefix=prefix)
                if tensor.datatype == BYTES
                else validation.numbers(tensor)
                for tensor in request.inputs
            }
            words: list[tuple[str, ParameterValue]] = []
            if model.range_guard is not None:
                outside = model.range_guard.outside(feeds)
                count = int(np.count_nonzero(outside))
                model.range_guard.rows.inc(count)
                if count and model.range_guard.policy == REJECT:
                    raise validation.beyond(
                        model.info, model.range_guard.place(feeds, int(outside.argmax())), count, len(outside)
                    )
                if model.range_guard.policy == FLAG:
                    words.append((OUT_OF_RANGE_ROWS, count))
            if ready.rows == 0 and not any(-1 in tensor.shape[1:] for tensor in ready.outputs):
                tensors = {tensor.name: tensor for tensor in ready.model.info.outputs}
                named = [tensors[name] for name in ready.names]
                empty = [np.empty((0, *tensor.shape[1:]), NUMPY_DTYPES[tensor.datatype]) for tensor in named]
                outputs, _ = await self._outputs(request, ready, feeds, empty)
                return InferResponse(info.name, info.version, request.id, tuple(outputs))
            arrays = await _execute(ready, feeds, request.deadline, attempt.started)
            outputs, more_words = await self._outputs(request, ready, feeds, arrays)
            words += more_words
            if insight is not None:
                more_outputs, more_words = await self.explainer.annotate(model, request, insight, work, feeds)
                outputs, words = outputs + more_outputs, words + more_words
            return InferResponse(info.name, info.version, request.id, tuple(outputs), tuple(words))

    def check(self, model: Model, request: InferRequest) -> ValidatedRequest:
        """Check a request before it runs. Raises the errors of `infer`."""
        interval, error_bar = intervals.requested(model.info, request), error_bars.requested(model, request)
        outputs = validation.requested_outputs(model.info, request)
        rows = validation.validate(model.info, request)
        more = (intervals.row_bytes(model.info) if interval else 0) + error_bar * error_bars.row_bytes(model.info)
        needed = rows * (more + sum(tensor.row_bytes for tensor in outputs))
        if needed > self.max_response_bytes:
            raise ResourceExhausted(
                f"the response for {rows} rows of model '{model.info.name}' takes {needed} bytes, "
                f"the limit is {self.max_response_bytes}",
                code="response-too-large",
                hint="send fewer rows in one request",
            )
        if request.classes:
            check_classification(request, outputs)
        names = tuple(tensor.name for tensor in outputs)
        if (interval or error_bar) and (first := model.info.outputs[0].name) not in names:
            names = (*names, first)
        timeout, priority = request.queue_timeout, request.priority
        return ValidatedRequest(model, outputs, names, rows, timeout, priority, interval, error_bar)

    async def run(
        self, ready: ValidatedRequest, feeds: Mapping[str, Array], deadline: float | None, started: int
    ) -> list[Array]:
        """The outputs of a request that passed the checks, in the order of `ready.outputs`. `started`: arrival time
        in nanoseconds of `perf_counter`. Raises the errors of `infer`."""
        with _Attempt(ready.model.metrics, started):
            return await _execute(ready, feeds, deadline, started)

    async def _outputs(
        self, request: InferRequest, ready: ValidatedRequest, feeds: Mapping[str, Array], arrays: list[Array]
    ) -> tuple[list[OutputTensor], list[tuple[str, ParameterValue]]]:
        """The requested outputs in the order of the request, the marks of rows out of range if their intervals are
        requested, and response parameters. `arrays`: of `ready.names`."""
        own = arrays[: len(ready.outputs)]
        if not request.classes:
            outputs = [self._packed(tensor, array) for tensor, array in zip(ready.outputs, own, strict=True)]
        elif sum(array.size for array in own) > LARGE:
            outputs = await asyncio.to_thread(self._classes, request, ready, own)
        else:
            outputs = self._classes(request, ready, own)
        if not (ready.interval or ready.error_bar):
            return outputs, []
        info, words, marks = ready.model.info, list[tuple[str, ParameterValue]](), list[OutputTensor]()
        if ready.interval:
            outputs.append(await intervals.tensor(info, arrays[ready.names.index(info.outputs[0].name)]))
            outside = await intervals.out_of_range(ready.model, feeds) if ready.rows else np.zeros(0, np.bool_)
            marks = intervals.marks(outside)
            words += intervals.parameters(ready.model, outside)
        if ready.error_bar:
            error_bar, more_words = await error_bars.tensor(ready.model, feeds)
            outputs.append(error_bar)
            words += more_words
        return [*sorted(outputs, key=lambda output: request.outputs.index(output.name)), *marks], words

    def _classes(self, request: InferRequest, ready: ValidatedRequest, arrays: list[Array]) -> list[OutputTensor]:
        """The outputs, as classes if the request sets a number of classes for them."""
        class_counts, info = dict(request.classes), ready.model.info
        labels = {entry.output: entry.lines for entry in ready.model.serving.labels}
        return [
            classified(
                info,
                tensor,
                array,
                class_counts[tensor.name],
                max_input_strings=self.max_input_strings,
                labels=labels.get(tensor.name, ()),
            )
            if tensor.name in class_counts
            else self._packed(tensor, array)
            for tensor, array in zip(ready.outputs, arrays, strict=True)
        ]

    def _packed(self, tensor: TensorInfo, array: Array) -> OutputTensor:
        data = validation.packed(tensor.datatype, array)
        if tensor.datatype == BYTES and len(data) > self.max_response_bytes:  # known no earlier
            raise ResourceExhausted(
                f"output '{tensor.name}' takes {len(data)} bytes, the limit is {self.max_response_bytes}",
                code="response-too-large",
                hint="send fewer rows in one request",
            )
        return OutputTensor(tensor.name, tensor.datatype, array.shape, data)


class _Attempt:
    """Context of one request, which counts the request when it ends."""

    __slots__ = ("series", "started")

    def __init__(self, series: ModelMetrics, started: int) -> None:
        self.series, self.started = series, started

    def __enter__(self) -> _Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        spent = time.perf_counter_ns() - self.started
        if error is None:
            self.series.succeeded(spent)
        elif isinstance(error, asyncio.CancelledError):
            self.series.statistics.failed(spent, FailureReason.CANCELED)
        elif isinstance(error, REJECTED):
            self.series.statistics.failed(spent, FailureReason.REJECTED)
        elif isinstance(error, BackendError):
            self.series.statistics.failed(spent, FailureReason.BACKEND)
        elif isinstance(error, KanserveError):
            self.series.statistics.failed(spent, FailureReason.OTHER)


async def _execute(
    ready: ValidatedRequest, feeds: Mapping[str, Array], deadline: float | None, started: int
) -> list[Array]:
    input_ns = time.perf_counter_ns() - started
    limits = Limits(ready.queue_timeout, deadline, ready.priority)
    run = await ready.model.executor.run(ready.names, feeds, ready.rows, limits)
    timing = Timing(run.queue_ns, input_ns, run.infer_ns, run.output_ns)
    ready.model.metrics.computed(ready.rows, timing)
    if ready.model.observed:
        size = sum(array.nbytes for array in (*feeds.values(), *run.outputs))
        ready.model.offer(ready.names, (size,), lambda _: (feeds, run.outputs))
    return run.outputs


class Execution(NamedTuple):
    """Requests of the same form that ran together, outside of the executor's queue. Times are nanoseconds of
    perf_counter."""

    arrived: Sequence[int]  # arrival of each request
    feeds: Mapping[str, Array]  # inputs of all requests by name
    outputs: Sequence[Array]  # outputs of all requests
    begun: int  # begin of the batch
    joined: int  # time at which the inputs were joined
    ended: int  # end of the execution


def record_batch(ready: ValidatedRequest, batch: Execution, responded: int) -> list[float]:
    """Count the requests of a batch, which all have the form of `ready`, and offer them to the observers of the model.
    `responded`: time at which all responses were encoded. Returns the seconds that each request took."""
    arrived, model = batch.arrived, ready.model
    waited = [(batch.begun - at) / 1e9 for at in arrived]
    took = [(responded - at) / 1e9 for at in arrived]
    queue = batch.begun * len(arrived) - sum(arrived)
    timing = Timing(queue, batch.joined - batch.begun, batch.ended - batch.joined, responded - batch.ended)
    model.metrics.completed(ready.rows * len(arrived), timing, waited, took)
    if model.observed:
        rows, feeds, outputs = ready.rows, batch.feeds, batch.outputs
        size = sum(array.nbytes for array in (*feeds.values(), *outputs)) // len(arrived)

        def copy(at: int) -> tuple[dict[str, Array], list[Array]]:
            part = slice(at * rows, (at + 1) * rows)
            return {name: array[part] for name, array in feeds.items()}, [array[part] for array in outputs]

        model.offer(ready.names, [size] * len(arrived), copy)
    return took


def record_cancelled(ready: ValidatedRequest, ns: int) -> None:
    """Count a request whose client disconnected after `ns` nanoseconds."""
    ready.model.metrics.statistics.failed(ns, FailureReason.CANCELED)


LARGE = 2**14  # values; more are sorted off the event loop
MOST = 10**6  # values of one row
UNORDERED = ("BOOL", "FP16")  # among the types of numpy; Triton does not classify these either


def check_classification(request: InferRequest, outputs: Sequence[TensorInfo]) -> None:
    """Raises BadRequest for an output whose values have no order."""
    class_counts = dict(request.classes)
    for tensor in outputs:
        if tensor.name in class_counts and (tensor.datatype in UNORDERED or tensor.datatype not in DTYPES):
            raise BadRequest(
                f"class result not available for output due to unsupported type '{tensor.datatype}'",
                code="classification-not-supported",
                hint="send the request without the parameter classification",
            )


def classified(
    info: ModelInfo, tensor: TensorInfo, values: Array, most: int, *, max_input_strings: int, labels: Sequence[str] = ()
) -> OutputTensor:
    """The `most` largest values of each row. Equal values keep their order, and NaN is after all others. Raises
    ResourceExhausted for more than `max_input_strings` classes, BadRequest for rows larger than `MOST`."""
    batch = values.shape[:1] if info.max_batch_size else ()
    width = math.prod(values.shape[len(batch) :])
    count = min(most, width)
    if width > MOST:
        raise BadRequest(
            "classification output tensor too large",
            code="classification-too-large",
            hint="send the request without the parameter classification",
        )
    if math.prod(batch) * count > max_input_strings:
        raise ResourceExhausted(
            f"output '{tensor.name}' has {math.prod(batch) * count} classes, expected at most {max_input_strings}",
            code="too-many-classes",
            hint="request fewer classes, or send fewer rows in one request",
        )
    rows = values.reshape(math.prod(batch), width)
    # From the largest value to the smallest; first come first among equals.
    order: NDArray[np.intp] = rows.shape[1] - 1 - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    if rows.dtype.kind == "f":
        missing = np.take_along_axis(np.isnan(rows), order, axis=1)  # numpy sorts NaN as the largest
        order = np.take_along_axis(order, np.argsort(missing, axis=1, kind="stable"), axis=1)
    chosen = order[:, :count]
    form = "{:f}:{}" if values.dtype.kind == "f" else "{}:{}"
    pairs = zip(np.take_along_axis(rows, chosen, axis=1).ravel().tolist(), chosen.ravel().tolist(), strict=True)
    ends = {at: f":{label}" for at, label in enumerate(labels) if label}
    data = validation.joined((form.format(value, at) + ends.get(at, "")).encode() for value, at in pairs)
    return OutputTensor(tensor.name, BYTES, (*batch, count), data)
