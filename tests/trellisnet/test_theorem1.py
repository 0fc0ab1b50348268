"""Theorem 1: any nn.LSTM, truncated, is a TrellisNet."""

import pytest
import torch
from torch import nn

from trellisnet.theorem1 import initial_hidden, main, trellisnet_of, truncated_lstm


@pytest.mark.parametrize("window", [1, 5, 12])
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_equal_outputs(window, layers, bias):
    torch.manual_seed(window + layers)
    lstm = nn.LSTM(6, 9, layers, bias=bias)
    for parameter in lstm.parameters():  # larger than the usual start: saturated gates too
        parameter.data *= 3
    x = torch.randn(17, 3, 6)
    with torch.no_grad():
        output, _, _ = trellisnet_of(lstm, window)(x)
        torch.testing.assert_close(output, truncated_lstm(lstm, x, window), atol=1e-5, rtol=0)


def test_exact_in_double_precision():
    torch.manual_seed(3)
    lstm = nn.LSTM(4, 7, 3).double()
    x = torch.randn(20, 2, 4, dtype=torch.float64)
    with torch.no_grad():
        output, _, _ = trellisnet_of(lstm, 8)(x)
        torch.testing.assert_close(output, truncated_lstm(lstm, x, 8), atol=1e-12, rtol=0)


@pytest.mark.parametrize("layers", [1, 3])
def test_initial_state(layers):
    """Within the window the given state counts; from window + layers - 1 on it is out of sight."""
    torch.manual_seed(layers)
    lstm = nn.LSTM(4, 7, layers)
    x, state = torch.randn(15, 2, 4), [torch.randn(layers, 2, 7) for _ in "hc"]
    with torch.no_grad():
        output, _, _ = trellisnet_of(lstm, 10)(x, initial_hidden(lstm, *state))
        torch.testing.assert_close(output[:10], lstm(x[:10], tuple(state))[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(output[9 + layers:], truncated_lstm(lstm, x, 10)[9 + layers:],
                                   atol=1e-5, rtol=0)


def test_a_longer_window_than_the_text_is_the_lstm_itself():
    torch.manual_seed(1)
    lstm = nn.LSTM(5, 8, 2)
    x = torch.randn(11, 2, 5)
    with torch.no_grad():
        torch.testing.assert_close(trellisnet_of(lstm, 11)(x)[0], lstm(x)[0], atol=1e-5, rtol=0)


def test_refuses_what_the_theorem_does_not_cover():
    def truncated(lstm, window):
        return truncated_lstm(lstm, torch.ones(2, 1, 3), window)
    for lstm in (nn.LSTM(3, 4, bidirectional=True), nn.LSTM(3, 4, proj_size=2),
                 nn.LSTM(3, 4, batch_first=True), nn.LSTM(3, 4, 2, dropout=0.5)):
        for refuses in (trellisnet_of, truncated):
            with pytest.raises(ValueError, match="one direction"):
                refuses(lstm, 5)
            with pytest.raises(ValueError, match="at least 1 step"):
                refuses(nn.LSTM(3, 4), 0)


def test_command(capsys):
    main(["--layers", "2", "--steps", "9", "--window", "4"])
    assert float(capsys.readouterr().out.split()[-1]) < 1e-5
