"""KAN convolutions: edges of every channel at every place of the kernel, at every position, exact where padding is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.support.golden_cases import EDGE_TOLERANCE, relative_error

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional

from kanexport.bundle.publish import Result, Target  # noqa: E402 - as above
from kanexport.torch_export import conv_detect  # noqa: E402 - as above
from kanexport.torch_export import plan as planning  # noqa: E402 - as above
from kanexport.torch_export.borrowed_module import lent  # noqa: E402 - as above
from kanexport.torch_export.capture import ReferenceModule  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from kanexport.torch_export.kan_candidates import Whole  # noqa: E402 - as above
from kanexport.verify import float64_reference  # noqa: E402 - as above
from tests.support import torch_modules as modules  # noqa: E402 - needs torch

pytestmark = pytest.mark.slow

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Bells(nn.Module):
    """As KAN convolutions are published: the sum of a convolution of silu(x) and one of a basis, group by group,
    then a normalisation over the picture and an activation. The basis is not zero at zero."""

    def __init__(self, n: int, m: int, axes: int = 2, groups: int = 1, **settings: Any) -> None:
        super().__init__()
        self.n, self.groups, self.kinds = n, groups, 4
        shape = (n // groups, m // groups)
        convolve = CONVOLUTIONS[axes]
        self.base_conv = nn.ModuleList(convolve(*shape, 3, bias=False, **settings) for _ in range(groups))
        self.spline_conv = nn.ModuleList(
            convolve(shape[0] * self.kinds, shape[1], 3, bias=False, **settings) for _ in range(groups)
        )
        self.norms = nn.ModuleList(NORMS[axes](shape[1]) for _ in range(groups))
        self.prelus = nn.ModuleList(nn.PReLU() for _ in range(groups))
        self.register_buffer("centres", torch.linspace(-1.2, 1, self.kinds))
        self.sums: list[Any] = []

    def basis(self, x: Any) -> Any:
        """[B, C, ...] -> [B, C * K, ...], or another order."""
        return torch.exp(-((x.unsqueeze(-1) - self.centres) ** 2)).moveaxis(-1, 2).flatten(1, 2)

    def group(self, x: Any, at: int) -> Any:
        total = self.base_conv[at](functional.silu(x)) + self.spline_conv[at](self.basis(x))
        self.sums.append(total)
        return self.prelus[at](self.norms[at](total))

    def forward(self, x: Any) -> Any:
        self.sums.clear()
        parts = torch.split(x, self.n // self.groups, dim=1)
        return torch.cat([self.group(part, at) for at, part in enumerate(parts)], dim=1)


class Powers(Bells):
    """Powers from 1 on, all channels of one power together: a constant function, which padding makes zero too."""

    def basis(self, x: Any) -> Any:
        return torch.stack([x**power for power in range(self.kinds)], dim=-1).movedim(-1, 1).flatten(1, 2)


class Clamped(Bells):
    """Something else far away, which an edge knows, because it is what the module computes."""

    def basis(self, x: Any) -> Any:
        return super().basis(torch.where(x.abs() > 50, 0.3 * x.sign(), x))


class Ones(Bells):
    """Functions of which none depends on x, and a straight line beside them."""

    def basis(self, x: Any) -> Any:
        return torch.ones_like(x).repeat_interleave(self.kinds, dim=1)

    def group(self, x: Any, at: int) -> Any:
        return self.prelus[at](self.norms[at](self.base_conv[at](x) + self.spline_conv[at](self.basis(x))))


class Mixed(Bells):
    """Functions of a channel and of the others: no KAN convolution."""

    def basis(self, x: Any) -> Any:
        return super().basis(x - 0.01 * x.mean(1, keepdim=True))


class FarMixed(Bells):
    """The same, far from all that was seen."""

    def basis(self, x: Any) -> Any:
        return super().basis(torch.where(x.abs().amax(1, keepdim=True) > 400, 2 * x, x))


class Placed(Bells):
    """Functions that know where they are."""

    def basis(self, x: Any) -> Any:
        return super().basis(x + 0.1 * torch.linspace(0, 1, x.shape[-1], dtype=x.dtype))


class Normed(Bells):
    """Functions of what is normalised over the picture first."""

    def basis(self, x: Any) -> Any:
        return super().basis(functional.instance_norm(x))


class Begun(Bells):
    """Functions of what a module normalises over the picture, beside functions of what it is given."""

    def __init__(self, n: int, m: int, **settings: Any) -> None:
        super().__init__(n, m, **settings)
        self.begin = nn.InstanceNorm2d(n, affine=True)

    def basis(self, x: Any) -> Any:
        return super().basis(self.begin(x))


class Projected(Bells):
    """Functions of a few mixtures of the channels, convolved and mixed again, beside functions of the channels."""

    def __init__(self, n: int, m: int, **settings: Any) -> None:
        super().__init__(n, m, **settings)
        self.inner, self.outer = nn.Conv2d(n, 2, 1, bias=False), nn.Conv2d(2, m, 1)
        self.few = nn.Conv2d(2 * self.kinds, 2, 3, **settings)

    def group(self, x: Any, at: int) -> Any:
        total = self.outer(self.few(self.basis(self.inner(x)))) + self.base_conv[at](functional.silu(x))
        self.sums.append(total)
        return self.prelus[at](self.norms[at](total))


class Wavelets(nn.Module):
    """A wavelet for every pair of channels, a convolution of each, and one of a single place that mixes them."""

    def __init__(self, n: int, m: int, way: str) -> None:
        super().__init__()
        self.way, shape = way, (1, m, n, 1, 1)
        self.scale, self.translation = nn.Parameter(torch.rand(shape) + 0.5), nn.Parameter(torch.randn(shape))
        self.base = nn.Conv2d(n, m, 3, padding=1, bias=False)
        self.each = nn.ModuleList(nn.Conv2d(n, 1, 3, padding=1) for _ in range(m))
        self.apart = nn.Conv2d(n * m, m, 3, padding=1, groups=m)
        self.deep = nn.Conv3d(m, m, (n, 3, 3), padding=(0, 1, 1), groups=m)
        self.mix = nn.Conv2d(m, m, 1)
        self.norm = nn.BatchNorm2d(m)
        self.sums: list[Any] = []

    def forward(self, x: Any) -> Any:
        t = (x.unsqueeze(1) - self.translation) / self.scale
        waves = (t**2 - 1) * torch.exp(-0.5 * t**2)
        ways = {
            "each": lambda: torch.cat([one(waves[:, at]) for at, one in enumerate(self.each)], dim=1),
            "apart": lambda: self.apart(waves.flatten(1, 2)),
            "deep": lambda: self.deep(waves).squeeze(2),
        }
        self.sums = [self.mix(ways[self.way]()) + self.base(functional.silu(x))]
        return self.norm(self.sums[0])


class Network(nn.Module):
    """One of them, another one twice for pictures of two sizes, and a line."""

    def __init__(self, first: Any, again: Any) -> None:
        super().__init__()
        self.first, self.again, self.out = first, again, nn.Linear(again.n, 3)

    def forward(self, x: Any) -> Any:
        y = self.again(self.first(x))
        return self.out(self.again(functional.avg_pool2d(y, 2)).mean((2, 3)))


class OneGroup(modules.KANLinear):
    """efficient-kan's layer as convkan has it, with an axis of groups before all others."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        for name, held in [*self.named_parameters(), *self.named_buffers()]:
            held.data = held.data[None]
            assert getattr(self, name).ndim > 2

    def forward(self, x: Any) -> Any:
        assert x.ndim == 3
        assert len(x) == len(self.grid)
        held = {name: value[0] for name, value in [*self.named_parameters(), *self.named_buffers()]}
        own: Any = SimpleNamespace(degree=self.degree, base_activation=self.base_activation, **held)
        return modules.KANLinear.forward(own, x[0])[None]


class Unfolded(nn.Module):
    """A convolution by such a layer of what lies under the kernel: padding comes before the functions."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.n, self.layer = m, OneGroup(9 * n, m)

    def forward(self, x: Any) -> Any:
        patches = functional.unfold(x, 3, padding=1).transpose(1, 2)
        y = self.layer(patches.reshape(1, -1, patches.shape[2])).reshape(len(x), -1, self.n)
        return y.transpose(1, 2).reshape(len(x), self.n, *x.shape[2:])


def planned(module: Any, x: np.ndarray) -> tuple[Any, Any]:
    torch.manual_seed(0)
    whole = Whole(module.eval())
    oracle = ReferenceModule.of(whole, x)
    with lent(whole, oracle.dtype):
        return whole, planning.make(whole, oracle, x, {})


def rows(*shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=scale, size=(5, *shape)).astype(np.float32).astype(np.float64)


def export(module: Any, folder: Path, *shape: int, **settings: Any) -> Result:
    x = rows(*shape).astype(np.float32)
    return convert(module, x, Target(repository=folder, name="m", **settings), options={})


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def sums(module: Any, x: np.ndarray) -> np.ndarray:
    """What the module adds up [B, *positions, m]."""
    with torch.no_grad():
        module.double()(torch.from_numpy(x))
    return np.moveaxis(torch.cat(module.sums, dim=1).numpy(), 1, -1)


def edge_sums(whole: Any, plan: Any, x: np.ndarray) -> np.ndarray:
    """What the edges of all layers add up to, layer by layer one behind the other."""
    found = []
    with lent(whole, plan.oracle.dtype):
        for layer, vectors in zip(plan.layers, plan.evaluate(x).inputs, strict=True):
            pieces = [edges for _, edges, _ in float64_reference.edges(layer, vectors.reshape(-1, vectors.shape[-1]))]
            total = np.concatenate(pieces).sum(axis=1) + layer.bias
            found.append(total.reshape(*vectors.shape[:-1], -1))
    return np.concatenate(found, axis=-1)


CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1-d, padded": (lambda: Bells(3, 4, axes=1, padding=2, dilation=2), (3, 9)),
    "2-d, padded": (lambda: Bells(3, 4, padding=1), (3, 5, 6)),
    "2-d, not padded, with strides": (lambda: Bells(3, 4, stride=2), (3, 7, 6)),
    "2-d, padded on one axis": (lambda: Bells(3, 4, padding=(0, 2), stride=(1, 2)), (3, 5, 6)),
    "2-d, same": (lambda: Bells(3, 4, padding="same", dilation=(1, 2)), (3, 5, 6)),
    "2-d, in groups": (lambda: Bells(4, 6, groups=2, padding=1), (4, 5, 6)),
    "2-d, reflected": (lambda: Bells(3, 4, padding=1, padding_mode="reflect"), (3, 5, 6)),
    "2-d, circular": (lambda: Bells(3, 4, padding=(2, 1), padding_mode="circular"), (3, 5, 6)),
    "3-d, padded": (lambda: Bells(2, 3, axes=3, padding=1), (2, 3, 4, 3)),
    "powers, padded": (lambda: Powers(3, 4, padding=1), (3, 5, 6)),
    "powers, not padded": (lambda: Powers(3, 4), (3, 5, 6)),
    "clamped far away": (lambda: Clamped(3, 4, padding=1), (3, 5, 6)),
    "wavelets, each": (lambda: Wavelets(3, 4, "each"), (3, 5, 6)),
    "wavelets, apart": (lambda: Wavelets(3, 4, "apart"), (3, 5, 6)),
    "wavelets, deep": (lambda: Wavelets(3, 4, "deep"), (3, 5, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_edges_add_up_to_what_the_convolutions_give(case: str) -> None:
    make, shape = CASES[case]
    torch.manual_seed(3)
    module = make()
    whole, plan = planned(module, rows(*shape))
    for scale in (1.0, 30.0, 1e3):
        x = rows(*shape, scale=scale)
        found, expected = edge_sums(whole, plan, x), sums(module, x)
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize(("kind", "begins"), [(Begun, "begin"), (Projected, "inner")])
def test_what_begins_inside_of_a_module_has_edges_from_there(kind: Any, begins: str) -> None:
    torch.manual_seed(3)
    module = kind(3, 4, padding=1)
    whole, plan = planned(module, rows(3, 5, 6))
    assert [use.name for use in plan.uses] == [f"body.{begins}", "body"]
    for scale in (1.0, 30.0, 1e3):
        x = rows(3, 5, 6, scale=scale)
        found, expected = edge_sums(whole, plan, x), sums(module, x)
        assert relative_error(found[..., :4] + found[..., 4:], expected) < 1e-9


def test_an_edge_outside_the_picture_is_zero() -> None:
    """phi(0) is not: zeros are put after the functions."""
    module = Bells(2, 3, padding=1)
    whole, plan = planned(module, rows(2, 4, 5))
    (layer,) = plan.layers
    x = rows(2, 4, 5)
    with lent(whole, plan.oracle.dtype):
        (vectors,) = plan.evaluate(x).inputs
        corner = vectors[:, 0, 0]
        ((_, edges, _),) = float64_reference.edges(layer, corner)
        ((_, there, _),) = float64_reference.edges(layer, vectors[:, 2, 2])
    outside = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=bool).reshape(-1)
    places = edges[:, :18].reshape(len(x), 2, 9, 3)
    assert (places[:, :, outside] == 0).all()
    assert (places[:, :, ~outside] != 0).all()
    np.testing.assert_array_equal(corner[:, 18:], np.broadcast_to(~outside, (len(x), 9)))
    assert (edges[:, 18:][:, outside] == 0).all()
    assert (edges[:, 18:][:, ~outside] != 0).all()
    # Inside, both together are phi itself, which is not zero at zero.
    values = module.double().basis(torch.from_numpy(vectors[:, 2, 2, :18]).reshape(len(x), 2, 9))
    weights = module.spline_conv[0].weight.detach().reshape(3, 8, 9)
    base = functional.silu(torch.from_numpy(vectors[:, 2, 2, :18]).reshape(len(x), 2, 9))
    whole_sum = torch.einsum("mkp,bkp->bpm", weights, values) + torch.einsum(
        "mcp,bcp->bpm", module.base_conv[0].weight.detach().reshape(3, 2, 9), base
    )
    together = there[:, :18].reshape(len(x), 2, 9, 3).sum(1) + there[:, 18:]
    assert relative_error(together, whole_sum.numpy()) < 1e-9


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_the_edges_of_its_source_and_no_others(value: float) -> None:
    module = Bells(4, 6, groups=2, padding=1)
    whole, plan = planned(module, rows(4, 5, 6))
    x = rows(4, 5, 6)
    x[0, 1, 2, 3] = value
    with lent(whole, plan.oracle.dtype):
        inputs = plan.evaluate(x).inputs
        for at, (layer, vectors) in enumerate(zip(plan.layers, inputs, strict=True)):
            flat = vectors.reshape(-1, vectors.shape[-1])
            edges = np.concatenate([edges for _, edges, _ in float64_reference.edges(layer, flat)])
            # silu(-inf) is NaN for torch, which is what an edge is too.
            np.testing.assert_array_equal(
                ~np.isfinite(edges), np.broadcast_to(~np.isfinite(flat)[..., None], edges.shape)
            )
            assert np.isfinite(edges).all() == (at == 1)
    found, expected = edge_sums(whole, plan, x), sums(module, x)
    np.testing.assert_array_equal(found[~np.isfinite(expected)], expected[~np.isfinite(expected)])
    assert np.isfinite(found[np.isfinite(expected)]).all()


@pytest.mark.parametrize("kind", [Mixed, FarMixed, Placed, Normed])
def test_what_only_looks_like_one_has_no_edges_and_is_exported_as_it_is(kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = export(kind(3, 4, padding=1), tmp_path, 3, 5, 6)
    assert not result.manifest.layers
    notes = "\n".join(result.manifest.notes)
    assert "without edges to ask for" in notes or "looks like a KAN convolution, but" in notes


def test_pictures_that_are_too_large_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_detect, "NUMBERS", (27 + 9) * 30 - 1)
    _, plan = planned(Bells(3, 4, padding=1), rows(3, 5, 6))
    assert not plan.readings
    why = "for each row it would be given 1080 numbers, place by place, more than 1079; it has no edges"
    assert f"(itself): looks like a KAN convolution, but {why}" in plan.notes


def test_constants_belong_to_no_source() -> None:
    torch.manual_seed(0)
    _, plan = planned(Ones(3, 4, padding=1), rows(3, 5, 6))
    (layer,) = plan.layers
    assert (layer.sources, layer.terms[0].functions) == (27 + 9, 1)
    _, plan = planned(Ones(3, 4), rows(3, 5, 6))
    (layer,) = plan.layers
    assert layer.sources == 27
    assert layer.bias.any()


def test_a_layer_with_one_group_of_several_is_read() -> None:
    torch.manual_seed(3)
    module = Unfolded(2, 3)
    whole, plan = planned(module, rows(2, 4, 5))
    (use,) = plan.uses
    assert (use.name, use.axes, plan.readings[use.name].family) == ("body.layer", (1, -1, 20), "efficient-kan")
    x = rows(2, 4, 5, scale=2.0)
    with lent(whole, plan.oracle.dtype):
        (vectors,) = plan.evaluate(x).inputs
    expected = functional.unfold(torch.from_numpy(x), 3, padding=1).transpose(1, 2).numpy()
    np.testing.assert_array_equal(vectors, expected[:, None])


@pytest.mark.parametrize("dtype", ["float32"])
def test_a_network_of_them_is_served_with_edges(dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Network(Begun(3, 4, padding=1, stride=2), Powers(4, 4, groups=2, padding=1)).eval()
    result = export(module, tmp_path, 3, 12, 12, dtype=dtype)
    layers = result.manifest.layers
    assert [(layer.name, layer.sources, layer.destinations, layer.positions) for layer in layers] == [
        ("first.begin", 36, 4, (6, 6)),
        ("first", 27, 4, (6, 6)),
        ("again.0#1", 27, 2, (6, 6)),
        ("again.1#1", 27, 2, (6, 6)),
        ("again.0#2", 27, 2, (3, 3)),
        ("again.1#2", 27, 2, (3, 3)),
        ("out", 4, 3, ()),
    ]
    assert [basis.kind for layer in layers[:-1] for basis in layer.bases] == ["sampled"] * 6
    notes = "\n".join(result.manifest.notes)
    assert "again, first.begin, first: a KAN convolution" in notes
    assert "first.begin: its sources are what it gives" in notes
    assert "padded with zeros after its functions" in notes
    x = np.random.default_rng(2).normal(size=(7, 3, 12, 12)).astype(dtype)
    found = run(result.directory / "model.onnx", {"x": x})
    module.first.double()
    expected = sums(module.first, x.astype(np.float64))
    total = 0
    for layer in layers[:2]:
        vectors = found[layer.node_tensor].reshape(-1, layer.sources)
        edges = run(result.directory / layer.edges_file, {layer.node_tensor: vectors})[layer.edges_tensor]
        assert edges.shape == (7 * 36, layer.sources, 4)
        assert (edges[:, :27][vectors[:, :27] == 0] == 0).all()
        total = total + edges.sum(axis=1)
    assert relative_error(total.reshape(expected.shape), expected) < EDGE_TOLERANCE
