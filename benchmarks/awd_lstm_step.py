"""Full-size training and evaluation steps of the PTB models: ours against the plain form.

    python benchmarks/awd_lstm_step.py [--model LSTM|QRNN] [--repeats 5] [--threads N]

The plain form is the same model with nn.LSTM (QRNN: a Python loop over time), the weight mask
drawn and multiplied over the whole matrix, the embedding masked as a whole, F.cross_entropy, and
PyTorch's default SGD. Both run in one process, step by step in turn, from the same weights and the
same random stream; the losses are printed so that one sees that they are the same numbers. Where
there are bfloat16 instructions, ours under bfloat16 autocast goes along.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import nn

from awd_lstm.model import RNNModel
from awd_lstm.qrnn import QRNNLayer
from awd_lstm.training import TrainingLoss
from awd_lstm.utils import repackage_hidden
from benchmarks.peaks import best, describe
from common.dropout import WeightDrop, locked_dropout
from common.splitcross import SplitCrossEntropyLoss
from harness.memory import keep_freed_memory
from kernels.forget_mult import forget_mult_plain

VOCABULARY, T, B = 10_000, 70, 20
SETTINGS = {  # the published PTB commands
    "LSTM": dict(ninp=400, nhid=1150, nlayers=3, dropout=0.4, dropouth=0.25, dropouti=0.4,
                 dropoute=0.1, wdrop=0.5),
    "QRNN": dict(ninp=400, nhid=1550, nlayers=4, dropout=0.4, dropouth=0.3, dropouti=0.4,
                 dropoute=0.1, wdrop=0.1),
}


class PlainQRNNLayer(QRNNLayer):
    """The equations with one small operation each."""

    def forward(self, x, hidden=None):
        source = x
        if self.window == 2:
            before = torch.zeros_like(x[:1]) if self.prevX is None else self.prevX
            source = torch.cat([x, torch.cat([before.view_as(x[:1]), x[:-1]])], dim=2)
        z, f, o = self.linear(source).chunk(3, dim=2)
        c = forget_mult_plain(f.sigmoid(), z.tanh(), hidden)
        if self.window == 2:
            self.prevX = x[-1:].detach()
        return o.sigmoid() * c, c[-1:]


class PlainWeightDrop(WeightDrop):
    def _dropped(self, raw):
        return F.dropout(raw, self.dropout, self.training).view_as(raw)


class PlainModel(RNNModel):
    """RNNModel with PyTorch's own layers and whole-matrix masks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, WeightDrop):
                module.__class__ = PlainWeightDrop
            elif isinstance(module, nn.LSTM):
                module.__class__ = nn.LSTM
            elif isinstance(module, QRNNLayer):
                module.__class__ = PlainQRNNLayer

    def forward(self, words, hidden, return_h=False):
        weight = self.encoder.weight
        if self.training:
            mask = weight.new_empty(len(weight), 1).bernoulli_(1 - self.dropoute)
            weight = mask.expand_as(weight) / (1 - self.dropoute) * weight
        x = locked_dropout(F.embedding(words, weight), self.dropouti, self.training)
        new_hidden, raw_outputs, outputs = [], [], []
        for i, rnn in enumerate(self.rnns):
            raw, h = rnn(x, hidden[i])
            rate = self.dropout if i == self.nlayers - 1 else self.dropouth
            x = locked_dropout(raw, rate, self.training)
            new_hidden.append(h)
            raw_outputs.append(raw)
            outputs.append(x)
        return x.reshape(-1, x.shape[-1]), new_hidden, raw_outputs, outputs


class PlainLoss(nn.Module):
    def forward(self, weight, bias, hiddens, targets, rows_of_parts=()):
        return F.cross_entropy(F.linear(hiddens, weight, bias), targets)


class Stepper:
    """One of the forms: a model, its loss and its optimiser."""

    def __init__(self, name, kind, device):
        plain = name == "plain"
        torch.manual_seed(1)
        model = (PlainModel if plain else RNNModel)(kind, VOCABULARY, **SETTINGS[kind],
                                                    tie_weights=True).to(device)
        self.name, self.model, self.device = name, model, device
        self.arithmetic = "bfloat16" if name == "bf16" else "float32"
        self.criterion = PlainLoss() if plain else SplitCrossEntropyLoss(SETTINGS[kind]["ninp"])
        self.loss = TrainingLoss(model, self.criterion, alpha=2, beta=1)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=30, weight_decay=1.2e-6,
                                         fused=None if plain else True)
        self.hidden = model.init_hidden(B)
        self.rng = torch.get_rng_state()
        self.seconds = {"train": [], "eval": []}

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16,
                              enabled=self.arithmetic == "bfloat16")

    def train(self, data, targets):
        """One update; returns the loss."""
        self.model.train()
        torch.set_rng_state(self.rng)
        start = time.perf_counter()
        self.optimizer.zero_grad()
        with self.autocast():
            loss, raw_loss, hidden = self.loss(data, targets, self.hidden)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()
        self.hidden = repackage_hidden(hidden)
        value = raw_loss.item()
        self.seconds["train"].append(time.perf_counter() - start)
        self.rng = torch.get_rng_state()
        return value

    @torch.no_grad()
    def evaluate(self, data, targets):
        self.model.eval()
        start = time.perf_counter()
        with self.autocast():
            output, _, _, _ = self.model(data, self.hidden, return_h=True)
            decoder = self.model.decoder
            self.criterion(decoder.weight, decoder.bias, output, targets).item()
        self.seconds["eval"].append(time.perf_counter() - start)


def step_flops(kind: str) -> float:
    """Matrix products of one training step (three for each product of the forward pass)."""
    s = SETTINGS[kind]
    sizes = [s["nhid"]] * (s["nlayers"] - 1) + [s["ninp"]]
    inputs = [s["ninp"], *sizes[:-1]]
    if kind == "LSTM":
        weights = sum(4 * h * (i + h) for i, h in zip(inputs, sizes, strict=True))
    else:
        inputs[0] *= 2
        weights = sum(3 * h * i for i, h in zip(inputs, sizes, strict=True))
    return 3 * 2 * T * B * (weights + VOCABULARY * s["ninp"])


def median(values):
    return sorted(values)[len(values) // 2]


def compare(kind: str, repeats: int, device: torch.device, found: dict[str, float]) -> None:
    """found: the machine's peaks."""
    names = ["plain", "ours"] + ["bf16"] * (best(found, "bfloat16") > 0)
    steppers = [Stepper(name, kind, device) for name in names]
    words = torch.randint(VOCABULARY, (repeats + 1, T + 1, B),
                          generator=torch.Generator().manual_seed(2)).to(device)
    for step, block in enumerate(words):
        data, targets = block[:-1], block[1:].reshape(-1)
        losses = [s.train(data, targets) for s in steppers]
        print(f"  step {step}: loss " + " ".join(
            f"{name} {loss:.6f}" for name, loss in zip(names, losses, strict=True)), flush=True)
        for s in steppers:
            s.evaluate(data, targets)
    flops = step_flops(kind)
    print(f"{kind}: {sum(p.numel() for p in steppers[1].model.parameters()):,} parameters, "
          f"{flops / 1e9:.0f} GFLOP a training step")
    time_of = {}
    for s in steppers:
        for what in ("train", "eval"):
            time_of[s.name, what] = median(s.seconds[what][1:])
        train, peak = time_of[s.name, "train"], best(found, s.arithmetic)
        print(f"  {s.name:5}  train {T * B / train:7.0f} tokens/s ({train:.3f} s a step, "
              f"{flops / train / peak:4.0%} of the best product's rate)  "
              f"eval {T * B / time_of[s.name, 'eval']:7.0f} tokens/s")
    print(f"  ratio  train {time_of['plain', 'train'] / time_of['ours', 'train']:.2f}x  "
          f"eval {time_of['plain', 'eval'] / time_of['ours', 'eval']:.2f}x")
    if "bf16" in names:
        print(f"  ratio  train {time_of['ours', 'train'] / time_of['bf16', 'train']:.2f}x  "
              f"eval {time_of['ours', 'eval'] / time_of['bf16', 'eval']:.2f}x  (bf16 to float32)")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", choices=tuple(SETTINGS), default=None, help="default: both")
    p.add_argument("--repeats", type=int, default=5, help="timed steps (median is shown)")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()  # as training does; for both forms
    torch.set_flush_denormal(True)
    found = describe(args.device)
    print(f"batch {B} x {T}, vocabulary {VOCABULARY}")
    for kind in [args.model] if args.model else SETTINGS:
        compare(kind, args.repeats, torch.device(args.device), found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory of the process: {peak >> 10} MiB")


if __name__ == "__main__":
    main()
