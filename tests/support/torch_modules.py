"""Torch modules with KAN layers as users write them: plain, with convolutions, with several tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kanexport.bundle.publish import Result, Target
from kanexport.torch_export import replacement_plan
from kanexport.torch_export.borrowed_module import lent, plain, unwrapped
from kanexport.torch_export.capture import ReferenceModule
from kanexport.torch_export.convert import convert
from kanexport.torch_export.io_binding import Whole
from kanexport.torch_export.kan_candidates import shown
from kanexport.torch_export.replacement_plan import Plan
from kanexport.verify import float64_reference
from tests.support.golden_cases import OUTPUT_TOLERANCE, relative_error, run


class Composed(nn.Module):
    """Parts by name, and a function of the module and its rows."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *rows: torch.Tensor) -> Any:
        return self.function(self, *rows)


class KANLinear(nn.Module):
    """The tensors and the function of efficient-kan's layer."""

    def __init__(self, n: int, m: int, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        step, self.degree = (high - low) / 5, 3
        self.register_buffer("grid", (torch.arange(-3, 9) * step + low).repeat(n, 1))
        self.base_weight = nn.Parameter(torch.randn(m, n) * 0.3)
        self.spline_weight = nn.Parameter(torch.randn(m, n, 8) * 0.3)
        self.spline_scaler = nn.Parameter(torch.rand(m, n) + 0.5)
        self.base_activation = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead, flat = x.shape[:-1], x.reshape(-1, x.shape[-1])
        u, t = flat[:, :, None], self.grid
        b = ((u >= t[:, :-1]) & (u < t[:, 1:])).to(x.dtype)
        for p in range(1, self.degree + 1):
            left = (u - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1]) * b[:, :, :-1]
            b = left + (t[:, p + 1 :] - u) / (t[:, p + 1 :] - t[:, 1:-p]) * b[:, :, 1:]
        spline = torch.einsum("bik,oik->bo", b, self.spline_weight * self.spline_scaler[:, :, None])
        y = self.base_activation(flat) @ self.base_weight.T + spline
        return y.reshape(*lead, -1)


class Centres(nn.Module):
    """The tensors of FastKAN's basis."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.linspace(-2, 2, count), requires_grad=False)
        self.denominator = 4 / (count - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(((x[..., None] - self.grid) / self.denominator) ** 2))


class FastKANLayer(nn.Module):
    """The tensors and the function of FastKAN's layer."""

    def __init__(self, n: int, m: int, count: int = 6) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(n)
        self.rbf = Centres(count)
        self.spline_linear = nn.Linear(n * count, m, bias=False)
        self.base_linear = nn.Linear(n, m)
        self.base_activation = nn.functional.silu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        basis = self.rbf(self.layernorm(x))
        return self.spline_linear(basis.flatten(-2)) + self.base_linear(self.base_activation(x))


class Stack(nn.Module):
    """Layers one after another under the key `layers`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class GoldenCnn(nn.Module):
    """The module of the golden case hybrid-cnn-efficient-kan."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = Stack(KANLinear(96, 12, -1, 3), KANLinear(12, 10, -1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.max_pool2d(torch.relu(self.bn(self.conv(x))), 2).flatten(1))


class GoldenTransformer(nn.Module):
    """The module of the golden case hybrid-transformer-fastkan."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pos = nn.Linear(8, 16), nn.Parameter(torch.zeros(8, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
        self.ffn = Stack(FastKANLayer(16, 24), FastKANLayer(24, 16))
        self.out = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) + self.pos
        h = self.norm1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        x = x + self.ffn(self.norm2(x))
        return self.out(x.mean(1))


class SharedAndTurned(Composed):
    """One layer run twice, on sequences whose batch axis comes second."""

    def __init__(self) -> None:
        super().__init__(lambda m, x: m.mix(torch.tanh(m.mix(x.transpose(0, 1)))).transpose(0, 1), mix=KANLinear(4, 4))


class Impostor(KANLinear):
    """A KAN layer's tensors, another function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0.1 * x[..., :1] * x[..., -1:]


class Batchwise(Composed):
    """A row's output depends on the other rows."""

    def __init__(self) -> None:
        super().__init__(lambda m, x: m.kan((x - x.min()) / (x.max() - x.min() + 1e-6)), kan=KANLinear(3, 2))


class TwoInputs(nn.Module):
    """Takes more than a served model has."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Bumps(nn.Module):
    """A basis that is in no library: sin(k x) / (1 + x^2) and a line, with coefficients [n, m, K]."""

    def __init__(self, n: int, m: int, kinds: int = 3) -> None:
        super().__init__()
        self.bump_coeffs = nn.Parameter(torch.randn(n, m, kinds))
        self.shift = nn.Parameter(torch.randn(m))

    def basis(self, x: Any) -> Any:
        k = torch.arange(1, self.bump_coeffs.shape[2])
        return torch.cat([torch.sin(k * x[..., None]) / (1 + x[..., None] ** 2), x[..., None]], -1)

    def forward(self, x: Any) -> Any:
        return torch.einsum("...ik,iok->...o", self.basis(x), self.bump_coeffs) + self.shift


class Waves(nn.Module):
    """A weight [m, n] for each edge and no more: sum of sin(w x)."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.randn(m, n))

    def forward(self, x: Any) -> Any:
        return torch.sin(x[..., None, :] * self.rates).sum(-1)


class Around(Composed):
    """Hands its row on."""

    def __init__(self, inner: Any) -> None:
        super().__init__(lambda m, x: m.out(m.inner(x)), inner=inner, out=nn.Linear(3, 2))


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


def planned(module: Any, x: np.ndarray) -> tuple[Any, Any]:
    torch.manual_seed(0)
    whole = Whole(module.eval())
    oracle = ReferenceModule.of(whole, x)
    with lent(whole, oracle.dtype):
        return whole, replacement_plan.make(oracle, x, {})


def rows(*shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=scale, size=(5, *shape)).astype(np.float32).astype(np.float64)


def sums(module: Any, x: np.ndarray) -> np.ndarray:
    """Return the sums that the module computes [B, *positions, m]."""
    with torch.no_grad():
        module.double()(torch.from_numpy(x))
    return np.moveaxis(torch.cat(module.sums, dim=1).numpy(), 1, -1)


def edge_sums(whole: Any, plan: Any, x: np.ndarray) -> np.ndarray:
    """Return the edge sums of all layers, concatenated in layer order."""
    result = []
    with lent(whole, plan.oracle.dtype):
        for layer, vectors in zip(plan.layers, plan.evaluate(x).inputs, strict=True):
            pieces = [edges for _, edges, _ in float64_reference.edges(layer, vectors.reshape(-1, vectors.shape[-1]))]
            total = np.concatenate(pieces).sum(axis=1) + layer.bias
            result.append(total.reshape(*vectors.shape[:-1], -1))
    return np.concatenate(result, axis=-1)


class Begun(Bells):
    """Functions of the input after InstanceNorm2d, and a base branch of the input itself."""

    def __init__(self, n: int, m: int, **settings: Any) -> None:
        super().__init__(n, m, **settings)
        self.begin = nn.InstanceNorm2d(n, affine=True)

    def basis(self, x: Any) -> Any:
        return super().basis(self.begin(x))


class Powers(Bells):
    """Powers from 1 on, all channels of one power together: a constant function, which padding makes zero too."""

    def basis(self, x: Any) -> Any:
        return torch.stack([x**power for power in range(self.kinds)], dim=-1).movedim(-1, 1).flatten(1, 2)


@dataclass
class Response:
    """As models of text give it."""

    logits: torch.Tensor
    hidden: torch.Tensor
    best: torch.Tensor
    loss: torch.Tensor | None = None


class Reader(nn.Module):
    """Ids of tokens, a mask and numbers of each row; a dataclass of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.mix, self.head = FastKANLayer(4, 4), KANLinear(7, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, x: torch.Tensor) -> Response:
        seen = self.mix(self.embed(tokens)) * mask[..., None]
        hidden = torch.cat([seen.mean(1), x], -1)
        logits = self.head(hidden)
        return Response(logits, hidden * 1000, logits.argmax(-1))


class Tokens(Composed):
    """A module whose only input has the ids of tokens."""

    def __init__(self) -> None:
        parts = {"embed": nn.Embedding(11, 4), "head": KANLinear(4, 3)}
        super().__init__(lambda m, ids: m.head(m.embed(ids).mean(1)), **parts)


class Steps(nn.Module):
    """A picture and one number a row, as diffusion has it; a dictionary with a name of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = KANLinear(4, 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> dict[str, object]:
        y = self.layer(x) * torch.sin(t)[:, None]
        return {"x": y, "parts": (y.sum(-1), x)}


class Regular(nn.Module):
    """A layer that returns its output with a penalty and the activations behind it."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.coef = nn.Parameter(torch.randn(m, n, 5) * 0.3)
        self.centres = nn.Buffer(torch.linspace(-1, 1, 5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        basis = torch.exp(-(((x[..., None] - self.centres) / 0.5) ** 2))
        each = torch.einsum("...ik,oik->...oi", basis, self.coef)
        return self.coef.abs().mean(), each.sum(-1), each


class Regularised(Composed):
    """A module of two such layers."""

    def __init__(self) -> None:
        super().__init__(lambda m, x: m.second(m.first(x)[1])[1], first=Regular(4, 6), second=Regular(6, 3))


def draw(*shape: int, rows: int = 9, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    """Normal float32 rows of a shape."""
    return np.random.default_rng(seed).normal(scale=scale, size=(rows, *shape)).astype(np.float32)


def export(module: Any, example: Any, folder: Path, *, options: dict[str, str] | None = None, **more: Any) -> Result:
    """Version 1 of the model m in the repository `folder`."""
    return convert(module, example, Target(repository=folder, name="m", **more), options=options or {})


def exact(module: Any, x: np.ndarray) -> np.ndarray:
    """The output of a module in float64. The fast path of torch's blocks would leave out replaced layers."""
    with torch.no_grad(), plain(torch.float64):
        return module.eval().double()(torch.from_numpy(x).double()).numpy()


def require_alike(result: Result, module: Any, *counts: int, scale: float = 1.0) -> None:
    """The graph gives what the module gives, for batches of so many rows."""
    for count in counts or (5,):
        x = draw(*result.manifest.input.shape[1:], rows=count, seed=count, scale=scale)
        actual = run(result.directory / "model.onnx", {"x": x})["y"]
        assert relative_error(actual, exact(module, x)) <= OUTPUT_TOLERANCE


def edges_of(result: Result, at: int, vectors: np.ndarray) -> np.ndarray:
    """The edges of a layer [vectors, sources, destinations] for vectors of any leading axes."""
    layer = result.manifest.layers[at]
    feeds = {layer.node_tensor: vectors.reshape(-1, layer.sources)}
    return run(result.directory / layer.edges_file, feeds)[layer.edges_tensor]


def names(result: Result) -> list[str]:
    """The names of the layers with edges."""
    return [layer.name for layer in result.manifest.layers]


def kinds(result: Result) -> list[tuple[str, str]]:
    """Each layer's name and the kind of its first basis."""
    return [(layer.name, layer.bases[0].kind) for layer in result.manifest.layers]


def plan(module: Any, rows: np.ndarray, **options: str) -> Plan:
    """The plan of a module; no graph is built."""
    whole, rows = Whole(unwrapped(module)), rows.astype(np.float64)
    oracle = ReferenceModule.of(whole, rows)
    with lent(whole, oracle.dtype):
        return replacement_plan.make(oracle, rows, options)


def families(actual: Plan) -> dict[str, str]:
    """The reader of each layer, by the layer's name."""
    return {shown(name): reading.family for name, reading in actual.readings.items()}
