"""Every published configuration has the number of parameters that the original has. Counted on
the meta device: shapes alone, no memory."""

import pytest
import torch

from trellisnet.char_PTB import char_ptb
from trellisnet.seq_MNIST_CIFAR import seq_mnist_cifar
from trellisnet.word_PTB import word_ptb
from trellisnet.word_WT103 import word_wt103

PTB, CHARACTERS, WT103 = 10_000, 50, 267_735  # sizes of the vocabularies
GRAY, COLOURS = 1, 3


def build(script, flags, size):
    """The model that a command line makes, and its loss."""
    with torch.device("meta"):
        return script.build(script.parse_args(flags.split()), size)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("script", "flags", "size", "expected"), [
    (word_ptb, "", PTB, 24_175_600),
    (word_ptb, "--n_experts 15", PTB, 26_587_615),
    (char_ptb, "", CHARACTERS, 14_525_050),
    (word_wt103, "", WT103, 181_708_503),
    (seq_mnist_cifar, "", GRAY, 137_910),
    (seq_mnist_cifar, "--no-permute", GRAY, 137_910),
    (seq_mnist_cifar, "--cifar --no-permute", COLOURS, 139_990),
], ids=["word PTB", "15 experts", "char PTB", "WT103", "permuted MNIST", "MNIST", "CIFAR-10"])
def test_parameters_of_the_published_models(script, flags, size, expected):
    assert count(build(script, flags, size).model) == expected


def test_the_split_softmax_adds_its_tails():
    loss = build(word_wt103, "", WT103)
    assert loss.criterion.splits == [2800, 20000, 76000]
    assert count(loss.criterion) == 3 * 512 + 3 == 1539
    assert build(word_wt103, "", 75_000).criterion.splits == []


@pytest.mark.parametrize(("script", "levels"), [
    (word_ptb, [12, 24, 36, 48]), (word_wt103, [25, 50, 75]), (char_ptb, [80])],
    ids=["word PTB", "WikiText-103", "char PTB"])
def test_auxiliary_outputs_of_the_published_models(script, levels):
    found = build(script, "", 100).model.tnet.aux_levels
    assert [level + 1 for level in found] == levels
