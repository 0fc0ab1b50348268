"""What the Toeplitz network is compared with in speed: attention models and a convolution of the
same width and depth, in the same frame.

Notation: b batch, n length, D width, h heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnn.lra.model import PositionalEncoding, embedding, pooled


class SoftmaxAttention(nn.Module):
    """Bidirectional attention through scaled_dot_product_attention, which picks the kernel."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)  # (b, h, n, D/h)
        return self.o(y.transpose(1, 2).reshape(b, n, d))


class LinearAttention(SoftmaxAttention):
    """phi(q) (phi(k)^T v) / phi(q) (phi(k)^T 1) with phi = 1 + elu (Katharopoulos et al. 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = 1 + F.elu(q), 1 + F.elu(k)
        y = q @ (k.transpose(-1, -2) @ v)
        y = y / (q @ k.sum(-2).unsqueeze(-1))
        return self.o(y.transpose(1, 2).reshape(b, n, d))


class S4D(nn.Module):
    """A bidirectional diagonal state space as a convolution (Gu et al. 2022): kernels
    2 Re sum_s c_s exp(dt a_s k), one forwards and one backwards, transforms of length 2n."""

    def __init__(self, d: int, states: int = 64):
        super().__init__()
        self.log_dt = nn.Parameter(torch.empty(d, 1).uniform_(-6.9, -2.3))  # 0.001 .. 0.1
        self.c = nn.Parameter(torch.randn(2, d, states // 2, 2))
        self.log_decay = nn.Parameter(torch.full((d, states // 2), 0.5).log())
        self.frequency = nn.Parameter(torch.pi * torch.arange(states // 2).expand(d, -1).clone())
        self.skip = nn.Parameter(torch.randn(d))
        self.o = nn.Linear(d, 2 * d)

    def kernel(self, n: int) -> Tensor:
        """(2, D, n)."""
        a = torch.complex(-self.log_decay.exp(), self.frequency)  # (D, s)
        dt = self.log_dt.exp()
        c = torch.view_as_complex(self.c) * ((dt * a).exp() - 1) / a
        powers = (dt * a).unsqueeze(-1) * torch.arange(n, device=dt.device)
        return 2 * torch.einsum("kds,dsn->kdn", c, powers.exp()).real

    def forward(self, x: Tensor) -> Tensor:
        n, v = x.shape[1], x.transpose(1, 2)
        ahead, behind = self.kernel(n)
        t = F.pad(ahead, (0, n)) + F.pad(behind.flip(-1), (n, 0))
        y = torch.fft.irfft(torch.fft.rfft(t, 2 * n) * torch.fft.rfft(v, 2 * n), 2 * n)[..., :n]
        y = F.gelu(y + self.skip.unsqueeze(-1) * v)
        return F.glu(self.o(y.transpose(1, 2)), dim=-1)


MIXERS = {"transformer": SoftmaxAttention, "linear attention": LinearAttention,
          "S4D": lambda d, heads: S4D(d)}


class Block(nn.Module):
    """x + mixer(norm x), x + mlp(norm x)."""

    def __init__(self, d: int, heads: int, ratio: int, mixer: str):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.mixer = MIXERS[mixer](d, heads)
        self.mlp = nn.Sequential(nn.Linear(d, ratio * d), nn.GELU(), nn.Linear(ratio * d, d))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Tokens (b, n) or pixels (b, n, channels) -> logits (b, classes), mean over the positions.

    d, layers: those of the Toeplitz network; heads of d / heads channels; an MLP of ratio * d.
    mixer: transformer, linear attention or S4D.
    """

    def __init__(self, d: int, layers: int, classes: int, vocabulary: int | None = None,
                 d_input: int | None = None, heads: int = 4, ratio: int = 4,
                 mixer: str = "transformer"):
        super().__init__()
        self.encoder = nn.Sequential(embedding(vocabulary, d_input, d), PositionalEncoding(d))
        self.blocks = nn.Sequential(*[Block(d, heads, ratio, mixer) for _ in range(layers)])
        self.norm = nn.LayerNorm(d)
        self.output = nn.Linear(d, classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.output(pooled(self.norm(self.blocks(self.encoder(x))), "pool", lengths))
