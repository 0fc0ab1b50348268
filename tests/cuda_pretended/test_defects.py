"""Defects that a first user of a GPU would have met, each as a small run on the pretended one."""

import textwrap

import pytest

# The weights after each of five updates; the gradient of the third is spoilt.
SPOILT = """
import torch
from lightning_fabric import Fabric
from common.asgd import ASGD
from awd_lstm.scratch.utils import ASGD as ScratchASGD
from harness.updates import Waiting

def run(make):
    torch.manual_seed(1)
    fabric = Fabric(accelerator="cuda", devices=1)
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)).to("cuda")
    optimizer, waiting, seen = make(net.parameters()), Waiting(fabric), []
    losses = []
    for step in range(5):
        optimizer.zero_grad()
        loss = net(torch.ones(2, 3, device="cuda")).square().mean()
        loss.backward()
        if step == 2:
            net[1].weight.grad[0, 1] = float("nan")
        waiting.check(net, loss, f"epoch 1, step {step}")
        waiting.add(losses.append, loss)
        waiting.step(optimizer)
        seen.append([p.detach().cpu().tolist() for p in net.parameters()])
    try:
        waiting.read()
        said = ""
    except FloatingPointError as error:
        said = str(error)
    return {"seen": seen, "said": said, "losses": losses}

value = {"sgd": run(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, fused=True)),
         "adamw": run(lambda p: torch.optim.AdamW(p, 0.1, fused=True)),
         "asgd": run(lambda p: ASGD(p, 0.1, weight_decay=0.1)),
         "scratch": run(lambda p: ScratchASGD(p, 0.1, 0.1))}
"""
UNMASKED = """
import torch
from lightning_fabric import Fabric
from harness.updates import Waiting
net = torch.nn.Linear(3, 1, device="cuda")
optimizer, waiting = torch.optim.Rprop(net.parameters()), Waiting(Fabric(accelerator="cuda"))
loss = net(torch.ones(2, 3, device="cuda")).square().mean() * float("nan")
loss.backward()
before = net.weight.detach().cpu()
waiting.check(net, loss, "epoch 1, step 0")
try:
    waiting.step(optimizer)
    value = "stepped"
except FloatingPointError as error:
    value = str(error) if torch.equal(net.weight.detach().cpu(), before) else "changed"
"""
DTYPES = """
import torch
from kernels.cudnn import GRU, LSTM
from kernels.lstm import lstm
version = torch.backends.cudnn.version
x = torch.ones(4, 2, 3, device="cuda")
h = torch.zeros(1, 2, 3, device="cuda")
cell = LSTM(3, 3).cuda()
for known in (91300, 91200):
    torch.backends.cudnn.version = lambda known=known: known
    with torch.autocast("cuda", dtype=torch.bfloat16):
        _, state = cell(x)
        assert state[0].dtype == torch.float32
        GRU(3, 3).cuda()(x)[0].sum().backward()
        lstm(x, (h, h), cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0)
torch.backends.cudnn.version = version
"""
TF32 = """
import torch
from argparse import Namespace
from harness import machine
value = {}
for tf32 in (None, True, False):
    args = Namespace(device="cuda", precision="32", deterministic=False, devices=1, seed=1,
                     tf32=tf32)
    fabric = machine.make_fabric(args)
    said = machine.set_tf32(fabric, args)
    value[str(tf32)] = [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
                        said, machine.rounding(fabric)]
"""
GATHERED = """
import torch
from lightning_fabric import Fabric
from harness import machine
found = machine.gather(Fabric(accelerator="cuda"), {"a": [torch.ones(2, device="cuda")]})
value = str(found[0]["a"][0].device)
"""
SPLIT = """
import torch
from common.splitcross import SplitCrossEntropyLoss
torch.manual_seed(2)
value = []
for device in ("cpu", "cuda"):
    torch.manual_seed(2)
    criterion = SplitCrossEntropyLoss(5, [4, 9]).to(device)
    weight, bias, hidden = (torch.randn(*s).to(device) for s in ((20, 5), (20,), (12, 5)))
    value.append(criterion(weight, bias, hidden, torch.arange(12).to(device)).item())
"""
TOGETHER = """
import torch
from tnn.network.tno import Tno
from tnn.network.together import encoders_together
torch.manual_seed(3)
units = [Tno(1, 6, 8, causal=True, use_decay=True, layers=4).to("cuda") for _ in range(4)]
def total():
    return sum(unit.kernel(9, 9).square().sum() for unit in units)
each = total()
with encoders_together(units, 9):
    assert all(unit.given is not None for unit in units)
    together = total()
together.backward()
value = [each.item(), together.item(), all(unit.given is None for unit in units),
         all(p.grad is not None for unit in units for p in unit.rpe.parameters())]
units = [Tno(1, 6, 8, causal=True, use_decay=True, layers=4).bfloat16().to("cuda")
         for _ in range(4)]
each_half = total()
with encoders_together(units, 9):
    assert all(unit.given.dtype == torch.float32 for unit in units)
    together_half = total()
together_half.backward()
value += [each_half.item(), together_half.item(), all(
    p.grad.dtype == torch.bfloat16 for unit in units for p in unit.rpe.parameters())]
"""
# Batches of two sizes, a batch norm, dropout, a plain value that changes.
GRAPHS = """
import torch
from torch import nn
from harness.endings import BadInput
from harness.graphs import Graphed

def run(on):
    torch.manual_seed(4); torch.cuda.manual_seed(4)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).cuda()
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    def backward(x, factor):
        loss = factor * net(x).square().mean()
        loss.backward()
        return loss.detach(), x.detach()
    graphed, losses = Graphed(backward, net, on, trains=True), []
    data = torch.randn(7, 5, 3).cuda()
    for i, (size, factor) in enumerate([(5, 1), (5, 1), (5, 1), (2, 1), (5, 1), (5, 2), (5, 2)]):
        optimizer.zero_grad()
        loss, seen = graphed(data[i, :size], factor)
        assert torch.equal(seen, data[i, :size])
        optimizer.step()
        losses.append(loss)
    kept = [loss.item() for loss in losses]     # read late: no replay has written over them
    state = [v.cpu() for v in net.state_dict().values()]
    return kept, state, torch.cuda.get_rng_state(), len(graphed._recordings)

(plain, state, random, none), (replayed, same, as_random, two) = run(False), run(True)
net = nn.Linear(1, 1).cuda()
asks = Graphed(lambda x: (net(x).item(),), net, True)
asks(torch.ones(1, 1).cuda())
try:
    asks(torch.ones(1, 1).cuda())
    said = ""
except BadInput as error:
    said = str(error)
value = [plain, replayed, all(map(torch.equal, state, same)), torch.equal(random, as_random),
         none, two, said]
"""
CODES = {"graphs": GRAPHS, "together": TOGETHER, "spoilt": SPOILT, "unmasked": UNMASKED,
         "dtypes": DTYPES, "tf32": TF32, "gathered": GATHERED, "split": SPLIT}


@pytest.fixture(scope="module")
def reports(run_jobs):
    found = run_jobs([{"code": textwrap.dedent(code)} for code in CODES.values()])
    reports = dict(zip(CODES, found, strict=True))
    for name, report in reports.items():
        assert report["error"] == "", name
        assert report["problems"] == {}, name
    return reports


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "asgd", "scratch"])
def test_no_update_from_a_gradient_that_is_not_finite(reports, optimizer):
    """The host hears of it two updates later; the weights are still those before it."""
    found = reports["spoilt"]["value"][optimizer]
    seen = found["seen"]
    assert seen[0] != seen[1]
    assert seen[2] == seen[1]
    assert seen[4] == seen[1]
    assert found["said"].startswith("the gradient of 1.weight is not finite at epoch 1, step 2;")
    assert len(found["losses"]) == 2   # of the updates before


def test_an_optimiser_that_knows_no_flag_waits(reports):
    assert reports["unmasked"]["value"].startswith("the loss is not finite at epoch 1, step 0;")


def test_recurrences_are_never_in_float16(reports):
    """bf16 from cuDNN 9.13 on, float32 before."""
    operations = reports["dtypes"]["operations"]
    assert {name: count for name, count in operations.items() if name.startswith("cudnn_l")
            or name.startswith("cudnn_g")} == {
        f"cudnn_{kind} torch.{dtype}": 2 if kind == "lstm" else 1
        for kind in ("lstm", "gru") for dtype in ("bfloat16", "float32")}
    assert reports["dtypes"]["warnings"] == {}


def test_tf32_is_on_unless_refused(reports):
    value = reports["tf32"]["value"]
    assert value["None"] == value["True"]
    assert value["None"][:2] == ["high", True]
    assert "TF32" in value["None"][2]
    assert value["None"][3] == {"tf32": True}
    assert value["False"] == ["highest", False, "", {"tf32": False}]


def test_what_is_gathered_is_on_the_cpu(reports):
    """CUDA tensors would open a context of every process on every GPU."""
    assert reports["gathered"]["value"] == "cpu"


def test_position_encoders_together(reports):
    each, together, forgotten, trained, *half = reports["together"]["value"]
    assert together == pytest.approx(each, rel=1e-5)
    assert half[1] == pytest.approx(half[0], rel=1e-5)   # weights in bfloat16, widened
    assert half[2]
    assert forgotten
    assert trained


def test_a_replay_is_what_it_stands_for(reports):
    plain, replayed, state, random, none, two, said = reports["graphs"]["value"]
    assert len(set(plain)) == 7
    assert replayed == plain
    assert state
    assert random
    assert (none, two) == (0, 2)   # not of the batch that is smaller
    assert reports["graphs"]["operations"]["graph replay"] == 4
    assert said.startswith("--cuda-graphs: this run cannot be recorded (operation not permitted")


def test_the_split_softmax_waits_once(reports):
    cpu, cuda = reports["split"]["value"]
    assert cuda == pytest.approx(cpu, rel=1e-6)
    waits = [sync for sync in reports["split"]["syncs"] if "common/splitcross.py" in sync]
    assert [wait.split(" at ")[0] for wait in waits] == ["host to device", "tolist"]
