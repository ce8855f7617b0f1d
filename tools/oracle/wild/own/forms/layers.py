"""KAN layers in the forms that public code has, in words of this project. `wild.toml` builds modules from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Chebyshev(nn.Module):
    """sum T_d(u) C[i, o, d]; u is tanh(x), or x clamped."""

    def __init__(self, n: int, m: int, degree: int = 4, clamp: float = 0.0, squash: bool = True) -> None:
        super().__init__()
        self.n, self.m, self.clamp, self.squash = n, m, clamp, squash
        self.cheby_coeffs = nn.Parameter(torch.randn(n, m, degree + 1) / (n * (degree + 1)))
        self.register_buffer("arange", torch.arange(degree + 1))

    def forward(self, x: Tensor) -> Tensor:
        u = x.view(-1, self.n, 1)
        u = torch.tanh(u) if self.squash else u
        u = u.clamp(-self.clamp, self.clamp) if self.clamp else u
        basis = (u.expand(-1, -1, len(self.arange)).acos() * self.arange).cos()
        return torch.einsum("bid,iod->bo", basis, self.cheby_coeffs).view(-1, self.m)


class Orthogonal(nn.Module):
    """A three-term recurrence p_d = (a_d u + b_d) p_{d-1} - c_d p_{d-2}, with u = tanh(x)."""

    def __init__(self, n: int, m: int, kind: str, degree: int = 3) -> None:
        super().__init__()
        self.n, self.degree, self.kind = n, degree, kind
        self.coeffs = nn.Parameter(torch.randn(n, m, degree + 1) / n)

    def terms(self, d: int) -> tuple[float, float, float]:
        """a_d, b_d and c_d."""
        if self.kind == "legendre":
            return (2 * d - 1) / d, 0.0, (d - 1) / d
        if self.kind == "hermite":
            return 2.0, 0.0, 2.0 * (d - 1)
        s = 2 * d + 2.0  # Jacobi with a = b = 1
        return (s - 1) * s / (2 * d * (d + 2)), 0.0, (d * d * s) / (d * (d + 2) * (s - 2))

    def forward(self, x: Tensor) -> Tensor:
        u = torch.tanh(x.reshape(-1, self.n))
        values = [torch.ones_like(u), (2.0 if self.kind != "legendre" else 1.0) * u]
        for d in range(2, self.degree + 1):
            a, b, c = self.terms(d)
            values.append((a * u + b) * values[-1] - c * values[-2])
        return torch.einsum("bid,iod->bo", torch.stack(values, -1), self.coeffs)


class Spline(nn.Module):
    """A base branch and B-splines of degree 3 on a buffer `grid`, with a scaler of each edge."""

    def __init__(self, n: int, m: int, cells: int = 5, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        step = (high - low) / cells
        self.n, self.m = n, m
        self.register_buffer("grid", (torch.arange(-3, cells + 4) * step + low).expand(n, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(m, n) / math.sqrt(n))
        self.spline_weight = nn.Parameter(torch.randn(m, n, cells + 3) / math.sqrt(n))
        self.spline_scaler = nn.Parameter(torch.randn(m, n))
        self.base_activation = nn.SiLU()

    def bases(self, x: Tensor) -> Tensor:
        """[B, n] -> [B, n, K]"""
        t, u = self.grid, x.unsqueeze(-1)
        values = ((u >= t[:, :-1]) & (u < t[:, 1:])).to(x.dtype)
        for k in range(1, 4):
            up = (u - t[:, : -k - 1]) / (t[:, k:-1] - t[:, : -k - 1])
            down = (t[:, k + 1 :] - u) / (t[:, k + 1 :] - t[:, 1:-k])
            values = up * values[..., :-1] + down * values[..., 1:]
        return values.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.n)
        weight = (self.spline_weight * self.spline_scaler.unsqueeze(-1)).view(self.m, -1)
        y = functional.linear(self.base_activation(flat), self.base_weight)
        y = y + functional.linear(self.bases(flat).view(len(flat), -1), weight)
        return y.reshape(*x.shape[:-1], self.m)


class Recursive(nn.Module):
    """One B-spline for each edge, by a recursive function of Python."""

    def __init__(self, n: int, m: int, degree: int = 3, cells: int = 4) -> None:
        super().__init__()
        self.n, self.m, self.degree = n, m, degree
        self.register_buffer("knots", torch.linspace(-2, 2, cells + 2 * degree + 1))
        self.control = nn.Parameter(torch.randn(n, m, cells + degree))

    def basis(self, x: Tensor, at: int, degree: int) -> Tensor:
        """One function of degree `degree`, for numbers [B]."""
        t = self.knots
        if degree == 0:
            return ((x >= t[at]) & (x < t[at + 1])).to(x.dtype)
        up = (x - t[at]) / (t[at + degree] - t[at]) * self.basis(x, at, degree - 1)
        down = (t[at + degree + 1] - x) / (t[at + degree + 1] - t[at + 1]) * self.basis(x, at + 1, degree - 1)
        return up + down

    def forward(self, x: Tensor) -> Tensor:
        columns = []
        for o in range(self.m):
            total = torch.zeros_like(x[:, 0])
            for i in range(self.n):
                for k in range(self.control.shape[-1]):
                    total = total + self.control[i, o, k] * self.basis(x[:, i], k, self.degree)
            columns.append(total)
        return torch.stack(columns, 1)


class Radial(nn.Module):
    """LayerNorm, Gaussians at a fixed grid and a linear layer, and a base branch."""

    def __init__(self, n: int, m: int, count: int = 6, sech: bool = False) -> None:
        super().__init__()
        self.layernorm, self.sech, self.denominator = nn.LayerNorm(n), sech, 4 / (count - 1)
        self.grid = nn.Parameter(torch.linspace(-2, 2, count), requires_grad=False)
        self.spline_linear = nn.Linear(n * count, m, bias=False)
        self.base_linear = None if sech else nn.Linear(n, m)

    def forward(self, x: Tensor) -> Tensor:
        u = (self.layernorm(x)[..., None] - self.grid) / self.denominator
        bumps = 1 - torch.tanh(u) ** 2 if self.sech else torch.exp(-(u**2))
        y = self.spline_linear(bumps.flatten(-2))
        return y if self.base_linear is None else y + self.base_linear(functional.silu(x))


class Ramps(nn.Module):
    """Products of two ramps, squared, or such products times x; a convolution sums them."""

    def __init__(self, n: int, m: int, cells: int = 5, k: int = 3, form: str = "relu") -> None:
        super().__init__()
        low = torch.arange(-k, cells) / cells
        self.phase_low = nn.Parameter(low.repeat(n, 1), requires_grad=False)
        self.phase_height = nn.Parameter((low + (k + 1) / cells).repeat(n, 1), requires_grad=False)
        self.r, self.form, self.m = 4 * cells * cells / ((k + 1) ** 2), form, m
        self.equal_size_conv = nn.Conv2d(1, m, (cells + k, n))

    def forward(self, x: Tensor) -> Tensor:
        act = functional.silu if self.form == "silu" else torch.relu
        x1, x2 = act(x[..., None] - self.phase_low), act(self.phase_height - x[..., None])
        bumps = x[..., None] * x1 * x2 if self.form == "product" else (x1 * x2 * self.r) ** 2
        return self.equal_size_conv(bumps.reshape(len(bumps), 1, *bumps.shape[:0:-1])).reshape(-1, self.m)


class GroupRational(nn.Module):
    """P(x) / (1 + |Q(x)|), one function for each group of channels, then a linear layer."""

    def __init__(self, n: int, m: int, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.weight_numerator = nn.Parameter(torch.randn(1, 6) / 4)
        self.weight_denominator = nn.Parameter(torch.randn(groups, 4) / 4)
        self.linear = nn.Linear(n, m)

    def forward(self, x: Tensor) -> Tensor:
        u = x.reshape(*x.shape[:-1], self.groups, -1)
        a, b = self.weight_numerator[0], self.weight_denominator
        top = sum(a[k] * u**k for k in range(6))
        bottom = 1 + torch.abs(sum(b[:, k : k + 1] * u ** (k + 1) for k in range(4)))
        return self.linear((top / bottom).reshape(x.shape))


class Fourier(nn.Module):
    """Cosines and sines of whole multiples."""

    def __init__(self, n: int, m: int, count: int = 4) -> None:
        super().__init__()
        self.count = count
        self.fouriercoeffs = nn.Parameter(torch.randn(2, m, n, count) / math.sqrt(n * count))
        self.bias = nn.Parameter(torch.zeros(1, m))

    def forward(self, x: Tensor) -> Tensor:
        angles = x.reshape(-1, 1, x.shape[-1], 1) * torch.arange(1, self.count + 1, device=x.device)
        waves = torch.stack([torch.cos(angles), torch.sin(angles)], 1)[:, :, 0]
        y = torch.einsum("bsik,soik->bo", waves, self.fouriercoeffs) + self.bias
        return y.reshape(*x.shape[:-1], -1)


class Wavelet(nn.Module):
    """A separate Mexican hat for each edge, then BatchNorm."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.scale, self.translation = nn.Parameter(torch.ones(m, n)), nn.Parameter(torch.zeros(m, n))
        self.weight1, self.wavelet_weights = nn.Parameter(torch.randn(m, n)), nn.Parameter(torch.randn(m, n))
        self.bn = nn.BatchNorm1d(m)

    def forward(self, x: Tensor) -> Tensor:
        u = (x.unsqueeze(1) - self.translation) / self.scale
        wave = 2 / (math.sqrt(3) * math.pi**0.25) * (u**2 - 1) * torch.exp(-0.5 * u**2)
        return self.bn((wave * self.wavelet_weights).sum(2))


class Convolved(nn.Module):
    """A convolution of a base function and one of basis functions, then InstanceNorm and PReLU."""

    def __init__(self, a: int, b: int, radial: bool = False, count: int = 5) -> None:
        super().__init__()
        self.radial, self.grid = radial, torch.linspace(-2, 2, count + 7 * (not radial))
        basis = count if radial else count + 3
        self.base_conv = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1, bias=False)])
        self.spline_conv = nn.ModuleList([nn.Conv2d(a * basis, b, 3, padding=1, bias=False)])
        self.layer_norm = nn.ModuleList([nn.InstanceNorm2d(a if radial else b)])
        self.prelus = nn.ModuleList([nn.PReLU()])

    def forward(self, x: Tensor) -> Tensor:
        base, t = self.base_conv[0](functional.gelu(x)), self.grid.to(x.dtype)
        if self.radial:
            u = (self.layer_norm[0](x).unsqueeze(2) - t[:, None, None]) / (t[1] - t[0])
            return base + self.spline_conv[0](torch.exp(-(u**2)).flatten(1, 2))
        u = x.unsqueeze(-1)
        values = ((u >= t[:-1]) & (u < t[1:])).to(x.dtype)
        for k in range(1, 4):
            up, down = (u - t[: -k - 1]) / (t[k:-1] - t[: -k - 1]), (t[k + 1 :] - u) / (t[k + 1 :] - t[1:-k])
            values = up * values[..., :-1] + down * values[..., 1:]
        y = self.spline_conv[0](values.moveaxis(-1, 2).flatten(1, 2))
        return self.prelus[0](self.layer_norm[0](base + y))
