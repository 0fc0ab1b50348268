"""The dilated causal convolution of a TrellisNet's level, one matrix product per tap.

Letters: k taps, d dilation. Arrays are time-major, (time, batch, channels):

    y(t) = sum_j W_j x(t - (k-1-j) d)

so a tap is one product on rows (time * batch) that are contiguous in memory, without the copies
of a general convolution. One Taps serves many levels: it keeps the weights in the order that the
products like best and adds the weight gradients of all levels into one array.

FirTaps, for two taps, needs three products in place of four. With p, q, r the values of x at
t-d, t, t+d, a pair of outputs is

    y(t)   = W0 p + W1 q = W0 (p - q) + (W0 + W1) q
    y(t+d) = W0 q + W1 r =              (W0 + W1) q + W1 (r - q)

(the short FIR filter of Winograd), and its gradients likewise. It is the same in exact arithmetic;
in float32 the differences and sums cost about half a decimal.
"""

import torch
from torch import Tensor

from common.splitcross import cpu_product


class _Product:
    """x -> x w^T for a w (out, in) that is used many times."""

    def __init__(self, weight: Tensor, rows: int):
        self.weight, self.packed = weight, None
        if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16):
            self.packed = _packed(weight, rows)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return cpu_product(x, self.weight.t()) if x.device.type == "cpu" else x @ self.weight.t()


def _packed(weight: Tensor, rows: int) -> Tensor | None:
    """The weight in oneDNN's own order, or None where this PyTorch cannot: it saves a copy in every
    product and is 8 % faster at word PTB's sizes. (torch.compile packs frozen weights like that.)
    """
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        torch.ops.mkldnn._linear_pointwise(weight[:1], packed, None, "none", [], "")
        return packed
    except (AttributeError, RuntimeError):
        return None


class Taps:
    """The convolution with weight (out, in, k) and its gradients, products in dtype.

    In every method the rows of y are the positions from s on, those of x from s_x on, both to the
    same end; what lies before counts as zero.
    """

    queue_rows = 4096  # of products that are not added in place, so many rows make one

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        self.shape, self.sum_dtype = weight.shape, torch.promote_types(dtype, torch.float32)
        self.weight = weight.permute(2, 0, 1).to(dtype).contiguous()           # (k, out, in)
        self.products = {}
        self.grad = None
        self.queue = [[] for _ in self.weight]

    def product(self, j: int, x: Tensor, transposed: bool = False) -> Tensor:
        """Rows times tap j: x W_j^T, or transposed x W_j."""
        if (j, transposed) not in self.products:
            weight = self.weight[j].t() if transposed else self.weight[j]
            self.products[j, transposed] = _Product(weight, len(x))
        return self.products[j, transposed](x)

    def rows(self, y: Tensor, s: int, x: Tensor, s_x: int, d: int):
        """Of every tap: its number, and the rows of y and x that it joins."""
        last = self.shape[2] - 1
        for j in range(last + 1):
            shift = (last - j) * d
            low, end = max(s, s_x + shift), s + len(y)
            if low < end:
                yield (j, y[low - s:].flatten(0, 1),
                       x[low - shift - s_x:end - shift - s_x].flatten(0, 1))

    def forward(self, y: Tensor, s: int, x: Tensor, s_x: int, d: int) -> None:
        """y += conv(x)."""
        for j, y_rows, x_rows in self.rows(y, s, x, s_x, d):
            y_rows += self.product(j, x_rows)

    def backward_input(self, dy: Tensor, s: int, dx: Tensor, s_x: int, d: int) -> None:
        """dx += the gradient with respect to x."""
        for j, dy_rows, dx_rows in self.rows(dy, s, dx, s_x, d):
            dx_rows += self.product(j, dy_rows, transposed=True)

    def backward_weight(self, dy: Tensor, s: int, x: Tensor, s_x: int, d: int) -> None:
        """Adds to the gradient with respect to the weight."""
        for j, dy_rows, x_rows in self.rows(dy, s, x, s_x, d):
            self.add_weight_grad(j, dy_rows, x_rows)

    def add_weight_grad(self, j: int, dy_rows: Tensor, x_rows: Tensor) -> None:
        if self.grad is None:
            self.grad = torch.zeros_like(self.weight, dtype=self.sum_dtype)
        if self.grad.dtype == self.weight.dtype:
            self.grad[j].addmm_(dy_rows.t(), x_rows)
            return
        # A sum in a wider type is a pass of its own over the gradient: one for several levels.
        self.queue[j].append((dy_rows, x_rows))
        if sum(len(rows) for rows, _ in self.queue[j]) >= self.queue_rows:
            self.flush(j)

    def flush(self, j: int) -> None:
        if self.queue[j]:
            dy_rows, x_rows = (torch.cat(rows) for rows in zip(*self.queue[j], strict=True))
            self.grad[j] += dy_rows.t() @ x_rows
            self.queue[j].clear()

    def weight_grad(self) -> Tensor:
        """The whole gradient, (out, in, k)."""
        if self.grad is None:
            return self.weight.new_zeros(self.shape, dtype=self.sum_dtype)
        for j in range(len(self.queue)):
            self.flush(j)
        return self.grad.permute(1, 2, 0)


class FirTaps(Taps):
    """Taps for k = 2, with three products in place of four where that is less work.

    Positions are taken in pairs (t, t + d), in blocks of d; zeros stand for what is missing at
    the ends.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        super().__init__(torch.cat([weight, weight.sum(2, keepdim=True)], 2), dtype)  # and W0 + W1
        self.shape = weight.shape

    @staticmethod
    def pairs(positions: int, d: int) -> int:
        """In how many pairs of blocks the positions go; 0 if the zeros would cost the gain."""
        pairs = -(-positions // (2 * d))
        return pairs if 2 * d * pairs * 3 < positions * 3.8 else 0

    @staticmethod
    def blocks(x: Tensor, before: int, count: int, d: int) -> Tensor:
        """x after `before` positions of zeros, in blocks of d: (count, d, N, channels)."""
        after = count * d - before - len(x)
        if before or after:
            x = torch.nn.functional.pad(x, (0, 0, 0, 0, before, after))
        return x.unflatten(0, (count, d))

    def forward(self, y: Tensor, s: int, x: Tensor, s_x: int, d: int) -> None:
        pairs = self.pairs(len(y), d)
        if not pairs:
            return super().forward(y, s, x, s_x, d)
        first = max(s - d, s_x)
        sources = self.blocks(x[first - s_x:], first - s + d, 2 * pairs + 1, d)
        self.filter(y, sources, (0, 1), transposed=False)
        return None

    def backward_input(self, dy: Tensor, s: int, dx: Tensor, s_x: int, d: int) -> None:
        first = max(s - d, s_x)  # dx(t) = dy(t) W1 + dy(t + d) W0, from here on
        pairs = self.pairs(len(dx) - first + s_x, d)
        if not pairs:
            return super().backward_input(dy, s, dx, s_x, d)
        sources = self.blocks(dy, s - first, 2 * pairs + 1, d)
        self.filter(dx[first - s_x:], sources, (1, 0), transposed=True)
        return None

    def filter(self, y: Tensor, sources: Tensor, taps: tuple, transposed: bool) -> None:
        """y(t) += source(t) tap + source(t + d) other tap."""
        early, late = sources[:-1:2], sources[1::2]
        middle = late.flatten(0, 2)
        both = self.product(2, middle, transposed)
        even = self.product(taps[0], (early - late).flatten(0, 2), transposed).add_(both)
        odd = self.product(taps[1], (sources[2::2] - late).flatten(0, 2), transposed).add_(both)
        d, full = late.shape[1], len(y) // (2 * late.shape[1])
        for part, result in enumerate((even, odd)):
            result = result.view(*late.shape[:3], -1)                  # (pairs, d, N, channels)
            y[:2 * d * full].unflatten(0, (full, 2, d))[:, part] += result[:full]
            rest = y[2 * d * full + part * d:][:d]
            if len(rest):
                rest += result[-1, :len(rest)]

    def backward_weight(self, dy: Tensor, s: int, x: Tensor, s_x: int, d: int) -> None:
        pairs = self.pairs(len(dy), d)
        if not pairs:
            return super().backward_weight(dy, s, x, s_x, d)
        first = max(s - d, s_x)
        sources = self.blocks(x[first - s_x:], first - s + d, 2 * pairs + 1, d)
        early, late, next_early = sources[:-1:2], sources[1::2], sources[2::2]
        dy = self.blocks(dy, 0, 2 * pairs, d)
        for tap, dy_part, x_part in ((0, dy[::2], early - late), (1, dy[1::2], next_early - late),
                                     (2, dy[::2] + dy[1::2], late)):
            self.add_weight_grad(tap, dy_part.flatten(0, 2), x_part.flatten(0, 2))
        return None

    def weight_grad(self) -> Tensor:
        grad = super().weight_grad()
        if self.grad is not None:
            grad[..., :2] += grad[..., 2:]
        return grad[..., :2]
