"""Request validation before computation, without a server: each error with its message."""

from dataclasses import replace

import pytest

from kanexport.shared.naming import Names
from kanserve.errors import BadRequest
from kanserve.insight.coverage import OutOfRangeInput
from kanserve.services.validation import beyond, requested_outputs, validate
from kanserve.types import InferRequest, InputTensor, ModelInfo, TensorInfo
from tests.support import toy_model

X, Y = TensorInfo("x", "FP32", (-1, 3)), TensorInfo("y", "FP32", (-1, 2))
FLAG = TensorInfo("flag", "BOOL", (-1, 1))
MODEL = ModelInfo("toy", 1, 4, (X, FLAG), (Y, replace(Y, name="z")), "")
UNBATCHED = ModelInfo("toy", 1, 0, (replace(X, shape=(2, 3)),), (Y,), "")
GIVEN = InputTensor("x", "FP32", (2, 3), bytes(24))
SIGN = InputTensor("flag", "BOOL", (2, 1), bytes(2))
GOOD = InferRequest("toy", "", "7", (GIVEN, SIGN))
HAS = '; the model has inputs "x" [-1, 3] FP32, "flag" [-1, 1] BOOL'
TEXTS = ModelInfo("toy", 1, 4, (TensorInfo("s", "BYTES", (-1, 1)),), (Y,), "")


def with_x(**changes: object) -> InferRequest:
    return replace(GOOD, inputs=(replace(GIVEN, **changes), SIGN))  # type: ignore[arg-type]  # of a table


def with_two(x: tuple[int, int], flag: tuple[int, int]) -> InferRequest:
    return replace(GOOD, inputs=(replace(GIVEN, shape=x), replace(SIGN, shape=flag)))


SIGNED = replace(SIGN, name="sign")
NEEDED = "Please provide all required input(s)." + HAS
SIZE = "input byte size mismatch for input 'x' for model 'toy'. Expected 24, got"
SHAPE = "unexpected shape for input 'x' for model 'toy'. Expected [-1,3], got"
CASES: list[tuple[InferRequest, str]] = [
    (
        replace(GOOD, inputs=(SIGN,)),
        "expected 2 inputs but got 1 inputs for model 'toy'. Got input(s) ['flag'], but missing required input(s) "
        f"['x']. {NEEDED}",
    ),
    (
        replace(GOOD, inputs=(), id=""),
        "expected 2 inputs but got 0 inputs for model 'toy'. Got input(s) [], but missing required input(s) "
        f"['x','flag']. {NEEDED}",
    ),
    (replace(GOOD, inputs=(GIVEN, GIVEN)), "input 'x' already exists in request"),
    (replace(GOOD, inputs=(GIVEN, SIGNED)), f"unexpected inference input 'sign' for model 'toy'{HAS}"),
    (replace(GOOD, inputs=(GIVEN, SIGN, SIGNED)), f"unexpected inference input 'sign' for model 'toy'{HAS}"),
    (with_x(shape=(-1, 3)), "All input dimensions should be specified for input 'x' for model 'toy', got [-1,3]"),
    (with_x(shape=()), "input 'x' has no shape but model requires batch dimension for 'toy'"),
    (with_x(shape=(1, 3)), "input 'flag' batch size does not match other inputs for 'toy'"),
    (with_two((5, 3), (5, 1)), "inference request batch-size must be <= 4 for 'toy'"),
    (with_x(datatype="FP64"), "inference input 'x' data-type is 'FP64', but model 'toy' expects 'FP32'"),
    (with_x(shape=(2, 4)), f"{SHAPE} [2,4]. NOTE: "),
    (with_x(shape=(2, 3, 1)), f"{SHAPE} [2,3,1]. NOTE: "),
    (with_x(data=bytes(23)), f"{SIZE} 23"),
    (with_x(shape=(2, 3), data=bytes(24 + 2**16)), f"{SIZE} 65560"),
]


@pytest.mark.parametrize(("request_", "words"), CASES, ids=[words[:60] for _, words in CASES])
def test_a_mistake_is_told_in_triton_s_words(request_: InferRequest, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        validate(MODEL, request_)
    said = str(caught.value)
    if not words.startswith("unexpected inference input"):
        words = f"[request id: {request_.id or '<id_unknown>'}] {words}"
    assert said.startswith(words) if words.endswith("NOTE: ") else said == words


def test_a_graph_of_one_shape_has_one_row_and_no_note_about_batches() -> None:
    requested = replace(GOOD, inputs=(GIVEN,))
    assert validate(UNBATCHED, requested) == 1
    with pytest.raises(BadRequest) as caught:
        validate(UNBATCHED, replace(requested, inputs=(replace(GIVEN, shape=(3, 3), data=bytes(36)),)))
    assert str(caught.value).endswith("Expected [2,3], got [3,3].")


def test_strings_have_no_size_that_follows_from_their_shape() -> None:
    assert validate(TEXTS, replace(GOOD, inputs=(InputTensor("s", "BYTES", (1, 1), b"\3\0\0\0abc"),))) == 1


def test_outputs_come_in_the_order_in_which_they_were_asked_for() -> None:
    assert requested_outputs(MODEL, GOOD) == MODEL.outputs
    assert [item.name for item in requested_outputs(MODEL, replace(GOOD, outputs=("z", "y")))] == ["z", "y"]
    assert [item.name for item in requested_outputs(MODEL, replace(GOOD, outputs=("z",)))] == ["z"]
    for outputs, words in (
        (
            ("w",),
            "unexpected inference output 'w' for model 'toy'; the model has outputs "
            '"y" [-1, 2] FP32, "z" [-1, 2] FP32',
        ),
        (("y", "y"), "[request id: 7] output 'y' already exists in request"),
    ):
        with pytest.raises(BadRequest) as caught:
            requested_outputs(MODEL, replace(GOOD, outputs=outputs))
        assert str(caught.value) == words


def test_of_many_inputs_the_first_are_told() -> None:
    many = replace(MODEL, inputs=tuple(replace(X, name=f"{'n' * 100}{at}") for at in range(30)))
    with pytest.raises(BadRequest) as caught:
        validate(many, replace(GOOD, inputs=(GIVEN,) * 1))
    said = str(caught.value).partition("input(s).")[2]
    assert said.count("[-1, 3] FP32") == 8
    assert said.endswith(" and 22 more")
    assert len(said) < 900


@pytest.mark.parametrize(("named", "said"), [(("length", "height"), "'height'"), ((), "'x1'")])
def test_a_row_outside_is_told_with_its_place_and_range(named: tuple[str, ...], said: str) -> None:
    manifest = replace(toy_model.manifest("toy"), names=Names(named, (), (), ""))
    reported = beyond(replace(MODEL, manifest=manifest), OutOfRangeInput(7, 1, 2.5, -1.0, 1.0), 3, 9)
    assert str(reported).startswith(f"row 7: {said} is 2.5 for model 'toy', outside its range -1 to 1 (rows")
    assert "(rows outside: 3 of 9)" in str(reported)
