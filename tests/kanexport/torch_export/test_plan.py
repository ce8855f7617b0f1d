"""Which layers of a module are read, how, and what is said of the rest; without a graph."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from kanexport.errors import InvalidKan, OptionError  # noqa: E402 - as above
from kanexport.torch_export import plan as planning  # noqa: E402 - as above
from kanexport.torch_export.borrowed_module import lent, unwrapped  # noqa: E402 - as above
from kanexport.torch_export.capture import ReferenceModule  # noqa: E402 - as above
from kanexport.torch_export.kan_candidates import Whole, shown  # noqa: E402 - as above
from kanexport.torch_export.plan import Plan  # noqa: E402 - as above
from tests.support import modules_unusual as odd  # noqa: E402 - as above
from tests.support import torch_modules as modules  # noqa: E402 - needs torch


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(8, *shape)).astype(np.float32).astype(np.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def plan(module: Any, rows: np.ndarray, **options: str) -> Plan:
    whole = Whole(unwrapped(module))
    oracle = ReferenceModule.of(whole, rows)
    with lent(whole, oracle.dtype):
        return planning.make(whole, oracle, rows, options)


def families(found: Plan) -> dict[str, str]:
    return {shown(name): reading.family for name, reading in found.readings.items()}


def with_frequencies() -> Any:
    """Complex numbers, as of rotary embeddings, which no reader takes."""
    net = nn.Sequential(modules.KANLinear(4, 3))
    net.register_buffer("frequencies", torch.ones(2, dtype=torch.complex64), persistent=False)
    return net


EFFICIENT = "efficient-kan"
WAYS = {
    "a closure": (odd.Kept, {"parts.up": EFFICIENT, "parts.down": EFFICIENT}),
    "calls of every kind": (
        odd.Calling,
        {"named": "fastkan", "direct": EFFICIENT, "more": "fastkan", "tied": "linear"},
    ),
    "two names": (odd.tied, {"0.0": "linear", "0.1": EFFICIENT}),
    "DataParallel": (lambda: nn.DataParallel(odd.tied()), {"0.0": "linear", "0.1": EFFICIENT}),
    "compiled": (lambda: torch.compile(odd.tied(), backend="eager"), {"0.0": "linear", "0.1": EFFICIENT}),
    "compiled inside": (
        lambda: nn.Sequential(torch.compile(modules.KANLinear(4, 3), backend="eager"), nn.Linear(3, 2)),
        {"0": EFFICIENT, "1": "linear"},
    ),
    "unsaved complex numbers beside it": (with_frequencies, {"0": EFFICIENT}),
    "unsaved grids": (odd.unsaved, {"0": EFFICIENT, "1": EFFICIENT}),
    "a parametrised weight": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))),
        {"0": "linear"},
    ),
    "a class that is not below": (lambda: nn.Sequential(odd.Patched(4, 3)), {"0": EFFICIENT}),
    "half precision": (lambda: modules.Stack(modules.KANLinear(4, 3)).half(), {"layers.0": EFFICIENT}),
    "training": (odd.trained, {"0": "linear", "3": EFFICIENT}),
}


@pytest.mark.parametrize("way", WAYS)
def test_layers_are_found_however_they_are_used(way: str) -> None:
    make, expected = WAYS[way]
    found = plan(make(), draw(4))
    assert families(found) == expected
    assert all(use.axes == (-1,) for use in found.uses)
    assert not found.notes


def test_torchs_own_blocks_call_what_is_inside() -> None:
    assert families(plan(odd.encoder(), draw(5, 4))) == {"0.linear1": "linear", "0.linear2": EFFICIENT}


def everything(module: Any) -> list[Any]:
    """All that a lent module must have again: the objects, not equal ones."""
    found: list[Any] = []
    for part in module.modules():
        found += [type(part), part.training, *part.__dict__.items(), *part._buffers.items(), *part._modules.items()]
    for parameter in module.parameters():
        found += [parameter.data.clone(), parameter.dtype, parameter.requires_grad, parameter.grad]
    return found


@pytest.mark.parametrize("make", [odd.trained, odd.Kept, odd.tied, odd.unsaved, odd.encoder, lambda: odd.Patched(4, 3)])
def test_a_module_is_given_back_as_it_was(make: Any) -> None:
    module = make()
    before = everything(module)
    plan(module, draw(5, 4) if make is odd.encoder else draw(4))
    with pytest.raises(InvalidKan):
        plan(module, draw(7))
    after = everything(module)
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, torch.Tensor):
            assert torch.equal(old, new)
        elif isinstance(old, tuple):
            assert old[0] == new[0]
            assert old[1] is new[1]
        else:
            assert old == new


def test_a_setting_of_the_call_decides() -> None:
    found = plan(odd.Setting(), draw(4))
    assert [layer.mixes for layer in found.layers] == [False, True]
    assert found.notes == ("raw: read with layernorm=unused, as the module computes it",)


def test_a_choice_that_nothing_tells_is_tried() -> None:
    torch.manual_seed(2)
    found = plan(odd.GroupRational(4, 6, 3), draw(5, 4))
    assert families(found) == {"(itself)": "gr-kan"}
    assert found.notes == ("(itself): read with denominator=signed, as the module computes it",)
    assert [use.axes for use in found.uses] == [(-1, 5)]


@pytest.mark.parametrize("make", [odd.Pykan, odd.Avoiding])
def test_a_living_pykan_network_tells_what_its_files_do_not(make: Any) -> None:
    """Which inputs it selects, and whether it avoids singularities and from where on."""
    found = plan(make(), draw(4))
    assert list(families(found).values()) == ["pykan"]
    (layer,) = found.layers
    assert found.uses[0].kan.n_inputs == 4
    assert [(edge.source, edge.destination) for edge in layer.symbolic] == [(1, 0)]
    with np.errstate(divide="ignore"):
        at_zero = layer.symbolic[0].function.evaluate(np.zeros(1))
    assert np.isinf(at_zero) if make is odd.Pykan else at_zero == 0
    assert not found.notes


def test_a_function_of_the_users_own_is_asked_for_and_taken() -> None:
    alone = plan(odd.Pykan("inverse"), draw(4))
    # Its splines are read; what the symbolic layer's function is, only its answers tell.
    assert families(alone) == {"act_fun.0": "pykan-layer", "symbolic_fun.0": "sampled"}
    note, own = alone.notes
    assert own.startswith("symbolic_fun.0: no reader knows it, and its answers add up")
    assert "looks like a layer of pykan, but cannot be read" in note
    assert "--function inverse=..." in note
    found = plan(odd.Pykan("inverse"), draw(4), **{"function inverse": "1/x"})
    assert list(families(found).values()) == ["pykan"]
    with pytest.raises(OptionError, match="has a use for --function other"):
        plan(odd.Pykan(), draw(4), **{"function other": "x"})


def test_a_base_function_is_tried_or_named() -> None:
    found = plan(odd.by_a_lambda(), draw(4))
    assert families(found) == {"0": EFFICIENT, "1": "sampled"}
    tried, named, own = found.notes
    assert own.startswith("1: no reader knows it, and its answers add up source by source")
    assert tried == "0: read with base_activation=tanh, as the module computes it"
    assert named.startswith(f"1: looks like a layer of {EFFICIENT}, but differs from what its tensors tell (by up to")
    assert "its base function LeakyReLU is in no table" in named


def test_the_users_options_are_not_forced_on_other_layers() -> None:
    module = nn.Sequential(modules.KANLinear(4, 5), modules.KANLinear(5, 3))
    module[0].base_activation = nn.Tanh()
    found = plan(module, draw(4), base_activation="silu")
    assert families(found) == {"0": EFFICIENT, "1": EFFICIENT}
    assert found.notes == ("0: read without the options given, as the module computes it",)


def test_what_example_rows_do_not_show_is_tried_beyond_them() -> None:
    found = plan(nn.Sequential(odd.Clamped(4, 3), nn.Linear(3, 2)), draw(4))
    assert families(found) == {"0": "sampled", "1": "linear"}
    assert "differs from what its tensors tell" in found.notes[0]


def test_many_layers_that_are_left_make_one_note() -> None:
    found = plan(nn.Sequential(*(modules.Impostor(4, 4) for _ in range(9))), draw(4))
    note, none = found.notes
    assert note.startswith("0, 1, 2, 3, 4 and 4 more: looks like")
    assert none == "no layer was recognised, so there are no edges to ask for"


def test_a_layer_that_knows_nothing_of_the_rows_has_no_edges_to_ask_for() -> None:
    found = plan(odd.OfConstants(), draw(4))
    assert families(found) == {"kan": EFFICIENT}
    assert not found.layers
    assert found.notes == ("kan: vectors do not belong to single rows, so that edges cannot be asked for",)


def test_options_of_no_use_are_refused() -> None:
    with pytest.raises(OptionError, match="has a use for 'wavelet_type'") as caught:
        plan(modules.KANLinear(4, 3), draw(4), wavelet_type="dog")
    assert "base_activation" in caught.value.hint


REFUSED = {
    "random": (
        lambda: odd.Doing(lambda y, _: nn.functional.dropout(y)),
        "gives different outputs for the same rows",
    ),
    "of the batch": (
        lambda: nn.Sequential(nn.Linear(4, 3), modules.Stack(modules.Batchwise())),
        r"edge class C\), because of 1.layers.0; it cannot be served",
    ),
    "of the batch, and of more than one": (
        lambda: nn.Sequential(modules.KANLinear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        "does not run on 1 row of shape .*; rows cannot be served one by one",
    ),
    "TorchScript": (
        lambda: nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 4))), modules.KANLinear(4, 3)),
        "0 is TorchScript",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4), modules.KANLinear(4, 3)), "parameter 0.weight has no values"),
    "of another shape": (
        lambda: odd.Doing(lambda y, x: y[:, : 3 - len(x)] if len(x) < 3 else y[:, :1]),
        r"a row gives \[2\] by itself and \[1\] among others",
    ),
    "not a tensor": (lambda: odd.Doing(lambda y, _: {"y": "text"}), "output 'y' is str, expected a tensor"),
    "a mistake": (
        lambda: odd.Doing(lambda y, x: y.reshape(3, 3)),
        r"RuntimeError: shape .* \(test_hybrid_readings.py, line \d+, in <lambda>: .*y.reshape\(3, 3\)",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules")
def test_a_module_that_cannot_be_served_is_refused(why: str) -> None:
    make, message = REFUSED[why]
    with pytest.raises(InvalidKan, match=message):
        plan(make(), draw(4))


def test_another_number_of_layers_for_another_number_of_rows() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kan = modules.KANLinear(4, 2)

        def forward(self, x: Any) -> Any:
            return torch.cat([self.kan(row[None]) for row in x])

    with pytest.raises(InvalidKan, match="other layers for other batch sizes") as caught:
        plan(Looping(), draw(4))
    assert "loop over the rows" in caught.value.hint


def test_a_copy_is_never_made() -> None:
    """pykan keeps what it computed, which torch cannot copy."""
    module = odd.Kept()
    module(torch.randn(2, 4))
    with pytest.raises(RuntimeError):
        copy.deepcopy(module)
    assert families(plan(module, draw(4))) == {"parts.up": EFFICIENT, "parts.down": EFFICIENT}
