"""Small-batch and large-batch graphs of one network: the batch size selects the graph, and both agree."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from kanexport.pipeline import Request, Result, export
from kanexport.shared import manifest as manifests
from kanserve.config.settings import Settings
from kanserve.errors import LoadError, LoadReason
from kanserve.execution.config import ExecutionPlan
from kanserve.grpc_api import model_codec
from kanserve.models import tuning
from kanserve.models.loader import BatchSizeDispatch, Loader, ServingVersion, VersionGraphs
from kanserve.models.model import Model
from kanserve.models.tuning import KnownPlans, MeasuredPlan
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from tests.support import toy_model

WIDTHS, INTERVALS = (160, 40, 3), 4  # 160 sources, 256 rows: more than 20 000 values of a function


Wide = Callable[..., Result]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Wide:
    """Call with options of a request: the result of its export, which is made once. No test changes its files."""
    made: dict[str, Result] = {}

    def export_once(**more: Any) -> Result:
        if str(more) not in made:
            made[str(more)] = exported(tmp_path_factory.mktemp("wide"), **more)
        return made[str(more)]

    return export_once


def exported(folder: Path, **more: Any) -> Result:
    """An efficient-kan with a wide first layer, its knots adapted to something; exported."""
    rng = np.random.default_rng(0)
    state = {}
    for at, (sources, destinations) in enumerate(itertools.pairwise(WIDTHS)):
        gaps = rng.uniform(0.3, 1.0, (sources, INTERVALS + 6))
        knots = np.concatenate([np.zeros((sources, 1)), np.cumsum(gaps, axis=1)], axis=1) / gaps.sum(1).max() * 3 - 1.5
        shape = (destinations, sources)
        parts = {
            "grid": knots,
            "base_weight": rng.normal(size=shape) / sources,
            "spline_weight": rng.normal(size=(*shape, INTERVALS + 3)) / sources,
            "spline_scaler": rng.uniform(0.5, 1.5, shape),
        }
        state |= {f"layers.{at}.{name}": value.astype(np.float32) for name, value in parts.items()}
    save_file(state, folder / "wide.safetensors")
    return export(
        Request(path=folder / "wide.safetensors", repository=folder / "models", name="wide", kernel=False, **more)
    )


def read(result: Result) -> Bundle:
    (candidate,) = layout.scan(result.directory.parent.parent, plain_onnx=False)
    return layout.load(candidate, 2**30)


def load(bundle: Bundle, like: ServingVersion | None = None) -> Model:
    return Loader(Settings(repository=Path()), 1, Metrics()).load(bundle, like)


def always(info: object, few: object, many: object, most: int) -> int:
    """Measured as if the second graph were faster from 100 rows on."""
    return 100


def test_a_wide_network_has_two_graphs_and_both_are_proved(wide: Wide) -> None:
    manifest = wide().manifest
    for rows in (1, 256):
        one = wide(optimize_for_batch=rows)
        graph = onnx.load(one.directory / "model.onnx").graph
        joined = [len(node.input) for node in graph.node if node.op_type == "Concat"]
        assert (one.manifest.variants, INTERVALS + 3 in joined) == ((), rows == 256)  # a tensor a function
    (variant,) = manifest.variants
    assert (variant.file, variant.rows) == (manifests.MANY_FILE, 256)
    assert [zone.name for zone in variant.zones] == [zone.name for zone in manifest.verification.zones]
    assert max(zone.outputs_max_rel for zone in variant.zones) < 1e-5
    assert any(note.startswith("model_many.onnx ") and "256 rows" in note for note in manifest.notes), manifest.notes
    assert manifests.loads(manifests.dumps(manifest)) == manifest


def test_each_run_takes_the_graph_for_its_rows(wide: Wide, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read(wide())
    monkeypatch.setattr(tuning, "many_from", always)
    model = load(bundle)
    assert isinstance(model.session, BatchSizeDispatch)
    assert model.serving.plan.many_from == 100
    assert model_codec.config(model.info, model.serving).parameters["kan.many_rows_from"].string_value == "100"
    few, many = model.session._few, model.session._many
    x = np.random.default_rng(1).uniform(-2, 2, (256, WIDTHS[0])).astype(np.float32)
    for rows, own in ((1, few), (99, few), (100, many), (256, many)):
        seen: list[object] = []
        monkeypatch.setattr(type(own), "run", counting(type(own).run, seen))
        (y,) = model.session.run(["y"], {"x": x[:rows]})
        monkeypatch.undo()
        monkeypatch.setattr(tuning, "many_from", always)
        assert seen == [own]
        for form in (few, many):
            assert form.run(["y"], {"x": x[:rows]})[0].tobytes() == y.tobytes()
    # Nothing is measured beside live traffic.
    again = load(bundle, ServingVersion(model.info, model.serving.plan, bundle.config))
    assert isinstance(again.session, BatchSizeDispatch)


def counting(run: Callable[..., Any], seen: list[object]) -> Callable[..., Any]:
    def counted(self: object, outputs: object, feeds: object) -> Any:
        seen.append(self)
        return run(self, outputs, feeds)

    return counted


def test_a_graph_that_is_nowhere_faster_is_let_go(wide: Wide, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read(wide())
    monkeypatch.setattr(tuning, "many_from", lambda *_: 0)
    model = load(bundle)
    assert not isinstance(model.session, BatchSizeDispatch)
    assert "kan.many_rows_from" not in model_codec.config(model.info, model.serving).parameters


def test_it_is_taken_from_where_it_is_faster_in_all_larger_runs(wide: Wide, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(read(wide(optimize_for_batch=1)))
    few: Any = object()
    many: Any = object()
    for faster, most, wanted in (
        ({16, 32, 64, 83}, 83, 16),
        ({64, 83}, 83, 64),
        ({83}, 83, 83),
        ({16, 32}, 83, 0),
        (set(), 83, 0),
        ({256}, 0, 256),
        ({8}, 8, 8),
    ):

        def seconds(session: object, info: object, feeds: dict[str, Any], faster: set[int] = faster) -> float:
            return 1.0 if session is few else 0.5 if len(feeds["x"]) in faster else 1.5

        monkeypatch.setattr(tuning, "_best_seconds", seconds)
        assert tuning.many_from(model.info, few, many, most) == wanted, (faster, most)


def test_what_is_timed_need_not_compute_rightly(wide: Wide) -> None:
    bundle = read(wide())
    assert bundle.manifest is not None
    wrong = dataclasses.replace(bundle.manifest.reference, outputs=((9.0,) * 3,) * 4)
    wrong = dataclasses.replace(wrong, inputs=wrong.inputs[:4])
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, reference=wrong))
    loader = Loader(Settings(repository=Path()), 1, Metrics())
    info, session, plan = loader.unproved(
        dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, variants=()))
    )
    assert (info.name, plan.many_from) == ("wide", 0)
    assert session.run(["y"], {"x": np.zeros((1, WIDTHS[0]), np.float32)})[0].shape == (1, 3)
    with pytest.raises(LoadError, match="reference outputs differ by"):
        loader.load(bundle)


def test_a_border_that_does_not_fit_is_refused(wide: Wide) -> None:
    bundle = read(wide(out_of_range="flag"))
    assert load(bundle).range_guard is not None
    assert bundle.manifest is not None
    first, *rest = bundle.manifest.layers
    few = tuple(dataclasses.replace(basis, knots=basis.knots[:3]) for basis in first.bases)
    manifest = dataclasses.replace(bundle.manifest, layers=(dataclasses.replace(first, bases=few), *rest))
    with pytest.raises(LoadError) as caught:
        load(dataclasses.replace(bundle, manifest=manifest))
    assert caught.value.reason is LoadReason.MANIFEST


def two(root: Path) -> tuple[Loader, Bundle, Bundle]:
    toy_model.write(root, "a")
    toy_model.write(root, "b")
    settings = Settings(repository=root)
    first, second = (layout.load(item, 2**30) for item in layout.scan(root, plain_onnx=False))
    return Loader(settings, 1, Metrics()), first, second


PLAN = ExecutionPlan(3, 0, 7, 1)


@pytest.mark.parametrize(
    ("seconds", "inline", "taken"), [(1.0, 0, True), (1.6, 0, False), (0.6, 0, False), (1.0, 2, False)]
)
def test_a_plan_of_another_model_is_taken_if_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, inline: int, taken: bool
) -> None:
    """Each run takes 1 s, which is too long for the event loop."""
    loader, first, second = two(tmp_path)
    monkeypatch.setattr(tuning, "_best_seconds", lambda *_: 1.0)
    assert first.manifest is not None
    key = tuning.plan_key(first.manifest, first.config, "")
    plan = ExecutionPlan(3, inline, 7, 1)
    loader.plans.keep(key, MeasuredPlan(plan, seconds))
    model = loader.load(second)
    assert (model.serving.plan == plan) is taken
    model.close()


def test_a_measured_plan_is_kept_for_the_next_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, first, second = two(tmp_path)
    loader.load(first).close()
    assert first.manifest is not None
    known = loader.plans.get(tuning.plan_key(first.manifest, first.config, ""))
    assert known is not None
    assert 0 < known.seconds < math.inf
    monkeypatch.setattr(tuning, "plan_holds", lambda *_: True)
    monkeypatch.setattr(VersionGraphs, "measured", None)  # nothing is measured
    model = loader.load(second)
    assert model.serving.plan == known.plan
    model.close()


def test_the_latest_forms_are_kept() -> None:
    known = KnownPlans()
    for form in range(tuning.MOST_PLANS + 2):
        known.keep(str(form), MeasuredPlan(PLAN, 1.0))
    assert (known.get("1"), known.get("2")) == (None, MeasuredPlan(PLAN, 1.0))
