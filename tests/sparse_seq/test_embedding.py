"""SparseEmbedding: geometry, dropout, decoding, and the fast forms against the plain ones."""

import pytest
import torch
import torch.nn.functional as F

from sparse_seq import SimpleEmbedding, SparseEmbedding
from sparse_seq.embedding import reduction_factor, sparse_geometry


@pytest.mark.parametrize("blocks", [2, 5, 20])
@pytest.mark.parametrize("density", [0.5, 0.7, 1.0])
def test_geometry(blocks, density):
    starts, widths, reached = sparse_geometry(10_000, 100, density, blocks)
    assert sum(widths) == 100
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert reached == pytest.approx(density, abs=0.01)
    assert reached == sum(w * (10_000 - s) for s, w in zip(starts, widths, strict=True)) / 1e6


def test_published_facts():
    """Slides: density 0.2 of 43.8 k words, 20 blocks: a quarter has length 1, about 192 all 20."""
    starts, _, _ = sparse_geometry(43_800, 20, 0.2, 20)
    assert starts[1] / 43_800 == pytest.approx(0.249, abs=0.001)
    assert 1 - starts[9] / 43_800 == pytest.approx(0.076, abs=0.001)
    assert 43_800 - starts[19] == 191


def test_reduction_factor_is_a_root():
    for blocks, density in ((2, 0.6), (7, 0.3), (20, 0.9)):
        a = reduction_factor(density, blocks)
        assert sum(a**j for j in range(blocks)) / blocks == pytest.approx(density, abs=1e-5)


@pytest.mark.parametrize(("density", "blocks"), [(0.05, 10), (0.5, 1), (1.2, 4), (0, 3)])
def test_refused(density, blocks):
    with pytest.raises(ValueError, match="needs a density"):
        SparseEmbedding(100, 20, blocks, density)


CASES = [(40, 10, 1, 1.0), (40, 10, 4, 0.5), (25, 8, 8, 0.3), (30, 9, 3, 1.0), (127, 33, 7, 0.2),
         (9, 30, 30, 0.1)]


@pytest.mark.parametrize(("words", "size", "blocks", "density"), CASES)
def test_fast_is_plain(words, size, blocks, density):
    torch.manual_seed(0)
    layer = SparseEmbedding(words, size, blocks, density, has_decoder=True)
    torch.nn.init.normal_(layer.decoder_bias)
    ids, hidden = torch.randint(words, (6, 5)), torch.randn(11, size, requires_grad=True)
    results = []
    for lookup, decode in ((layer.lookup_plain, layer.decode_plain), (layer, layer.decode)):
        vectors, logits = lookup(ids), decode(hidden)
        loss = vectors.pow(2).sum() + logits.sin().sum()
        results.append([vectors, logits, *torch.autograd.grad(
            loss, [hidden, *layer.parameters()])])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)


def test_the_other_lookup():
    """max_norm and scale_grad_by_freq go block by block."""
    layer = SparseEmbedding(30, 8, 4, 0.5, max_norm=0.1)
    ids = torch.randint(30, (4, 3))
    vectors = layer(ids)
    assert vectors.shape == (4, 3, 8)
    for block in vectors.split(layer.block_widths, -1):
        assert (block.norm(dim=-1) < 0.1 + 1e-5).all()
    torch.testing.assert_close(vectors, layer.lookup_plain(ids))


def test_rare_words_are_short():
    layer = SparseEmbedding(100, 10, 10, 0.3)
    vectors = layer(torch.arange(100)[:, None])
    lengths = (vectors != 0).sum(-1).flatten()
    assert (lengths.diff() >= 0).all()
    assert lengths[0] == 1
    assert lengths.sum() == layer.n_trainable_params()
    assert sum(p.numel() for p in layer.parameters()) == layer.n_trainable_params()


def test_dropout():
    """A dropped word is dropped everywhere; an entry at all time steps; both scale up."""
    torch.manual_seed(1)
    layer = SparseEmbedding(50, 12, 3, 0.6, dropoute=0.5)
    for block in layer.embedders:
        torch.nn.init.ones_(block.weight)
    ids = torch.full((7, 9), 49)
    assert len(layer(ids).unique()) == 1  # all or nothing: one word
    layer = SparseEmbedding(50, 12, 3, 0.6, dropouti=0.5)
    vectors = layer(ids)
    assert (vectors == vectors[:1]).all()
    kept = vectors[0] != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(vectors[0][kept],
                               2 * layer.eval()(ids)[0][kept])


def test_options_of_one_block_and_simple():
    dense, simple = SparseEmbedding(20, 6, has_decoder=True), SimpleEmbedding(20, 6, True)
    assert dense.state_dict().keys() == {"embedders.0.weight", "decoder_bias"}
    assert simple.state_dict().keys() == {"embedder.weight", "decoder_bias"}
    simple.embedder.weight.data.copy_(dense.embedders[0].weight)
    ids = torch.randint(20, (3, 4))
    assert torch.equal(dense(ids), simple(ids))
    hidden = torch.randn(5, 6)
    assert torch.equal(dense.decode(hidden), simple.decode(hidden))
    assert torch.equal(dense(ids), F.embedding(ids, dense.full_weight()))
