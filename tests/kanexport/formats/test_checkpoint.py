"""State dicts in the checkpoints of training scripts and Lightning: weights are found, other objects stay inert."""

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import pathlib
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import CheckpointError, InvalidKan, OptionError, UnsafeCheckpoint
from kanexport.formats import checkpoint, keras
from tests.support.small_checkpoints import exported, read, reading, save


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


class Mode(enum.Enum):
    FAST = "fast"


@dataclasses.dataclass
class Settings:
    width: list[int]
    mode: Mode = Mode.FAST

    class Inner:
        """Pickled by its qualified name, through getattr."""


class Attributes(dict[str, Any]):
    """As hyper-parameters of Lightning: a dictionary of a custom class."""


class Bag(list[Any]):
    """A list of a custom class."""


def objects(torch: Any) -> dict[str, Any]:
    """Objects that training scripts store as hyper-parameters."""
    return {
        "namespace": argparse.Namespace(width=[2, 3], path=pathlib.Path("/data"), mode=Mode.FAST),
        "settings": Settings([2, 3]),
        "class": Settings.Inner,
        "attributes": Attributes(lr=1e-3, nested=Attributes(a=(1, 2))),
        "bag": Bag([1, Settings([1])]),
        "simple": types.SimpleNamespace(x=1),
        "partial": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
        "loss": torch.nn.CrossEntropyLoss(weight=torch.ones(3)),
        "module": torch.nn.Sequential(torch.nn.Linear(2, 2)),
        "activation": torch.nn.functional.silu,
        "optimizer_class": torch.optim.AdamW,
        "numpy": {"seed": np.int64(3), "mean": np.arange(3.0), "generator": np.random.default_rng(0)},
        "when": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
        "sets": [{1, 2}, frozenset("ab"), bytearray(b"x"), 1j, slice(1, 2), range(3), ...],
        "ordered": collections.OrderedDict(a=1),
        "counts": collections.Counter("aab"),
        "default": collections.defaultdict(list, a=[1]),
        "named": collections.deque([1]),
        "keys": {(0, 1): "edge", None: 1, 0.5: 2, Mode.FAST: 3, True: 4},
        "dtype": torch.bfloat16,
        "random": torch.get_rng_state(),
    }


def test_a_lightning_file_full_of_objects(torch: Any, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    file = {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [adam.state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": objects(torch),
    }
    for protocol in (2, 4, 5):
        torch.save(file, tmp_path / "last.ckpt", pickle_protocol=protocol)
        loaded = checkpoint.load(tmp_path / "last.ckpt")
        assert list(loaded.tensors) == ["model.weight", "model.bias"]
        np.testing.assert_array_equal(loaded.tensors["model.weight"], model.weight.detach().numpy())
        assert (loaded.place, loaded.others) == ("state_dict", {})
        assert loaded.beside["epoch"] == 3


def test_any_number_of_dictionaries_around_it(torch: Any, tmp_path: Path) -> None:
    for around in (("a",), ("a", "b", "c"), ("model_state",), ("state_dict", "net", "module", "kan", "x", "y")):
        file: Any = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
        optimizer = {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(9)}}}
        for key in around[::-1]:
            file = {key: file, "epoch": 1, "loss": torch.tensor(0.5), "optimizer": optimizer}
        torch.save(file, tmp_path / "model.pt")
        loaded = checkpoint.load(tmp_path / "model.pt")
        assert list(loaded.tensors) == ["weight", "bias"]
        assert loaded.place == ".".join(around)
    # A usual name without tensors is passed by.
    torch.save({"model": {"width": [2, 3]}, "best": {"weight": torch.ones(3, 2)}}, tmp_path / "model.pt")
    assert checkpoint.load(tmp_path / "model.pt").place == "best"


def test_files_of_numpy_and_keras_get_their_own_advice(tmp_path: Path) -> None:
    row, hdf5 = np.eye(2), keras.MAGIC + bytes(99)
    np.save(tmp_path / "w.npy", row)
    np.savez(tmp_path / "w.npz", row=row)
    (tmp_path / "w.h5").write_bytes(hdf5)
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.0"}')
    for name, hint in {"w.npy": "numpy", "w.npz": "numpy", "w.h5": "Keras", "w.keras": "Keras"}.items():
        with pytest.raises(CheckpointError, match=f"the file is a.*{name[1:]}") as caught:
            checkpoint.load(tmp_path / name)
        assert hint in caught.value.hint
        assert "state_dict" not in caught.value.hint


def test_a_choice_and_a_lack_are_named(torch: Any, tmp_path: Path) -> None:
    state = {"weight": torch.ones(3, 2)}
    cases = {
        "more than one state dict: a.generator, a.discriminator": {"a": {"generator": state, "discriminator": state}},
        "more than one state dict: x, y": {"x": state, "y": state},
        r"no tensors, found epoch, model \(of torch\.nn\.modules\.linear\.Linear\)": {
            "model": torch.nn.Linear(2, 3),
            "epoch": 3,
        },
        "no tensors, found optimizer": {"optimizer": {"state": {0: state}}},
        "no tensors, found no keys": {},
    }
    for text, file in cases.items():
        torch.save(file, tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match=text) as caught:
            checkpoint.load(tmp_path / "model.pt")
        assert "state_dict()" in caught.value.hint
    for saved, name in (
        (Settings([1]), r".*\.Settings"),
        (torch.nn.Linear(2, 3), r"torch\.nn\.modules\.linear\.Linear"),
    ):
        torch.save(saved, tmp_path / "model.pt")
        with pytest.raises(UnsafeCheckpoint, match=rf"an? .*object of class {name}, which is code") as refused:
            checkpoint.load(tmp_path / "model.pt")
        assert "torch.save(model.state_dict()" in refused.value.hint


def test_what_may_be_weights_and_is_not_read_is_refused_where_it_matters(torch: Any, tmp_path: Path) -> None:
    """Among the weights it is named; elsewhere it does no harm."""
    plain = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    odd = {
        "a numpy array": np.ones(3),
        "_rebuild_sparse_tensor": torch.eye(3).to_sparse(),
        "_rebuild_tensor_v3": torch.ones(2).to(torch.float8_e4m3fn),
    }
    for text, value in odd.items():
        torch.save({"state_dict": {**plain, "scale": value}}, tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match=rf"'scale' is .*{text}") as caught:
            checkpoint.load(tmp_path / "model.pt")
        assert "kanserve export --module" in caught.value.hint
        torch.save({"state_dict": plain, "statistics": {"scale": value}}, tmp_path / "model.pt")
        assert list(checkpoint.load(tmp_path / "model.pt").tensors) == ["weight", "bias"]


def test_views_that_negate_and_conjugate_keep_their_sign(torch: Any, tmp_path: Path) -> None:
    """torch keeps such a view as its storage and a mark."""
    z = torch.randn(4, dtype=torch.complex64)
    for value in (z.conj().imag, z.conj(), z.imag, z.conj().imag[1:]):
        torch.save({"w": value}, tmp_path / "model.pt")
        actual = checkpoint.load(tmp_path / "model.pt").tensors["w"]
        np.testing.assert_array_equal(actual, value.resolve_neg().resolve_conj().numpy())


def test_a_parameter_with_attributes_is_a_tensor(torch: Any, tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2))
    weight.sharded = True
    torch.save({"weight": weight, "bias": torch.nn.Buffer(torch.ones(3))}, tmp_path / "model.pt")
    loaded = checkpoint.load(tmp_path / "model.pt")
    np.testing.assert_array_equal(loaded.tensors["weight"], weight.detach().numpy())
    assert loaded.tensors["bias"].tolist() == [1, 1, 1]


def chebykan(rng: Any) -> dict[str, Any]:
    return {f"layers.{at}.cheby_coeffs": rng.normal(size=(3 - at, 2, 5)).astype(np.float32) for at in (0, 1)}


def test_what_compilers_and_averages_add_to_names_is_taken_off(torch: Any, tmp_path: Path) -> None:
    plain = chebykan(np.random.default_rng(0))
    for prefix, more in (("_orig_mod.", {}), ("module._orig_mod.", {}), ("module.", {"n_averaged": torch.tensor(3)})):
        tensors = {prefix + key: torch.from_numpy(value) for key, value in plain.items()}
        torch.save({**more, **tensors}, tmp_path / "model.pt")
        kan, family = read(tmp_path / "model.pt")
        assert (kan.widths(), family) == ((3, 2, 2), "chebykan")


def test_a_moving_average_beside_the_weights_is_a_choice(torch: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw, mean = chebykan(rng), chebykan(rng)
    file = {
        "model": {key: torch.from_numpy(value) for key, value in raw.items()},
        "EMA": {"module." + key: torch.from_numpy(value) for key, value in mean.items()},
        "best": {"layers.0.cheby_coeffs": torch.ones(1, 1, 1)},
    }
    path = tmp_path / "model.pt"
    torch.save(file, path)
    for options, expected, assumed in (
        ((), raw, "model"),
        (["weights=EMA"], mean, None),
        (["weights=model"], raw, None),
    ):
        result = reading(path, *options)
        assert result.options.assumed.get("weights") == assumed
        np.testing.assert_array_equal(result.kan.layers[0].terms[0].coef, expected["layers.0.cheby_coeffs"])
    assert "EMA" in exported(path).source.alternatives["weights"]
    with pytest.raises(OptionError, match="weights is 'best'"):
        read(path, "weights=best")


def test_complex_weights_are_called_so(tmp_path: Path) -> None:
    tensors = chebykan(np.random.default_rng(0))
    tensors["layers.0.cheby_coeffs"] = tensors["layers.0.cheby_coeffs"].astype(np.complex64)
    with pytest.raises(
        InvalidKan, match=r"'layers\.0\.cheby_coeffs' is complex64, expected real numbers; KAN reader"
    ) as caught:
        read(save(tmp_path, tensors))
    assert "kanserve export --module" in caught.value.hint
