"""The continuous cache against its definition, one token at a time."""

import argparse
import math

import pytest
import torch

from awd_lstm import pointer
from awd_lstm.model import RNNModel
from awd_lstm.pointer import Cache, evaluate, vocabulary_probability
from awd_lstm.utils import batchify
from common.splitcross import SplitCrossEntropyLoss

V, H = 7, 5


def text(T, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(T, H, generator=generator, dtype=torch.float64),
            torch.randint(V, (T,), generator=generator))


def naive(states, words, chunks, window, theta, exact):
    """p(words[g]) from the cache at each position g, None where there is no cache.

    The original keeps the last `window` states of earlier chunks and, at index idx of a chunk,
    looks only if (kept + idx) > window; exact looks at whatever there is.
    """
    result, begin = [], 0
    for length in chunks:
        kept = min(window, begin)
        for idx in range(length):
            g = begin + idx
            active = g > 0 if exact else kept + idx > window
            if not active:
                result.append(None)
                continue
            past = range(max(0, g - window), g)
            weights = [math.exp(theta * float(states[j] @ states[g])) for j in past]
            right = sum(w for j, w in zip(past, weights, strict=True) if words[j] == words[g])
            result.append(right / sum(weights))
        begin += length
    return result


def ours(states, words, chunks, window, theta, exact):
    cache, result = Cache(window, theta, exact), []
    for h, w in zip(states.split(chunks), words.split(chunks), strict=True):
        probability, active = cache(h, w)
        result += [float(p) if a else None for p, a in zip(probability, active, strict=True)]
        assert not probability[~active].any()
        assert len(cache.states) == len(cache.words) <= window
    return result


CHUNKS = {"one": [40], "equal": [10] * 4, "last-of-one": [13, 13, 13, 1], "ones": [1] * 40,
          "uneven": [1, 20, 3, 16]}
every_case = pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
every_window = pytest.mark.parametrize("window", [1, 3, 12, 39, 40, 100])
parity_or_exact = pytest.mark.parametrize("exact", [False, True], ids=["parity", "exact"])


def assert_same(a, b):
    assert [p is None for p in a] == [p is None for p in b]
    numbers = [[p for p in x if p is not None] for x in (a, b)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-10, abs=1e-14)


@every_case
@every_window
@parity_or_exact
def test_equals_the_definition(chunks, window, exact):
    case = (*text(40), chunks, window, 0.7, exact)
    assert_same(ours(*case), naive(*case))


@parity_or_exact
@every_window
@pytest.mark.parametrize("block", [1, 3, 8, 64])
def test_block_size_does_not_matter(monkeypatch, block, window, exact):
    """Positions are scored BLOCK at a time; its edges must not show."""
    monkeypatch.setattr(pointer, "BLOCK", block)
    case = (*text(40), [25, 15], window, 0.7, exact)
    assert_same(ours(*case), naive(*case))


def test_parity_mode_has_the_originals_gaps():
    """Nothing for the first window+1 predictions, nothing at the start of each later chunk."""
    window = 4
    active = [p is not None for p in ours(*text(20), [10, 10], window, 1.0, False)]
    assert active == [False] * 5 + [True] * 5 + [False] + [True] * 9


def test_exact_mode_does_not_depend_on_the_chunks():
    results = [ours(*text(40), chunks, 6, 1.0, True) for chunks in CHUNKS.values()]
    for result in results[1:]:
        assert_same(result, results[0])


def test_only_the_past_counts():
    """Changing a later word or state changes no earlier probability."""
    states, words = text(30)
    before = ours(states, words, [30], 8, 1.0, True)
    states[20:] *= -2
    words[20:] = (words[20:] + 1) % V
    after = ours(states, words, [30], 8, 1.0, True)
    assert_same(after[:20], before[:20])
    assert after[20:] != before[20:]


def test_probabilities_of_all_words_sum_to_one():
    states, words = text(12)
    total = 0
    for word in range(V):
        words[-1] = word
        total += ours(states, words, [12], 5, 1.3, True)[-1]
    assert total == pytest.approx(1)


def test_large_scores_do_not_overflow():
    states, words = text(12)
    assert all(p is None or 0 <= p <= 1 for p in ours(states * 100, words, [12], 5, 3.0, True))


# -------------------------------------------------------------------------------------- the mixture
def settings(**changes):
    return argparse.Namespace(**{"bptt": 9, "window": 6, "theta": 0.8, "lambdasm": 0.3,
                                 "exact_cache": False, "exact_loss": False} | changes)


def problem(kind="LSTM", splits=(), rows=32):
    torch.manual_seed(0)
    model = RNNModel(kind, V, H, 8, 2, 0.5, 0.5, 0.5, 0.5, 0.5, tie_weights=True).double()
    criterion = SplitCrossEntropyLoss(H, splits).double()
    for p in criterion.parameters():
        torch.nn.init.normal_(p)
    return model, criterion, batchify(torch.randint(V, (rows,)).numpy(), 1)


def naive_loss(model, criterion, source, args):
    ids = source[:, 0].long()
    T = len(ids) - 1
    model.eval()
    model.reset()
    with torch.no_grad():
        _, _, raw, _ = model(source[:-1].long(), model.init_hidden(1), return_h=True)
        p_vocab = criterion.logprob(model.decoder.weight, model.decoder.bias, raw[-1][:, 0]).exp()
    chunks = [min(args.bptt, T - i) for i in range(0, T, args.bptt)]
    cache = naive(raw[-1][:, 0], ids[1:], chunks, args.window, args.theta, args.exact_cache)
    total = 0
    for g, p_cache in enumerate(cache):
        p = float(p_vocab[g, ids[g + 1]])
        if p_cache is not None:
            p = args.lambdasm * p_cache + (1 - args.lambdasm) * p
        total -= math.log(p)
    return total / (T if args.exact_loss else T + 1)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("splits", [(), (3, 5)], ids=["plain", "splits"])
@pytest.mark.parametrize("changes", [
    {}, {"bptt": 30}, {"bptt": 31}, {"bptt": 100}, {"bptt": 1}, {"window": 1}, {"window": 50},
    {"exact_cache": True}, {"exact_loss": True}, {"lambdasm": 0.0}, {"theta": 0.0},
], ids=str)
def test_evaluate_equals_the_definition(kind, splits, changes):
    """bptt 30 leaves a last chunk of one token, where the original crashed."""
    case = problem(kind, splits)
    args = settings(**changes)
    assert evaluate(*case, args) == pytest.approx(naive_loss(*case, args), rel=1e-9)


def test_a_short_text_never_uses_the_cache():
    case = problem()
    assert evaluate(*case, settings(window=50)) == evaluate(*case, settings(lambdasm=0.0))


def test_the_cache_alone_may_give_probability_zero():
    assert evaluate(*problem(), settings(lambdasm=1.0, window=1)) == math.inf


def test_vocabulary_probability_in_blocks(monkeypatch):
    model, criterion, _ = problem(splits=(3, 5))
    states, words = text(20)
    whole = vocabulary_probability(model, criterion, states, words)
    monkeypatch.setattr(pointer, "BLOCK", 3)
    torch.testing.assert_close(vocabulary_probability(model, criterion, states, words), whole)


def test_progress_lines(capsys):
    """As the original: position, length, perplexity so far; none for the first chunk."""
    evaluate(*problem(), settings(bptt=10))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["10", "32"], ["20", "32"], ["30", "32"]]
    assert all(1 < float(line[2]) < 2 * V for line in lines)


@pytest.mark.parametrize("flags", [["--bptt", "0"], ["--window", "0"], ["--lambdasm", "1.1"],
                                   ["--lambdasm", "-0.1"]], ids=" ".join)
def test_refuses_nonsense(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        pointer.parse_args(flags)
    assert stop.value.code == 2
    assert flags[0] in capsys.readouterr().err
