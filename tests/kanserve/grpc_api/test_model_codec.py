"""Manifest fields in DescribeModel: each reaches the client unchanged or is listed here with a reason."""

import dataclasses
import typing
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.shared.manifest import BasisInfo, LayerInfo, Manifest, NodeStep, SymbolicEdge, Zone
from kanexport.shared.naming import Names
from kanexport.shared.sections import Scaler, Scalers
from kanserve.client import model_info
from kanserve.grpc_api import model_codec
from kanserve.models.registry import Registry
from kanserve.pb import kan_pb2
from kanserve.services import report
from kanserve.services.kan import Kan
from kanserve.types import ModelInfo, TensorInfo
from tests.support import toy_model

PRIVATE = {
    "format": "the server understands it or does not load it",
    "created": "in the repository, for people who look there",
    "opset": "the graph's own business",
    "files": "integrity was checked at load; the graph's sha256 is the digest",
    "reference": "rows of the user's data, used for the proof at load",
    "source.family_reason": "said when exporting",
    "source.dtype": "input and output have their datatypes",
    **{f"error_bars.{field}": "rows of the user's data; no client needs them" for field in ("x", "errors")},
    **{f"intervals.{field}": "the server compares rows with them" for field in ("low", "high")},
    "verification.runtime": "the serving runtime is in kanserve_build_info",
    "layers.node_tensor": "inside the graph",
    "layers.edges_file": "inside the repository",
    "layers.edges_tensor": "inside the graph",
    "layers.bases.edges_tensor": "inside the graph",
    "explanations": "of a file that is used where no server is, and says so itself",
    "verification.explaining": "of that file",
    "verification.kernel": "of another form of the same graph; GetModelConfig tells which one runs",
    "approximation": "the first of the notes says it all in words, and kan.approximation of ModelConfig the sum of it",
    "variants": "which graph a run takes is the server's own measurement; ModelConfig says from how many rows",
    "baseline": "told by GetStatistics, beside what it is compared with",
    **{f"stored.{field}": "where lists lie in the folder" for field in ("place", "rows", "kind", "numbers", "offset")},
    "optimization": "how the runtime is set for these graphs, which is the server's own business",
}
RENAMED = {
    "name": "model_name",
    "version": "model_version",
    "exporter_version": "source.exporter_version",
    "source.family": "family",
    "out_of_range": "out_of_range_policy",
    **{f"names.{field}": field for field in ("features", "units", "classes", "description")},
    **{f"certificate.output_{end}": f"certificate.outputs.{end}" for end in ("low", "high")},
    **{f"certificate.found_{end}": f"certificate.outputs.found_{end}" for end in ("low", "high")},
    "error_bars.outside": "error_bars.rows_outside",
    "certificate.slack": "certificate.outputs.float32_slack",
    "certificate.directions": "certificate.effects.direction",
    "certificate.lipschitz": "certificate.effects.lipschitz",
    **{f"certificate.at_{end}": f"certificate.outputs.at_{end}" for end in ("low", "high")},
    **{
        f"certificate.witnesses.{what}": f"certificate.effects.{what}" for what in ("input", "output", "rises", "falls")
    },
    **{
        f"scalers.{side}s.{field}": f"{side}_scaler.{field}"
        for side in ("input", "output")
        for field in ("kind", "offset", "scale", "range", "name", "sha256")
    },
}


def fields(kind: type, prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        if dataclasses.is_dataclass(inner) and prefix + name not in PRIVATE:
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def messages(descriptor: typing.Any, prefix: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        yield prefix + field.name
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            yield from messages(field.message_type, f"{prefix}{field.name}.")


def test_every_field_is_exposed_or_private_for_a_reason() -> None:
    result = set(fields(Manifest))
    exposed = set(messages(kan_pb2.DescribeModelResponse.DESCRIPTOR))
    assert set(PRIVATE) <= result
    assert {RENAMED.get(name, name) for name in result - set(PRIVATE)} <= exposed


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VECTORS = st.lists(NUMBERS, max_size=3).map(tuple)


def tables(elements: st.SearchStrategy[float], rows: int) -> st.SearchStrategy[tuple[tuple[float, ...], ...]]:
    """[rows, n] for some n, or empty."""
    filled = st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.tuples(*[elements] * n)] * rows))
    return st.just(()) | filled if rows else st.just(())


STEPS = st.lists(
    st.builds(
        NodeStep,
        kind=TEXT,
        indices=st.lists(COUNTS, max_size=3).map(tuple),
        scale=VECTORS,
        bias=VECTORS,
        epsilon=NUMBERS,
        function=TEXT,
    ),
    max_size=2,
).map(tuple)
BASES = st.integers(0, 2).flatmap(
    lambda rows: st.builds(
        BasisInfo,
        kind=TEXT,
        functions=COUNTS,
        parameters=st.dictionaries(TEXT, TEXT, max_size=2),
        knots=tables(NUMBERS, rows),
        per_edge=st.booleans(),
        pre_steps=STEPS,
    )
)
EDGES = st.builds(
    SymbolicEdge,
    source=COUNTS,
    destination=COUNTS,
    function=TEXT,
    **dict.fromkeys(("a", "b", "c", "d", "mask"), NUMBERS),
    expression=TEXT,
)
LAYERS = st.integers(1, 3).flatmap(
    lambda sources: st.builds(
        LayerInfo,
        sources=st.just(sources),
        destinations=COUNTS,
        bases=st.lists(BASES, max_size=2).map(tuple),
        pre_steps=STEPS,
        post_steps=STEPS,
        mask=tables(st.floats(width=32, allow_nan=False, allow_infinity=False), sources),
        bias=VECTORS,
        symbolic=st.lists(EDGES, max_size=2).map(tuple),
        active_edges=COUNTS,
        node_tensor=st.just(""),
        edges_file=st.just(""),
        edges_tensor=st.just(""),
        name=TEXT,
        edge_class=st.sampled_from("AB"),
        positions=st.lists(COUNTS, max_size=2).map(tuple),
    )
)


def described(layers: tuple[LayerInfo, ...], **changes: object) -> tuple[ModelInfo, Manifest]:
    manifest = dataclasses.replace(toy_model.manifest("toy"), layers=layers, **changes)
    tensors = [TensorInfo(spec.name, spec.datatype, spec.shape) for spec in (manifest.input, manifest.output)]
    return ModelInfo("toy", 1, 64, (tensors[0],), (tensors[1],), "d", manifest), manifest


def test_a_layer_of_an_old_manifest_has_the_class_of_its_model() -> None:
    info, manifest = described(toy_model.manifest("toy").layers, edge_class="B")
    sent = model_codec.describe(info, manifest, kan_pb2.QueryLimits())
    assert [layer.edge_class for layer in model_info.from_pb(sent).layers] == ["B", "B"]


@given(st.lists(LAYERS, max_size=2).map(tuple))
@settings(max_examples=settings.default.max_examples // 10)
def test_a_report_of_the_server_has_the_description_of_a_client(layers: tuple[LayerInfo, ...]) -> None:
    numbers = dict.fromkeys(("outputs_max_abs", "edges_max_abs", "edges_max_rel"), 0.1)
    words = {"worst_output": "1", "worst_edge": "(0,1,2)"}
    errors = {"inside": 0.2, "nonfinite": 0.3}
    zones = (Zone(name=name, rows=3, outputs_max_rel=error, **numbers, **words) for name, error in errors.items())
    plain = toy_model.manifest("toy")
    scaler = Scaler(kind="min-max", offset=(0.1,) * 3, scale=(2.0,) * 3, range=(0.0, 1.0), name="s", sha256="0")
    info, manifest = described(
        layers,
        names=Names(("a", "b", "c"), ("m", "", "s"), ("d", "e"), "for a test"),
        scalers=Scalers(inputs=scaler),
        verification=dataclasses.replace(plain.verification, zones=tuple(zones)),
        source=dataclasses.replace(plain.source, options_given={"grid": "5"}, options_assumed={"k": "3"}),
    )
    kan = Kan(typing.cast(Registry, None), 7, 1, 9)
    sent = model_codec.describe(info, manifest, kan_pb2.QueryLimits(max_rows=7, max_response_bytes=9))
    own = report.description(kan, info, manifest)
    assert own == model_info.from_pb(kan_pb2.DescribeModelResponse.FromString(sent.SerializeToString()))
    assert (own.layers, own.shapes) == (layers, manifest.shapes)
    assert own.verified_error == 0.2
