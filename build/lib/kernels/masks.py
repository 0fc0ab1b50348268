"""Dropout masks of large arrays, drawn fast from the same random stream.

Weight drop draws a number for each of the 11 to 20 million recurrent weights at every step: with
tensor.bernoulli_ that is 5 % of a training step on a CPU. The compiled form (cpp/masks.cpp) gives
the same mask and leaves torch's generator in the same state.
"""

import functools
import math

import torch
from torch import Tensor

from kernels import library

SMALL = 2048  # of fewer numbers, carrying torch's generator over and back costs more than it gains


def dropout_mask_plain(like: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
    """Bernoulli(1-p)/(1-p) of `shape`, with the dtype and device of `like`. 0 <= p < 1."""
    return like.new_empty(shape).bernoulli_(1 - p).div_(1 - p)


def dropout_mask(like: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
    """dropout_mask_plain, fast for float32 on a CPU. torch.compile draws by itself, in the plain
    form."""
    if (like.dtype == torch.float32 and math.prod(shape) >= SMALL
            and not torch.compiler.is_compiling() and library.available(like) and _same_stream()):
        return _compiled_mask(shape, p)
    return dropout_mask_plain(like, shape, p)


def _compiled_mask(shape: tuple[int, ...], p: float) -> Tensor:
    mask = torch.empty(shape)
    state = torch.get_rng_state()
    # The value is rounded as torch rounds 1 / (1 - p) in single precision.
    value = torch.ones(()).div_(1 - p).item()
    draw = library.function("draw_mask", torch.float32)
    draw(mask.numel(), 1 - p, value, state.data_ptr(), mask.data_ptr())
    torch.set_rng_state(state)
    return mask


@functools.cache
def _same_stream() -> bool:
    """Does this build of torch, on this processor, draw as the compiled form does? (With MKL on
    Intel processors it does not.) The generator is left as it was."""
    before = torch.get_rng_state()
    try:
        for p, count in ((0.5, 1001), (0.1, 700), (0.37, 3)):
            start = torch.get_rng_state()
            theirs = dropout_mask_plain(torch.empty(()), (count,), p)
            their_state = torch.get_rng_state()
            torch.set_rng_state(start)
            ours = _compiled_mask((count,), p)
            if not torch.equal(ours, theirs) or not torch.equal(torch.get_rng_state(), their_state):
                return False
        return True
    finally:
        torch.set_rng_state(before)
