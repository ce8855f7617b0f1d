"""Extreme numbers in a manifest: each gives a load error with a message before any computation."""

import dataclasses
from typing import Any

import pytest

from kanexport.shared import manifest as manifests
from kanexport.shared import sections
from kanexport.shared.manifest import BasisInfo, LayerInfo, Manifest, NodeStep, SymbolicEdge, TensorSpec
from kanexport.shared.naming import Names
from kanserve.errors import LoadError, LoadReason
from kanserve.repository import pbtxt, validation
from kanserve.repository.validation import check_config, check_manifest
from kanserve.types import TensorInfo
from tests.support import toy_model
from tests.support.bad_requests import not_loaded

BASIS = BasisInfo(kind="bspline", functions=8, parameters={}, knots=())
MANY = manifests.Variant(file=manifests.MANY_FILE, rows=256, zones=())
EDGE = SymbolicEdge(source=0, destination=0, function="sin", a=1, b=0, c=1, d=0, mask=1)


def listed() -> Manifest:
    names = (manifests.MODEL_FILE, "edges_l0.onnx", "edges_l1.onnx")
    files = tuple(manifests.FileEntry(path=name, size=1, sha256="0" * 64) for name in names)
    return dataclasses.replace(toy_model.manifest("toy"), files=files)


def layer(**changes: Any) -> dict[str, Any]:
    return {"layers": (dataclasses.replace(toy_model.manifest("toy").layers[0], **changes),)}


def basis(**changes: Any) -> dict[str, Any]:
    return layer(bases=(dataclasses.replace(BASIS, **changes),))


def shape(*extents: int) -> dict[str, Any]:
    return {"inputs": (TensorSpec(name="x", datatype="FP32", shape=extents),)}


def step(*indices: int) -> dict[str, Any]:
    return layer(pre_steps=(NodeStep(kind="select", indices=indices),))


def standardize(offset: tuple[float, ...], scale: tuple[float, ...]) -> dict[str, Any]:
    return layer(pre_steps=(NodeStep(kind="standardize", bias=offset, scale=scale),))


def scaled(offset: tuple[float, ...], scale: tuple[float, ...], kind: str = sections.STANDARD) -> dict[str, Any]:
    return {"scalers": sections.Scalers(inputs=sections.Scaler(kind=kind, offset=offset, scale=scale, name="s.json"))}


TENSOR = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
LAYER: LayerInfo = toy_model.manifest("toy").layers[0]


def told(*changes: dict[str, Any], file: str = "edges_l0.onnx") -> dict[str, Any]:
    """An explaining graph that gives so many tensors."""
    item = sections.ExplainedTensor(name="e", datatype="FP32", shape=(-1, 3, 4), holds="edges", layer=0)
    tensors = tuple(dataclasses.replace(item, **change) for change in changes)
    return {"explanations": sections.Explanations(file=file, tensors=tensors)}


UNSCALED = "a step 'standardize' has no positive scale for each offset"
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("batch beyond words", {"max_batch_size": 10**4000}, "max_batch_size is 2^13287 or more"),
    ("row of no size", shape(-1, -1), "'x' has shape [-1, -1], expected [-1, ...] with known extents"),
    ("fixed rows", shape(5, 3), "'x' has shape [5, 3], expected [-1, ...]"),
    ("explained layer", told({"layer": 2}), "the layer of 'e' is 2, expected -1 to 1"),
    ("explained shape", told({}, {"shape": (-1, 2**31)}), "the size of a row of 'e' is 2147483648"),
    ("explained nothing", told(), "the number of explained tensors is 0"),
    ("explained elsewhere", told({}, file="explain.onnx"), "'explain.onnx' is not in the manifest's list of files"),
    ("too many variants", {"variants": (MANY, MANY)}, "the number of variants is 2, expected 0 to 1"),
    ("rows of a variant", {"variants": (dataclasses.replace(MANY, rows=0),)}, "the rows of 'model_many.onnx' is 0"),
    ("variant elsewhere", {"variants": (MANY,)}, "the variant 'model_many.onnx' is not in the manifest's list"),
    ("no scale", standardize((0.0,) * 3, (1.0, 0.0, 1.0)), UNSCALED),
    ("no offsets", standardize((), (1.0,) * 3), UNSCALED),
    ("scaled columns", scaled((0.0, 0.0), (1.0, 1.0)), "the input scaler does not have an offset and a positive scale"),
    ("scaled by zero", scaled((0.0,) * 3, (1.0, 0.0, 1.0)), "and a positive scale for each of 3 columns"),
    ("scaled by none", scaled((), ()), "the input scaler does not have an offset and a positive scale for each of 3"),
    ("scaler", scaled((0.0,) * 3, (1.0,) * 3, kind="robust"), "the input scaler is 'robust' with a range of 0 numbers"),
    (
        "no range",
        scaled((0.0,) * 3, (1.0,) * 3, sections.MIN_MAX),
        "the input scaler is 'min-max' with a range of 0 numbers",
    ),
]


OWN = sections.OutputInterval(quantile=1.0, points=(0.0, 1.0), spreads=(1.0, 2.0), width=2.0)
BOTH = sections.Intervals(method="normalized", coverage=0.9, rows=100, outputs=(OWN, OWN))
SETS = sections.Intervals(method="lac", coverage=0.9, rows=100, scores="logits", threshold=0.5)


def intervals(**changes: Any) -> dict[str, Any]:
    return {"intervals": dataclasses.replace(BOTH, **changes)}


def table(**changes: Any) -> dict[str, Any]:
    return intervals(outputs=(OWN, dataclasses.replace(OWN, **changes)))


CASES += [
    ("method of intervals", intervals(method="guess"), "intervals.method is 'guess', expected absolute, normalized"),
    ("coverage", intervals(coverage=1.0), "intervals.coverage is 1, expected a number between 0 and 1"),
    ("too few intervals", intervals(outputs=(OWN,)), "the intervals have 1 entries, expected 2"),
    ("no intervals", intervals(outputs=()), "the intervals have 0 entries, expected 2"),
    ("low", intervals(low=(0.0,)), "the intervals have 1 smallest and 0 largest values of inputs"),
    ("scores", {"intervals": dataclasses.replace(SETS, scores="odds")}, "scores of the prediction sets are 'odds'"),
    ("quantile", table(quantile=-1.0), "intervals.outputs[1]: the quantile or a spread is negative"),
    ("spread", table(spreads=(1.0, 0.0)), "intervals.outputs[1]: the quantile or a spread is negative"),
    ("points", table(points=(1.0, 0.0)), "intervals.outputs[1]: the points do not ascend"),
    ("table", table(points=(0.0,)), "intervals.outputs[1]: the table has 1 points and 2 spreads"),
    ("long table", table(points=(0.0,) * 5000, spreads=(1.0,) * 5000), "the table has 5000 points and 5000 spreads"),
]


EDIT = sections.Edit(
    parent_version=1, edges=(sections.EditedEdge(layer=0, source=2, destination=3, operation="zero"),), changed=0
)


def edited(**changes: Any) -> dict[str, Any]:
    return {"edit": dataclasses.replace(EDIT, **changes)}


def edge(**changes: Any) -> dict[str, Any]:
    return edited(edges=(dataclasses.replace(EDIT.edges[0], **changes),))


CASES += [
    ("no parent", edited(parent_version=0), "the parent version of the edit is 0, expected 1 to"),
    ("a negative parent", edited(parent_version=-1), "the parent version of the edit is -1, expected 1 to"),
    ("no edge", edited(edges=()), "the number of edited edges is 0"),
    ("changed rows", edited(changed=5), "the number of changed rows is 5, expected -1 to 0"),
    ("a negative change", edited(mean=(1.0, -1.0)), "a change of an output is negative"),
    ("a layer beyond", edge(layer=2), "the edited edge 2:2:3 is unknown"),
    ("a source beyond", edge(source=3), "the edited edge 0:3:3 is unknown"),
    ("a form", edge(form="guessed"), "an edited edge has the form 'guessed' and the error 0"),
]


def test_intervals_of_each_method_pass() -> None:
    for section in (BOTH, SETS, dataclasses.replace(BOTH, method="absolute")):
        check_manifest(dataclasses.replace(listed(), intervals=section))
    whole = TensorSpec(name="y", datatype="INT64", shape=(-1, 2))
    with pytest.raises(LoadError, match="expected one floating-point output"):
        check_manifest(dataclasses.replace(listed(), intervals=BOTH, outputs=(whole,)))


CERTIFICATE = sections.CertificateInfo(
    method="branch and bound", box="grid", low=(-1.0, -1.0, -1.0), high=(1.0, 1.0, 1.0), budget=60.0, seconds=30.0,
    boxes=4, output_low=(-30.0, -20.0), output_high=(30.0, 20.0), found_low=(-25.0, -15.0), found_high=(25.0, 15.0),
    slack=(1e-5, 1e-5), directions=((0, 1), (2, 3), (1, 1)), lipschitz=((1.0, 2.0), (3.0, 0.0), (2.0, 2.0)),
)  # fmt: skip


def certificate(**changes: Any) -> dict[str, Any]:
    return {"certificate": dataclasses.replace(CERTIFICATE, **changes)}


CASES += [
    ("box", certificate(low=(-1.0, 2.0, -1.0)), "certificate: the box has 2 as low and 1 as high at 1"),
    ("range", certificate(output_low=(31.0, 0.0)), "the range of the outputs has 31 as low and 30 as high at 0"),
    ("found range", certificate(found_low=(26.0, 0.0)), "the found range has 26 as low and 25 as high at 0"),
    ("short box", certificate(low=(-1.0, -1.0)), "certificate: low does not fit 3 inputs and 2 outputs"),
    ("short range", certificate(output_high=(30.0,)), "certificate: output_high does not fit 3 inputs and 2 outputs"),
    ("short bounds", certificate(lipschitz=((1.0,),) * 3), "certificate: lipschitz does not fit 3 inputs"),
    ("few directions", certificate(directions=((0, 1),)), "certificate: directions does not fit 3 inputs"),
    ("direction", certificate(directions=((0, 4),) * 3), "a direction is not a number from 0 to 3"),
    ("slack", certificate(slack=(-1.0, 0.0)), "a slack or a Lipschitz bound is negative"),
    ("bound", certificate(lipschitz=((0.0, -1.0),) * 3), "a slack or a Lipschitz bound is negative"),
    ("budget", certificate(budget=0.0), "certificate: budget 0, seconds 30 or boxes 4 are out of range"),
    ("range check", certificate(range_check=True), "range_check is true, but out_of_range is 'as-trained'"),
]


def test_a_certificate_passes() -> None:
    check_manifest(dataclasses.replace(listed(), **certificate()))
    check_manifest(dataclasses.replace(listed(), **certificate(range_check=True), out_of_range="reject"))
    integers = TensorSpec(name="x", datatype="INT64", shape=(-1, 3))
    with pytest.raises(LoadError, match="other tensors than one FP32 input and one FP32 output"):
        check_manifest(dataclasses.replace(listed(), **certificate(), inputs=(integers,)))


@pytest.mark.parametrize(("changes", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_number_beyond_reason_is_named(changes: dict[str, Any], text: str) -> None:
    result = dataclasses.replace(listed(), **changes)
    with not_loaded(LoadReason.MANIFEST, text) as caught:
        check_manifest(result)
    assert len(str(caught.value)) < 200


def test_what_is_within_reason_passes() -> None:
    check_manifest(listed())
    check_manifest(dataclasses.replace(listed(), max_batch_size=2**31 - 1))
    check_manifest(dataclasses.replace(listed(), **told({}, {"layer": -1})))
    check_manifest(dataclasses.replace(listed(), **scaled((0.0,) * 3, (1.0,) * 3)))
    check_manifest(dataclasses.replace(listed(), **standardize((0.0,) * 3, (1.0,) * 3)))
    check_manifest(dataclasses.replace(listed(), **layer(edge_class="B")))
    check_manifest(dataclasses.replace(listed(), edit=EDIT))
    released = dataclasses.replace(EDIT, released=True, rows=9, changed=9, largest=(1.0,), mean=(0.5,))
    check_manifest(dataclasses.replace(listed(), edit=released))
    kept = (NodeStep(kind="clip", scale=(-1.0,) * 3, bias=(1.0,) * 3),)
    check_manifest(dataclasses.replace(listed(), out_of_range="clamp", **layer(pre_steps=kept)))


def test_all_that_is_out_of_bounds_is_told_where_somebody_asks_for_all() -> None:
    odd = TensorSpec(name="x", datatype="COMPLEX", shape=(-1, *[0] * 20))
    none = dataclasses.replace(LAYER, sources=0)
    right = dataclasses.replace(
        LAYER,
        symbolic=(EDGE,),
        bases=(BASIS,),
        pre_steps=(NodeStep(kind="select", indices=(0, 1)),),
        mask=((1.0,) * 4,) * 3,
        bias=(0.0,) * 4,
    )
    beyond = step(-1, 3)["layers"][0]
    wrong = dataclasses.replace(listed(), inputs=(odd,), layers=(none, right, beyond))
    said = list(validation.limit_faults(wrong))
    assert [item.partition(":")[0] for item in said] == [
        "'x' is 'COMPLEX', expected one of " + ", ".join(validation.DTYPES),
        f"'x' has shape [-1, {', '.join(['0'] * 15)}, ...], expected [-1, ...] with known extents",
        "layer 0",
        "layer 2",
    ]
    assert list(validation.limit_faults(dataclasses.replace(listed(), layers=(right,)))) == []


KAN_CONFIG = pbtxt.OperatorConfig()
NAMED = TensorInfo("x", "FP32", (3,))


def test_a_manifest_that_contradicts_itself() -> None:
    for changes, text in (
        ({"outputs": (TENSOR,)}, "two of the inputs and outputs have the same name"),
        ({"edge_class": "D"}, "the model is of edge class 'D', expected A or B"),
        ({"edge_class": "C"}, "the model is of edge class C: the prediction of a row depends"),
        (layer(edge_class="C"), "layer 0 is of edge class C"),
        (layer(edges_file="other.onnx"), "the edge graph 'other.onnx' of layer 0 is not in the manifest's list"),
        (
            {"verification": dataclasses.replace(listed().verification, basis="answers")},
            "verification.basis is 'answers', expected one of reading, expected-outputs, chosen-tolerance, ",
        ),
        ({"out_of_range": "maybe"}, "out_of_range is 'maybe', expected one of as-trained, "),
        ({"out_of_range": "clamp"}, "no step of the first layer clamps its inputs"),
        (
            {"reference": manifests.Reference(inputs=(b"",), outputs=(), tolerance=0.1)},
            "the reference rows have 1 inputs and 0 outputs",
        ),
    ):
        with not_loaded(LoadReason.MANIFEST, text):
            check_manifest(dataclasses.replace(listed(), **changes))


X3, Y2 = TensorInfo("x", "FP32", (-1, 3)), TensorInfo("y", "FP32", (-1, 2))


def test_a_config_that_contradicts_its_model() -> None:
    for config, text in (
        ({"name": "other"}, "config.pbtxt has the name 'other', the folder has 'toy'"),
        ({"inputs": (dataclasses.replace(NAMED, name="z"),)}, "config.pbtxt does not have the input 'x'"),
        (
            {"inputs": (NAMED, dataclasses.replace(NAMED, name="z"))},
            "config.pbtxt has the input 'z', the model has 'x'",
        ),
        ({"inputs": (dataclasses.replace(NAMED, shape=(4,)),)}, "has FP32 [4] for the input 'x'"),
        ({"inputs": (dataclasses.replace(NAMED, shape=(3, 1)),)}, "has FP32 [3, 1] for the input 'x'"),
        ({"inputs": (dataclasses.replace(NAMED, datatype="FP64"),)}, "has FP64 [3] for the input 'x'"),
        ({"outputs": (dataclasses.replace(NAMED, name="y"),)}, "has FP32 [3] for the output 'y'"),
    ):
        with not_loaded(LoadReason.CONFIG, text):
            check_config(dataclasses.replace(KAN_CONFIG, **config), "toy", (X3,), (Y2,), batched=True)


def test_a_config_that_says_the_same_or_less() -> None:
    for changes, batched in (
        ({}, True),
        ({"name": "toy", "inputs": (NAMED,), "outputs": (TensorInfo("y", "", ()),)}, True),
        ({"inputs": (dataclasses.replace(NAMED, shape=(-1,)),)}, True),
        ({"inputs": (dataclasses.replace(NAMED, shape=(5, 3)),)}, False),
    ):
        check_config(dataclasses.replace(KAN_CONFIG, **changes), "toy", (X3,), (Y2,), batched=batched)


def test_names_that_are_not_the_model_s_are_told() -> None:
    (fault,) = validation.limit_faults(dataclasses.replace(listed(), names=Names(features=("a", "b"))))
    assert fault == "found 2 features, expected 3: one per input of the model"
    assert list(validation.limit_faults(dataclasses.replace(listed(), names=Names(features=("a", "b", "c"))))) == []
