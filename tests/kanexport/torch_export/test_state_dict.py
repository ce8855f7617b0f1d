"""Tests of `torch_export/state_dict.py`."""

import torch
from torch import nn

from kanexport.torch_export import state_dict


def test_weights_that_were_expanded_are_loaded() -> None:
    module = nn.Linear(3, 2)
    module.weight = nn.Parameter(torch.arange(3.0).expand(2, 3))
    state = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    state_dict.assign(module, state)
    torch.testing.assert_close(module.weight.detach(), state["weight"])
