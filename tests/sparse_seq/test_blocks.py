"""The forms of a sparse layer against the sequential one: outputs, states, every gradient."""

import itertools

import pytest
import torch

from sparse_seq import SparseLSTM
from sparse_seq.blocks import choose_form, share_out

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
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (5, 3), (7, 4)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_forms_agree(name, steps, batch, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer = SparseLSTM(**LAYERS[name])
    d = 1 + layer.bidirectional
    x = torch.randn(steps, batch, layer.input_size, requires_grad=True)
    h, c = (torch.randn(d, batch, layer.hidden_size, requires_grad=True) for _ in range(2))
    expected = outcome(layer, "sequential", x, h, c)
    for form in ("threads", "batched"):
        for key, value in outcome(layer, form, x, h, c).items():
            torch.testing.assert_close(value, expected[key], atol=5e-6, rtol=1e-5,
                                       msg=lambda text, key=key, form=form: f"{form} {key} {text}")


@pytest.mark.parametrize("form", ["threads", "batched"])
def test_only_what_is_needed(form):
    """Without gradients, with frozen parameters, with an input that needs none."""
    torch.set_num_threads(2)
    layer = SparseLSTM(6, 8, blocks=2, density=0.5)
    x, h, c = torch.randn(3, 2, 6), torch.zeros(1, 2, 8), torch.zeros(1, 2, 8)
    expected = layer(x, (h, c))[0]
    layer.form = form
    with torch.no_grad():
        y = layer(x, (h, c))[0]
    assert not y.requires_grad
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=0)
    layer.LSTMs[0].requires_grad_(False)
    layer(x, (h, c))[0].sum().backward()
    assert layer.LSTMs[0].weight_ih_l0.grad is None
    assert layer.LSTMs[1].weight_ih_l0.grad.abs().sum() > 0


def test_padded_units_stay_silent():
    """Uneven blocks are padded: nothing may come from there, whatever the weights."""
    layer = SparseLSTM(5, 7, blocks=3, density=0.5, form="batched")
    for p in layer.parameters():
        torch.nn.init.constant_(p, 3.0)
    x = torch.full((4, 2, 5), 2.0)
    zeros = torch.zeros(1, 2, 7)
    y = layer(x, (zeros, zeros))[0]
    layer.form = "sequential"
    torch.testing.assert_close(y, layer(x, (zeros, zeros))[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("blocks", "workers", "columns"),
                         list(itertools.product((1, 2, 3, 5), (1, 2, 4), (1, 3, 20))))
def test_share_out_is_complete_and_even(blocks, workers, columns):
    plan = share_out(blocks, workers, columns)
    cells = [(b, i) for own in plan for b, first, last in own for i in range(first, last)]
    assert sorted(cells) == sorted(itertools.product(range(blocks), range(columns)))
    load = [sum(last - first for _, first, last in own) for own in plan]
    assert max(load) - min(load) <= blocks  # one column of each block that is cut


def test_choice():
    """On the CPU block after block, whatever the number of threads."""
    layer, x = SparseLSTM(6, 8, blocks=2, density=0.5), torch.zeros(3, 2, 6)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert choose_form(layer, x) == "sequential"
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_form(layer, x) == "sequential"
    assert choose_form(SparseLSTM(6, 8, blocks=1, density=1.0), x) == "sequential"


def test_threads_leave_the_number_of_threads_alone():
    torch.set_num_threads(2)
    layer = SparseLSTM(6, 8, blocks=2, density=0.5, form="threads")
    layer(torch.zeros(3, 2, 6), (torch.zeros(1, 2, 8), torch.zeros(1, 2, 8)))
    assert torch.get_num_threads() == 2


def test_unknown_form():
    with pytest.raises(ValueError, match="unknown form 'fast'"):
        SparseLSTM(6, 8, blocks=2, density=0.5, form="fast")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", LAYERS)
def test_cuda_forms_agree(name):
    layer = SparseLSTM(**LAYERS[name]).cuda()
    d = 1 + layer.bidirectional
    x = torch.randn(5, 3, layer.input_size, requires_grad=True, device="cuda")
    h, c = (torch.randn(d, 3, layer.hidden_size, requires_grad=True, device="cuda")
            for _ in range(2))
    expected = outcome(layer, "sequential", x, h, c)
    for form in ("streams", "batched"):
        for key, value in outcome(layer, form, x, h, c).items():
            torch.testing.assert_close(value, expected[key], atol=1e-4, rtol=1e-4)
