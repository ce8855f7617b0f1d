"""Loader from verified bytes to a model that passed its self-test on this device, and to its `ModelInfo`.

The graph must fit its manifest, and the manifest's reference rows must give the manifest's outputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
from kanserve.models import tuning
from kanserve.models.model import Model
from kanserve.models.tuning import KnownPlans, MeasuredPlan
from kanserve.observability import logs
from kanserve.observability.metrics import RANGE_VIOLATIONS, Metrics
from kanserve.repository.layout import Bundle
from kanserve.repository.pbtxt import OperatorConfig
from kanserve.repository.validation import check_config, check_manifest
from kanserve.runtime.base import Session, SessionOptions, create_session
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
    plan: ExecutionPlan
    config: OperatorConfig


@dataclass(frozen=True, slots=True)
class OpenedVersion:
    """Version that passed its self-test, with the parts that compute."""

    info: ModelInfo
    session: Session
    plan: ExecutionPlan  # execution plan that was measured for `session`
    graphs: tuple[LayerGraph, ...]  # edge graphs of the layers, which are loaded on first use


def bars_for(manifest: Manifest | None, device: str) -> Bars | None:
    """The error bars of a version; None without them, and on other devices than a CPU, which a certificate does not
    cover."""
    if manifest is None or not manifest.error_bars or device != "cpu":
        return None
    return Bars(manifest.error_bars, manifest.certificate)


class Loader:
    """Loader of models, for the device and within the limits of the settings."""

    def __init__(
        self, settings: Settings, threads: int, metrics: Metrics, keeping: StatisticsStore | None = None
    ) -> None:
        """`threads`: of all runs of one model together. `keeping`: where statistics are kept."""
        self._settings, self._threads, self._metrics, self._keeping = settings, threads, metrics, keeping
        self.plans = KnownPlans()
        self.pool: ThreadPoolExecutor | None = None  # the single thread for the statistics of all models

    def load(self, bundle: Bundle, current: ServingVersion | None = None) -> Model:
        """Load and verify one version; blocks. `current`: the serving version, whose execution plan the new one may
        use. Raises LoadError, ConfigError."""
        config, settings, manifest = bundle.config, self._settings, bundle.manifest
        if config.device not in ("", settings.device):
            raise LoadError(
                LoadReason.CONFIG,
                f"config.pbtxt requires the device {config.device}, but this server uses {settings.device}",
                code="config-device-differs",
                hint="start the server with another --device, or change the kind of the instance_group",
            )
        graphs = VersionGraphs(bundle, settings, self._threads)
        info, session, plan = self._opened(graphs, current)
        labels = info.name, str(info.version)
        guard = watch = None
        if manifest is not None and manifest.out_of_range in (FLAG, REJECT):
            try:
                rows = self._metrics.number("kanserve_out_of_range_rows_total").labels(*labels)
                guard = InputRangeGuard(manifest, rows)
            except FailedPrecondition as error:
                raise LoadError(LoadReason.MANIFEST, str(error), code=error.code, hint=error.hint) from error
        if manifest is not None and manifest.certificate and settings.device == "cpu":  # it covers CPUs only
            watch = CertificateWatch(info, manifest, self._metrics.number(RANGE_VIOLATIONS).labels(*labels))
        live = self._sampler(info, session)
        return Model(
            info,
            session,
            graphs.layers(),
            self._metrics.model(*labels),
            settings,
            resolve_execution(info, settings, config, plan),
            live=None if isinstance(live, str) else live,
            blind=live if isinstance(live, str) else "",
            range_guard=guard,
            certificate_watch=watch,
            error_bars=bars_for(manifest, settings.device),
        )

    def _sampler(self, info: ModelInfo, session: Session) -> TrafficSampler | str:
        """The sampler of a model, or the reason why it has no statistics; "" without a manifest."""
        rate = self._settings.sampled_rows_per_second
        if not rate:
            return "this server does not analyze live traffic (statistics is off, or statistics_rows_per_second is 0)"
        if info.manifest is None:
            return ""
        try:
            nodes = Nodes(info.manifest, session.run)
        except KanserveError as error:
            facts = log_facts(error)
            log.warning("statistics_unavailable", model=info.name, version=info.version, reason=str(error), **facts)
            return f"the server does not analyze the traffic of model '{info.name}': {error}"
        self.pool = self.pool or single_thread(STATISTICS)
        open_file = None if self._keeping is None else self._keeping.open_file
        keep = self._settings.sample_rows
        return TrafficSampler(info, nodes, session.run, rate, self.pool, self._metrics, open_file, keep)

    def _opened(
        self, graphs: VersionGraphs, current: ServingVersion | None = None
    ) -> tuple[ModelInfo, Session, ExecutionPlan]:
        """The session of a version after its self-test, and its execution plan: that of the serving version, that of
        another model of the same form, or a measured one. Raises LoadError."""
        manifest, config = graphs.manifest, graphs.bundle.config
        key = None if manifest is None else tuning.plan_key(manifest, config, graphs.library)
        plan = None if manifest is None or current is None else _same_plan(graphs, manifest, current)
        if plan is not None:
            info, session = graphs.tested(plan.threads, by_kernel=plan.kernel)
            if plan.many_from:
                session = BatchSizeDispatch(session, graphs.many(plan.threads), plan.many_from)
            return info, session, plan
        known = None if key is None else self.plans.get(key)
        opened = None if known is None or manifest is None else self._by_known_plan(graphs, manifest, known)
        if opened is not None:
            return opened
        info, session = graphs.tested(graphs.threads, by_kernel=False)
        session, plan = graphs.measured(info, session)
        seconds = math.inf if key is None or plan.many_from else tuning.run_seconds(info, session)
        if seconds < math.inf:
            self.plans.keep(key, MeasuredPlan(plan, seconds))
        return info, session, plan

    def _by_known_plan(
        self, graphs: VersionGraphs, manifest: Manifest, known: MeasuredPlan
    ) -> tuple[ModelInfo, Session, ExecutionPlan] | None:
        """The parts of a version with the plan of another model of the same form, if it holds for this one. A plan
        without one of the graphs is not passed on: that graph may be the faster one here."""
        plan = known.plan
        if plan.kernel != bool(graphs.library) or (manifest.variants and not plan.kernel):
            return None
        try:
            info, session = graphs.tested(plan.threads, by_kernel=plan.kernel)
        except KanserveError:  # the full measurement reports it, or uses the portable graph
            return None
        inline = self._settings.inline_run_seconds
        holds = tuning.plan_holds(info, session, known.seconds, plan.inline_rows, inline)
        return (info, session, plan) if holds else None

    def load_parts(self, bundle: Bundle) -> OpenedVersion:
        """The parts of one version after its self-test, for work without a server; blocks. Raises LoadError,
        ConfigError."""
        graphs = VersionGraphs(bundle, self._settings, self._threads)
        return OpenedVersion(*self._opened(graphs), graphs.layers())

    def unproved(self, bundle: Bundle) -> tuple[ModelInfo, Session, ExecutionPlan]:
        """The parts of a version without its self-test, for benchmarks that measure time and error. Raises
        LoadError, ConfigError."""
        graphs = VersionGraphs(bundle, self._settings, self._threads)
        session = graphs.create(manifests.MODEL_FILE, graphs.threads)
        info = _info(bundle, session)
        return info, *graphs.measured(info, session)


def _same_plan(graphs: VersionGraphs, manifest: Manifest, current: ServingVersion) -> ExecutionPlan | None:
    """The execution plan of the serving version, if both networks have the same form and config. So loading does not
    measure next to live traffic."""
    if current.info.manifest is None or current.config != graphs.bundle.config:
        return None
    if current.plan.kernel != bool(graphs.library):  # else another graph may be the faster one
        return None
    return current.plan if tuning.form(manifest) == tuning.form(current.info.manifest) else None


def library_for(bundle: Bundle, settings: Settings) -> str:
    """The path of the operator's library, if this version has a use for it here; else ""."""
    enabled = settings.kernel and settings.device == "cpu" and KERNEL_FILE in bundle.files
    return custom_ops.library() if enabled else ""


def _info(bundle: Bundle, session: Session) -> ModelInfo:
    manifest = bundle.manifest
    if manifest is None:
        tensors = (*session.inputs, *session.outputs)
        batched = all(len(t.shape) > 1 and t.shape[0] == -1 for t in tensors)
        size = batch_size(bundle.config, tuning.PLAIN_ONNX_ROWS if batched else 0, manifest=False)
        return ModelInfo(bundle.name, bundle.version, size, session.inputs, session.outputs, bundle.digest)
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


class VersionGraphs:
    """Graphs of a version with verified files, and the choice among them.

    budget   threads of all runs together
    library  path of the custom operator; "" without one

    Raises LoadError for an invalid manifest.
    """

    def __init__(self, bundle: Bundle, settings: Settings, budget: int) -> None:
        self.bundle, self.manifest, self._settings, self._budget = bundle, bundle.manifest, settings, budget
        if bundle.manifest is not None:
            check_manifest(bundle.manifest)
        self.library = library_for(bundle, settings)
        graph = (bundle.files.get(name, b"") for name in (manifests.MODEL_FILE, manifests.WEIGHTS_FILE))
        self._large = sum(map(len, graph)) > LARGE

    @property
    def threads(self) -> int:
        """The threads of one execution before any measurement: one. A large model gets all threads, because memory
        limits its executions, and because a second session would take too much memory."""
        config = self.bundle.config
        if config.threads or config.instances:
            return config.threads or max(1, self._budget // config.instances)
        return self._budget if self._large else 1

    def create(self, file: str, threads: int, library: str = "") -> Session:
        """A session of one graph. Raises LoadError, ConfigError."""
        options = SessionOptions(self._settings.device, threads, library)
        return create_session(self.bundle.files, self.manifest, file, options)

    def _serving(self, threads: int, *, by_kernel: bool) -> Session:
        if by_kernel:
            return self.create(KERNEL_FILE, threads, self.library)
        return self.create(manifests.MODEL_FILE, threads)

    def tested(self, threads: int, *, by_kernel: bool) -> tuple[ModelInfo, Session]:
        """The facts of the version, and the session of one of its graphs after its self-test. Raises LoadError."""
        session = self._serving(threads, by_kernel=by_kernel)
        info = _info(self.bundle, session)
        check_config(self.bundle.config, info.name, info.inputs, info.outputs, batched=info.max_batch_size > 0)
        if self.manifest is not None:
            verify.check_reference(self.manifest, session)
        return info, session

    def many(self, threads: int) -> Session:
        """The verified large-batch graph. Raises LoadError."""
        manifest = self.manifest
        assert manifest is not None
        (variant,) = manifest.variants
        session = self.create(variant.file, threads)
        verify.named(variant.file, functools.partial(verify.check_graph, manifest, session))
        verify.named(variant.file, functools.partial(verify.check_reference, manifest, session))
        return session

    def measured(self, info: ModelInfo, session: Session) -> tuple[Session, ExecutionPlan]:
        """The execution plan and its session, from the config, the size or a measurement. `session`: of the portable
        graph."""
        config, threads, many_from = self.bundle.config, self.threads, 0
        other = None if self._large else self._faster(info, session, threads)
        by_kernel, session = other is not None, other or session
        pieces = tuning.piece_rows(self.manifest)
        instances = config.instances or max(1, self._budget // threads)
        if not (config.threads or config.instances or self._large):
            create = functools.partial(self._serving, by_kernel=by_kernel)
            all_threads = tuning.session_on_all_threads(info, session, create, budget=self._budget, piece_rows=pieces)
            if all_threads is not None:
                session, threads = all_threads, self._budget
        if self.manifest is not None and self.manifest.variants and not (by_kernel or self._large):
            many = self.many(threads)
            many_from = tuning.many_from(info, session, many, pieces)
            session = BatchSizeDispatch(session, many, many_from) if many_from else session
        pieces = tuning.fitting_rows(info, session, pieces)
        inline = tuning.inline_rows(info, session, self._settings.inline_run_seconds)
        return session, ExecutionPlan(instances, inline, pieces, threads, many_from, by_kernel)

    def _faster(self, info: ModelInfo, portable: Session, threads: int) -> Session | None:
        """A session with the custom operator, if that is available, correct and faster: by the geometric mean over one
        row and a usual batch."""
        if not self.library or info.manifest is None:
            return None
        try:
            session = self._serving(threads, by_kernel=True)
            verify.check_graph(info.manifest, session)
            verify.check_reference(info.manifest, session)
        except KanserveError as error:
            self._report_disabled(info.manifest, KERNEL_FILE, error)
            return None
        sizes = (1, min(tuning.ROWS, info.max_batch_size))
        gain = math.prod(tuning.times_as_fast(info, portable, session, rows) for rows in sizes) ** (1 / len(sizes))
        return session if gain >= GAIN else None

    def layers(self) -> tuple[LayerGraph, ...]:
        """The edge graphs of the layers, which are loaded at their first use."""
        manifest = self.manifest
        if manifest is None:
            return ()
        return tuple(
            LayerGraph(
                layer,
                functools.partial(self.create, layer.edges_file, self._budget),
                functools.partial(self._edges_by_operator, manifest, at),
            )
            for at, layer in enumerate(manifest.layers)
        )

    def _edges_by_operator(self, manifest: Manifest, at: int) -> Session | None:
        """The session of an edge graph with the custom operator, if that is available and correct."""
        portable = manifest.layers[at].edges_file
        file = custom_ops.edges_file(portable)
        if not self.library or file not in self.bundle.files:
            return None
        try:
            session = self.create(file, self._budget, self.library)
            verify.check_operator_edges(manifest, at, session, self.create(portable, 1))
        except KanserveError as error:
            self._report_disabled(manifest, file, error)
            return None
        return session

    def _report_disabled(self, manifest: Manifest, file: str, error: KanserveError) -> None:
        facts = {"model": manifest.name, "version": manifest.version, "reason": str(error), **log_facts(error)}
        log.warning("custom_operator_disabled", file=file, **facts)
