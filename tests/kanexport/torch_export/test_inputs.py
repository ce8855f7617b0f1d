"""Row shape of a module if the user gives no shape."""

from typing import Any

import pytest
from torch import nn

from kanexport.errors import OptionError
from kanexport.torch_export.inputs import guess
from tests.support import torch_modules as modules


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (modules.GoldenCnn, (1, 8, 8)),
        (modules.GoldenTransformer, (8, 8)),
        (lambda: modules.KANLinear(4, 3), (4,)),
        (lambda: modules.Stack(modules.FastKANLayer(30, 4), modules.FastKANLayer(4, 2)), (30,)),
        (lambda: nn.Sequential(nn.Conv1d(2, 3, 5), nn.Flatten(), nn.Linear(12, 3)), (2, 8)),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
            (3, 28, 28),
        ),
        (lambda: nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)), (5,)),
    ],
)
def test_the_likeliest_shape_is_found(make: Any, shape: tuple[int, ...]) -> None:
    module = make().train()
    assert guess(module).shape == shape
    assert module.training


def test_another_shape_that_runs_is_said() -> None:
    assert str(guess(modules.GoldenCnn())) == "1,8,8, found by testing (1,9,9 runs, too; select it with --input-shape)"


def test_what_takes_no_single_tensor_has_no_shape() -> None:
    with pytest.raises(OptionError, match="the shape of the inputs is not known") as caught:
        guess(modules.TwoInputs())
    assert "--example" in caught.value.hint
