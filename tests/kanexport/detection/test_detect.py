"""Error for an unknown family: advice, found tensors, and the closest families."""

from pathlib import Path
from typing import Any

import numpy as np

from kanexport.detection import detect, registry
from kanexport.errors import FamilyError
from tests.support.small_checkpoints import exported, refuse, save

FOUND = {
    "1 convolution (conv.weight (8, 1, 3, 3))": {"conv.weight": (8, 1, 3, 3), "conv.bias": (8,)},
    "1 LSTM layer (rnn.weight_hh_l0 (20, 5))": {"rnn.weight_ih_l0": (20, 3), "rnn.weight_hh_l0": (20, 5)},
    "1 GRU layer (rnn.weight_hh_l0 (15, 5))": {"rnn.weight_hh_l0": (15, 5)},
    "1 RNN layer (rnn.weight_hh_l0 (5, 5))": {"rnn.weight_hh_l0": (5, 5)},
    "1 recurrent layer (rnn.weight_hh_l0 (7, 5))": {"rnn.weight_hh_l0": (7, 5)},
    "1 attention layer (a.in_proj_weight (24, 8))": {"a.in_proj_weight": (24, 8), "a.out.weight": (8, 8)},
    "1 batch normalization (bn.running_mean (3,))": {"bn.weight": (3,), "bn.bias": (3,), "bn.running_mean": (3,)},
    "1 normalization (ln.weight (3,))": {"ln.weight": (3,), "ln.bias": (3,)},
    "4 linear layers (0.weight (2, 3), 1.weight (2, 3), 2.weight (2, 3), ...)": {
        f"{at}.weight": (2, 3) for at in range(4)
    },
    "2 tensors of three axes, as for edges (a.magic (3, 2, 5), b.magic (2, 1, 5))": {
        "a.magic": (3, 2, 5),
        "b.magic": (2, 1, 5),
    },
    "2 custom modules (a.p (3,), a.b.q (2, 2))": {"a.p": (3,), "a.b.q": (2, 2)},
}


def tensors(shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.ones(shape, dtype=np.float32) for key, shape in shapes.items()}


def test_every_kind_of_module_is_described() -> None:
    for text, shapes in FOUND.items():
        assert text in detect.described(tensors(shapes)), text
    assert "complex numbers (z complex64)" in detect.described({"z": np.ones(2, dtype=np.complex64)})


def test_the_nearest_families_are_those_with_such_names() -> None:
    near = detect.nearest(tensors({"0.cheby_coeff": (3, 2, 5), "1.weight": (2, 2)}))
    assert near.startswith("chebykan has cheby_coeffs with 3 axes")
    assert detect.nearest(tensors({"0.weight": (3, 2), "0.bias": (3,)})) == ""
    for family, reader in registry.layer_readers().items():
        own = {f"layers.0.{name}": (2,) * axes for name, axes in reader.keys.required.items()}
        if any(name not in ("weight", "bias") for name in reader.keys.required):
            assert f"{family} has " in detect.nearest(tensors(own)) or detect.nearest(tensors(own)).count(";") == 2


def test_other_modules_are_named_before_the_shapes_of_a_layer(tmp_path: Path) -> None:
    """A layer with the names of TaylorKAN and another bias: the advice leads to an export."""
    file = tensors({"kan.coeffs": (3, 4, 5), "kan.bias": (4,), "enc.weight": (9, 6)})
    error = refuse(tmp_path, file, kind=FamilyError, said="other modules, such as 'enc.weight' (9, 6)")
    assert "prefix=KEY_PREFIX" in error.hint
    assert "--family by-shape" in refuse(tmp_path, file, "prefix=kan", said="kan.bias").hint
    facts = ("prefix=kan", "roles=coeffs:iok, bias:bias", "forward=chebyshev-of-tanh")
    assert exported(save(tmp_path, file), *facts, family="by-shape").source.family == "by-shape"


def test_an_unknown_checkpoint_is_told_the_command_first(tmp_path: Path) -> None:
    shapes = {"head.cheb_coeffs": (3, 2, 5), "conv.weight": (8, 1, 3, 3)}
    error = refuse(tmp_path, tensors(shapes))
    assert isinstance(error, FamilyError)
    what, _, result = error.message.partition(" Found: ")
    assert "unknown library: the tensors do not fit a supported KAN library" in what
    assert error.code == "library-not-identified"
    assert "head.cheb_coeffs (3, 2, 5)" in result
    assert "1 convolution (conv.weight (8, 1, 3, 3))" in result
    command, _, near = error.hint.partition("; nearest libraries: ")
    assert command == (
        "export the PyTorch module instead: kanserve export --module yourpackage.yourfile:make_model "
        f"--checkpoint {tmp_path / 'model.safetensors'} --example rows.npy --repository models"
    )
    assert near.startswith("chebykan")
    assert "supported libraries: " in refuse(tmp_path, tensors({"0.weight": (3, 2)})).hint
