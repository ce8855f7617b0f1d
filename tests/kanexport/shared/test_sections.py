"""Tests of `shared/sections.py`."""

from pathlib import Path

import pytest

from kanexport.errors import OptionError
from kanexport.shared.sections import REJECT


def test_of_a_module_nobody_knows_which_inputs_are_outside(tmp_path: Path) -> None:
    """Its layers have separate tensors, for any modules before them."""
    torch = pytest.importorskip("torch")
    import kanexport

    with pytest.raises(OptionError, match="no layer with edges reads the inputs unchanged") as caught:
        kanexport.export(torch.nn.Linear(4, 3), torch.rand(16, 4), name="m", repository=tmp_path, out_of_range=REJECT)
    assert "kan.coverage" in caught.value.hint
    assert not (tmp_path / "m").exists()
