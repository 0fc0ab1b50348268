"""--cuda-graphs without a GPU: one line. What it does is tested on the pretended one."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from harness import flags
from harness.endings import BadInput
from harness.graphs import Graphed, check_recordable, wanted


def test_on_a_cpu_it_says_that_it_has_no_effect():
    said = []
    cpu = SimpleNamespace(device=torch.device("cpu"))
    assert not wanted(Namespace(cuda_graphs=True), cpu, said.append)
    assert said == ["--cuda-graphs: no effect without CUDA"]
    assert not wanted(Namespace(cuda_graphs=False), cpu, said.append)
    assert not wanted(Namespace(), cpu, said.append)
    assert len(said) == 1


def test_switched_off_it_is_the_function():
    net = torch.nn.Linear(2, 1)
    graphed = Graphed(lambda x, factor: (factor * net(x),), net, on=False)
    x = torch.ones(3, 2)
    for _ in range(3):
        assert torch.equal(graphed(x, 2)[0], 2 * net(x))


@pytest.mark.parametrize(("words", "says"), [
    (("--compile",), "--cuda-graphs and --compile: give one of them"),
    (("--devices", "2"), "--cuda-graphs is for one process, not 2: leave it out"),
    (("--accumulate", "3"), "--cuda-graphs records one batch an update, not --accumulate 3")])
def test_what_it_does_not_go_with(words, says, capsys):
    p = flags.parser("a script")
    flags.add_parallel(p)
    flags.add_graphs(p)
    p.add_argument("--accumulate", type=int, default=1)
    args = flags.parse(p, ["--cuda-graphs", *words])
    with pytest.raises(SystemExit) as stop:
        flags.check(p, args)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_a_split_softmax_is_refused():
    check_recordable([])
    with pytest.raises(BadInput, match=r"each part of the split softmax .* give --splits"):
        check_recordable([10, 20], "give --splits")
