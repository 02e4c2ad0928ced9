"""The score network of `cifar10` in PyTorch: the yardstick of the CPU's hot path, with the same layers and sizes.

It needs the group `.[bench]`. Its numbers are timed only: parameters are PyTorch's own, but for the last
convolutions, which are not zero here, so that no part of the work can be left out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_GROUPS = 32


class Block(nn.Module):
    """GroupNorm, swish and a 3x3 convolution, twice, with the conditioning in between, and a shortcut."""

    def __init__(self, inputs: int, features: int, dropout: float) -> None:
        super().__init__()
        self.norm_0 = nn.GroupNorm(NUM_GROUPS, inputs, eps=1e-6)
        self.conv_1 = nn.Conv2d(inputs, features, 3, padding=1)
        self.projection = nn.Linear(4 * features, features, bias=False)
        self.norm_1 = nn.GroupNorm(NUM_GROUPS, features, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = nn.Conv2d(features, features, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == features else nn.Conv2d(inputs, features, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Return [b, features, h, w] for x [b, inputs, h, w] and cond [b, 4 features]."""
        h = self.conv_1(functional.silu(self.norm_0(x)))
        h = h + self.projection(cond)[:, :, None, None]
        h = self.dropout(functional.silu(self.norm_1(h)))
        return self.shortcut(x) + self.conv_2(h)


class Attention(nn.Module):
    """Self-attention with one head over all pixels, with a shortcut."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NUM_GROUPS, features, eps=1e-6)
        self.to_qkv = nn.Linear(features, 3 * features)
        self.out = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """Return an array of x's shape [b, features, h, w]."""
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.to_qkv(h).chunk(3, dim=-1)
        h = self.out(functional.scaled_dot_product_attention(q, k, v))
        return x + h.transpose(1, 2).reshape(x.shape)


class Network(nn.Module):
    """eps_hat(z_t, gamma_t) with `num_layers` blocks down and one more up, attention in the middle."""

    def __init__(self, channels: int, fourier_channels: int, features: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Linear(features + 1, 4 * features), nn.SiLU(), nn.Linear(4 * features, 4 * features), nn.SiLU()
        )
        self.features = features
        self.conv_in = nn.Conv2d(channels + fourier_channels, features, 3, padding=1)
        self.down = nn.ModuleList(Block(features, features, dropout) for _ in range(num_layers))
        self.middle_1 = Block(features, features, dropout)
        self.attention = Attention(features)
        self.middle_2 = Block(features, features, dropout)
        self.up = nn.ModuleList(Block(2 * features, features, dropout) for _ in range(num_layers + 1))
        self.norm_out = nn.GroupNorm(NUM_GROUPS, features, eps=1e-6)
        self.conv_out = nn.Conv2d(features, channels, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Return eps_hat of z's shape [b, c, h, w]; t is gamma_t between 0 and 1, [b]."""
        angles = 1000 * t[:, None] * torch.exp(-torch.arange(self.features // 2) * (9.21 / (self.features // 2 - 1)))
        cond = self.embed(torch.cat([angles.sin(), angles.cos(), torch.zeros_like(t)[:, None]], 1))
        waves = [f(2.0**n * torch.pi * z) for n in (6, 7) for f in (torch.sin, torch.cos)]
        h = self.conv_in(torch.cat([z, *waves], 1))
        skips = [h]
        for block in self.down:
            h = block(h, cond)
            skips.append(h)
        h = self.middle_2(self.attention(self.middle_1(h, cond)), cond)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], 1), cond)
        return self.conv_out(functional.silu(self.norm_out(h))) + z
