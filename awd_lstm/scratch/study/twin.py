"""main.py with the initial weights and the dropout masks of awd_lstm/main.py at the same --seed.

    python awd_lstm/scratch/study/twin.py --seed 1 ...     (ablation.py parity runs it)

Two runs of different programs differ by chance, in the first epochs by some percent; this takes
the chance away, so that what is left of a difference would be one in the mathematics. Two things
need care: the gates of torch.nn.LSTM are in another order, so the rows of the weight masks change
places; and an epoch's last chunk, which the end of the text cuts short, is given the learning rate
of the length that was drawn, as in the authors' code, where main.py goes by its own length.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[3])

import torch
from torch import Tensor

from awd_lstm.environment import orderly_exit, seed_everything
from awd_lstm.model import RNNModel
from awd_lstm.scratch import data, model, training
from awd_lstm.scratch import main as script
from awd_lstm.scratch.settings import parse_args
from awd_lstm.scratch.training import Run
from awd_lstm.scratch.utils import from_nn_lstm

draw, draw_length, update = model.dropout_mask, data.draw_length, training.update


def toolkits_mask(shape: tuple, p: float, like: Tensor) -> Tensor:
    """dropout_mask, with the quarters of a weight mask (4*out, out) where our gates are."""
    mask = draw(shape, p, like)
    if shape[0] != 4 * shape[1]:
        return mask
    i, f, c_new, o = mask.chunk(4)
    return torch.cat([i, f, o, c_new])


class ToolkitsRates:
    """Remembers the lengths drawn in an epoch, and updates at the rates that go with them."""

    def __init__(self):
        self.drawn = []

    def draw_length(self, *args) -> int:
        self.drawn.append(draw_length(*args))
        return self.drawn[-1]

    def update(self, run: Run, x: Tensor, y: Tensor) -> float:
        chunk, count, lr = run.progress.i, len(run.progress.lengths), run.args.lr
        run.args.lr = lr * self.drawn[-count:][chunk] / len(x)
        try:
            return update(run, x, y)
        finally:
            run.args.lr = lr


def start_like_the_toolkit(run: Run) -> None:
    """Initial weights, and what the random stream has come to after drawing them."""
    args = run.args
    seed_everything(args)
    toolkit = RNNModel("LSTM", len(run.corpus.dictionary), args.emsize, args.nhid, args.nlayers,
                       args.dropout, args.dropouth, args.dropouti, args.dropoute, args.wdrop,
                       tie_weights=True)
    run.model.load_state_dict(from_nn_lstm(toolkit.state_dict()))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("twin.py"):
        run = script.build(args)
        start_like_the_toolkit(run)
        rates = ToolkitsRates()
        model.dropout_mask = toolkits_mask
        data.draw_length, training.update = rates.draw_length, rates.update
        try:
            script.train(run)
        finally:
            model.dropout_mask, data.draw_length, training.update = draw, draw_length, update


if __name__ == "__main__":
    main()
