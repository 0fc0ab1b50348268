"""The forms of a sparse layer: outputs, states, every gradient."""

import pytest
import torch

from sparse_seq import SparseLSTM
from sparse_seq.blocks import choose_form, lstm

LAYERS = {
    "one-block": {"input_size": 7, "hidden_size": 5, "blocks": 1, "density": 1.0},
    "even": {"input_size": 12, "hidden_size": 15, "blocks": 3, "density": 0.5},
    "uneven": {"input_size": 11, "hidden_size": 13, "blocks": 4, "density": 0.4},
    "many": {"input_size": 63, "hidden_size": 127, "blocks": 9, "density": 0.3},
    "weight-drop": {"input_size": 9, "hidden_size": 10, "blocks": 3, "density": 0.6, "wdrop": 0.4},
    "both-ways": {"input_size": 9, "hidden_size": 11, "blocks": 3, "density": 0.6,
                  "bidirectional": True, "wdrop": 0.3},
}


def outcome(layer, form, x, h, c):
    """Outputs, states, and the gradients of x, h, c and all parameters."""
    layer.form = form
    torch.manual_seed(3)  # the masks
    y, (hn, cn) = layer(x, (h, c))
    loss = (y * y.detach().cos()).sum() + hn.pow(2).sum() + 0.5 * cn.sum()
    names = ["x", "h", "c", *(name for name, _ in layer.named_parameters())]
    grads = torch.autograd.grad(loss, [x, h, c, *layer.parameters()])
    return {"y": y, "hn": hn, "cn": cn} | {f"gradient of {n}": g for n, g in
                                           zip(names, grads, strict=True)}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (5, 3)])
def test_block_weights_are_what_the_blocks_compute_with(name, steps, batch):
    """The streams take weights, the sequential form modules: same masks, same numbers (by two
    kernels, hence to rounding)."""
    torch.manual_seed(0)
    layer = SparseLSTM(**LAYERS[name])
    d = 1 + layer.bidirectional
    x = torch.randn(steps, batch, layer.input_size)
    h, c = (torch.randn(d, batch, layer.hidden_size) for _ in range(2))
    torch.manual_seed(3)
    y, (hn, cn) = layer(x, (h, c))
    torch.manual_seed(3)
    found = [lstm(x[..., i0:i1], (h[..., o0:o1].contiguous(), c[..., o0:o1].contiguous()),
                  layer.block_weights(index))
             for index, ((i0, i1), (o0, o1)) in enumerate(layer.composition.ranges)]
    for whole, parts in zip((y, hn, cn), zip(*found, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts, -1), rtol=2e-6, atol=2e-6)


def test_choice():
    """On the CPU block after block, whatever the number of threads."""
    layer, x = SparseLSTM(6, 8, blocks=2, density=0.5), torch.zeros(3, 2, 6)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert choose_form(layer, x) == "sequential"
    assert choose_form(SparseLSTM(6, 8, blocks=1, density=1.0), x) == "sequential"


def test_unknown_form():
    with pytest.raises(ValueError, match="unknown form 'fast'"):
        SparseLSTM(6, 8, blocks=2, density=0.5, form="fast")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", LAYERS)
def test_streams_agree(name):
    layer = SparseLSTM(**LAYERS[name]).cuda()
    d = 1 + layer.bidirectional
    x = torch.randn(5, 3, layer.input_size, requires_grad=True, device="cuda")
    h, c = (torch.randn(d, 3, layer.hidden_size, requires_grad=True, device="cuda")
            for _ in range(2))
    expected = outcome(layer, "sequential", x, h, c)
    for key, value in outcome(layer, "streams", x, h, c).items():
        torch.testing.assert_close(value, expected[key], atol=1e-4, rtol=1e-4, msg=key)
