"""Generation step by step: the network's own outputs, and the choice among them."""

import pytest
import torch

from common.splitcross import SplitCrossEntropyLoss
from harness.endings import BadInput
from trellisnet.generate import Stream, generate, prompt_ids
from trellisnet.lm import TrainingLoss, TrellisNetLM
from trellisnet.trained import log_probability
from trellisnet.trellisnet import TrellisNet


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("dilation", [(1,), (1, 2), (3, 1)])
@pytest.mark.parametrize("wnorm", [True, False])
def test_a_stream_gives_the_outputs_of_the_whole_text(kernel, dilation, wnorm):
    torch.manual_seed(kernel)
    net = TrellisNet(4, 9, 5, 6, kernel, wnorm=wnorm, dilation=dilation).double().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = torch.randn(17, 2, 4, dtype=torch.float64)
    with torch.no_grad():
        whole, _, _ = net(x)
        stream = Stream(net, batch_size=2)
        torch.testing.assert_close(torch.stack([stream.step(step) for step in x]), whole,
                                   atol=1e-12, rtol=0)


def language_model(splits=(), **more):
    torch.manual_seed(5)
    model = TrellisNetLM(30, 8, 10, 8, 5, wnorm=False, aux=False, **more)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return TrainingLoss(model, SplitCrossEntropyLoss(8, splits)).eval()


@pytest.mark.parametrize("kind", ["softmax", "mixture", "split"])
def test_log_probabilities_sum_to_one_and_cost_what_the_loss_says(kind):
    loss = language_model((10, 20) if kind == "split" else (),
                          n_experts=3 if kind == "mixture" else 0)
    output, targets = torch.randn(12, 1, 8), torch.randint(30, (12, 1))
    with torch.no_grad():
        log_p = log_probability(loss, output[:, 0])
        torch.testing.assert_close(log_p.exp().sum(1), torch.ones(12), atol=1e-5, rtol=0)
        mean = -log_p.gather(1, targets).mean()
        torch.testing.assert_close(mean, loss.cross_entropy(output, targets), atol=1e-5, rtol=0)


def test_greedy_text_is_the_text_of_full_recomputation():
    loss = language_model()
    with torch.no_grad():
        words = list(generate(loss, [3, 7], 12, top_k=1))
        text = [3, 7]
        for _ in range(12):
            out = loss.model(torch.tensor(text)[:, None])
            text.append(int(loss.model.decode(out.raw[-1, 0]).argmax()))
    assert words == text[2:]


def test_top_k_and_seed():
    loss = language_model()
    torch.manual_seed(1)
    first = list(generate(loss, [0], 50, top_k=2))
    torch.manual_seed(1)
    assert list(generate(loss, [0], 50, top_k=2)) == first
    torch.manual_seed(2)
    assert list(generate(loss, [0], 50, top_k=2)) != first


def test_prompt(capsys):
    vocabulary = ["a", "<eos>", "<unk>", "b"]
    assert prompt_ids("b zebra a", True, vocabulary) == [1, 3, 2, 0]
    assert capsys.readouterr().err == "--prompt: zebra read as <unk>\n"
    assert prompt_ids("", True, vocabulary) == [1]
    assert prompt_ids("ba", False, ["<eos>", "a", "b"]) == [0, 2, 1]
    with pytest.raises(BadInput, match="the model does not know z, and its"):
        prompt_ids("az", False, ["<eos>", "a", "b"])
