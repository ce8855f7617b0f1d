"""Loader from verified bytes to a model that passed its self-test on this device, and to its `ModelInfo`.

The graph must fit its manifest, and the manifest's reference rows must give the manifest's outputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kanexport.shared import custom_ops
from kanexport.shared import manifest as manifests
from kanexport.shared.custom_ops import KERNEL_FILE
from kanexport.shared.error_bars import Bars
from kanexport.shared.manifest import Manifest
from kanexport.shared.sections import FLAG, REJECT
from kanserve.config.settings import Settings
from kanserve.errors import FailedPrecondition, KanserveError, LoadError, LoadReason, log_facts
from kanserve.execution.config import ExecutionPlan, batch_size, resolve_execution
from kanserve.insight.certificate import CertificateWatch
from kanserve.insight.coverage import InputRangeGuard
from kanserve.insight.edge_queries import LayerGraph
from kanserve.insight.statistics import Nodes
from kanserve.insight.store import StatisticsStore
from kanserve.insight.traffic_sampler import TrafficSampler
from kanserve.models import plans, tuning
from kanserve.models.model import Model
from kanserve.models.plans import KnownPlans, MeasuredPlan
from kanserve.observability import logs
from kanserve.observability.metrics import CERTIFICATE_VIOLATIONS, Metrics
from kanserve.repository.layout import Bundle
from kanserve.repository.pbtxt import OperatorConfig
from kanserve.repository.validation import check_config, check_manifest
from kanserve.runtime.base import Backend, Session, SessionOptions, create_session
from kanserve.sandbox import verify
from kanserve.system.resources import single_thread
from kanserve.types import Array, ModelInfo

log = logs.get_logger("models")

LARGE = 256 * 2**20  # bytes
STATISTICS = "statistics"  # name of the thread


@dataclass(frozen=True, slots=True)
class ServingVersion:
    """Serving version of a model: its facts, its execution plan and its config.pbtxt."""

    info: ModelInfo
    way: ExecutionPlan
    config: OperatorConfig


@dataclass(frozen=True, slots=True)
class OpenedVersion:
    """Version that passed its self-test, with the parts that compute.

    plan    execution plan that was measured for `session`
    graphs  edge graphs of the layers, which are loaded on first use
    """

    info: ModelInfo
    session: Session
    plan: ExecutionPlan
    graphs: tuple[LayerGraph, ...]


def bars_for(manifest: Manifest | None, device: str) -> Bars | None:
    """The error bars of a version; None without them, and on other devices than a CPU, which a certificate does not
    cover."""
    if manifest is None or not manifest.error_bars or device != "cpu":
        return None
    return Bars(manifest.error_bars, manifest.certificate)


@dataclass(frozen=True, slots=True)
class Loader:
    """Loader of models with one backend, for the device and within the limits of the settings."""

    backend: Backend
    settings: Settings
    threads: int
    metrics: Metrics
    keeping: StatisticsStore | None = None
    asides: list[ThreadPoolExecutor] = field(default_factory=list)
    plans: KnownPlans = field(default_factory=KnownPlans)

    def load(self, bundle: Bundle, current: ServingVersion | None = None) -> Model:
        """Load and verify one version; blocks. `current`: the serving version, whose execution plan the new one may
        use. Raises LoadError, ConfigError."""
        config, settings = bundle.config, self.settings
        if config.device not in ("", settings.device):
            raise LoadError(
                LoadReason.CONFIG,
                f"config.pbtxt requires the device {config.device}, but this server uses {settings.device}",
                code="config-device-differs",
                hint="start the server with another --device, or change the kind of the instance_group",
            )
        info, session, way = self._opened(bundle, current)
        graphs = () if bundle.manifest is None else self._graphs(bundle, bundle.manifest)
        metrics = self.metrics.model(info.name, str(info.version))
        model = Model(info, session, graphs, metrics, settings, resolve_execution(info, settings, config, way))
        self._guard_border(model, info)
        self._watch(model, info, session)
        self._watch_certificate(model, info)
        model.error_bars = bars_for(bundle.manifest, settings.device)
        return model

    def _opened(self, bundle: Bundle, current: ServingVersion | None) -> tuple[ModelInfo, Session, ExecutionPlan]:
        """The session of a version after its self-test, and its execution plan: that of the serving version, that of
        another model of the same form, or a measured one. Raises LoadError."""
        graphs, way = self._graphs_of(bundle), self._same_way(bundle, current)
        if way is not None:
            info, session = self._tested(bundle, graphs, way.threads, by_kernel=way.kernel)
            if way.many_from:
                session = BatchSizeDispatch(session, self._many(bundle, way.threads), way.many_from)
            return info, session, way
        key = None if bundle.manifest is None else plans.key(bundle.manifest, bundle.config, graphs.library)
        known = self._by_known_plan(bundle, graphs, key)
        if known is not None:
            return known
        info, session = self._tested(bundle, graphs, self._threads(bundle), by_kernel=False)
        session, way = self._way(bundle, info, session, graphs)
        seconds = math.inf if key is None or way.many_from else tuning.run_seconds(info, session)
        if seconds < math.inf:
            self.plans.keep(key, MeasuredPlan(way, seconds))
        return info, session, way

    def _by_known_plan(
        self, bundle: Bundle, graphs: Graphs, key: object
    ) -> tuple[ModelInfo, Session, ExecutionPlan] | None:
        """The parts of a version with the plan of another model of the same form, if it holds for this one. A plan
        without one of the graphs is not passed on: that graph may be the faster one here."""
        known = None if key is None else self.plans.get(key)
        manifest = bundle.manifest
        if known is None or manifest is None or known.plan.kernel != bool(graphs.library):
            return None
        if manifest.variants and not known.plan.kernel:
            return None
        try:
            info, session = self._tested(bundle, graphs, known.plan.threads, by_kernel=known.plan.kernel)
        except KanserveError:  # the full measurement reports it, or uses the portable graph
            return None
        inline = self.settings.inline_run_seconds
        holds = tuning.plan_holds(info, session, known.seconds, known.plan.inline_rows, inline)
        return (info, session, known.plan) if holds else None

    def _tested(self, bundle: Bundle, graphs: Graphs, threads: int, *, by_kernel: bool) -> tuple[ModelInfo, Session]:
        """The facts of a version, and the session of one of its graphs after its self-test. Raises LoadError."""
        session = graphs.sessions(by_kernel=by_kernel)(threads)
        info = _info(bundle, session, self.settings.plain_onnx_max_batch_size)
        check_config(bundle.config, info.name, info.inputs, info.outputs, batched=info.max_batch_size > 0)
        if bundle.manifest is not None:
            verify.check_reference(bundle.manifest, session)
        return info, session

    def load_parts(self, bundle: Bundle) -> OpenedVersion:
        """The parts of one version after its self-test, for work without a server; blocks. Raises LoadError,
        ConfigError."""
        info, session, plan = self._opened(bundle, None)
        graphs = () if bundle.manifest is None else self._graphs(bundle, bundle.manifest)
        return OpenedVersion(info, session, plan, graphs)

    def unproved(self, bundle: Bundle) -> tuple[ModelInfo, Session, ExecutionPlan]:
        """The parts of a version without its self-test, for benchmarks that measure time and error. Raises
        LoadError, ConfigError."""
        of_bundle = self._graphs_of(bundle)
        session = of_bundle.sessions(by_kernel=False)(self._threads(bundle))
        info = _info(bundle, session, self.settings.plain_onnx_max_batch_size)
        return info, *self._way(bundle, info, session, of_bundle)

    def _graphs_of(self, bundle: Bundle) -> Graphs:
        create = functools.partial(self._create, bundle)
        return Graphs(bundle, create, library_for(bundle, self.settings))

    def _guard_border(self, model: Model, info: ModelInfo) -> None:
        """The guard for inputs out of range, if the export requires one."""
        manifest = info.manifest
        if manifest is not None and manifest.out_of_range in (FLAG, REJECT):
            counted = self.metrics.number("kanserve_out_of_range_rows_total")
            try:
                model.range_guard = InputRangeGuard(manifest, counted.labels(info.name, str(info.version)))
            except FailedPrecondition as error:
                raise LoadError(LoadReason.MANIFEST, str(error), code=error.code, hint=error.hint) from error

    def _watch(self, model: Model, info: ModelInfo, session: Session) -> None:
        """Start the statistics of a model, or set the reason why it has none."""
        rate = self.settings.sampled_rows_per_second
        if not rate:
            model.blind = (
                "this server does not analyze live traffic (statistics is off, or statistics_rows_per_second is 0)"
            )
        elif info.manifest is not None:
            try:
                nodes = Nodes(info.manifest, session.run)
            except KanserveError as error:
                model.blind = f"the server does not analyze the traffic of model '{info.name}': {error}"
                facts = log_facts(error)
                log.warning("statistics_unavailable", model=info.name, version=info.version, reason=str(error), **facts)
                return
            open_file = None if self.keeping is None else self.keeping.open_file
            keep = self.settings.sample_rows
            model.live = TrafficSampler(info, nodes, session.run, rate, self._aside(), self.metrics, open_file, keep)
            model.live.switch = functools.partial(model.observe, "statistics")
            model.live.switch(model.live)

    def _watch_certificate(self, model: Model, info: ModelInfo) -> None:
        """Start to check outputs against the certificate, if the version has one. A certificate covers CPUs only."""
        manifest = info.manifest
        if manifest is not None and manifest.certificate and self.settings.device == "cpu":
            violating = self.metrics.number(CERTIFICATE_VIOLATIONS).labels(info.name, str(info.version))
            switch = functools.partial(model.observe, "certificate")
            model.certificate_watch = CertificateWatch(info, manifest, violating, switch)

    def _aside(self) -> ThreadPoolExecutor:
        """The single thread for the statistics of all models."""
        if not self.asides:
            self.asides.append(single_thread(STATISTICS))
        return self.asides[0]

    def _threads(self, bundle: Bundle) -> int:
        """The threads of one execution before any measurement: one. A large model gets all threads, because memory
        limits its executions, and because a second session would take too much memory."""
        config = bundle.config
        if config.threads or config.instances:
            return config.threads or max(1, self.threads // config.instances)
        return self.threads if _large(bundle) else 1

    def _same_way(self, bundle: Bundle, current: ServingVersion | None) -> ExecutionPlan | None:
        """The execution plan of the serving version, if both networks have the same form and config. So loading does
        not measure next to live traffic."""
        manifest = bundle.manifest
        if current is None or manifest is None or current.info.manifest is None or current.config != bundle.config:
            return None
        if current.way.kernel != bool(library_for(bundle, self.settings)):  # else another graph may be the faster one
            return None
        return current.way if plans.form(manifest) == plans.form(current.info.manifest) else None

    def _way(self, bundle: Bundle, info: ModelInfo, session: Session, graphs: Graphs) -> tuple[Session, ExecutionPlan]:
        """The execution plan and its session, from the config, the size or a measurement. `session`: of the portable
        graph."""
        settings, config, threads = self.settings, bundle.config, self._threads(bundle)
        other = None if _large(bundle) else graphs.faster(info, session, threads)
        by_kernel, session = other is not None, other or session
        pieces = tuning.piece_rows(bundle.manifest, settings.micro_batch_bytes)
        instances = config.instances or max(1, self.threads // threads)
        if not (config.threads or config.instances or _large(bundle)):
            create = graphs.sessions(by_kernel=by_kernel)
            all_threads = tuning.session_on_all_threads(info, session, create, budget=self.threads, piece_rows=pieces)
            if all_threads is not None:
                session, threads = all_threads, self.threads
        many_from = 0
        if not (by_kernel or _large(bundle)):
            session, many_from = self._by_rows(bundle, info, session, threads, pieces)
        pieces = tuning.fitting_rows(info, session, pieces)
        inline = tuning.inline_rows(info, session, settings.inline_run_seconds)
        return session, ExecutionPlan(instances, inline, pieces, threads, many_from, by_kernel)

    def _by_rows(
        self, bundle: Bundle, info: ModelInfo, session: Session, threads: int, pieces: int
    ) -> tuple[Session, int]:
        """The session with the large-batch graph, if there is one, and the number of rows from which it is faster."""
        if bundle.manifest is None or not bundle.manifest.variants:
            return session, 0
        many = self._many(bundle, threads)
        many_from = tuning.many_from(info, session, many, pieces)
        return (BatchSizeDispatch(session, many, many_from) if many_from else session), many_from

    def _many(self, bundle: Bundle, threads: int) -> Session:
        """The verified large-batch graph. Raises LoadError."""
        manifest = bundle.manifest
        assert manifest is not None
        (variant,) = manifest.variants
        session = self._create(bundle, variant.file, threads=threads)
        verify.named(variant.file, functools.partial(verify.check_graph, manifest, session))
        verify.named(variant.file, functools.partial(verify.check_reference, manifest, session))
        return session

    def _graphs(self, bundle: Bundle, manifest: Manifest) -> tuple[LayerGraph, ...]:
        library = library_for(bundle, self.settings)
        return tuple(
            LayerGraph(
                layer,
                functools.partial(self._create, bundle, layer.edges_file, threads=self.threads),
                functools.partial(self._edges_by_operator, bundle, manifest, at, library),
            )
            for at, layer in enumerate(manifest.layers)
        )

    def _edges_by_operator(self, bundle: Bundle, manifest: Manifest, at: int, library: str) -> Session | None:
        """The session of an edge graph with the custom operator, if that is available and correct."""
        portable = manifest.layers[at].edges_file
        file = custom_ops.edges_file(portable)
        if not library or file not in bundle.files:
            return None
        try:
            session = self._create(bundle, file, threads=self.threads, library=library)
            verify.check_operator_edges(manifest, at, session, self._create(bundle, portable, threads=1))
        except KanserveError as error:
            facts = {"model": manifest.name, "version": manifest.version, "reason": str(error), **log_facts(error)}
            log.warning("custom_kernel_disabled", file=file, **facts)
            return None
        return session

    def _create(self, bundle: Bundle, file: str, *, threads: int, library: str = "") -> Session:
        options = session_options(self.settings, threads, library)
        return create_session(self.backend, bundle.files, bundle.manifest, file, options)


def session_options(settings: Settings, threads: int, library: str = "") -> SessionOptions:
    """Options of a session as the settings have them, for serving and for the load check."""
    return SessionOptions(settings.device, threads, library)


def _large(bundle: Bundle) -> bool:
    return sum(len(bundle.files.get(name, b"")) for name in (manifests.MODEL_FILE, manifests.WEIGHTS_FILE)) > LARGE


def _info(bundle: Bundle, session: Session, plain_onnx_max_batch_size: int) -> ModelInfo:
    manifest = bundle.manifest
    if manifest is None:
        tensors = (*session.inputs, *session.outputs)
        batched = all(len(t.shape) > 1 and t.shape[0] == -1 for t in tensors)
        size = batch_size(bundle.config, plain_onnx_max_batch_size if batched else 0, manifest=False)
        return ModelInfo(bundle.name, bundle.version, size, session.inputs, session.outputs, bundle.digest)
    check_manifest(manifest)
    verify.check_graph(manifest, session)
    return ModelInfo(
        manifest.name,
        manifest.version,
        batch_size(bundle.config, manifest.max_batch_size, manifest=True),
        verify.tensors(manifest.inputs),
        verify.tensors(manifest.outputs),
        bundle.digest,
        manifest,
        tuple(tensor for tensor in session.outputs if tensor.name in {layer.node_tensor for layer in manifest.layers}),
    )


class BatchSizeDispatch:
    """Session that runs `least` rows or more with the graph `many`, and fewer rows with `few`. It implements
    `base.Session`."""

    def __init__(self, few: Session, many: Session, least: int) -> None:
        self._few, self._many, self._least = few, many, least
        self.inputs, self.outputs = few.inputs, few.outputs

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """See `base.Session.run`."""
        rows = len(next(iter(feeds.values())))
        return (self._many if rows >= self._least else self._few).run(outputs, feeds)


GAIN = 1.1  # times as fast, below which the portable graph stays
Create = Callable[..., Session]  # of a graph's file and, by name, threads and library


@dataclass(frozen=True, slots=True)
class Graphs:
    """Graphs that a version can run with.

    bundle   verified files
    create   makes a session from a graph
    library  path of the custom operator; "" without one
    """

    bundle: Bundle
    create: Create
    library: str

    def sessions(self, *, by_kernel: bool) -> Callable[[int], Session]:
        """A function from a number of threads to a session."""
        if by_kernel:
            return functools.partial(self._of, KERNEL_FILE, self.library)
        return functools.partial(self._of, manifests.MODEL_FILE, "")

    def _of(self, file: str, library: str, threads: int) -> Session:
        return self.create(file, threads=threads, library=library)

    def faster(self, info: ModelInfo, portable: Session, threads: int) -> Session | None:
        """A session with the custom operator, if that is available, correct and faster."""
        if not self.library or info.manifest is None:
            return None
        try:
            session = self.sessions(by_kernel=True)(threads)
            verify.check_graph(info.manifest, session)
            verify.check_reference(info.manifest, session)
        except KanserveError as error:
            facts = {"model": info.name, "version": info.version, "reason": str(error), **log_facts(error)}
            log.warning("custom_kernel_disabled", file=KERNEL_FILE, **facts)
            return None
        return session if _gain(info, portable, session) >= GAIN else None


def library_for(bundle: Bundle, settings: Settings) -> str:
    """The path of the operator's library, if this version has a use for it here; else ""."""
    enabled = settings.kernel and settings.device == "cpu" and KERNEL_FILE in bundle.files
    return custom_ops.library() if enabled else ""


def _gain(info: ModelInfo, portable: Session, other: Session) -> float:
    """The speed of the other session relative to this one: the geometric mean of one row and of a usual batch. It is
    0 if it cannot be measured."""
    gains = [tuning.times_as_fast(info, portable, other, rows) for rows in (1, min(tuning.ROWS, info.max_batch_size))]
    return math.prod(gains) ** (1 / len(gains))
