"""The vision model: patches, gated Toeplitz units over both axes of the image, gated linear units
(section 4.3 of the paper, in the frame of DeiT).

Notation: b batch, H x W grid of patches, N = H b W tokens, D width, E inner width, h heads, L
coefficients. Activations are (b, H, W, D); in memory the batch lies between H and W (grid.py).
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kernels.product import Linear, add_product, product
from tnn.im.architectures import arguments_of
from tnn.network.fused_grid import gated_grid, silu_product
from tnn.network.glu import GLU
from tnn.network.grid import along_both, mixed, toeplitz_rows
from tnn.network.gtu import Gtu
from tnn.network.kept import KeepingModule
from tnn.network.norms import norm_by_hand
from tnn.network.tno import Tno

RPE_ACTS = ("relu", "silu")
# Longer lines go by FFT. Matrices stay faster for some time (benchmarks/tnn_im.py --lengths), but
# those of all layers are made at once, and take 100 MB a layer at 128 patches.
DENSE_UP_TO = 64


def image_name(act: str) -> str:
    """Our name of an activation of the image code, whose exp is the plain exponential."""
    return "exp_plain" if act == "exp" else act


class Patches(nn.Module):
    """Images (b, c, H p, W p) -> patches (b, H, W, p p c), p = size, the channel fastest."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        side = self.size
        b, c, height, width = images.shape
        if height % side or width % side:
            raise ValueError(f"images of {height} x {width} pixels are not made of patches of "
                             f"{side}")
        grid = images.view(b, c, height // side, side, width // side, side)
        # the batch between H and W, once and for all (grid.py)
        return grid.permute(2, 0, 4, 3, 5, 1).flatten(3).transpose(0, 1)  # (b, H, W, p p c)


def stacked_channels_first(tokens: Tensor, *layers: nn.Linear) -> Tensor:
    """tokens (N, D) -> the layers' outputs one below the other, channels first (sum of widths, N):
    one product, and no transposition for what mixes along the tokens."""
    weight = torch.cat([layer.weight for layer in layers])
    if layers[0].bias is None:
        return product(weight, tokens.t())
    bias = torch.cat([layer.bias for layer in layers])
    return add_product(bias.unsqueeze(1), weight, tokens.t())


def stacked_matrices(toeps: list[Tno], n: int) -> Tensor:
    """The matrices (k, E, n, n) of k operators of the same kind, all position encoders at once:
    they are small, and one after the other take longer than what they compute."""
    first = toeps[0]
    if len(toeps) == 1:
        return toeplitz_rows(first.kernel(n), n)[None]
    lags = first.lag_list(0, n, first.rpe.pos_proj.weight.device)
    positions = first.positions(lags, n)
    weights = {name: torch.stack([toep.rpe.get_parameter(name) for toep in toeps])
               for name, _ in first.rpe.named_parameters()}
    r = vmap(lambda w: functional_call(first.rpe, w, (positions,)))(weights)  # (k, L, E)
    damping = [d for toep in toeps if (d := toep.damping(n)) is not None]
    t = first.activated(r * torch.stack(damping) if damping else r)
    return toeplitz_rows(t.mT, n)


class Gtu2d(Gtu):
    """The gated Toeplitz unit on a grid: o( norm?( u * (T2 along H of v + T1 along W of v) ) ),
    u = act(u_proj x), v = act(v_proj x); x (b, H, W, D) -> the same. Arguments are tnn.Gtu's.

    Raises ValueError as tnn.Gtu does, and for an rpe_act other than relu and silu, with which the
    original fails.
    """

    def __init__(self, embed_dim: int, num_heads: int, act_fun: str = "silu",
                 rpe_act: str = "relu", act_type: str = "none", **options):
        if rpe_act not in RPE_ACTS:
            raise ValueError(f"rpe_act is {' or '.join(RPE_ACTS)}, not {rpe_act}")
        super().__init__(embed_dim, num_heads, act_fun=image_name(act_fun), rpe_act=rpe_act,
                         act_type=image_name(act_type), **options)
        self.is_silu = act_fun == "silu"

    make_norm = staticmethod(norm_by_hand)

    def _add_operators(self, make):
        self.toep1, self.toep2 = make(), make()

    def forward(self, x: Tensor,  # type: ignore[override]
                matrices: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """matrices: those of toep2 (E, H, H) and toep1 (E, W, W), where they are known."""
        b, H, W, _ = x.shape
        tokens = x.transpose(0, 1).flatten(0, 2)              # (N, D), a view if x lies as promised
        z = stacked_channels_first(tokens, self.u_proj, self.v_proj).view(2, -1, H, b, W)
        if max(H, W) > DENSE_UP_TO:
            y = self._gated_by_fft(z)
        else:
            T_H, T_W = matrices or (stacked_matrices([self.toep2], H)[0],
                                    stacked_matrices([self.toep1], W)[0])
            y = self._gated_by_matrices(z, *self._normalized(T_H, T_W))
        y = y.flatten(1).t()                                  # (N, E)
        y = self.o(y if self.norm is None else self.norm(y.contiguous()))
        return y.view(H, b, W, -1).transpose(0, 1)

    def _normalized(self, *matrices):
        if not self.normalize:
            return matrices
        return [T / T.sum(-1, keepdim=True) for T in matrices]

    def _gated_by_matrices(self, z, T_H, T_W):
        if self.is_silu:
            return gated_grid(z, T_H, T_W)
        u, v = self.act(z).unbind(0)
        with torch.autocast(z.device.type, enabled=False):
            return u * mixed(v.to(T_H.dtype), T_H, T_W)

    def _gated_by_fft(self, z):
        """For lines too long for matrices."""
        u, v = self.act(z).unbind(0)  # (E, H, b, W)
        with torch.autocast(z.device.type, enabled=False):
            v = v.to(self.v_proj.weight.dtype)
            return u * along_both(v, self.toep2, self.toep1, self.normalize, DENSE_UP_TO)


class FusedGLU(GLU):
    """tnn.GLU on a grid (b, H, W, D), with both projections in one product."""

    def __init__(self, width: int, hidden: int, act_fun: str = "silu"):
        super().__init__(width, hidden, image_name(act_fun))
        self.is_silu = act_fun == "silu"

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_silu:
            return super().forward(x)
        b, H, W, _ = x.shape
        z = stacked_channels_first(x.transpose(0, 1).flatten(0, 2), self.l1, self.l2)  # (2 G, N)
        return self.l3(silu_product(z).t()).view(H, b, W, -1).transpose(0, 1)


class Block(nn.Module):
    """prenorm: x += GTU(s(x)), x += GLU(s(x)). postnorm: x += s(GTU(x)), x += s(GLU(x)).

    x (b, H, W, D) -> the same. As in the original, rpe_act has no effect: the position encoder's
    is relu. stochastic_depth: probability that, in training, a sample skips a branch.
    """

    def __init__(self, dim: int, num_heads: int, rpe_embedding: int, glu_dim: int,
                 rpe_act: str = "relu", glu_act: str = "silu", expand_ratio: float = 3,
                 use_decay: bool = False, use_multi_decay: bool = False, gamma: float = 0.999,
                 rpe_layers: int = 3, prenorm: bool = False, norm_type: str = "simplermsnorm",
                 stochastic_depth: float = 0.0):
        super().__init__()
        self.prenorm, self.skip = prenorm, stochastic_depth
        self.token_mixer = Gtu2d(dim, num_heads, expand_ratio=expand_ratio, use_decay=use_decay,
                                 use_multi_decay=use_multi_decay, rpe_layers=rpe_layers,
                                 rpe_embedding=rpe_embedding, gamma=gamma)
        self.token_norm = norm_by_hand(norm_type, dim)
        self.feature_mixer = FusedGLU(dim, glu_dim, glu_act)
        self.feature_norm = norm_by_hand(norm_type, dim)

    def forward(self, x: Tensor, matrices: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self._residual(x, self.token_norm, self.token_mixer, matrices)
        return self._residual(x, self.feature_norm, self.feature_mixer)

    def _residual(self, x, norm, mixer, *more):
        y = mixer(norm(x), *more) if self.prenorm else norm(mixer(x, *more))
        if self.skip and self.training:  # Huang et al. 2016
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.skip
            y = y * (kept / (1 - self.skip)).to(y.dtype)
        return x + y


class TnnVit(KeepingModule):
    """Images (b, in_chans, H p, W p) -> logits (b, num_classes).

    Arguments have the original's spelling. Without use_pos any H and W do, whatever img_size.
    channels, drop_rate and drop_path_rate have no effect, as in the original (README);
    stochastic_depth grows linearly from 0 in the first block to its value in the last.
    """

    def __init__(self, img_size: int | tuple[int, int] = 224, patch_size: int = 16,
                 in_chans: int = 3, num_classes: int = 1000, embed_dim: int = 384,
                 rpe_embdding: int = 96, num_heads: int = 6, rpe_act: str = "relu",
                 glu_act: str = "silu", glu_dim: int = 576, depth: int = 12,
                 expand_ratio: float = 3, channels: int = 3, emb_dropout: float = 0.0,
                 use_pos: bool = True, use_decay: bool = False, use_multi_decay: bool = False,
                 gamma: float = 0.999, rpe_layers: int = 3, drop_rate: float = 0.0,
                 drop_path_rate: float = 0.0, prenorm: bool = False,
                 stochastic_depth: float = 0.0):
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.num_classes, self.use_pos = num_classes, use_pos
        self.to_patch_embedding = nn.Sequential(
            Patches(patch_size), Linear(patch_size ** 2 * in_chans, embed_dim))
        if use_pos:
            self.pos_embedding = nn.Parameter(torch.randn(
                1, height // patch_size, width // patch_size, embed_dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.layers = nn.ModuleList(
            Block(embed_dim, num_heads, rpe_embdding, glu_dim, rpe_act, glu_act, expand_ratio,
                  use_decay, use_multi_decay, gamma, rpe_layers, prenorm,
                  stochastic_depth=stochastic_depth * i / max(depth - 1, 1))
            for i in range(depth))
        self.head = nn.Sequential(norm_by_hand("simplermsnorm", embed_dim),
                                  nn.Linear(embed_dim, num_classes))

    def forward_features(self, images: Tensor) -> Tensor:
        """(b, D): the mean over all tokens."""
        x = self.to_patch_embedding(images)
        if self.use_pos:
            x = x + self.pos_embedding
        x = self.dropout(x)
        H, W = x.shape[1:3]
        matrices = self._matrices(H, W) if max(H, W) <= DENSE_UP_TO else [None] * len(self.layers)
        for layer, of_layer in zip(self.layers, matrices, strict=True):
            x = layer(x, of_layer)
        return x.mean((1, 2))

    def _matrices(self, H, W):
        """A pair for each layer; in evaluation without gradients kept until weights or grid
        change (kept.py)."""
        if self.training or torch.is_grad_enabled():
            return self._new_matrices(H, W)
        weights = [w for layer in self.layers for w in layer.token_mixer.parameters()]
        return self.kept.get("matrices", (H, W), weights, lambda: self._new_matrices(H, W))

    def _new_matrices(self, H, W):
        columns = [layer.token_mixer.toep2 for layer in self.layers]
        rows = [layer.token_mixer.toep1 for layer in self.layers]
        if H == W:
            T = stacked_matrices(columns + rows, H).unbind(0)
            return list(zip(T[:len(rows)], T[len(rows):], strict=True))
        return list(zip(stacked_matrices(columns, H).unbind(0), stacked_matrices(rows, W).unbind(0),
                        strict=True))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.forward_features(images))

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer (num_classes outputs), on the old one's device."""
        old = self.head[1].weight
        self.num_classes = num_classes
        self.head[1] = nn.Linear(int(old.shape[1]), num_classes, device=old.device, dtype=old.dtype)


def build(name: str, **options) -> TnnVit:
    """The architecture of that name; `options` are further or other arguments of TnnVit. Raises
    ValueError for an unknown name."""
    return TnnVit(**(arguments_of(name) | options))
