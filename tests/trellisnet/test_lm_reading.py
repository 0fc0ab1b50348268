"""How the language model reads a text (section 6 of the original's specification)."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.trellisnet.small_lm import RATES, N, loss_of, model, words
from trellisnet.lm import Reading, batchify, evaluate, reading, segments

PTB = {"train": 929_589, "valid": 73_760, "test": 82_430}  # tokens, <eos> included
DEFAULT = {"seq_len": 110, "horizon": 58, "repack": False}


def scored(rows, how):
    """Input rows whose outputs count, in order."""
    return [row for i, length in segments(rows, how) for row in range(i + how.start, i + length)]


@pytest.mark.parametrize(("split", "rows", "rows_scored", "tokens"), [
    ("valid", 6146, 6087, 73_044), ("test", 6869, 6810, 81_720)])
def test_penn_treebank_as_published(split, rows, rows_scored, tokens):
    """Word PTB's protocol: 12 columns, the first 58 outputs of a segment discarded."""
    how = reading(**DEFAULT)
    assert how == Reading(110, 52, 58, False)
    assert batchify(torch.zeros(PTB[split]), 12).shape == (rows, 12)
    assert len(scored(rows, how)) == rows_scored
    assert rows_scored * 12 == tokens


def test_steps_of_an_epoch_of_penn_treebank():
    how = reading(**DEFAULT, always_effective=True)
    assert len(list(segments(PTB["train"] // 16, how))) == 1117


@pytest.mark.parametrize("rows", [8, 9, 14, 15, 16, 50, 75, 164])
@pytest.mark.parametrize(("seq_len", "horizon"), [(14, 6), (7, 6), (20, 3)])
def test_every_row_behind_the_history_is_scored_once(rows, seq_len, horizon):
    how = reading(seq_len, horizon, repack=False)
    assert scored(rows, how) == list(range(horizon, rows - 1))
    assert all(i + length < rows for i, length in segments(rows, how))  # there are targets
    assert all(length > how.start for _, length in segments(rows, how))


@pytest.mark.parametrize("rows", [2, 6, 7, 8, 50])
def test_segments_of_horizon_score_every_row(rows):
    how = reading(0, 6, repack=True)
    assert how == Reading(6, 6, 0, True)
    assert scored(rows, how) == list(range(rows - 1))


@pytest.mark.parametrize(("seq_len", "repack", "evaluation", "training"), [
    (14, False, "E", "E"), (14, True, "R", "E"), (0, True, "R", "R"), (6, False, "R", "E"),
    (5, True, "R", "E")])
def test_which_mode(seq_len, repack, evaluation, training):
    """Word PTB trains in effective-history mode whenever seq_len is given, even with --repack."""
    modes = {"E": Reading(seq_len, seq_len - 6, 6, repack), "R": Reading(6, 6, 0, repack)}
    assert reading(seq_len, 6, repack) == modes[evaluation]
    assert reading(seq_len, 6, repack, always_effective=True) == modes[training]


def test_batchify_cuts_columns():
    """
    a b c d e f g h i j k, 3 columns:   a d g
                                        b e h
                                        c f i
    """
    assert batchify(torch.arange(11), 3).tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    with pytest.raises(ValueError, match="a text of 11 tokens is too short for 6 columns"):
        batchify(torch.arange(11), 6)


@pytest.mark.parametrize("how", [Reading(6, 6, 0, True), Reading(6, 6, 0, False),
                                 Reading(9, 3, 6, False)], ids=["carry", "zero", "effective"])
def test_evaluate(how):
    """The mean over all scored tokens, segment by segment, with the dropout off."""
    net, source, checks = model(**RATES), words(40), []
    loss = loss_of(net, aux=0.5, alpha=2).train()
    ours = evaluate(loss, source, how, lambda: checks.append(1))
    assert loss.training
    assert net.training
    loss.eval()
    hidden, costs = net.init_hidden(N), []
    for i, length in segments(40, how):
        out = net(source[i:i + length], hidden)
        logits = net.decode(out.dropped[how.start:]).flatten(0, 1)
        targets = source[i + 1 + how.start:i + 1 + length].flatten()
        costs.append(F.cross_entropy(logits, targets, reduction="none"))
        hidden = out.hidden if how.carry else hidden
    assert ours == pytest.approx(torch.cat(costs).mean().item(), abs=1e-12)
    assert len(checks) == len(costs)


def test_carrying_in_one_segment_or_several_is_the_same_only_with_a_deep_enough_history():
    """Effective history: with as many discarded rows as levels, the segments do not matter."""
    net, source = model(), words(60)
    deep = [evaluate(loss_of(net), source, Reading(start + n, n, start, False))
            for start in (4,) for n in (1, 5, 56)]
    assert deep[0] == pytest.approx(deep[1], abs=1e-12)
    assert deep[0] == pytest.approx(deep[2], abs=1e-12)


def test_nothing_to_score():
    assert math.isnan(evaluate(loss_of(model()), words(5), Reading(9, 3, 6, False)))
