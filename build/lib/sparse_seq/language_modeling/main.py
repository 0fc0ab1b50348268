"""Trains a dense or sparse AWD-LSTM language model (Demeester et al. 2018, section 4.1).

    ./getdata.sh ptb
    cd sparse_seq/language_modeling
    python main.py --seed 0 --save logs/awd-lstm
    python main.py --sparse_mode sparse_hidden --sparse_fract 0.66666 --nhid 1725 \\
                   --save logs/awd-lstm-sparse
    -> test perplexity 58.8 and 57.9 on the Penn Treebank after 500 epochs (published), then
       finetune.py

On a small machine, under a minute on one CPU core: ./getdata.sh pydoc; python main.py --data
data/pydoc --emsize 64 --nhid 128 --nlayers 2 --batch_size 40 --epochs 1 --save logs/small
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from sparse_seq.language_modeling import args as flags


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.parser("Dense and sparse AWD-LSTM language model")
    flags.add_dropouts(parser)
    return flags.parse(parser, argv)


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes are answered before torch is imported

from common.asgd import averaged, non_monotone
from harness.keeper import Keeper
from sparse_seq.first_release import upgrade
from sparse_seq.language_modeling.run import (
    NOTHING_STORED,
    Recipe,
    Run,
    build,
    introduce,
    keep_corpus,
    make_optimizer,
    places,
    save_best,
    use_all_gpus,
)
from sparse_seq.language_modeling.training import (
    more_epochs,
    next_epoch,
    test,
    train_epoch,
    validate,
)

RISING_EPOCHS = 20  # so many validation losses in a row above the one before end the training


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """Validation, the best model, and NT-ASGD (Merity et al. 2017, Algorithm 1)."""
    p = run.progress
    with averaged(run.optimizer):
        loss = validate(run)
        if loss < p.best:
            save_best(run, loss, f"Saving {'Averaged' if run.averaging else 'Normal'}!")
            p.best = loss
    if not run.averaging and non_monotone(p.history, run.args.nonmono, loss):
        run.keeper.say("Switching!")
        run.optimizer = make_optimizer(run.keeper, run.model, run.recipe, "asgd")
    p.history.append(loss)
    p.rising = p.rising + 1 if loss > p.previous else 0
    p.previous, p.done = loss, p.rising >= RISING_EPOCHS
    next_epoch(run)


def main(argv: list[str] | None = None) -> Run:
    args = parse_args(argv)
    use_all_gpus(args)
    with Keeper("sparse_seq/language_modeling/main.py", args, upgrade=upgrade, takes_weights=True,
                **places(args)) as keeper:
        run = build(keeper, Recipe())
        keeper.resume(run, on_ctrl_c=test)
        keep_corpus(run, ["main.py", "model.py", "args.py"])
        introduce(run)
        while more_epochs(run):
            if train_epoch(run):
                end_of_epoch(run)
        if run.progress.best == NOTHING_STORED:  # --max-steps ended the first epoch
            with averaged(run.optimizer):
                save_best(run, validate(run), "Saving Normal!")
        test(run)
    return run


if __name__ == "__main__":
    main()
