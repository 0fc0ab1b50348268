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

from awd_lstm.scratch.settings import parse_args

if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import numpy as np
import torch
from torch import Tensor, nn

from awd_lstm.model import RNNModel
from awd_lstm.scratch.data import draw_length, gen_sequence_lengths
from awd_lstm.scratch.main import Run, build, train
from awd_lstm.scratch.model import WeightDropout
from awd_lstm.scratch.utils import from_nn_lstm, upgrade
from awd_lstm.utils import single_precision
from harness.keeper import Keeper
from harness.machine import seed_everything


class ToolkitsWeightDropout(WeightDropout):
    """Draws the toolkit's masks, (4*out, out) in nn.LSTM's order, and puts their quarters where our
    gates are."""

    def draw_mask(self, U: Tensor) -> Tensor:
        i, f, c_new, o = super().draw_mask(U).chunk(4)
        return torch.cat([i, f, o, c_new])


class ToolkitsRun(Run):
    """A run whose updates go at the rates of the lengths drawn, before the text's end cuts one."""

    def draw_lengths(self) -> list[int]:
        self.drawn = []

        def remember(rng: np.random.RandomState, base: int) -> int:
            self.drawn.append(draw_length(rng, base))
            return self.drawn[-1]
        return gen_sequence_lengths(len(self.train_data), self.args.bptt, self.rng, self.args.cap,
                                    draw=remember)

    def rate(self, x: Tensor) -> float:
        return self.args.lr * self.drawn[self.progress.i] / self.args.bptt


def start_like_the_toolkit(run: Run) -> None:
    """Initial weights, and what the random stream has come to after drawing them."""
    args, model = run.args, run.model
    seed_everything(args.seed)
    with single_precision():
        toolkits = RNNModel("LSTM", len(run.corpus.dictionary), args.emsize, args.nhid,
                            args.nlayers, args.dropout, args.dropouth, args.dropouti,
                            args.dropoute, args.wdrop, tie_weights=True)
    model.load_state_dict(from_nn_lstm(toolkits.state_dict()))
    model.layers = nn.ModuleList(ToolkitsWeightDropout(layer.cell, layer.p)
                                 for layer in model.layers)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with Keeper("awd_lstm/scratch/study/twin.py", args, upgrade=upgrade, also=(".csv",)) as keeper:
        run = build(args, keeper, ToolkitsRun)
        start_like_the_toolkit(run)
        keeper.resume(run)
        train(run)


if __name__ == "__main__":
    main()
