"""The first level of trellis_last on a CPU: product, gates and cell in one pass each way
(kernels/cpp/narrow_gates.cpp), which keeps nothing but c and h.

It sees a pixel or three per tap, so that its product is hardly any work, and in classification it
computes half of all positions: what took the time was to write and read their a, gates and Da.

Notation: G positions, N batch, K what a position sees (the taps of x, a one), H hidden channels.
"""

from torch import Tensor

from kernels import library

WIDEST = 8  # of K; as in narrow_gates.cpp


def has_kernel(x: Tensor, columns: int) -> bool:
    """Whether there is one for inputs like x of which a position sees so many columns, and that
    need no gradient."""
    return columns <= WIDEST and not x.requires_grad and library.available(x)


def forward(seen: Tensor, weight: Tensor, mask: Tensor | None, c: Tensor, h: Tensor) -> None:
    """seen (G,N,K), weight (K,3H) of the gates i, o, g, mask (N,H) -> c and the masked h (G,N,H),
    where c' is zero."""
    library.call("narrow_gates_forward", *_sizes(seen, c), seen, weight, mask, c, h)


def backward(seen: Tensor, weight: Tensor, mask: Tensor | None, dh: Tensor, dc: Tensor) -> Tensor:
    """From the gradients of the masked h and of c: that of the weight."""
    parts = library.function("narrow_gates_parts", seen.dtype)(seen.shape[0] * seen.shape[1])
    d_weight = weight.new_empty(parts, *weight.shape)
    library.call("narrow_gates_backward", *_sizes(seen, dh), seen, weight, mask, dh, dc, d_weight)
    return d_weight.sum(0)


def _sizes(seen: Tensor, c: Tensor) -> tuple[int, int, int, int]:
    """R, N, H and K of narrow_gates.cpp."""
    positions, batch, columns = seen.shape
    return positions * batch, batch, c.shape[2], columns
