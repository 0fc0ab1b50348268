"""Every published configuration has the number of parameters that the original has. Counted on
the meta device: shapes alone, no memory."""

import pytest
import torch

from tests.trellisnet.small import script

PTB, CHARACTERS, WT103 = 10_000, 50, 267_735  # sizes of the vocabularies
GRAY, COLOURS = 1, 3


def build(name, flags, size):
    """The model that a command line makes, and its loss."""
    main = script(name)
    with torch.device("meta"):
        return main.model.build(main.parse_args(flags.split()), size)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "flags", "size", "expected"), [
    ("word", "", PTB, 24_175_600),
    ("word", "--n_experts 15", PTB, 26_587_615),
    ("char", "", CHARACTERS, 14_525_050),
    ("wt", "", WT103, 181_708_503),
    ("seq", "", GRAY, 137_910),
    ("seq", "--no-permute", GRAY, 137_910),
    ("seq", "--cifar --no-permute", COLOURS, 139_990),
], ids=["word PTB", "15 experts", "char PTB", "WT103", "permuted MNIST", "MNIST", "CIFAR-10"])
def test_parameters_of_the_published_models(name, flags, size, expected):
    assert count(build(name, flags, size).model) == expected


def test_the_split_softmax_adds_its_tails():
    loss = build("wt", "", WT103)
    assert loss.criterion.splits == [2800, 20000, 76000]
    assert count(loss.criterion) == 3 * 512 + 3 == 1539
    assert build("wt", "", 75_000).criterion.splits == []


@pytest.mark.parametrize(("name", "levels"), [
    ("word", [12, 24, 36, 48]), ("wt", [25, 50, 75]), ("char", [80])],
    ids=["word PTB", "WikiText-103", "char PTB"])
def test_auxiliary_outputs_of_the_published_models(name, levels):
    found = build(name, "", 100).model.tnet.aux_levels
    assert [level + 1 for level in found] == levels
