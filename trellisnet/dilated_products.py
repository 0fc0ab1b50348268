"""The dilated causal convolution of a TrellisNet's level, one matrix product per tap.

    y(t)    = sum_j W_j x(t - (k-1-j) d)
    Dx(s)   = sum_j W_j^T Dy(s + (k-1-j) d)
    DW_j    = sum_t Dy(t) x(t - (k-1-j) d)^T                (Dy: gradient of the loss by y)

so a tap is one product on rows (time * batch) that are contiguous in memory, without the copies
of a general convolution. One DilatedProducts serves many levels: it keeps the weights in the order
that the products like best and adds the weight gradients of all levels into one array.

FirProducts, for two taps, needs three products in place of four. With u, v, w the values of x at
t-d, t, t+d, a pair of outputs is

    y(t)   = W0 u + W1 v = W0 (u - v) + (W0 + W1) v
    y(t+d) = W0 v + W1 w =              (W0 + W1) v + W1 (w - v)

(the short FIR filter of Winograd), and its gradients likewise. It is the same in exact arithmetic;
in float32 the differences and sums cost about half a decimal.

Notation: t a time step, k taps, j one of them (k-1 is the present one), d dilation. Arrays are
time-major, (time, batch, channels).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.product import Repeated, add_product_, adds_in_place

# Of products that are not added in place several make one: they wait until their rows have so many
# bytes a column (2048 rows in bfloat16, 1024 in float32; twice that is no faster, and more memory).
WAITING = 4096


def joined_rows(kernel: int, d: int, start: int, rows: int, start_x: int
                ) -> Iterator[tuple[int, slice, slice]]:
    """Of every tap that joins any: its number, and which rows of y and of x it joins.

    y has `rows` rows, the positions from `start` on; x those from `start_x` on, to the same end.
    With k = 3, d = 2, y from 3 on and x from 2 on, up to position 6:

        y at          3   4   5   6      rows of y   rows of x
        tap 0 reads   .   .   .   2        3 to 3      0 to 0      t - 4
        tap 1 reads   .   2   3   4        1 to 3      0 to 2      t - 2
        tap 2 reads   3   4   5   6        0 to 3      1 to 4      t

    What lies before x counts as zero: there the tap joins nothing.
    """
    end = start + rows
    for tap in range(kernel):
        reach = (kernel - 1 - tap) * d
        low = max(start, start_x + reach)
        if low < end:
            yield (tap, slice(low - start, rows),
                   slice(low - reach - start_x, end - reach - start_x))


class DilatedProducts:
    """The convolution with weight (out, in, k) and its gradients, products in dtype.

    In every method the rows of y are the positions from `start` on, those of x from `start_x` on,
    both to the same end; what lies before counts as zero.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        self.shape, self.sum_dtype = weight.shape, torch.promote_types(dtype, torch.float32)
        self.weight = weight.permute(2, 0, 1).to(dtype).contiguous()           # (k, out, in)
        self.repeated: dict[tuple[int, bool], Repeated] = {}
        self.grad: Tensor | None = None
        self.queue: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.weight]

    def product(self, tap: int, x: Tensor, transposed: bool = False) -> Tensor:
        """Rows times one tap's matrix: x W_j^T, or transposed x W_j."""
        return self.times(tap, len(x), transposed)(x)

    def add_product(self, into: Tensor, tap: int, x: Tensor, transposed: bool = False) -> None:
        """into += product(tap, x), if the library can in one operation."""
        times = self.times(tap, len(x), transposed)
        if times.packed is None and into.dtype == times.weight.dtype:
            add_product_(into, x, times.weight.t())
        else:
            into += times(x)

    def times(self, tap: int, rows: int, transposed: bool) -> Repeated:
        """Products with one tap's matrix (out, in) of about so many rows. All levels use the same.
        """
        if (tap, transposed) not in self.repeated:
            weight = self.weight[tap].t() if transposed else self.weight[tap]
            self.repeated[tap, transposed] = Repeated(weight, rows)
        return self.repeated[tap, transposed]

    def joined(self, y: Tensor, start: int, x: Tensor, start_x: int, d: int
               ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """`joined_rows` with the rows themselves, (time * batch, channels)."""
        for tap, y_rows, x_rows in joined_rows(self.shape[2], d, start, len(y), start_x):
            yield tap, y[y_rows].flatten(0, 1), x[x_rows].flatten(0, 1)

    def forward(self, y: Tensor, start: int, x: Tensor, start_x: int, d: int) -> None:
        """y += conv(x)."""
        for tap, y_rows, x_rows in self.joined(y, start, x, start_x, d):
            self.add_product(y_rows, tap, x_rows)

    def summands(self, rows: int, start: int, x: Tensor, start_x: int, d: int) -> list[Tensor]:
        """conv(x) (rows, batch, out) for a GPU, as a sum of at most two arrays: each product is one
        where they are rounded to half precision. Nothing unless every tap joins all rows."""
        kernel, rounded = self.shape[2], self.weight.dtype != self.sum_dtype
        joined = list(joined_rows(kernel, d, start, rows, start_x))
        if len(joined) < kernel or any(y.start for _, y, _ in joined) or (rounded and kernel > 2):
            return []
        found: list[Tensor] = []
        for tap, _, x_rows in joined:
            if rounded or not found:
                found.append(self.product(tap, x[x_rows].flatten(0, 1)))
            else:
                self.add_product(found[0], tap, x[x_rows].flatten(0, 1))
        return [each.view(rows, *x.shape[1:-1], -1) for each in found]

    def backward_input(self, dy: Tensor, start: int, dx: Tensor, start_x: int, d: int) -> None:
        """dx += the gradient with respect to x."""
        for tap, dy_rows, dx_rows in self.joined(dy, start, dx, start_x, d):
            self.add_product(dx_rows, tap, dy_rows, transposed=True)

    def backward_weight(self, dy: Tensor, start: int, x: Tensor, start_x: int, d: int) -> None:
        """Adds to the gradient with respect to the weight."""
        for tap, dy_rows, x_rows in self.joined(dy, start, x, start_x, d):
            self.add_weight_grad(tap, dy_rows, x_rows)

    def add_weight_grad(self, tap: int, dy_rows: Tensor, x_rows: Tensor) -> None:
        """Adds dy^T x to one tap's gradient: rows (R, out) and (R, in)."""
        if self.grad is None:
            self.grad = torch.zeros_like(self.weight, dtype=self.sum_dtype)
        if self.grad.dtype == self.weight.dtype and adds_in_place(dy_rows.t(), x_rows):
            add_product_(self.grad[tap], dy_rows.t(), x_rows)
            return
        # Such a sum is a pass of its own over the gradient: one for several levels.
        self.queue[tap].append((dy_rows, x_rows))
        waiting = sum(len(rows) for rows, _ in self.queue[tap])
        if waiting * self.weight.element_size() >= WAITING:
            self.flush(tap)

    def flush(self, tap: int) -> None:
        """Does the products that wait in the tap's queue."""
        if self.queue[tap]:
            dy_rows, x_rows = (torch.cat(rows) for rows in zip(*self.queue[tap], strict=True))
            add_product_(self.grad[tap], dy_rows.t(), x_rows)
            self.queue[tap].clear()

    def weight_grad(self) -> Tensor:
        """The whole gradient, (out, in, k)."""
        if self.grad is None:
            return self.weight.new_zeros(self.shape, dtype=self.sum_dtype)
        for tap in range(len(self.queue)):
            self.flush(tap)
        return self.grad.permute(1, 2, 0)


class FirProducts(DilatedProducts):
    """DilatedProducts for k = 2, with three products in place of four where that is less work.

    Positions are taken in pairs (t, t + d). With d = 2 they go through in blocks of two, a source
    before the first pair and each output beneath the two that it reads:

        x    | u0 u1 | v0 v1 | w0 w1 | ...           early, late, next early
        y            | y0 y1 | y2 y3 |               y0 = W0 u0 + W1 v0,   y2 = W0 v0 + W1 w0

    Zeros stand for what is missing at the ends.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        super().__init__(torch.cat([weight, weight.sum(2, keepdim=True)], 2), dtype)  # and W0 + W1
        self.shape = weight.shape

    @staticmethod
    def pairs(positions: int, d: int) -> int:
        """Into how many pairs of blocks the positions go; 0 if the zeros would cost the gain."""
        pairs = -(-positions // (2 * d))
        return pairs if 2 * d * pairs * 3 < positions * 3.8 else 0

    @staticmethod
    def blocks(x: Tensor, before: int, count: int, d: int) -> Tensor:
        """x after `before` positions of zeros, in blocks of d: (count, d, N, channels)."""
        after = count * d - before - len(x)
        if before or after:
            x = torch.nn.functional.pad(x, (0, 0, 0, 0, before, after))
        return x.unflatten(0, (count, d))

    def summands(self, rows: int, start: int, x: Tensor, start_x: int, d: int) -> list[Tensor]:
        return []

    def sources(self, x: Tensor, start_x: int, start: int, pairs: int, d: int) -> Tensor:
        """What the outputs from `start` on read, from one block before: (2 pairs + 1, d, N, C)."""
        first = max(start - d, start_x)
        return self.blocks(x[first - start_x:], first - start + d, 2 * pairs + 1, d)

    def forward(self, y: Tensor, start: int, x: Tensor, start_x: int, d: int) -> None:
        pairs = self.pairs(len(y), d)
        if not pairs:
            return super().forward(y, start, x, start_x, d)
        self.filter(y, self.sources(x, start_x, start, pairs, d), (0, 1), transposed=False)
        return None

    def backward_input(self, dy: Tensor, start: int, dx: Tensor, start_x: int, d: int) -> None:
        first = max(start - d, start_x)  # dx(s) = dy(s) W1 + dy(s + d) W0, from here on
        pairs = self.pairs(len(dx) - first + start_x, d)
        if not pairs:
            return super().backward_input(dy, start, dx, start_x, d)
        sources = self.blocks(dy, start - first, 2 * pairs + 1, d)
        self.filter(dx[first - start_x:], sources, (1, 0), transposed=True)
        return None

    def filter(self, y: Tensor, sources: Tensor, taps: tuple, transposed: bool) -> None:
        """y(t) += source(t) tap + source(t + d) other tap."""
        early, late = sources[:-1:2], sources[1::2]
        both = self.product(2, late.flatten(0, 2), transposed)
        even = self.product(taps[0], (early - late).flatten(0, 2), transposed).add_(both)
        odd = self.product(taps[1], (sources[2::2] - late).flatten(0, 2), transposed).add_(both)
        d, full = late.shape[1], len(y) // (2 * late.shape[1])
        for part, result in enumerate((even, odd)):
            result = result.view(*late.shape[:3], -1)                  # (pairs, d, N, channels)
            y[:2 * d * full].unflatten(0, (full, 2, d))[:, part] += result[:full]
            rest = y[2 * d * full + part * d:][:d]                     # of a pair that is not whole
            if len(rest):
                rest += result[-1, :len(rest)]

    def backward_weight(self, dy: Tensor, start: int, x: Tensor, start_x: int, d: int) -> None:
        pairs = self.pairs(len(dy), d)
        if not pairs:
            return super().backward_weight(dy, start, x, start_x, d)
        sources = self.sources(x, start_x, start, pairs, d)
        early, late, next_early = sources[:-1:2], sources[1::2], sources[2::2]
        dy = self.blocks(dy, 0, 2 * pairs, d)
        for tap, dy_part, x_part in ((0, dy[::2], early - late), (1, dy[1::2], next_early - late),
                                     (2, dy[::2] + dy[1::2], late)):
            self.add_weight_grad(tap, dy_part.flatten(0, 2), x_part.flatten(0, 2))
        return None

    def weight_grad(self) -> Tensor:
        """Of the two taps: W0 + W1 adds its gradient to both."""
        grad = super().weight_grad()
        if self.grad is not None:
            grad[..., :2] += grad[..., 2:]
        return grad[..., :2]
