"""Learning to recite: how much of its training text can a model of a given size know by heart
(Demeester et al. 2018, section 4.1)? No dropout, no regularisation, momentum, a decaying rate, and
no validation.

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

from harness.flags import say_inert
from sparse_seq.language_modeling import args as flags


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    args = flags.parse(flags.parser("Learning to recite", seed=0, save="dev_runs_overfit", alpha=0,
                                    beta=0, wdecay=0), argv)
    say_inert(args, dict.fromkeys(("nonmono", "exact_loss"), "as there is no validation"))
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes are answered before torch is imported

from harness.keeper import Keeper
from sparse_seq.first_release import upgrade
from sparse_seq.language_modeling.run import (
    Recipe,
    Run,
    build,
    introduce,
    keep_corpus,
    places,
    save_best,
    use_all_gpus,
)
from sparse_seq.language_modeling.training import more_epochs, next_epoch, train_epoch

RECIPE = Recipe(momentum=0.9, lr_decay=0.97, count=True)
BY_HEART = 1e-4  # training ends when a smaller share of the words is still mistaken


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """How much of the training text is known by heart; the decay of the rate."""
    p = run.progress
    accuracy = p.correct / p.predicted
    run.keeper.say(f"Epoch {p.epoch}  -   {p.correct}/{p.predicted} train items correctly "
                   f"predicted;  accuracy {accuracy:.3f}")
    run.keeper.log(train_acc=accuracy)
    save_best(run, 1 - accuracy, "Saving Normal!")
    p.lr *= run.recipe.lr_decay
    p.done = 1 - accuracy < BY_HEART
    next_epoch(run)


def main(argv: list[str] | None = None) -> Run:
    args = parse_args(argv)
    use_all_gpus(args)
    with Keeper("sparse_seq/language_modeling/main_overfit.py", args, upgrade=upgrade,
                takes_weights=True, **places(args)) as keeper:
        run = build(keeper, RECIPE)
        keeper.resume(run)
        keep_corpus(run, ["main_overfit.py", "model.py", "args.py"])
        introduce(run)
        while more_epochs(run):
            if train_epoch(run):
                end_of_epoch(run)
    return run


if __name__ == "__main__":
    main()
