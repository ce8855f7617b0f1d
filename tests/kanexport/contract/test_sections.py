"""Tests of `contract/sections.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanexport.contract.sections import FLAG, REJECT
from kanexport.errors import OptionError


@pytest.mark.parametrize("policy", [FLAG, REJECT])
def test_of_a_module_nobody_knows_which_inputs_are_outside(tmp_path: Path, policy: str) -> None:
    """Its layers have separate tensors, for any modules before them."""
    torch = pytest.importorskip("torch")
    import kanexport
    from tests.support import torch_modules as modules

    rows = torch.rand(16, 4) - 0.5
    stack = modules.Stack(modules.KANLinear(4, 3), modules.KANLinear(3, 2))
    with pytest.raises(OptionError, match="no layer with edges reads the inputs unchanged") as caught:
        kanexport.export(stack, rows, name="m", repository=tmp_path, out_of_range=policy)
    assert "kan.coverage" in caught.value.hint
    assert not (tmp_path / "m").exists()
