"""One LSTM layer (arXiv 1708.02182, section 2) with its weights as arguments, so that weight drop
can hand in a masked W_hh.

lstm_plain is the equations as a loop; lstm gives the same numbers faster: on a CPU with the
compiled recurrence of cpp/lstm.cpp, elsewhere with torch's own fused LSTM (cuDNN on a GPU).

Under bfloat16 autocast on a CPU that has AVX-512 BF16, the operands of all products are rounded to
bfloat16; their sums, and everything else, stay in float32. Other CPUs gain nothing from bfloat16
(torch's own LSTM even refuses it), nor do layers with few multiplications: there autocast changes
nothing.

Notation: T time, B batch, I input size, H hidden size. Gates in torch's order: input, forget, cell,
output. Arguments: x (T,B,I), h0, c0 (1,B,H), w_ih (4H,I), w_hh (4H,H), b_ih, b_hh (4H).
"""

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn.utils.rnn import PackedSequence

from kernels import cudnn, library
from kernels.product import product, rounded_product, transposed, worth_rounding
from kernels.second_derivatives import plain_gradients

# Below this many steps packing W_hh costs more than it gains (measured: H = 1150, B = 1 and 20).
SHORT = 4


def lstm_plain(x: Tensor, h0: Tensor, c0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor,
               b_hh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> output (T,B,H), h_n and c_n, each (1,B,H)."""
    h, c = h0[0], c0[0]
    output = []
    for x_t in x:
        i, f, g, o = (x_t @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        output.append(h)
    return torch.stack(output), h[None], c[None]


def lstm(x: Tensor, hidden: tuple[Tensor, Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor,
         b_hh: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """lstm_plain, fast, with nn.LSTM's arguments and results: hidden = (h0, c0)
    -> output (T,B,H), (h_n, c_n). Under autocast on a CPU the results are float32.

    On a CPU it can be differentiated twice, through lstm_plain; cuDNN refuses that with an error.
    ValueError if the states or w_hh do not fit one another.
    """
    h0, c0 = hidden
    B, H = x.shape[1], w_hh.shape[1]
    if h0.shape != (1, B, H) or c0.shape != (1, B, H) or w_hh.shape != (4 * H, H):
        raise ValueError(
            f"lstm: expected states (1,{B},{H}) and w_hh ({4 * H},{H}), got {tuple(h0.shape)}, "
            f"{tuple(c0.shape)} and {tuple(w_hh.shape)}"
        )
    arguments = (x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        bf16 = (torch.get_autocast_dtype("cpu") == torch.bfloat16
                and worth_rounding(len(x) * B * (w_ih.numel() + w_hh.numel()))
                and library.has_bf16_instructions())
        with torch.autocast("cpu", enabled=False):
            return _lstm([a.float() for a in arguments], "lstm_bf16" if bf16 else "lstm")
    return _lstm(arguments, "lstm")


class LSTM(cudnn.LSTM):
    """torch.nn.LSTM with biases; a single layer, time first, is computed by `lstm` on a CPU."""

    def forward(self, input, hx=None):
        """input (T,B,I), hx (h, c), each (D,B,H) with D directions, or None for zeros
        -> output (T,B,D H), (h, c). What nn.LSTM takes besides, it gets."""
        if (isinstance(input, PackedSequence) or input.device.type != "cpu" or input.dim() != 3
                or self.num_layers > 1 or self.batch_first or torch.compiler.is_compiling()):
            return super().forward(input, hx)
        D = 1 + self.bidirectional
        if hx is None:
            zeros = input.new_zeros(D, input.shape[1], self.hidden_size)
            hx = zeros, zeros
        names = iter(self._flat_weights_names)
        output, states = [], []
        for d in range(D):  # the second direction reads the sequence backwards
            x = input.flip(0) if d else input
            weights = [getattr(self, next(names)) for _ in range(4)]
            y, state = lstm(x, (hx[0][d:d + 1], hx[1][d:d + 1]), *weights)
            output.append(y.flip(0) if d else y)
            states.append(state)
        if D == 1:
            return output[0], states[0]
        h, c = (torch.cat(each) for each in zip(*states, strict=True))
        return torch.cat(output, -1), (h, c)


def _lstm(arguments, kernel):
    x, h0, c0, _, w_hh, *_ = arguments
    if x.numel() == 0:
        return x.new_empty(*x.shape[:2], w_hh.shape[1]), (h0, c0)
    if len(x) < SHORT or not library.available(*arguments):
        return _torch_lstm(*arguments)
    if torch.is_grad_enabled() and any(a.requires_grad for a in arguments):
        output, h_n, c_n = _LSTM.apply(*arguments, kernel)
    else:
        output, c_n, _, _ = _forward(*arguments, kernel, keep=False)
        h_n = output[-1:].clone()
    return output, (h_n, c_n)


def _torch_lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh):
    weights = [w_ih, w_hh, b_ih, b_hh]
    if x.is_cuda:
        output, h_n, c_n = cudnn.recurrence("lstm", x, (h0, c0), weights)
        return output, (h_n, c_n)
    train = torch.is_grad_enabled()  # cuDNN keeps what backward needs only if told so
    output, h_n, c_n = torch._VF.lstm(x, (h0, c0), weights, True, 1, 0.0, train, False, False)
    return output, (h_n, c_n)


def _forward(x, h0, c0, w_ih, w_hh, b_ih, b_hh, kernel, keep):
    """-> output (T,B,H), c_n (1,B,H), and for backward, if they are to be kept, the gates (TB,4H)
    and all cell states (T,B,H)."""
    T, B, _ = x.shape
    H = w_hh.shape[1]
    # The inputs' part of the gates needs no recurrence: one product for all steps.
    gates = PRODUCTS[kernel](x.reshape(T * B, -1), w_ih.t()).add_(b_ih + b_hh)  # (TB,4H)
    output = gates.new_empty(T, B, H)
    cells = gates.new_empty(T if keep else 1, B, H)
    states = (h0.contiguous(), c0.contiguous(), output, cells)
    step = B * H if keep else 0  # 0: each cell state overwrites the last
    matrix = (w_hh.contiguous(), _room(kernel, w_hh, B))
    library.call(f"{kernel}_forward", T, B, H, gates, *matrix, *states, step)
    return output, cells[-1:].clone(), gates, cells


PRODUCTS = {"lstm": product, "lstm_bf16": rounded_product}


def _room(kernel, w_hh, B):
    """An array for w_hh in the order that the kernels want, and what else they need. Each call
    fills a new one: kept, it would double the memory of every layer, and weight drop changes w_hh
    at every step anyway."""
    return w_hh.new_empty(library.function(f"{kernel}_room", w_hh.dtype)(B, w_hh.shape[1]))


class _LSTM(Function):
    @staticmethod
    def forward(ctx, x, h0, c0, w_ih, w_hh, b_ih, b_hh, kernel):
        output, c_n, gates, cells = _forward(x, h0, c0, w_ih, w_hh, b_ih, b_hh, kernel, keep=True)
        ctx.save_for_backward(x, h0, c0, w_ih, w_hh, b_ih, b_hh, output, gates, cells)
        ctx.kernel = kernel
        return output, output[-1:].clone(), c_n

    @staticmethod
    def backward(ctx, d_output, d_h, d_c):
        """Only the gate gradients need a loop over time; given them, the gradient of each matrix is
        one product over all steps."""
        *arguments, output, gates, cells = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *plain_gradients(lstm_plain, arguments, (d_output, d_h, d_c)), None
        x, h0, c0, w_ih, w_hh, _, _ = arguments
        T, B, H = output.shape
        d_gates = torch.empty_like(gates)  # (TB,4H)
        dense = torch.contiguous_format
        dh, dc = d_h.clone(memory_format=dense), d_c.clone(memory_format=dense)
        matrix = (w_hh.contiguous(), _room(ctx.kernel, w_hh, B))
        kept = (c0.contiguous(), cells, d_output.contiguous())
        library.call(f"{ctx.kernel}_backward", T, B, H, gates, *matrix, *kept, d_gates, dh, dc)
        multiply = PRODUCTS[ctx.kernel]
        need_x, _, _, need_ih, need_hh, *need_b, _ = ctx.needs_input_grad
        previous = torch.cat([h0, output[:-1]]).view(T * B, H)
        operand = d_gates.bfloat16() if multiply is rounded_product else d_gates
        dx = multiply(operand, w_ih).view_as(x) if need_x else None
        across = transposed(operand)  # (4H,TB)
        d_ih = multiply(across, x.reshape(T * B, -1)) if need_ih else None
        d_hh = multiply(across, previous) if need_hh else None
        db = d_gates.sum(0) if any(need_b) else None
        return dx, dh, dc, d_ih, d_hh, db, db, None
