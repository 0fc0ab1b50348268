"""Matrix products on the CPU by the faster of PyTorch's two libraries, MKL and oneDNN.

torch.mm and F.linear call MKL. oneDNN, which torch.compile calls for linear layers, is twice as
fast on some CPUs (cpu.py), but each of its calls costs 30 us more. The results differ by rounding
alone. Which one computes a product depends on the CPU and on the product's size, nothing else. On
AMD's CPUs MKL is much slower where the rows of its result do not begin at multiples of 32 bytes
(1150 or 575 columns, say); then it writes to longer rows, and gives the same bits.

Notation: a (M,K), b (K,N); a linear layer has N rows, I inputs and O outputs. The functions are
plain torch under autocast, on a GPU, and in types other than float32.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function

from kernels import cpu, library

# Multiplications from which on oneDNN makes good for its slower call. At 106 against 225 GFLOP/s a
# thread, 2 * LARGE / 106e9 - 2 * LARGE / 225e9 is 50 us; with two threads it is half of that.
LARGE = 5_000_000
# From so many multiplications on bfloat16 makes good for rounding (measured, Zen 4).
WORTH_ROUNDING = 2_000_000
# 32 bytes are 8 numbers. Longer rows pay for the copy behind them from so many multiplications, and
# so many rows and terms of a sum, on (measured, Zen 3); beyond so many results they would take
# memory that counts.
ALIGNED, WORTH_A_COPY, ROWS, NUMBERS = 8, 100_000_000, 128, 1 << 23


def product_plain(a: Tensor, b: Tensor) -> Tensor:
    """a (M,K) times b (K,N) -> (M,N)."""
    return a @ b


def product(a: Tensor, b: Tensor) -> Tensor:
    """product_plain, fast for float32 on a CPU; it can be differentiated any number of times."""
    if not _by_onednn(a, b, b.shape[-1]):
        misaligned = _misaligned(a, b, b.shape[-1])
        return _in_longer_rows(a, b).contiguous() if misaligned else product_plain(a, b)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _Product.apply(a, b)
    return _onednn(a, b.t(), None)


def add_product(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """c + a b, differentiable; c (M,N) or broadcast to it."""
    if not _by_onednn(a, b, b.shape[-1]):
        return torch.addmm(c, a, b)
    return product(a, b).add_(c)


def add_product_(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """c += a b, for gradients written by hand: not differentiable. c may be float32 and a, b
    bfloat16."""
    if c.dtype != a.dtype:
        return c.add_(product_plain(a, b))
    if not _by_onednn(a, b, b.shape[-1]):
        if c.stride(1) == 1 and _misaligned(a, b, c.stride(0)):
            return c.copy_(_in_longer_rows(a, b, c))
        return c.addmm_(a, b)
    return c.add_(_onednn(a, b.t(), None))


def adds_in_place(a: Tensor, b: Tensor) -> bool:
    """Whether add_product_(c, a, b), c in their type, is one operation. Otherwise it makes an array
    as large as c, and adds that."""
    return not _by_onednn(a, b, b.shape[-1])


def product_into(out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """out = a b, plus a bias that broadcasts; not differentiable."""
    if _by_onednn(a, b, b.shape[-1]):
        y = _onednn(a, b.t(), None)
        return out.copy_(y) if bias is None else torch.add(y, bias, out=out)
    if bias is not None and out.dtype == torch.bfloat16:  # rounded once
        return torch.addmm(bias, a, b, out=out)
    if out.stride(1) == 1 and _misaligned(a, b, out.stride(0)):
        out.copy_(_in_longer_rows(a, b))
    else:
        torch.mm(a, b, out=out)  # addmm would first write the bias there
    return out if bias is None else out.add_(bias)


def transposed(a: Tensor) -> Tensor:
    """a^T for several products. oneDNN gets it laid out anew, or it would do so in each of them."""
    laid_out = a.dtype == torch.bfloat16 or _onednn_linear() is not None
    return a.t().contiguous() if laid_out else a.t()


def rounded_product(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32, from operands and to a result that are rounded to bfloat16; summed in
    float32. For CPUs with bfloat16 instructions; not differentiable."""
    return (a.bfloat16() @ b.bfloat16()).float()


def worth_rounding(multiplications: int) -> bool:
    """Whether so many take less time on a CPU in bfloat16, with what it takes to round their
    operands."""
    return multiplications >= WORTH_ROUNDING


def packed_weight(weight: Tensor, rows: int) -> Tensor | None:
    """A weight (O,I), float32 or bfloat16, in oneDNN's own order, for many products of about so
    many rows; None where oneDNN is not to compute them. It saves a copy in every product, 8 % at
    880 rows and 4000 x 1000 weights. (torch.compile packs frozen weights like that.)"""
    if weight.device.type != "cpu" or rows * weight.numel() < LARGE:
        return None
    if not ((weight.dtype == torch.float32 and _onednn_linear() is not None)
            or (weight.dtype == torch.bfloat16 and cpu.bf16_pays())):
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        product_with_packed(weight[:1], packed)
        return packed
    except (AttributeError, RuntimeError):
        return None


def product_with_packed(x: Tensor, packed: Tensor) -> Tensor:
    """x (N,I) times a packed weight's transpose -> (N,O); not differentiable."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


class Repeated:
    """Products with one weight (O,I), many of them with about so many rows: x (N,I) -> x weight^T
    (N,O); not differentiable."""

    def __init__(self, weight: Tensor, rows: int):
        self.weight, self.packed = weight, packed_weight(weight, rows)

    def __call__(self, x: Tensor) -> Tensor:
        return (product(x, self.weight.t()) if self.packed is None
                else product_with_packed(x, self.packed))


class _Product(Function):
    """oneDNN's product has no gradient of its own."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return product(a, b)

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        return (product(dy, b.t()) if ctx.needs_input_grad[0] else None,
                product(a.t(), dy) if ctx.needs_input_grad[1] else None)


# --------------------------------------------------------------------------------- linear layers
def linear_plain(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (...,I), weight (O,I), bias (O) or None -> x weight^T + bias (...,O)."""
    return F.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """linear_plain, its three products (forward and backward) by `product`."""
    if x.numel() == 0 or not _by_onednn(x, weight, len(weight)):
        return linear_plain(x, weight, bias)
    y = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """torch.nn.Linear by `linear`: (...,I) -> (...,O)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class _Linear(Function):
    """x (N,I) -> (N,O). Backward consists of differentiable operations, so it needs no other form
    to be differentiated again."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return _onednn(x, w, b)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad
        # (O,N) (N,I) rather than the transpose of (I,N) (N,O): the gradient is laid out like w.
        return (product(dy, w) if need_x else None, product(dy.t(), x) if need_w else None,
                dy.sum(0) if need_b else None)


# ------------------------------------------------------------------------------------ the choice
def _by_onednn(a: Tensor, b: Tensor, columns: int) -> bool:
    """Whether oneDNN computes the product of the rows of a and b, with so many columns. Inductor,
    exported graphs and torch.func's transforms get torch's own operations."""
    if torch.compiler.is_compiling() or library.exporting():
        return False
    return (a.numel() * columns >= LARGE and _onednn_linear() is not None
            and a.dtype == b.dtype == torch.float32 and a.device.type == b.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and not torch._C._are_functorch_transforms_active())


def _misaligned(a: Tensor, b: Tensor, row: int) -> bool:
    """Whether MKL is to write a b, whose rows begin every `row` numbers, to longer rows. Not where
    autograd watches."""
    if torch.compiler.is_compiling() or library.exporting() or not a.dim() == b.dim() == 2:
        return False
    M, (K, N) = len(a), b.shape
    return (row % ALIGNED != 0 and M * K * N >= WORTH_A_COPY and min(M, K) >= ROWS
            and M * N <= NUMBERS and a.dtype == b.dtype == torch.float32
            and a.device.type == b.device.type == "cpu" and cpu.vendor() == "AuthenticAMD"
            and not torch.is_autocast_enabled("cpu")
            and not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad))
            and not torch._C._are_functorch_transforms_active())


def _in_longer_rows(a, b, c=None):
    """a b, or c + a b as addmm_ sums it, in a window of an array of its own."""
    M, N = len(a), b.shape[1]
    rows = a.new_empty(M, -(-N // ALIGNED) * ALIGNED)[:, :N]
    return torch.mm(a, b, out=rows) if c is None else rows.copy_(c).addmm_(a, b)


@functools.cache
def _onednn_linear():
    """oneDNN's x (M,K), w (N,K), bias -> x w^T + bias, or None where MKL is to do everything:
    because it is faster, or because this PyTorch does not have the other."""
    if not cpu.onednn_is_faster():
        return None
    try:
        multiply = torch.ops.mkldnn._linear_pointwise
        multiply(torch.ones(2, 3), torch.ones(4, 3), None, "none", [], "")
        return multiply
    except (AttributeError, RuntimeError):
        return None


def _onednn(x, w, bias):
    """x (M,K), w (N,K) -> (M,N). Weights with gaps between rows (or columns) take it a thousand
    times as long; of x it takes any layout."""
    if not (w.is_contiguous() or w.t().is_contiguous()):
        w = w.t().contiguous().t() if w.stride(0) == 1 else w.contiguous()
    return _onednn_linear()(x, w, bias, "none", [], "")
