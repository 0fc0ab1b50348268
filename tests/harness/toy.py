"""A training script as small as they come, kept by the harness: a line is fitted to random points,
with dropout, three epochs of five updates each. Every random stream takes part, so that resuming at
the wrong place shows."""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness import flags, keeper, machine
from harness.inputs import digest_of, load_in_turn
from harness.keeper import Keeper

UPDATES = 5  # of an epoch
ROWS = 8     # of a batch, over all processes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.parser("toy")
    p.add_argument("--save", default="m.pt")
    p.add_argument("--text", default=None, help="a file that counts as an input")
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--batch_size", type=int, default=ROWS)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--slack", type=float, default=0.0, help="a flag that an old state lacks")
    p.add_argument("--spoil", type=int, default=-1, help="update whose loss is nan")
    flags.add_run(p, "logs")
    flags.add_machine(p)
    flags.add_parallel(p)
    args = flags.parse(p, argv)
    flags.check(p, args)
    return args


@dataclass
class Progress(keeper.Progress):
    i: int = 0                      # updates in this epoch
    lowest: float | None = None     # loss of the best model


class Run:
    def __init__(self, args: argparse.Namespace, keeper: Keeper):
        self.args, self.fabric = args, keeper.fabric
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.net = self.fabric.setup_module(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), args.lr, momentum=0.9)
        self.progress = Progress()
        self.hidden = torch.zeros(machine.share(self.fabric, ROWS).stop, 3)
        self.order = np.random.RandomState(args.seed)
        self.inputs = {}
        if args.text:
            self.inputs[Path(args.text).name] = load_in_turn(
                self.fabric, lambda: digest_of(args.text), f"--text {args.text}")
        machine.own_stream(self.fabric, args.seed)

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def own(self) -> dict:
        return {"hidden": self.hidden, "order": machine.generator_state(self.order)}

    def restore(self, state: dict, own: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.hidden = own["hidden"]
        machine.set_generator_state(self.order, own["order"])


def one_update(run: Run, keeper: Keeper) -> None:
    factor = random.random() + np.random.rand() + run.order.rand()
    x = torch.randn(len(run.hidden), 3) * factor + run.hidden
    run.optimizer.zero_grad()
    loss = (run.net(x) - x.sum(1, keepdim=True)).pow(2).mean()
    if run.progress.step == run.args.spoil:
        loss = loss * float("nan")
    run.fabric.backward(loss)
    keeper.clip_gradients(run.model, loss, 1.0)
    run.optimizer.step()
    run.hidden = x.detach() / 9
    run.progress.step, run.progress.i = run.progress.step + 1, run.progress.i + 1
    keeper.log(train_loss=machine.mean(run.fabric, loss))


def evaluate(run: Run, keeper: Keeper) -> float:
    """Lowest after the second epoch."""
    keeper.stop_if_asked()
    with torch.no_grad():
        distance = (run.model[0].weight - 1).pow(2).sum()
        return keeper.check_finite((1 / distance).item())


def train(run: Run, keeper: Keeper) -> None:
    p = run.progress
    while p.epoch <= run.args.epochs and not keeper.out_of_steps():
        while p.i < UPDATES and not keeper.out_of_steps():
            one_update(run, keeper)
            keeper.after_update()
        if p.i < UPDATES:
            break
        loss = evaluate(run, keeper)
        keeper.log(valid_loss=loss)
        keeper.say(f"epoch {p.epoch} loss {loss!r}")
        if p.lowest is None or loss < p.lowest:
            p.lowest = loss
            keeper.save_best({"model": run.model.state_dict(), "epoch": p.epoch})
        p.epoch, p.i = p.epoch + 1, 0
        keeper.save()


def test(run: Run, keeper: Keeper) -> None:
    best = keeper.read_best()
    keeper.say(f"test {best['model']['0.weight'].sum().item()!r} of epoch {best['epoch']}")


def main(argv: list[str] | None = None, **how) -> Run:
    """how: arguments of Keeper."""
    args = parse_args(argv)
    how = {"text_log": lambda args: Path(f"{args.save}.txt")} | how
    with Keeper("tests/harness/toy.py", args, **how) as keeper:
        run = Run(args, keeper)
        keeper.resume(run, on_ctrl_c=lambda run: test(run, keeper))
        train(run, keeper)
        if keeper.best_suffix is not None:
            test(run, keeper)
        return run


if __name__ == "__main__":
    main()
