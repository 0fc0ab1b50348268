"""SparseLSTM: composition, and its equivalence to a dense LSTM with zeros."""

import copy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_seq import SparseLSTM
from sparse_seq.rnn import compose, dense_parameters, segments


@pytest.mark.parametrize(("total", "k", "density"), [(7, 2, 0.5), (100, 3, 0.55), (1725, 5, 0.3),
                                                    (9, 9, 1 / 9), (10, 4, 1.0)])
def test_segments_cover_evenly(total, k, density):
    found = segments(total, k, density)
    assert found[0][0] == 0
    assert found[-1][1] == total
    assert set().union(*(range(a, b) for a, b in found)) == set(range(total))
    sizes = [b - a for a, b in found]
    assert max(sizes) - min(sizes) <= 1
    assert abs(sizes[0] - total * density) <= 1


@pytest.mark.parametrize(("total", "k", "density"), [(10, 1, 0.5), (10, 3, 0.2), (10, 2, 1.1),
                                                    (2, 5, 0.2)])
def test_segments_refused(total, k, density):
    with pytest.raises(ValueError, match="blocks of density"):
        segments(total, k, density)


def test_states_are_a_partition_where_rounding_overlaps():
    """1/k is not exact: truncated begins can fall one short of the neighbour's end."""
    overlapping = [(h, k) for h in range(50, 400, 3) for k in range(2, 30)
                   if any(a[1] != b[0] for a, b in zip(segments(h, k, 1 / k),
                                                       segments(h, k, 1 / k)[1:], strict=False))]
    assert overlapping
    for h, k in overlapping:
        outputs = compose(1000, h, blocks=k, density=0.9).outputs
        assert [i for a, b in outputs for i in range(a, b)] == list(range(h))


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1, 0.5), (0.5, 1), (0.8, 0.3)])
def test_reduction_keeps_the_parameters(a, b):
    """Within rounding, as many as the dense layer of the reduced sizes."""
    found = compose(900, 1100, reduce_in=a, reduce_out=b)
    asked = dense_parameters(a * 900, b * 1100)
    assert found.parameters == pytest.approx(asked, rel=0.01) or (
        found.clamped and found.parameters < asked)
    assert found.density >= 1 / found.blocks


def test_clamped_warns():
    with pytest.warns(UserWarning, match="every block already reads the whole input"):
        layer = SparseLSTM(400, 1725, reduce_in=1, reduce_out=0.66666)
    assert layer.n_parameters() == 6_741_300
    assert "not the 7,139," in layer.info()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseLSTM(1725, 400, reduce_in=0.66666, reduce_out=1)


@pytest.mark.parametrize("settings", [{}, {"blocks": 3, "density": 0.2}, {"reduce_in": 0.5},
                                      {"reduce_in": 0.001, "reduce_out": 0.001}])
def test_no_composition(settings):
    with pytest.raises(ValueError, match="reduce_in"):
        SparseLSTM(30, 30, **settings)


def dense_twin(layer: SparseLSTM) -> nn.LSTM:
    """The dense LSTM with the layer's weights where they exist and zeros elsewhere."""
    size = layer.hidden_size
    twin = nn.LSTM(layer.input_size, size)
    for p in twin.parameters():
        nn.init.zeros_(p)
    for block, (i0, i1), (o0, o1) in zip(layer.LSTMs, layer.composition.inputs,
                                         layer.composition.outputs, strict=True):
        for gate in range(4):
            rows, own = slice(gate * size + o0, gate * size + o1), slice(gate * (o1 - o0),
                                                                         (gate + 1) * (o1 - o0))
            twin.weight_ih_l0.data[rows, i0:i1] = block.weight_ih_l0[own]
            twin.weight_hh_l0.data[rows, o0:o1] = block.weight_hh_l0[own]
            twin.bias_ih_l0.data[rows] = block.bias_ih_l0[own]
            twin.bias_hh_l0.data[rows] = block.bias_hh_l0[own]
    return twin


def test_is_a_dense_lstm_with_zeros():
    torch.manual_seed(0)
    layer = SparseLSTM(11, 13, blocks=3, density=0.6)
    x, state = torch.randn(6, 4, 11), (torch.randn(1, 4, 13), torch.randn(1, 4, 13))
    y, (h, c) = layer(x, state)
    y2, (h2, c2) = dense_twin(layer)(x, state)
    torch.testing.assert_close(y, y2, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat([h, c]), torch.cat([h2, c2]), atol=1e-6, rtol=0)


def test_weight_drop_is_functional():
    """The original raised at the first training step after an evaluation (spec, quirk 2)."""
    layer = SparseLSTM(8, 9, blocks=3, density=0.5, wdrop=0.5)
    names = set(layer.state_dict())
    x, state = torch.randn(3, 2, 8), (torch.zeros(1, 2, 9), torch.zeros(1, 2, 9))
    for training in (False, True, False, True):
        layer.train(training)(x, state)[0].sum().backward()
        assert set(layer.state_dict()) == names
    copy.deepcopy(layer)
    assert "LSTMs.2.module.weight_hh_l0_raw" in names
    twice = layer.state_dict() | {"LSTMs.1.module.weight_hh_l0": torch.zeros(12, 3)}
    layer.load_state_dict(twice)


def test_initial_weights_are_those_of_the_block_size():
    layer = SparseLSTM(40, 40, blocks=4, density=0.5)
    bound = 10 ** -0.5  # 1 / sqrt(h_c), h_c = 10
    largest = max(p.abs().max().item() for p in layer.parameters())
    assert 0.9 * bound < largest <= bound


def test_info():
    layer = SparseLSTM(1725, 1725, reduce_in=0.66666, reduce_out=0.66666)
    info = layer.info_dict()
    assert info["equiv_dense_lstm"] == {"ninp": 1150, "nhid": 1150, "params": "10.59M"}
    assert info["sizes_output"] == [575] * 3
    assert info["sparseness"] == pytest.approx(0.4446, abs=1e-4)
    assert layer.info().count("block ") == 3
    assert "blocks=3" in repr(layer)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_state_may_be_left_out(bidirectional):
    """As nn.LSTM's: then it starts from zeros, and gives the output and both states."""
    layer = SparseLSTM(9, 10, bidirectional, blocks=3, density=0.5)
    x, d = torch.randn(6, 4, 9), 1 + bidirectional
    y, (h, c) = layer(x)
    assert (y.shape, h.shape, c.shape) == ((6, 4, 10 * d), (d, 4, 10), (d, 4, 10))
    assert torch.equal(y, layer(x, (torch.zeros(d, 4, 10), torch.zeros(d, 4, 10)))[0])
    if not bidirectional:
        assert torch.equal(y[-1], h[0])
        first, state = layer(x[:2])  # states are passed on
        torch.testing.assert_close(torch.cat([first, layer(x[2:], state)[0]]), y)


@pytest.mark.parametrize(("option", "remedy"), [
    ({"batch_first": True}, r"batch_first=True: .*transpose"), ({"bias": False}, "bias=False: "),
    ({"num_layers": 2}, "stack several"), ({"proj_size": 3}, "nn.Linear")])
def test_options_of_lstm_refused(option, remedy):
    with pytest.raises(ValueError, match=remedy):
        SparseLSTM(9, 10, blocks=2, density=0.5, **option)
    SparseLSTM(9, 10, blocks=2, density=0.5, num_layers=1, bias=True, batch_first=False)
    with pytest.raises(TypeError, match="no argument 'biass'"):
        SparseLSTM(9, 10, blocks=2, density=0.5, biass=True)


def test_inputs_refused():
    """The message is of the layer's sizes, not of a block's."""
    layer = SparseLSTM(9, 10, blocks=2, density=0.5)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 2, 9), [3, 2])
    with pytest.raises(TypeError, match="not a PackedSequence: give pad_packed_sequence"):
        layer(packed)
    for shape in ((3, 2, 8), (3, 9)):
        with pytest.raises(ValueError, match=r"takes an input \(T, B, 9\)"):
            layer(torch.randn(shape))
    with pytest.raises(ValueError, match=r"takes states \(1, 2, 10\), got \(1, 2, 5\)"):
        layer(torch.randn(3, 2, 9), (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)))


def test_package_imports_torch_only_when_needed():
    code = ("import sys, sparse_seq; assert 'torch' not in sys.modules; "
            "from sparse_seq import SparseLSTM, SparseEmbedding; assert 'torch' in sys.modules")
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
