"""pykan checkpoints that the reader rejects: each error names the cause and gives advice."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kanexport.errors import InvalidKan, OptionError
from kanexport.formats import checkpoint
from tests.support.small_checkpoints import exported, reading, refused

WIDTHS: dict[str, Any] = {
    "gigabytes": [[2, 0], [1_000_000_000, 0], [1, 0]], "gigabytes of products": [[2, 0], [3, 10**9], [1, 0]],
    "too short": [[2, 0], [1, 0]], "too long": [[2, 0], [3, 0], [3, 0], [1, 0]],
    "other width": [[2, 0], [4, 0], [1, 0]], "other inputs": [[3, 0], [3, 0], [1, 0]],
    "negative": [[2, 0], [-3, 0], [1, 0]], "fraction": [[2, 0], [3.0, 0], [1, 0]],
    "truth": [[2, 0], [True, 2], [1, 0]], "triple": [[2, 0], [3, 0, 0], [1, 0]], "text": "2,3,1", "nothing": None,
}  # fmt: skip


def test_width_must_fit_the_weights(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 3, 1])
    for width in WIDTHS.values():
        toy.config["width"] = width
        path = toy.write(tmp_path)
        tracemalloc.start()
        try:
            error = refused(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert isinstance(error, InvalidKan)
        assert "width" in error.message
        assert peak < 50 * 2**20


def test_mult_arity_must_fit_the_weights(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, (1, 1), 1])
    numbers = (0, -1, 1.5, "two", None, 3)
    for arity in (*numbers, [[], [2, 2], []], [[], []], [[], [0], []], [[], [10**9], []]):
        toy.config["mult_arity"] = arity
        message = refused(toy.write(tmp_path), kind=InvalidKan).message
        assert "mult_arity" in message or "destinations" in message


def test_knots_must_be_increasing_and_finite(pykan: Any, tmp_path: Path) -> None:
    for at, value, text in (
        (3, None, "knots of source 1 repeat"),
        (3, np.nan, "not strictly increasing"),
        (-1, np.inf, "not finite"),
        (0, -1e35, "above 1e+30"),
    ):
        toy = pykan([2, 2])
        grid = toy.tensors["act_fun.0.grid"]
        grid[1, at] = grid[1, at - 1] if value is None else value
        refused(toy.write(tmp_path), kind=InvalidKan, said=["layer 0", text])


def test_missing_and_misshapen_tensors_are_named(pykan: Any, tmp_path: Path) -> None:
    for key in ("grid", "coef", "mask", "scale_base", "scale_sp"):
        toy, name = pykan([2, 3, 1]), f"act_fun.1.{key}"
        value = toy.tensors.pop(name)
        message = refused(toy.write(tmp_path), family="pykan").message
        assert key in message or "width" in message
        toy.tensors[name] = np.concatenate([value, value])
        refused(toy.write(tmp_path), family="pykan", said="layer 1")
    for key in ("symbolic_fun.0.mask", "symbolic_fun.0.affine", "node_scale_0", "subnode_bias_0"):
        toy = pykan([2, 2])
        del toy.tensors[key]
        assert key in refused(toy.write(tmp_path)).message


def test_any_file_of_the_three_names_the_checkpoint_and_the_cache_is_never_read(pykan: Any, tmp_path: Path) -> None:
    path = pykan([2, 2]).write(tmp_path)
    Path(f"{path}_cache_data").write_bytes(b"the last training inputs")
    expected = checkpoint.load(path).files
    for end in ("_state", "_config.yml", "_cache_data"):
        assert checkpoint.load(Path(f"{path}{end}")).files == expected
    assert [file.name for file in expected] == ["toy_state", "toy_config.yml"]
    Path(f"{path}_state").unlink()
    refused(path, said="toy_state")


TAGS = {
    "!!python/name:__main__.%3Clambda%3E ''": "lambda",
    "!!python/object:torch.nn.modules.activation.Hardswish {training: true}": "Hardswish",
    "!!python/object:torch.nn.modules.activation.Softplus {beta: 2.0, threshold: 20.0}": "Softplus",
    "!!python/name:evil.silu ''": "evil.silu",
    "no_such_function": "no_such_function",
    "[silu]": "silu",
}


KNOWN_TAGS = {
    "!!python/name:torch.tanh ''": "tanh",
    "!!python/name:torch.nn.functional.relu ''": "relu",
    "!!python/object:torch.nn.modules.activation.GELU {approximate: tanh}": "gelu_tanh",
    "!!python/object:torch.nn.modules.activation.GELU {approximate: none}": "gelu",
    "!!python/object:torch.nn.modules.activation.Softplus {beta: 1.0, threshold: 20.0}": "softplus",
    "!!python/object:torch.nn.modules.linear.Identity {training: true}": "identity",
}


def test_base_functions_are_taken_from_known_tags_and_others_asked_for(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    for tag, named in (TAGS | KNOWN_TAGS).items():
        config = yaml.safe_dump(toy.config).replace("base_fun_name: silu", f"base_fun_name: {tag}")
        path = toy.write(tmp_path, config)
        if tag in KNOWN_TAGS:
            assert reading(path).kan.layers[0].terms[1].basis.kind == named
            continue
        refused(path, kind=OptionError, said=named, hint="--option base_fun=NAME")


OPTIONS = {
    ("input_id=0",): "1 entries, expected 2", ("input_id=0,x",): "input_id", ("input_id=0,-1",): "input_id",
    ("input_id=0,5", "n_inputs=4"): "column 5", ("input_id=0,999999999",): "at most 100000",
    ("n_inputs=4",): "2 of 4 inputs", ("n_inputs=2,3",): "expected one", ("base_fun=magic",): "magic",
    ("colour=red",): "colour", ("base_fun=silu", "base_fun=tanh"): "twice", ("=x",): "expected KEY=VALUE",
}  # fmt: skip


def test_options_that_do_not_fit_are_named(pykan: Any, tmp_path: Path) -> None:
    path = pykan([2, 2]).write(tmp_path)
    for options, said in OPTIONS.items():
        assert said in refused(path, *options).message
    refused(path, "colour=red", hint="base_fun, forward, input_id, n_inputs")


def test_a_pruned_input_is_asked_for(golden: Callable[[str], tuple[Path, tuple[str, ...]]], tmp_path: Path) -> None:
    path, options = golden("pykan-prune-input")
    files = [tmp_path / file.name for file in checkpoint.load(path).files]
    for file in files:
        file.write_bytes((path.parent / file.name).read_bytes())
    refused(tmp_path / path.name, kind=OptionError, said="prune_input", hint="--option input_id=")
    assert exported(tmp_path / path.name, *options).input.shape == (-1, 4)


def test_values_beyond_what_can_be_proved_are_refused(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    toy.tensors["act_fun.0.coef"] *= 1e35
    refused(toy.write(tmp_path), said="no row in the grid can be compared")
    double = pykan([2, 2], dtype="float64")
    double.tensors["act_fun.0.coef"] *= 1e60
    refused(double.write(tmp_path), said="too large for float32", hint="--dtype float64")
