"""One position at a time equals the whole sequence at once."""

import pytest
import torch

from kernels import library
from tnn import TnnBlock, TnnModel, Tno
from tnn.lm.generate import generate, sampler
from tnn.network import one_position, recurrence
from tnn.network.recurrence import MEMORIES, StateSpace, Window, lags_needed


@pytest.fixture(params=[3, 5, 128], ids=lambda size: f"blocks of {size}")
def blocks(request, monkeypatch):
    """Short blocks, so that short sequences have many, and the one that is used."""
    monkeypatch.setattr(recurrence, "BLOCK", request.param)


def operator(**options):
    torch.manual_seed(0)
    defaults = dict(causal=True, use_decay=True, gamma=0.95, layers=2)
    return Tno(2, 3, 8, **(defaults | options)).eval()


def whole(tno, v):
    """v (b, n, c) -> Tno's outputs (b, n, c)."""
    return tno(v.unflatten(-1, (tno.h, -1)).transpose(1, 2)).transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("options", [{}, {"use_decay": False}, {"use_multi_decay": True},
                                     {"act_type": "None"}])
@pytest.mark.parametrize(("n", "prompt"), [(1, 1), (2, 1), (33, 1), (34, 20), (64, 63)])
@torch.no_grad()
def test_equals_the_whole_sequence(blocks, name, options, n, prompt):
    tno = operator(**options)
    memory, v = MEMORIES[name](tno, n), torch.randn(2, n, 6)
    parts = [memory(v[:, :prompt])]
    if prompt < n:
        parts.append(memory(v[:, prompt: prompt + 1]))
        parts.append(memory(v[:, prompt + 1:]) if prompt + 1 < n else v[:, :0])
    torch.testing.assert_close(torch.cat(parts, 1), whole(tno, v), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_window_is_shorter_than_the_sequence(blocks):
    tno = operator(gamma=0.6)
    window = Window(tno, 1000)
    assert window.K == lags_needed(tno, 1000) == 42  # 0.6^41 < 1e-9
    v = torch.randn(1, 200, 6)
    expected = whole(tno, v)
    for prompt in (5, 100):
        window = Window(tno, 1000)
        y = torch.cat([window(v[:, :prompt]), window(v[:, prompt:])], 1)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"gamma": 0.99}, {"use_decay": False}], ids=str)
@torch.no_grad()
def test_state_space_is_long_and_exact(options):
    """Error bound at the training length: relative to the largest output."""
    tno = operator(**options)
    memory, v = StateSpace(tno, 3000), torch.randn(1, 3000, 6)
    y = torch.cat([memory(v[:, :1]), memory(v[:, 1:])], 1)
    expected = whole(tno.double(), v.double())
    assert (y - expected).abs().max() < 2e-6 * expected.abs().max()
    with pytest.raises(ValueError, match="3000 positions"):
        memory(v[:, :1])


@pytest.mark.parametrize("name", MEMORIES)
@torch.no_grad()
def test_reordered_sequences(blocks, name):
    tno, v = operator(), torch.randn(3, 12, 6)
    memory, order = MEMORIES[name](tno, 12), torch.tensor([2, 0])
    memory(v[:, :5])
    for step in range(5, 8):  # within a block, and at its ends
        memory(v[:, step:step + 1])
    memory.reorder(order)
    torch.testing.assert_close(memory(v[order, 8:]), whole(tno, v)[order, 8:], atol=2e-5, rtol=0)


def test_generation_does_not_depend_on_the_memory(blocks):
    torch.manual_seed(1)
    model = TnnModel(13, 16, 2).eval()
    prompt = torch.randint(13, (2, 5))
    texts = [generate(model, prompt, 30, sampler(1.0, 3), memory)
             for memory in ("full", "window", "etsc")]
    assert texts[0].shape == (2, 35)
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("options", [
    {}, {"bias": False}, {"heads": 2}, {"glu_dim": 7}, {"gtu_type": 1}, {"gtu_type": 3},
    {"glu_type": 2}, {"glu_act": "gelu"}, {"act_fun": "relu"}, {"use_norm": True},
    {"norm_type": "layernorm"}, {"pre_norm": False}], ids=str)
@torch.no_grad()
def test_whole_layers(blocks, monkeypatch, name, options):
    """The published one, whatever its sizes, by compiled calls; any other by PyTorch's."""
    torch.manual_seed(0)
    block = TnnBlock(6, causal=True, rpe_embedding=4, use_decay=True, **options).eval()
    memory, x = MEMORIES[name](block.self_attn.gtu.toep, 20), torch.randn(3, 20, 6)
    calls, steps = [], one_position.gated_steps
    monkeypatch.setattr(one_position, "gated_steps",
                        lambda *args: calls.append(1) or steps(*args))
    y = torch.cat([block(x[:, :9], memory=memory),
                   *(block(x[:, i:i + 1], memory=memory) for i in range(9, 20))], 1)
    torch.testing.assert_close(y, block(x), atol=2e-5, rtol=1e-4)
    published = options.keys() <= {"bias", "heads", "glu_dim"}
    assert len(calls) == (11 if published and library.loaded() else 0)


def test_logits_of_the_last_position_alone():
    model, tokens = TnnModel(13, 16, 2).eval(), torch.randint(13, (2, 7))
    torch.testing.assert_close(model(tokens, last=True), model(tokens)[:, -1:])


@torch.no_grad()
def test_a_long_text_after_a_short_prompt():
    """Many blocks; the window is full after four of them."""
    tno, v = operator(gamma=0.96), torch.randn(1, 1500, 6)
    expected = whole(tno, v)
    for name in MEMORIES:
        memory = MEMORIES[name](tno, 1500)
        y = torch.cat([memory(v[:, :3]), memory(v[:, 3:])], 1)
        assert (y - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_window_of_coefficients_that_do_not_vanish(blocks):
    """1 + elu(0) = 1: no lag may be left out, and none is known beyond the longest."""
    tno, v = operator(gamma=0.6, act_type="1+elu"), torch.randn(1, 80, 6)
    window = Window(tno, 80)
    assert window.K == 80
    y = torch.cat([window(v[:, :5]), window(v[:, 5:])], 1)
    torch.testing.assert_close(y, whole(tno, v), atol=2e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="made for 80 positions"):
        window(v[:, :1])
    with pytest.raises(ValueError, match="made for 10 positions"):
        Window(operator(use_decay=False), 10)(v)


def test_normalized_units_are_not_generated_from():
    model = TnnBlock(6, causal=True, normalize=True, rpe_embedding=4).eval()
    memory = Window(model.self_attn.gtu.toep, 9)
    with pytest.raises(ValueError, match="normalize"):
        model(torch.randn(1, 2, 6), memory=memory)


def test_what_is_refused():
    with pytest.raises(ValueError, match="causal"):
        Window(operator(causal=False), 5)
    with pytest.raises(ValueError, match="par_type"):
        StateSpace(operator(par_type=2), 5)
    with pytest.raises(ValueError, match="act_type"):
        StateSpace(operator(act_type="silu"), 5)
