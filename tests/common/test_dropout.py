"""The dropouts of activations and words: what is dropped together, and how much.

Notation: V words, E embedding size.
"""

import pytest
import torch
from torch import nn

from common.dropout import LockedDropout, dropout_mask, embedding_dropout, locked_dropout
from tests.common.chance import P, assert_draws_nothing, assert_rate

pytestmark = pytest.mark.usefixtures("seeded")


# ------------------------------------------------------------------------------------ the mask
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_mask_rate_and_scale(p):
    mask = dropout_mask(torch.empty(0), (200, 300), p)
    assert_rate(mask != 0, p)
    kept = mask[mask != 0]
    assert torch.equal(kept, torch.full_like(kept, 1) / (1 - p))


# ------------------------------------------------------------------------------- locked dropout
@pytest.mark.parametrize("time_dim", [0, 1, 2])
class TestLocked:
    def apply(self, time_dim, p=P, training=True):
        return locked_dropout(torch.ones(31, 37, 41), p, training, time_dim)

    def test_one_mask_for_all_time(self, time_dim):
        mask = self.apply(time_dim)
        assert torch.equal(mask, mask.narrow(time_dim, 0, 1).expand_as(mask))

    def test_different_along_the_other_dimensions(self, time_dim):
        mask = self.apply(time_dim).select(time_dim, 0)
        for dim in (0, 1):
            assert mask.unique(dim=dim).shape[dim] == mask.shape[dim]

    def test_rate(self, time_dim):
        assert_rate(self.apply(time_dim).select(time_dim, 0) != 0, P)

    def test_a_new_mask_each_call(self, time_dim):
        assert not torch.equal(self.apply(time_dim), self.apply(time_dim))

    @pytest.mark.parametrize(("p", "training"), [(0, True), (P, False)])
    def test_off(self, time_dim, p, training):
        x = torch.randn(3, 4, 5)
        assert locked_dropout(x, p, training, time_dim) is x
        assert_draws_nothing(lambda: self.apply(time_dim, p, training))


def test_locked_keeps_the_expectation():
    """The mean over many masks is the input: kept entries are scaled up."""
    x = torch.randn(1, 1, 5).expand(1, 40_000, 5)
    mean = locked_dropout(x, P).mean(1)
    sigma = x[:, 0].abs() * (P / (1 - P) / 40_000) ** 0.5
    assert ((mean - x[:, 0]).abs() < 5 * sigma).all()


def test_locked_module_is_the_function():
    x, module = torch.randn(4, 3, 7), LockedDropout()
    state = torch.get_rng_state()
    from_module = module(x, P)
    torch.set_rng_state(state)
    assert torch.equal(from_module, locked_dropout(x, P))
    assert module.eval()(x, P) is x


# ---------------------------------------------------------------------------- embedding dropout
@pytest.fixture
def embedding():
    return nn.Embedding(500, 6)


def test_a_dropped_word_is_dropped_everywhere(embedding):
    words = torch.randint(500, (20, 100))
    gone = (embedding_dropout(embedding, words, P) == 0).all(-1)
    assert 0 < gone.sum() < gone.numel()
    for word in words.unique():
        assert gone[words == word].unique().numel() == 1


def test_embedding_rate_counts_words(embedding):
    out = embedding_dropout(embedding, torch.arange(500), P)
    assert_rate((out != 0).all(-1), P)
    assert torch.equal((out != 0).any(-1), (out != 0).all(-1))  # a word goes whole or not at all


def test_embedding_equals_masking_the_matrix(embedding):
    """The original multiplies the whole (V, E) matrix; ours only the rows of the batch."""
    words = torch.randint(500, (7, 9))
    torch.manual_seed(3)
    ours = embedding_dropout(embedding, words, P)
    torch.manual_seed(3)
    masked = embedding.weight * dropout_mask(embedding.weight, (500, 1), P)
    theirs = nn.functional.embedding(words, masked)
    assert torch.equal(ours, theirs)
    upstream = torch.randn_like(ours)
    g_ours, = torch.autograd.grad(ours, embedding.weight, upstream)
    g_theirs, = torch.autograd.grad(theirs, embedding.weight, upstream)
    torch.testing.assert_close(g_ours, g_theirs, rtol=1e-6, atol=1e-6)


def test_embedding_gradient_only_for_kept_words_of_the_batch(embedding):
    words = torch.arange(0, 500, 3)
    out = embedding_dropout(embedding, words, P)
    out.sum().backward()
    expected = torch.zeros(500, dtype=torch.bool)
    expected[words[(out != 0).all(-1)]] = True
    assert torch.equal((embedding.weight.grad != 0).all(-1), expected)
    assert torch.equal((embedding.weight.grad != 0).any(-1), expected)


@pytest.mark.parametrize(("p", "training"), [(0, True), (P, False)])
def test_embedding_off(embedding, p, training):
    words = torch.randint(500, (5, 4))
    assert torch.equal(embedding_dropout(embedding, words, p, training), embedding(words))
    assert_draws_nothing(lambda: embedding_dropout(embedding, words, p, training))


def test_embedding_padding_row_gets_no_gradient(embedding):
    """The original's lookup took the last word for padding (S4)."""
    words = torch.tensor([3, 499])
    embedding_dropout(embedding, words, 0, padding_idx=499).sum().backward()
    assert embedding.weight.grad[3].all()
    assert not embedding.weight.grad[499].any()
