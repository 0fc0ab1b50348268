"""The split softmax against its definition, written out as one dense (N, V) matrix."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.splitcross import SplitCrossEntropyLoss, linear_cross_entropy, perplexity

H = 6


def naive_logprob(criterion, weight, bias, hiddens):
    """log p(w | h) for every word, from the module's docstring: (N, V).

    Tombstone k is column -k of the head, as in the original: the last row of tail_vectors is that
    of part 1.
    """
    V = len(weight)
    edges = [0, *[min(s, V) for s in criterion.splits], V]
    parts = [range(a, b) for a, b in pairwise(edges)]
    rows = []
    for h in hiddens:
        head = [weight[w] @ h + bias[w] for w in parts[0]]
        if len(parts) > 1:
            head += list(criterion.tail_vectors @ h + criterion.tail_bias)
        head = torch.stack(head)
        head = head - head.logsumexp(0)
        row = list(head[:len(parts[0])])
        for k, part in enumerate(parts[1:], start=1):
            if len(part):
                scores = torch.stack([weight[w] @ h + bias[w] for w in part])
                row += list(head[-k] + scores - scores.logsumexp(0))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def problem(V, splits, N, seed=0):
    """criterion, weight (V,H), bias (V), hiddens (N,H), targets (N), all in float64."""
    torch.manual_seed(seed)
    criterion = SplitCrossEntropyLoss(H, splits).double()
    for p in criterion.parameters():
        torch.nn.init.normal_(p)
    weight, bias, hiddens = (torch.randn(*shape, dtype=torch.float64, requires_grad=True)
                             for shape in ((V, H), (V,), (N, H)))
    return criterion, weight, bias, hiddens, torch.randint(V, (N,))


def assert_equals_naive(criterion, weight, bias, hiddens, targets):
    expected = naive_logprob(criterion, weight, bias, hiddens)
    logprob = criterion.logprob(weight, bias, hiddens)
    torch.testing.assert_close(logprob, expected, rtol=1e-12, atol=1e-12)
    loss = criterion(weight, bias, hiddens, targets)
    naive_loss = -expected.gather(1, targets[:, None]).mean()
    torch.testing.assert_close(loss, naive_loss, rtol=1e-12, atol=1e-12)
    inputs = [weight, bias, hiddens, *criterion.parameters()]
    ours = torch.autograd.grad(loss, inputs, allow_unused=True)
    theirs = torch.autograd.grad(naive_loss, inputs, allow_unused=True)
    for name, a, b, like in zip(
            ["weight", "bias", "hiddens", "tail_vectors", "tail_bias"], ours, theirs, inputs,
            strict=False):
        a, b = (torch.zeros_like(like) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@settings(max_examples=30, deadline=None)
@given(V=st.integers(1, 24), N=st.integers(1, 9), seed=st.integers(0, 1000),
       splits=st.lists(st.integers(0, 30), max_size=4, unique=True).map(sorted))
def test_equals_the_definition(V, N, seed, splits):
    assert_equals_naive(*problem(V, splits, N, seed))


CASES = {
    "no-splits": (9, [], range(9)),
    "one-split": (9, [4], range(9)),
    "four-parts": (12, [3, 6, 9], range(12)),
    "only-head-targets": (12, [3, 6, 9], [0, 1, 2, 2]),
    "no-head-targets": (12, [3, 6, 9], [3, 8, 11]),
    "only-last-part": (12, [3, 6, 9], [9, 10, 11]),
    "middle-part-unused": (12, [3, 6, 9], [0, 4, 10]),
    "boundary-words": (12, [3, 6, 9], [2, 3, 5, 6, 8, 9]),
    "one-row": (12, [3, 6, 9], [7]),
    "empty-head": (9, [0, 4], range(9)),
    "beyond-V": (9, [4, 9, 30], range(9)),
    "all-beyond-V": (5, [7, 8], range(5)),
    "one-word-parts": (5, [1, 2, 3, 4], range(5)),
}


@pytest.mark.parametrize("case", CASES)
def test_edge_cases(case):
    V, splits, targets = CASES[case]
    targets = torch.tensor(list(targets))
    criterion, weight, bias, hiddens, _ = problem(V, splits, len(targets))
    assert_equals_naive(criterion, weight, bias, hiddens, targets)


@pytest.mark.parametrize("case", CASES)
def test_rows_found_beforehand_give_the_same(case):
    V, splits, targets = CASES[case]
    targets = torch.tensor(list(targets))
    criterion, weight, bias, hiddens, _ = problem(V, splits, len(targets))
    rows = criterion.rows_of_parts(targets.view(-1, 1), "cpu") if splits else ()
    assert torch.equal(criterion(weight, bias, hiddens, targets, rows),
                       criterion(weight, bias, hiddens, targets))


@pytest.mark.parametrize("case", [c for c in CASES if "beyond" not in c])
def test_probabilities_sum_to_one(case):
    V, splits, _ = CASES[case]
    criterion, weight, bias, hiddens, _ = problem(V, splits, 8)
    total = criterion.logprob(weight, bias, hiddens).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_an_empty_last_part_keeps_its_share():
    """A split point beyond V leaves a tombstone without words: what it gets is lost, and with zero
    tail vectors that is one share among the head's V + 1."""
    criterion = SplitCrossEntropyLoss(H, [50])
    total = criterion.logprob(torch.zeros(9, H), torch.zeros(9), torch.randn(4, H)).exp().sum(1)
    torch.testing.assert_close(total, torch.full((4,), 9 / 10))


@pytest.mark.parametrize("V", [75_001, 75_999, 76_000, 76_001])
def test_a_vocabulary_about_the_last_split(V):
    """main.py cuts these at 2800, 20000, 76000: the last part has no word, or just one."""
    torch.manual_seed(0)
    splits = [2800, 20000, 76000]
    criterion = SplitCrossEntropyLoss(2, splits)
    for p in criterion.parameters():
        torch.nn.init.normal_(p)
    weight = torch.randn(V, 2, requires_grad=True)
    bias, hiddens = torch.randn(V), torch.randn(6, 2)
    targets = torch.tensor([0, 2799, 2800, 19_999, 20_000, V - 1])
    loss = criterion(weight, bias, hiddens, targets)
    loss.backward()
    assert weight.grad.isfinite().all()
    logprob = criterion.logprob(weight, bias, hiddens)
    assert logprob.shape == (6, V)
    torch.testing.assert_close(loss, -logprob.gather(1, targets[:, None]).mean())
    assert (logprob.exp().sum(1) < 1.0001).all()
    if V == 76_001:
        torch.testing.assert_close(logprob.exp().sum(1), torch.ones(6), rtol=1e-4, atol=0)


def test_parts_are_counted_not_or_ed():
    """Adding boolean masks saturates at one: the original put every rare word into part 1
    (15.1-5). With two parts that does not show, so four are needed."""
    criterion, *_ = problem(20, [5, 10, 15], 1)
    targets = torch.arange(20)
    by_part, hiddens = criterion.split_on_targets(targets[:, None].double(), targets)
    assert [t.tolist() for t in by_part] == [list(range(a, a + 5)) for a in (0, 5, 10, 15)]
    assert [h[:, 0].long().tolist() for h in hiddens] == [t.tolist() for t in by_part]


def test_tombstones_stand_in_reverse_order():
    """Part k uses row K-1-k of tail_vectors: an original's weights depend on it."""
    criterion, weight, bias, hiddens, _ = problem(12, [3, 6, 9], 4)
    with torch.no_grad():
        criterion.tail_bias[-1] += 50
    likely = criterion.logprob(weight, bias, hiddens).argmax(1)
    assert ((likely >= 3) & (likely < 6)).all()


def test_wanted_parts_and_a_given_head():
    criterion, weight, bias, hiddens, _ = problem(12, [3, 6, 9], 4)
    full = criterion.logprob(weight, bias, hiddens)
    head = torch.log_softmax(torch.cat(
        [hiddens @ weight[:3].T + bias[:3], hiddens @ criterion.tail_vectors.T
         + criterion.tail_bias], 1), 1)
    torch.testing.assert_close(criterion.logprob(weight, bias, hiddens, splits=[2, 0]),
                               torch.cat([full[:, 6:9], full[:, :3]], 1))
    torch.testing.assert_close(
        criterion.logprob(weight, bias, hiddens, softmaxed_head_res=head), full)


def test_three_dimensional_hiddens_are_flattened():
    criterion, weight, bias, hiddens, targets = problem(12, [3, 6], 8)
    assert torch.equal(criterion(weight, bias, hiddens, targets),
                       criterion(weight, bias, hiddens.view(2, 4, H), targets.view(2, 4)))


def test_linear_cross_entropy_is_a_sum():
    _, weight, bias, hiddens, targets = problem(9, [], 5)
    expected = -torch.log_softmax(hiddens @ weight.T + bias, 1).gather(1, targets[:, None]).sum()
    torch.testing.assert_close(linear_cross_entropy(hiddens, weight, bias, targets), expected)


def test_parameters():
    assert not list(SplitCrossEntropyLoss(H).parameters())
    criterion = SplitCrossEntropyLoss(H, [3, 6])
    assert {n: tuple(p.shape) for n, p in criterion.named_parameters()} == {
        "tail_vectors": (2, H), "tail_bias": (2,)}
    assert not any(p.any() for p in criterion.parameters())


def test_verbose_counts_rows(capsys):
    SplitCrossEntropyLoss(H, [3, 6], verbose=True)(
        torch.randn(9, H), torch.randn(9), torch.randn(4, H), torch.tensor([0, 7, 8, 1]))
    assert "[2, 0, 2]" in capsys.readouterr().out


@pytest.mark.parametrize("splits", [[5, 5], [6, 3], [-1, 4]], ids=str)
def test_bad_splits(splits):
    with pytest.raises(ValueError, match="increasing word ids"):
        SplitCrossEntropyLoss(H, splits)


@pytest.mark.parametrize("splits", [[], [300, 700], [0, 500]], ids=str)
@pytest.mark.parametrize(("N", "V"), [(1, 1000), (37, 1001), (700, 1003)])
def test_single_precision_on_many_rows(N, V, splits):
    """What training computes in: the loss and every gradient near those of double precision, also
    when the rows no longer fit one block."""
    double = problem(V, splits, N)
    single = [double[0].float(), *(t.detach().float().requires_grad_() for t in double[1:4])]
    double = [problem(V, splits, N)[0], *double[1:]]
    targets = double[-1]
    for scale in (1.0, 3.0):  # the upstream gradient counts
        results = []
        for criterion, weight, bias, hiddens in (single, double[:4]):
            loss = criterion(weight, bias, hiddens, targets)
            inputs = [weight, bias, hiddens, *criterion.parameters()]
            results.append([loss, *torch.autograd.grad(scale * loss, inputs)])
        for ours, true in zip(*results, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert single[0](*single[1:], targets) == results[0][0]


def test_perplexity():
    assert perplexity(0.0) == 1
    assert perplexity(4.5) == math.exp(4.5)
    assert perplexity(709.8) == perplexity(math.inf) == math.inf  # exp(709.8) is no float any more
    assert math.isnan(perplexity(math.nan))
