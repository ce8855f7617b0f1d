"""Torch modules with KAN layers in unusual ways that occur in users' code."""

from collections.abc import Callable

import torch
from torch import nn

from tests.support.torch_modules import Composed, FastKANLayer, KANLinear


class Kept(nn.Module):
    """Keeps a closure over its submodules, and what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"up": KANLinear(4, 6), "drop": nn.Dropout(0.5), "down": KANLinear(6, 3)})
        parts = self.parts
        self.run = lambda x: parts["down"](parts["drop"](parts["up"](x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.run(x)
        return self.last


class Loose(FastKANLayer):
    """FastKAN's `forward(x, use_layernorm=True)`."""

    def forward(self, x: torch.Tensor, use_layernorm: bool = True) -> torch.Tensor:
        basis = self.rbf(self.layernorm(x) if use_layernorm else x)
        return self.spline_linear(basis.flatten(-2)) + self.base_linear(self.base_activation(x))


class Calling(nn.Module):
    """Layers called by keyword, through `forward`, with further arguments; and weights that others use."""

    def __init__(self) -> None:
        super().__init__()
        self.named, self.direct, self.more = FastKANLayer(4, 5), KANLinear(5, 4), Loose(4, 4)
        self.tied = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.direct.forward(self.named(x=x))
        return nn.functional.linear(self.tied(self.more(x, True)), self.tied.weight)


class Setting(Composed):
    """The same class of layer, called in two ways."""

    def __init__(self) -> None:
        super().__init__(lambda m, x: m.normed(m.raw(x, use_layernorm=False)), raw=Loose(4, 5), normed=Loose(5, 3))


class Rational(nn.Module):
    """The pure-torch rational function of GR-KAN, with signed powers below."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.weight_numerator = nn.Parameter(torch.randn(1, 6) * 0.1)
        self.weight_denominator = nn.Parameter(torch.rand(groups, 4) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = [part.repeat_interleave(x.shape[-1] // len(part), 0) for part in self.parameters()]
        above = sum(rows[0][:, k] * x**k for k in range(6))
        return above / (1 + sum(rows[1][:, k].abs() * x ** (k + 1) for k in range(4)))


class GroupRational(nn.Module):
    """The feed-forward of KAT."""

    def __init__(self, n: int, hidden: int, m: int) -> None:
        super().__init__()
        self.fc1, self.act1 = nn.Linear(n, hidden), Rational(1)
        self.act2, self.fc2 = Rational(2), nn.Linear(hidden, m)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act2(self.fc1(self.act1(x))))


class Unrolled(nn.Module):
    """One layer at every step of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = KANLinear(5, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 3)
        for step in range(x.shape[1]):
            h = torch.tanh(self.cell(torch.cat([x[:, step], h], -1)))
        return self.out(h)


class OfConstants(Composed):
    """A layer of places, which knows nothing of the rows."""

    def __init__(self) -> None:
        places = nn.Parameter(torch.linspace(-1, 1, 4)[:, None])
        super().__init__(lambda m, x: (x[:, :, None] * m.kan(m.places)).sum(1), places=places, kan=KANLinear(1, 3))


class Doing(Composed):
    """A layer, and a function of its output and of the rows."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
        super().__init__(lambda m, x: function(m.kan(x), x), kan=KANLinear(4, 2))


class Tagged(KANLinear):
    """A class that requires an argument from its subclasses."""

    def __init_subclass__(cls, tag: str) -> None:
        cls.tag = tag


class Patched(Tagged, tag="a"):
    """A module whose forward is an attribute of the object."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        self.forward = super().forward


class Splines(nn.Module):
    """The tensors of pykan's KANLayer, n sources to m destinations, two intervals, straight pieces."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.arange(-2.0, 3.0).repeat(n, 1), requires_grad=False)
        self.coef = nn.Parameter(torch.randn(n, m, 3))
        self.mask = nn.Parameter(torch.ones(n, m), requires_grad=False)
        self.scale_base, self.scale_sp = nn.Parameter(torch.randn(n, m)), nn.Parameter(torch.randn(n, m))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bases = (1 - (x[:, :, None] - self.grid[:, 1:-1]).abs()).clamp(min=0)
        splines = torch.einsum("bik,ijk->bij", bases, self.coef) * self.scale_sp
        return (self.mask * (splines + self.scale_base * nn.functional.silu(x)[:, :, None])).sum(1)


class Symbols(nn.Module):
    """The tensors and names of pykan's Symbolic_KANLayer, with one function: 1/x from source 1 to destination 0."""

    def __init__(self, n: int, m: int, name: str) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(m, n), requires_grad=False)
        self.affine = nn.Parameter(torch.rand(m, n, 4) + 0.5)
        self.mask[0, 1] = 1
        self.funs_name = [["0"] * n for _ in range(m)]
        self.funs_name[0][1] = name

    def forward(self, x: torch.Tensor, limit: float | None) -> torch.Tensor:
        a, b, c, d = self.affine[0, 1]
        u = a * x[:, 1] + b
        inverse = 1 / u
        if limit is not None:
            inside = u.abs() < 1 / limit
            inverse = limit**2 * u * inside + torch.nan_to_num(inverse) * ~inside  # of infinity NaN, as in pykan
        unused = 0 * x  # pykan's "0" on the other edges
        rest = unused.sum(1, keepdim=True).expand(-1, len(self.mask) - 1)
        return torch.cat([(c * inverse + d + unused[:, 0])[:, None], rest], 1)


class Pykan(nn.Module):
    """Essential parts of a live one-layer pykan network after prune_input: inputs 0 and 2 of 4 remain."""

    def __init__(self, name: str = "1/x") -> None:
        super().__init__()
        n, m = 2, 3
        self.act_fun, self.symbolic_fun = nn.ModuleList([Splines(n, m)]), nn.ModuleList([Symbols(n, m, name)])
        self.node_bias_0, self.node_scale_0 = nn.Parameter(torch.randn(m)), nn.Parameter(torch.randn(m))
        self.subnode_bias_0, self.subnode_scale_0 = nn.Parameter(torch.zeros(m)), nn.Parameter(torch.ones(m))
        self.width, self.mult_arity, self.base_fun_name = [[n, 0], [m, 0]], 2, "silu"
        self.symbolic_enabled, self.input_id = True, torch.tensor([0, 2])

    def forward(self, x: torch.Tensor, singularity_avoiding: bool = False, y_th: float = 10.0) -> torch.Tensor:
        x = x[:, self.input_id]
        limit = y_th if singularity_avoiding else None
        return self.node_scale_0 * (self.act_fun[0](x) + self.symbolic_fun[0](x, limit)) + self.node_bias_0


class Avoiding(Composed):
    """Calls pykan's network so that it avoids singularities."""

    def __init__(self) -> None:
        super().__init__(lambda m, x: m.kan(x, True, y_th=4.0), kan=Pykan())


def tied() -> nn.Module:
    """One layer under two names."""
    layer = KANLinear(4, 4)
    return nn.Sequential(nn.Sequential(nn.Linear(4, 4), layer), nn.Tanh(), nn.Sequential(layer))


def unsaved() -> nn.Module:
    """Grids that are not in the state dict: a buffer, and a bare tensor."""
    first, second = KANLinear(4, 5), KANLinear(5, 3)
    for layer in (first, second):
        grid = layer.grid
        del layer.grid
        if layer is first:
            layer.register_buffer("grid", grid, persistent=False)
        else:
            layer.grid = grid
    return nn.Sequential(first, second)


def trained() -> nn.Module:
    """As a training leaves it: in training mode, with gradients, with frozen parameters."""
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), KANLinear(6, 3), nn.ReLU(inplace=True))
    module[0].bias.requires_grad_(requires_grad=False)
    module(torch.randn(8, 4)).sum().backward()
    return module


def encoder() -> nn.Module:
    """torch's own block, which at inference would not call what is inside of it."""
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    block.linear2 = KANLinear(8, 4)
    return nn.Sequential(block, nn.Flatten())


def by_a_lambda() -> nn.Module:
    """A base activation without a name, and one that is in no table."""
    first, second = KANLinear(4, 5), KANLinear(5, 3)
    del first.base_activation
    first.base_activation = lambda x: torch.tanh(x)
    second.base_activation = nn.LeakyReLU()
    return nn.Sequential(first, second)
