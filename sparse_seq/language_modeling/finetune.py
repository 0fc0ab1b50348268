"""Fine-tunes the model in --save: averaged SGD from the first step, stopped when validation no
longer improves (Merity et al. 2017, section 5).

    python finetune.py --save logs/awd-lstm
    python finetune.py --sparse_mode sparse_hidden --sparse_fract 0.66666 --nhid 1725 \\
                       --save logs/awd-lstm-sparse
    -> test perplexity 56.6 and 57.0 on the Penn Treebank (published)

The corpus and the model come from --save, where main.py put them, and so do the model's sizes and
dropouts: flags that say otherwise have no effect. The result is --save/finetune_model.pt.
"""

import argparse
import shutil
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from common.asgd import averaged, non_monotone
from sparse_seq import files, runs
from sparse_seq.language_modeling import args as flags
from sparse_seq.language_modeling.data import Corpus
from sparse_seq.language_modeling.main import introduce, make_model, read_corpus
from sparse_seq.language_modeling.model import LanguageModel
from sparse_seq.language_modeling.training import (
    Run,
    load_optimizer,
    make_optimizer,
    restore,
    run_epochs,
    save_best,
    test,
    validate,
)

NUMPY_SEED = 331  # the original's, whatever --seed says: the sequence lengths
SHORTEST = 100    # epochs before the stopping rule may speak


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.parser("Fine-tuning of a dense or sparse AWD-LSTM")
    flags.dropouts(p)
    p.set_defaults(momentum=0.0, lr_decay=1.0, recite=False)
    return flags.parse(p, argv)


# --------------------------------------------------------------------------------- data and model
def load_trained(args: argparse.Namespace, folder: Path) -> tuple[Corpus, LanguageModel]:
    """What main.py left; for an original's state_dict, the flags give sizes and dropouts."""
    with runs.users("--save"):
        trained = files.read(folder / f"{'finetune_' if args.continue_train else ''}model.pt")
        corpus = (Corpus.from_content(files.read(folder / "corpus.pt"))
                  if (folder / "corpus.pt").is_file() else read_corpus(args))
        ours = files.is_ours(trained)
        if ours and "config" not in trained:
            raise ValueError(f"the model in {folder} is not one that main.py wrote")
        if ours and trained["vocabulary"] != corpus.digest():
            raise ValueError(f"the model in {folder} was trained on other words than its corpus.pt")
        model = (LanguageModel(**trained["config"]) if ours else
                 make_model(args, len(corpus.words)))
        files.load_weights(model, files.weights_of(trained))
    return corpus, model


def build(args: argparse.Namespace) -> Run:
    """The trained model and averaged SGD, at the start or where --resume says."""
    state = runs.read_state(args, "finetune.py", "finetune_state.pt")
    if state is not None and "progress" not in state:
        raise runs.BadInput("--resume takes a fine-tuning state; the model to tune is in --save")
    fabric, folder = runs.make_fabric(args), Path(args.save)
    corpus, model = load_trained(args, folder)
    runs.run_folder(args.save, fabric)
    run = Run(args, fabric, corpus, model, folder, "finetune.py",
              np.random.RandomState(NUMPY_SEED), prefix="finetune_")
    run.optimizer = make_optimizer(run, "asgd")
    if state is not None:
        restore(run, state)
    elif args.continue_train and run.file("optimizer.pt").is_file():
        with runs.users("--continue_train"):
            optimizer = files.read(run.file("optimizer.pt"))
            files.same_epoch(files.read(run.file("model.pt")), optimizer)
            load_optimizer(run, optimizer)
    if state is None and fabric.is_global_zero:
        prepare_files(run)
    run.journal = runs.Journal(fabric, run.file("log.txt"),
                               runs.metrics_folder(args, state, ".finetune"), state)
    introduce(run)
    if state is None:
        run.progress.best = run.evaluate(run.valid)
    return run


def prepare_files(run: Run) -> None:
    """An earlier run's files get other names; the model to beat is the one that was read."""
    for name in ("state.pt", "state.prev.pt"):
        files.set_aside(run.file(name))
    if not run.args.continue_train:
        for name in ("model.pt", "optimizer.pt"):
            files.set_aside(run.file(name))
        shutil.copy2(run.folder / "model.pt", run.file("model.pt"))


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """Validation with the averages, the best model, the stopping rule."""
    p, nonmono = run.progress, run.args.nonmono
    with averaged(run.optimizer):
        loss = validate(run)
        if loss < p.best:
            save_best(run, loss, "Saving Averaged!")
            p.best = loss
    if len(p.history) > SHORTEST and non_monotone(p.history, nonmono, loss):
        run.journal.say("Done!")
        p.done = True
    p.history.append(loss)


def train(run: Run) -> None:
    """All epochs, then the test of the best model."""
    run_epochs(run, end_of_epoch)
    test(run)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with runs.orderly_exit("finetune.py"):
        train(build(args))


if __name__ == "__main__":
    main()
