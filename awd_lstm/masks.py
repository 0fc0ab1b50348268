"""Dropout masks of large matrices, drawn fast from the same random stream.

Weight drop draws a number for each of the 11 to 20 million recurrent weights at every step: with
tensor.bernoulli_ that is 5 % of a training step on a CPU. The compiled form gives the same mask and
leaves torch's generator in the same state.
"""

import functools

import torch
from torch import Tensor

from awd_lstm import kernels
from common.dropout import WeightDrop
from common.dropout import dropout_mask as draw_plain


def dropout_mask(like: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
    """As common.dropout.dropout_mask: Bernoulli(1-p)/(1-p) of `shape`, like `like`."""
    if like.dtype == torch.float32 and kernels.available(like) and _same_stream():
        return _compiled_mask(shape, p)
    return draw_plain(like, shape, p)


class FastWeightDrop(WeightDrop):
    """WeightDrop with the mask drawn by `dropout_mask` of this file."""

    def draw_mask(self, raw: Tensor, shape: tuple[int, ...]) -> Tensor:
        return dropout_mask(raw, shape, self.dropout)


def _compiled_mask(shape: tuple[int, ...], p: float) -> Tensor:
    mask = torch.empty(shape)
    state = torch.get_rng_state()
    # The value is rounded as torch rounds 1 / (1 - p) in single precision.
    value = torch.ones(()).div_(1 - p).item()
    kernels.library().draw_mask_f32(mask.numel(), 1 - p, value, state.data_ptr(), mask.data_ptr())
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
            theirs = draw_plain(torch.empty(()), (count,), p)
            their_state = torch.get_rng_state()
            torch.set_rng_state(start)
            ours = _compiled_mask((count,), p)
            if not torch.equal(ours, theirs) or not torch.equal(torch.get_rng_state(), their_state):
                return False
        return True
    finally:
        torch.set_rng_state(before)
