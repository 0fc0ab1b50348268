"""Conversions between float32 and bfloat16: each is a pass over memory that computes nothing."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from kernels import library
from tnn import TnnBlock, TnnLayer

WEIGHTS = 12  # matrices and biases of the projections


def conversions(layer, x, autocast):
    """How many copies of another type a forward and a backward pass make, and of how many numbers
    each is."""
    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(x)
        y.sum().backward()

    step()  # what is kept between the passes
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        step()
    return [torch.Size(event.input_shapes[0]).numel() for event in seen.events()
            if event.name == "aten::_to_copy" and torch.Size(event.input_shapes[0]).numel() > 1]


@pytest.mark.parametrize("layer", ["block", "layer"])
def test_what_autocast_converts(layer):
    """Each weight and its gradient once; of the activations' gradients one, where the float32
    stream ends in the last sum. (And the list of lags.)"""
    if library.loaded() is None:
        pytest.skip("no compiler here")
    torch.manual_seed(0)
    made = (TnnBlock(16, causal=True, use_decay=True, rpe_embedding=8, dropout=0.1)
            if layer == "block" else TnnLayer(16, 2, 8, 32, causal=True, use_decay=True))
    x = torch.randn(3, 40, 16, requires_grad=True)
    sizes = conversions(made, x, autocast=True)
    assert len(sizes) == 2 * WEIGHTS + 2
    assert sizes.count(x.numel()) == 1


def test_what_a_model_in_bfloat16_converts():
    """The position encoder's weights, and their gradients; no activation."""
    if library.loaded() is None:
        pytest.skip("no compiler here")
    torch.manual_seed(0)
    block = TnnBlock(16, causal=True, use_decay=True, rpe_embedding=8).bfloat16()
    x = torch.randn(3, 40, 16, dtype=torch.bfloat16, requires_grad=True)
    sizes = conversions(block, x, autocast=False)
    assert max(sizes) < x.numel()
    assert len(sizes) == 2 * len(list(block.self_attn.gtu.toep.rpe.parameters())) + 1
