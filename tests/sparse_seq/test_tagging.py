"""The tagger: data in its three layouts, packed order, the fast recurrence, training."""

import re

import numpy as np
import pytest
import torch

from sparse_seq.sequence_labeling import figure, utils
from sparse_seq.sequence_labeling.data import (
    TaggedCorpus,
    batches_in_order,
    make_batch,
    training_order,
)
from sparse_seq.sequence_labeling.model import Tagger, packed
from sparse_seq.vocabulary import order_words
from tests.sparse_seq.small import run_tagger, write_sentences


def test_orderings():
    words, counts = ["b", "a", "d", "c"], [2, 5, 2, 1]
    assert order_words(words, counts, "up") == ["c", "b", "d", "a"]
    assert order_words(words, counts, "down") == ["a", "b", "d", "c"]
    assert order_words(words, counts, "none") == words
    shuffled = order_words(words, counts, "rand")
    assert shuffled == order_words(words, counts, "rand") != words
    assert sorted(shuffled) == sorted(words)
    with pytest.raises(ValueError, match="no such ordering: 'sideways'"):
        order_words(words, counts, "sideways")


@pytest.mark.parametrize("layout", ["wsj", "conll2000", "ud", "en_ewt", "dev"])
def test_layouts(layout, tmp_path):
    text = "The\tDT\ncat\tNN\n\n" * 20 + "runs\tVB\n\n"
    if layout == "conll2000":
        for name in ("train", "test"):
            chunks = re.sub(r"\t(\w+)", r" \1 B-NP", text)
            (tmp_path / f"{name}.txt").write_text(chunks)
    else:
        splits = ("train", "valid" if layout == "wsj" else "dev", "test")
        pattern = {"wsj": "wsj_{}.conll", "ud": "en-ud-{}.ppos.tsv", "dev": "{}.conllu",
                   "en_ewt": "en_ewt-ud-{}.conllu"}[layout]
        for split in splits:
            (tmp_path / pattern.format(split)).write_text(text)
    corpus = TaggedCorpus(tmp_path)
    sizes = {split: len(part) for split, part in corpus.parts.items()}
    assert sizes == ({"train": 19, "valid": 2, "test": 21} if layout == "conll2000" else
                     {"train": 21, "valid": 21, "test": 21})
    assert corpus.tags == ["DT", "NN", "VB"]
    assert corpus.words[:3] == ["<pad>", "<unk>", "runs"]


def test_data_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train\.conll"):
        TaggedCorpus(tmp_path)
    write_sentences(tmp_path)
    (tmp_path / "tags.txt").write_text("T0\nT1\n")
    with pytest.raises(ValueError, match="'T2' is not in"):
        TaggedCorpus(tmp_path)
    (tmp_path / "valid.conll").write_text("\n\n")
    with pytest.raises(ValueError, match=r"the valid file .*valid\.conll holds no sentence"):
        TaggedCorpus(tmp_path)
    (tmp_path / "test.conll").unlink()
    with pytest.raises(FileNotFoundError, match=r"no test\.conll in"):
        TaggedCorpus(tmp_path)
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("a A\n\nb B\n")
    (tmp_path / "train.conll").unlink()
    (tmp_path / "tags.txt").unlink()
    with pytest.raises(ValueError, match="fewer than ten sentences"):
        TaggedCorpus(tmp_path)


def test_two_treebanks_in_a_folder_refused(tmp_path):
    for treebank in ("en_ewt", "de_gsd"):
        for split in ("train", "dev", "test"):
            (tmp_path / f"{treebank}-ud-{split}.conllu").write_text("a\tA\n")
    with pytest.raises(ValueError, match=r"several files \*-ud-train\.conllu"):
        TaggedCorpus(tmp_path)


def test_unknown_words(tmp_path):
    write_sentences(tmp_path)
    (tmp_path / "valid.conll").write_text("never\tT0\nt1\tT1\n\n")
    corpus = TaggedCorpus(tmp_path)
    words, _ = corpus.parts["valid"][0]
    assert [corpus.words[i] for i in words] == ["<unk>", "t1"]


def test_batches_fall_in_length_and_cover(tmp_path):
    corpus = TaggedCorpus(write_sentences(tmp_path))
    train = corpus.parts["train"]
    order = training_order(train, 7, np.random.RandomState(1234))
    assert order.shape == (5, 7)
    assert len(np.unique(order)) == 35
    batch = make_batch([train[i] for i in order[0]])
    assert (batch.lengths.diff() <= 0).all()
    assert batch.words.shape == batch.tags.shape == (batch.lengths[0], 7)
    tokens = sum(int(b.lengths.sum()) for b in batches_in_order(corpus.parts["valid"], 4))
    assert tokens == sum(len(w) for w, _ in corpus.parts["valid"])


@pytest.mark.parametrize(("layers", "wdrop"), [(1, 0), (2, 0), (1, 0.5), (2, 0.5)])
def test_fast_recurrence_is_the_packed_one(layers, wdrop):
    torch.manual_seed(0)
    model = Tagger(30, 6, 5, 4, layers, emb_blocks=3, emb_density=0.5, wdrop=wdrop)
    lengths = torch.tensor([7, 7, 4, 1])
    x = torch.randn(7, 4, 6, requires_grad=True)
    results = []
    for form in (model.recurrent_plain, model._recurrent):
        torch.manual_seed(1)  # the mask
        y = form(x, lengths)
        grads = torch.autograd.grad(y.sin().sum(), [x, *model.lstm.parameters()])
        results.append([y, *grads])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-5)


def test_packed_is_pytorchs_order():
    lengths = torch.tensor([4, 2, 2])
    tags = torch.arange(12).view(4, 3)
    expected = torch.nn.utils.rnn.pack_padded_sequence(tags, lengths).data
    assert torch.equal(packed(tags, lengths), expected)


def test_padding_does_not_matter():
    """A sentence's scores are the same alone and beside a longer one."""
    model = Tagger(30, 6, 5, 4).eval()
    words = torch.randint(30, (6, 2))
    words[3:, 1] = 0
    together = model(words, torch.tensor([6, 3]))
    alone = model(words[:3, 1:], torch.tensor([3]))
    beside = together[[1, 3, 5]]
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=0)


def test_learns_and_saves(tmp_path):
    write_sentences(tmp_path / "tagged", train=200)
    run = run_tagger(tmp_path, "--epochs", "12")
    said = (tmp_path / "run" / "log.txt").read_text()
    assert "Epoch 12: train loss " in said
    assert "Finished: test accuracy after last epoch: " in said
    assert utils.accuracy(run.model, run.corpus.parts["valid"], 4) > 0.8
    # the scalar is the test's (the original logged the validation accuracy there)
    metrics = (tmp_path / "logs" / "run" / "metrics.csv").read_text().splitlines()
    last = said.split("after last epoch: ")[1].split()[0]
    assert metrics[-1].split(",")[2:] == ["test_acc", repr(float(last))]


def test_cut_short_inside_an_epoch_it_says_so(tmp_path):
    write_sentences(tmp_path / "tagged")
    run_tagger(tmp_path, "--max-steps", "3")
    assert "Finished: test accuracy after 3 updates of epoch 1: " in (
        tmp_path / "run" / "log.txt").read_text()
    metrics = (tmp_path / "logs" / "run" / "metrics.csv").read_text().splitlines()
    assert metrics[-1].split(",")[:3] == ["3", "1", "test_acc"]


def test_tags_that_cannot_be_learnt_are_named(tmp_path):
    folder = write_sentences(tmp_path / "tagged")
    with (folder / "test.conll").open("a") as file:
        file.write("t1\tNEVER\n\n")
    run_tagger(tmp_path, "--max-steps", "1")
    said = (tmp_path / "run" / "log.txt").read_text()
    assert f"{folder / 'test.conll'} has tags that" in said
    assert "cannot be learnt: NEVER" in said


@pytest.mark.parametrize("order", ["none", "rand", "down"])
def test_every_order_works(order, tmp_path):
    """`none` crashed in the original."""
    write_sentences(tmp_path / "tagged")
    assert run_tagger(tmp_path, "--epochs", "1", "--vocab_order", order).progress.epoch == 2


def test_grid_is_the_published_commands():
    points = figure.grid([2, 5, 20], 3, 1)
    assert points[:3] == [("dense", 5, 1), ("sparse", 5, 1), ("down", 5, 1)]
    assert len(points) == 9 + 3 + 1
    words = figure.command("sparse", 5, 1)
    assert " ".join(words[1:7]) == "--emsize 20 --emb_density 0.25 --emb_blocks 20"
    assert "--vocab_order" in figure.command("down", 5, 1)


def test_figure_draws(tmp_path):
    points = {"dense": {2: [90.0, 91.0], 5: [92.0]}, "sparse": {2: [93.0]}, "down": {}}
    figure.draw(points, 1000, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "90.50 +- 0.71 (2)" in figure.table(points)
