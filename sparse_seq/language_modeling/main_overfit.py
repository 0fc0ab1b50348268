"""Learning to recite: how much of its training text can a model of a given size know by heart
(Demeester et al. 2018, section 4.1)? main.py with other settings: no dropout, no regularisation,
momentum, a decaying rate, and no validation.

    python main_overfit.py --save logs/awd-lstm-overfit-dense --epochs 150 --lr 5
    python main_overfit.py --save logs/awd-lstm-overfit-dense_reduced --emsize 200 --nhid 575 \\
                           --epochs 150 --lr 5
    python main_overfit.py --save logs/awd-lstm-overfit-sparse1 --emsize 200 \\
                           --sparse_mode sparse_hidden --sparse_fract 0.5 --epochs 150 --lr 5
    python main_overfit.py --save logs/awd-lstm-overfit-sparse2 --emblocks 10 --emdensity 0.5 \\
                           --sparse_mode sparse_all --sparse_fract 0.5 --epochs 150 --lr 5
    -> one line per epoch with the share of the words predicted, before each update
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from sparse_seq import runs
from sparse_seq.language_modeling import args as flags
from sparse_seq.language_modeling.main import build, train


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.parser("Learning to recite", seed=0, save="dev_runs_overfit", alpha=0, beta=0,
                     wdecay=0)
    p.set_defaults(momentum=0.9, lr_decay=0.97, recite=True)
    return flags.parse(p, argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with runs.orderly_exit("main_overfit.py"):
        train(build(args, "main_overfit.py"))


if __name__ == "__main__":
    main()
