"""Layers without a reader: edges are sampled from the layer's outputs if those are additive per source."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kanexport.torch_export import match, sampled_layer, trace
from kanexport.torch_export.capture import Call
from kanexport.torch_export.sampled_layer import Sampled
from tests.support import torch_modules as modules
from tests.support import torch_modules as several
from tests.support.golden_cases import EDGE_TOLERANCE, OUTPUT_TOLERANCE, relative_error, run
from tests.support.tiers import full
from tests.support.torch_modules import Bumps, draw, edges_of, exact, export, families, plan


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=full("combination"))])
def test_edges_of_an_unknown_layer_add_up_to_what_it_gives(dtype: str, tmp_path: Path) -> None:
    """Such a layer at every token, and a known one behind it."""
    parts = {"first": Bumps(4, 3), "out": nn.Linear(3, 2)}
    module = modules.Composed(lambda m, x: m.out(torch.tanh(m.first(x)).mean(1)), **parts)
    result = export(module, draw(5, 4), tmp_path, dtype=dtype)
    first, _ = result.manifest.layers
    assert (first.name, first.positions, first.edge_class) == ("first", (5,), "A")
    assert [(basis.kind, basis.functions) for basis in first.bases] == [("sampled", 1)]
    assert "sampled: first" in result.manifest.source.family_reason
    assert "first: no reader knows the layer, and it is additive" in "\n".join(result.manifest.notes)
    x = draw(5, 4, rows=7, seed=2, scale=20).astype(dtype)
    actual = run(result.directory / "model.onnx", {"x": x})
    vectors = actual[first.node_tensor].reshape(-1, 4)
    np.testing.assert_array_equal(vectors, x.reshape(-1, 4))
    assert relative_error(actual["y"], exact(module, x)) <= OUTPUT_TOLERANCE
    edges, layer = edges_of(result, 0, vectors), module.first
    with torch.no_grad():
        phi = torch.einsum("bik,iok->bio", layer.basis(torch.from_numpy(vectors).double()), layer.bump_coeffs)
    assert relative_error(edges, phi.numpy()) <= EDGE_TOLERANCE
    assert relative_error(edges.sum(axis=1) + np.asarray(first.bias), exact(layer, vectors)) <= EDGE_TOLERANCE


class Another(modules.KANLinear):
    """The tensors of efficient-kan, and a custom base function that is not in the table."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + torch.sin(3 * x) @ self.base_weight.T


def test_a_lookalike_may_have_edges_of_its_own() -> None:
    result = plan(Another(4, 3), draw(4))
    assert families(result) == {"(itself)": "sampled"}
    assert result.notes[0].startswith("(itself): resembles a layer of efficient-kan, but differs")


class Products(nn.Module):
    """Makes a number for each pair of source and destination of each row, and records how many rows it gets: at most,
    and in all."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(m, n))
        self.most = self.rows = 0

    def forward(self, x: Any) -> Any:
        if not torch.compiler.is_compiling():
            count = int(x.numel()) // x.shape[-1]
            self.most, self.rows = max(self.most, count), self.rows + count
        return torch.sin(self.weight * x[..., None, :]).sum(-1)


def called(layer: Products, rows: int, sources: int) -> Call:
    x = np.random.default_rng(0).normal(size=(rows, sources))
    with torch.no_grad():
        return Call("layer", x, layer(torch.from_numpy(x)).numpy(), layer, (torch.from_numpy(x),), {}, 0)


def test_a_wide_layer_is_tried_with_a_fixed_number_of_vectors() -> None:
    """For each vector the layer runs once per source."""
    layer, counts = Products(200, 64).double(), []
    for vectors in (100, 1000):
        call = called(layer, vectors, 200)
        kan, layer.rows = Sampled.of(call).kan(), 0
        assert match._error(call, kan) < 1e-9
        counts.append(layer.rows)
    assert counts[0] == counts[1] <= 50 * 200


def test_a_layer_that_makes_a_number_for_each_edge_is_given_few_rows_at_a_time() -> None:
    """Otherwise 784 rows of 50176 edges take 315 MB, and each of the layer's operators takes as much."""
    layer = Products(784, 64).double()
    call = called(layer, 2, 784)
    layer.most, x = 0, call.x
    edges = Sampled.of(call).edges(x)
    assert layer.most <= 64
    np.testing.assert_allclose(edges.sum(1), call.y, rtol=1e-9)
    with torch.no_grad():
        alone = torch.sin(layer.weight * torch.from_numpy(x)[:, None]).numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(edges, alone, rtol=1e-9, atol=1e-12)


class Scaled(Bumps):
    """Bumps with a factor, which is a buffer or a plain number."""

    def __init__(self, factor: float, *, buffer: bool) -> None:
        super().__init__(4, 4)
        self.factor = nn.Buffer(torch.tensor(factor)) if buffer else factor

    def forward(self, x: Any) -> Any:
        return self.factor * super().forward(x)


@pytest.mark.parametrize(
    ("buffer", "blind", "expected"),
    [(True, False, [1, 0]), pytest.param(False, True, [1, 1], marks=full("combination"))],
)
def test_layers_that_differ_in_their_tensors_only_share_a_trace(
    buffer: bool, blind: bool, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`expected`: shared traces, and traces of one layer. `blind`: the exporter does not see that plain numbers differ,
    so only the comparison with the layer protects its edges."""
    layers = [Scaled(factor, buffer=buffer) for factor in (0.3, 0.7)]
    traces = [0, 0]

    def counting(at: int, real: Any) -> Any:
        def counted(*supplied: Any) -> Any:
            traces[at] += 1
            return real(*supplied)

        return counted

    monkeypatch.setattr(trace, "opened", counting(0, trace.opened))
    monkeypatch.setattr(sampled_layer, "graph_of", counting(1, sampled_layer.graph_of))
    if blind:
        monkeypatch.setattr(sampled_layer, "_plain", lambda value: None)
    result = export(nn.Sequential(layers[0], nn.Tanh(), layers[1]), draw(4), tmp_path)
    assert traces == expected
    seen = torch.from_numpy(draw(4, rows=6, seed=2))
    with torch.no_grad():
        for at, layer in enumerate(layers):
            phi = layer.factor * torch.einsum("bik,iok->bio", layer.basis(seen), layer.bump_coeffs)
            assert relative_error(edges_of(result, at, seen.numpy()), phi.numpy()) <= EDGE_TOLERANCE
            seen = torch.tanh(layer(seen))


SEEN: list[Any] = [torch.zeros(2, dtype=torch.bfloat16)]
SEEN.append(SEEN)


class Pair(nn.Module):
    """Two layers whose coefficients may be the same tensor, and an attribute that contains itself."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.one, self.other = Bumps(3, 3), Bumps(3, 3)
        if tied:
            self.other.bump_coeffs = self.one.bump_coeffs
        self.seen = SEEN

    def forward(self, x: Any) -> Any:
        return self.one(x) + self.other(x)


def test_layers_with_tied_tensors_or_other_numbers_share_no_trace_with_others() -> None:
    def kind(layer: nn.Module, n: int) -> Any:
        call = Call("", np.zeros((2, n)), np.zeros((2, n)), layer, (torch.zeros(2, n),), {}, 0)
        return sampled_layer._kind(Sampled(call, np.zeros(n), np.zeros(n)))

    kinds = [kind(Pair(tied=tied), 3) for tied in (True, True, False, False)]
    assert kinds[0] == kinds[1] != kinds[2] == kinds[3]
    buffers, plain = ([kind(Scaled(factor, buffer=buffer), 4) for factor in (0.3, 0.7)] for buffer in (True, False))
    assert (buffers[0] == buffers[1], plain[0] == plain[1]) == (True, False)


def test_torch_makes_its_table_of_operators_once() -> None:
    from torch.onnx._internal.exporter import _registration

    before = _registration.ONNXRegistry.__dict__["from_torchlib"]
    with trace._one_table():
        first, second = _registration.ONNXRegistry.from_torchlib(), _registration.ONNXRegistry.from_torchlib()
        key = next(iter(first.functions))
        first.functions[key].clear()
        assert second.functions[key]
        assert _registration.ONNXRegistry.from_torchlib().functions[key] == second.functions[key]
    assert _registration.ONNXRegistry.__dict__["from_torchlib"] is before


@full("combination")
def test_the_output_among_what_a_layer_gives_has_edges(tmp_path: Path) -> None:
    module, x = several.Regularised(), draw(4)
    result = export(module, x, tmp_path)
    assert [(item.name, item.sources, item.destinations) for item in result.manifest.layers] == [
        ("first", 4, 6),
        ("second", 6, 3),
    ]
    assert not [note for note in result.manifest.notes if "without edges" in note or "no layer" in note]
    zero, each = (module.first(torch.from_numpy(rows))[2].detach().numpy() for rows in (np.zeros_like(x), x))
    np.testing.assert_allclose(edges_of(result, 0, x), (each - zero).transpose(0, 2, 1), atol=1e-5)


@full("combination")
def test_a_layer_without_edges_has_one_note_with_the_reason(tmp_path: Path) -> None:
    class Sums(several.Regular):
        def forward(self, x: Any) -> Any:
            return super().forward(x)[1].sum()

    parts = {"sums": Sums(4, 6), "layer": nn.Linear(4, 2)}
    penalised = modules.Composed(lambda m, x: m.layer(x) + m.sums(x[:1] * 0), **parts)
    notes = export(penalised, draw(4, seed=0), tmp_path).manifest.notes
    (note,) = [note for note in notes if "sums" in note]
    assert "has coefficients like those of a KAN layer" in note
    assert note.endswith("it has no edges")
