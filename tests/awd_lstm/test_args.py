"""Flags that contradict each other."""

import pytest

from tests.awd_lstm.small import SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_graphs_want_lengths_that_repeat(script, capsys):
    parse = SCRIPTS[script].parse_args
    with pytest.raises(SystemExit) as stop:
        parse(["--cuda-graphs"])
    assert stop.value.code == 2
    assert "add --seq_len_multiple 10" in capsys.readouterr().err
    assert parse(["--cuda-graphs", "--seq_len_multiple", "10"]).cuda_graphs
    with pytest.raises(SystemExit):
        parse(["--seq_len_multiple", "0"])
    assert "--seq_len_multiple must be at least 1" in capsys.readouterr().err
