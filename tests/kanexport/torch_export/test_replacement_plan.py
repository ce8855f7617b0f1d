"""The plan of a module: layers to read, their readers, and notes on other layers; no graph is built."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kanexport.errors import ModuleRefused, OptionError
from tests.support import modules_unusual as odd
from tests.support import torch_modules as modules
from tests.support.torch_modules import Composed, draw, families, plan

EFFICIENT = "efficient-kan"


def test_a_setting_of_the_call_decides() -> None:
    result = plan(odd.Setting(), draw(4))
    assert [layer.mixes for layer in result.layers] == [False, True]
    assert result.notes == ("raw: read with layernorm=unused, to match the module",)


def test_a_choice_that_nothing_tells_is_tried() -> None:
    torch.manual_seed(2)
    result = plan(odd.GroupRational(4, 6, 3), draw(5, 4))
    assert families(result) == {"(itself)": "gr-kan"}
    assert result.notes == ("(itself): read with denominator=signed, to match the module",)
    assert [use.axes for use in result.uses] == [(-1, 5)]


@pytest.mark.parametrize("make", [odd.Pykan, odd.Avoiding])
def test_a_living_pykan_network_tells_what_its_files_do_not(make: Any) -> None:
    """Which inputs it selects, and whether it avoids singularities and from where on."""
    result = plan(make(), draw(4))
    assert list(families(result).values()) == ["pykan"]
    (layer,) = result.layers
    assert result.uses[0].kan.n_inputs == 4
    assert [(edge.source, edge.destination) for edge in layer.symbolic] == [(1, 0)]
    with np.errstate(divide="ignore"):
        at_zero = layer.symbolic[0].function.evaluate(np.zeros(1))
    assert np.isinf(at_zero) if make is odd.Pykan else at_zero == 0
    assert not result.notes


def test_a_function_of_the_users_own_is_asked_for_and_taken() -> None:
    alone = plan(odd.Pykan("inverse"), draw(4))
    # Its splines are read; what the symbolic layer's function is, only its outputs tell.
    assert families(alone) == {"act_fun.0": "pykan-layer", "symbolic_fun.0": "sampled"}
    note, own = alone.notes
    assert own.startswith("symbolic_fun.0: no reader knows the layer, and it is additive")
    assert "resembles a layer of pykan, but cannot be read" in note
    assert "--function inverse=..." in note
    result = plan(odd.Pykan("inverse"), draw(4), **{"function inverse": "1/x"})
    assert list(families(result).values()) == ["pykan"]
    with pytest.raises(OptionError, match="unknown option --function other"):
        plan(odd.Pykan(), draw(4), **{"function other": "x"})


def test_a_base_function_is_tried_or_named() -> None:
    result = plan(odd.by_a_lambda(), draw(4))
    assert families(result) == {"0": EFFICIENT, "1": "sampled"}
    tried, named, own = result.notes
    assert own.startswith("1: no reader knows the layer, and it is additive")
    assert tried == "0: read with base_activation=tanh, to match the module"
    assert named.startswith(
        f"1: resembles a layer of {EFFICIENT}, but differs from the interpretation of its tensors (by up to"
    )
    assert "its base function LeakyReLU is not in the table" in named


def test_the_users_options_are_not_forced_on_other_layers() -> None:
    module = nn.Sequential(modules.KANLinear(4, 5), modules.KANLinear(5, 3))
    module[0].base_activation = nn.Tanh()
    result = plan(module, draw(4), base_activation="silu")
    assert families(result) == {"0": EFFICIENT, "1": EFFICIENT}
    assert result.notes == ("0: read without the given options, to match the module",)


def test_a_layer_that_knows_nothing_of_the_rows_has_no_edges_to_ask_for() -> None:
    result = plan(odd.OfConstants(), draw(4))
    assert families(result) == {"kan": EFFICIENT}
    assert not result.layers
    assert result.notes == ("kan: vectors do not belong to single rows, so the edges cannot be queried",)


def test_options_of_no_use_are_refused() -> None:
    with pytest.raises(OptionError, match="unknown option 'wavelet_type'") as caught:
        plan(modules.KANLinear(4, 3), draw(4), wavelet_type="dog")
    assert "base_activation" in caught.value.hint


REFUSED = {
    "random": (lambda: odd.Doing(lambda y, _: nn.functional.dropout(y)), "returns different outputs for the same rows"),
    "of the batch": (
        lambda: nn.Sequential(nn.Linear(4, 3), modules.Stack(modules.Batchwise())),
        r"edge class C\), because of 1.layers.0; it cannot be served",
    ),
    "of the batch, and of more than one": (
        lambda: nn.Sequential(modules.KANLinear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        "does not run on 1 row of shape .*; single rows cannot be served",
    ),
    "TorchScript": (
        lambda: nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 4))), modules.KANLinear(4, 3)),
        "0 is TorchScript",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4), modules.KANLinear(4, 3)), "parameter 0.weight has no values"),
    "of another shape": (
        lambda: odd.Doing(lambda y, x: y[:, : 3 - len(x)] if len(x) < 3 else y[:, :1]),
        r"a row gives \[2\] by itself and \[1\] in a batch",
    ),
    "a mistake": (
        lambda: odd.Doing(lambda y, x: y.reshape(3, 3)),
        r"RuntimeError: shape .* \(test_replacement_plan.py, line \d+, in <lambda>: .*y.reshape\(3, 3\)",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules")
def test_a_module_that_cannot_be_served_is_refused(why: str) -> None:
    make, message = REFUSED[why]
    with pytest.raises(ModuleRefused, match=message):
        plan(make(), draw(4))


def test_another_number_of_layers_for_another_number_of_rows() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kan = modules.KANLinear(4, 2)

        def forward(self, x: Any) -> Any:
            return torch.cat([self.kan(row[None]) for row in x])

    with pytest.raises(ModuleRefused, match="different layers for different batch sizes") as caught:
        plan(Looping(), draw(4))
    assert "loops over the rows" in caught.value.hint


def polynomials(key: str, squash: Any, step: Any, first: Any = lambda u: u, **more: Any) -> Composed:
    """The sum over sources and degrees of coefficients times polynomials of `squash`(x), by their recursion."""

    def forward(module: Any, x: Any) -> Any:
        u = squash(x)
        chain = [torch.ones_like(u), first(u)]
        for n in range(2, 5):
            chain.append(step(n, u, chain[-1], chain[-2]))
        return torch.einsum("bid,iod->bo", torch.stack(chain, dim=-1), getattr(module, key))

    return Composed(forward, **{key: nn.Parameter(torch.randn(4, 3, 5))}, **more)


def chebyshev(n: int, u: Any, last: Any, before: Any) -> Any:
    return 2 * u * last - before


def boubaker(n: int, u: Any, last: Any, before: Any) -> Any:
    return (2 * n - 1) * u * last - (n - 1) * before


ALPHA = -0.5


def laguerre(n: int, u: Any, last: Any, before: Any) -> Any:
    return ((2 * n - 1 + ALPHA - u) * last - (n - 1 + ALPHA) * before) / n


def fourier(module: Any, x: Any) -> Any:
    """A series with angles of 2 pi."""
    angles = 2 * torch.pi * torch.arange(1, 6) * x[:, None, :, None]
    waves = torch.stack([torch.cos(angles), torch.sin(angles)])
    return (waves * module.fouriercoeffs[:, None]).sum(dim=(0, 3, 4))


CASES = {
    "chebykan": (lambda: polynomials("cheby_coeffs", torch.tanh, chebyshev), "chebykan", ""),
    "timekan": (
        lambda: polynomials("cheby_coeffs", lambda x: torch.tanh(torch.tanh(x)), chebyshev),
        "chebykan",
        "with forward=timekan",
    ),
    "polynomials of x": (lambda: polynomials("cheby_coeffs", lambda x: x, chebyshev), "chebykan", "with forward=raw"),
    "boubaker": (lambda: polynomials("boubaker_coeffs", torch.sigmoid, boubaker), "boubakerkan", ""),
    "laguerre": (
        lambda: polynomials("laguerre_coeffs", torch.tanh, laguerre, lambda u: 1 + ALPHA - u, alpha=ALPHA),
        "laguerrekan",
        "",
    ),
    "2 pi": (
        lambda: Composed(fourier, fouriercoeffs=nn.Parameter(torch.randn(2, 3, 4, 5))),
        "fourierkan",
        "with fourier_step=6.283185307179586",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_forward_that_fits_is_taken(case: str) -> None:
    make, family, how = CASES[case]
    result = plan(nn.Sequential(make()), draw(4))
    assert [(reading.family, reading.how) for reading in result.readings.values()] == [(family, how)]
    assert not result.notes or how


def test_what_no_copy_computes_is_known_by_its_outputs_alone() -> None:
    result = plan(nn.Sequential(polynomials("cheby_coeffs", torch.sin, chebyshev)), draw(4))
    assert families(result) == {"0": "sampled"}
    assert "resembles a layer of chebykan, but differs" in result.notes[0]
