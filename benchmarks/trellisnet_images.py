"""A training step of the sequential-MNIST classifier against an LSTM with as many parameters.

    python benchmarks/trellisnet_images.py [--rounds 5] [--threads N] [--batch 64]

Both read 784 pixels one by one and classify what they have read at the last, with the published
optimiser, learning rate and clipping. ours: seq_mnist_cifar.py's model and dropouts. LSTM: one
layer of torch's nn.LSTM and a linear layer on its last output, no dropout. The steps take turns in
one process; medians. The peak memory of each is that of a process that does three of its steps.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peaks import describe, memory_alone, take_turns
from harness.memory import keep_freed_memory, keep_freed_memory_later
from trellisnet.seq_MNIST_CIFAR import model
from trellisnet.seq_MNIST_CIFAR.seq_mnist_cifar import parse_args

PIXELS, CLASSES = 784, 10


class Lstm(nn.Module):
    """Pixels (N,1,L) and labels (N,) -> mean negative log-likelihood."""

    def __init__(self, hidden: int):
        super().__init__()
        self.lstm, self.linear = nn.LSTM(1, hidden), nn.Linear(hidden, CLASSES)

    def forward(self, pixels, labels):
        output, _ = self.lstm(pixels.permute(2, 0, 1))
        return F.cross_entropy(self.linear(output[-1]), labels)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def as_large(parameters: int) -> Lstm:
    """The LSTM whose number of parameters comes closest."""
    widths = range(1, 1000)
    return Lstm(min(widths, key=lambda h: abs(4 * h * (h + 3) + CLASSES * (h + 1) - parameters)))


class Stepper:
    """A model's training step on random images."""

    def __init__(self, form: str, batch: int):
        torch.manual_seed(1)
        args = parse_args([])
        ours = model.build(args, channels=1)
        self.loss = ours if form == "ours" else as_large(size(ours))
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=args.lr, fused=True)
        self.clip = args.clip
        self.images = torch.randn(batch, 1, PIXELS), torch.randint(CLASSES, (batch,))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss(*self.images).backward()
        torch.nn.utils.clip_grad_norm_(self.loss.parameters(), self.clip)
        self.optimizer.step()


def three_steps(form: str, batch: int) -> None:
    if form == "ours":  # as the scripts do
        keep_freed_memory_later()
    stepper = Stepper(form, batch)
    for _ in range(3):
        stepper.step()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--batch", type=int, default=64)
    args = p.parse_args()
    peaks = {form: memory_alone(three_steps, form, args.batch) for form in ("ours", "LSTM")}
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    describe()
    forms = {form: Stepper(form, args.batch) for form in ("ours", "LSTM")}
    medians = take_turns(forms, args.rounds, args.threads)
    for form, stepper in forms.items():
        print(f"  {form:5} {size(stepper.loss):,} parameters  {medians[form]:.3f} s a step  "
              f"{args.batch / medians[form]:.1f} images/s  peak {peaks[form]:.0f} MiB")
    print(f"  ours at {medians['LSTM'] / medians['ours']:.2f} times the LSTM's rate")


if __name__ == "__main__":
    main()
