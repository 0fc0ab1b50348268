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

import numpy as np

from common.asgd import averaged, non_monotone
from sparse_seq import files, runs
from sparse_seq.language_modeling import args as flags
from sparse_seq.language_modeling.data import Corpus
from sparse_seq.language_modeling.model import LanguageModel
from sparse_seq.language_modeling.training import (
    NOTHING_STORED,
    Run,
    load_optimizer,
    make_optimizer,
    restore,
    run_epochs,
    save_best,
    test,
    validate,
)
from sparse_seq.rnn import SparseLSTM

HERE = Path(__file__).resolve().parent
RISING_EPOCHS = 20  # so many validation losses in a row above the one before end the training


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.parser("Dense and sparse AWD-LSTM language model")
    flags.dropouts(p)
    # What main_overfit.py sets: no momentum, a constant rate, validation instead of counting.
    p.set_defaults(momentum=0.0, lr_decay=1.0, recite=False)
    return flags.parse(p, argv)


# --------------------------------------------------------------------------------- data and model
def read_corpus(args: argparse.Namespace) -> Corpus:
    try:
        return Corpus.read(args.data, args.ordering)
    except FileNotFoundError as error:
        name = {"penn": "ptb", "wikitext-2": "wt2", "pydoc": "pydoc"}.get(Path(args.data).name)
        hint = f"; ./getdata.sh {name} fetches it" if name else ""
        raise runs.BadInput(f"--data: {error}{hint}") from None
    except ValueError as error:
        raise runs.BadInput(f"--data: {error}") from None


def make_model(args: argparse.Namespace, words: int) -> LanguageModel:
    """The model that the flags describe; flags that a script does not have keep their default."""
    names = ("emsize", "nhid", "nhidlast", "nlayers", "n_experts", "emblocks", "emdensity",
             "sparse_mode", "sparse_fract", "sparse_blocks", "sparse_density", "dropout",
             "dropouth", "dropouti", "dropoute", "wdrop", "dropoutl")
    with runs.users("the sizes do not go together"):
        return LanguageModel(words, **{n: getattr(args, n) for n in names if hasattr(args, n)})


def build(args: argparse.Namespace, script: str = "main.py") -> Run:
    """Texts, model and optimizer, at the start or where --resume or --continue_train says."""
    state = runs.read_state(args, script)
    fabric = runs.make_fabric(args)
    folder, corpus = runs.run_folder(args.save, fabric), read_corpus(args)
    run = Run(args, fabric, corpus, make_model(args, len(corpus.words)), folder, script,
              np.random.RandomState(args.seed))
    run.optimizer = make_optimizer(run, "sgd")
    resumed = state if state is not None and "progress" in state else None
    if resumed:
        restore(run, resumed)
    elif state is not None or args.continue_train:
        start_from(run, state)
    elif fabric.is_global_zero:
        for name in ("model.pt", "optimizer.pt", "state.pt", "state.prev.pt"):
            files.set_aside(folder / name)
    if fabric.is_global_zero:
        files.write(folder / "corpus.pt", corpus.content())
        files.keep_scripts(folder, [HERE / name for name in (script, "model.py", "args.py")])
    run.journal = runs.Journal(fabric, folder / "log.txt", runs.metrics_folder(args, resumed),
                               resumed)
    introduce(run)
    return run


def start_from(run: Run, weights: dict | None) -> None:
    """--resume WEIGHTS: those, and a fresh optimizer. --continue_train: model and optimizer of
    --save. The epoch count is fresh, so that the first epoch's model is always stored."""
    path = run.folder / "model.pt"
    with runs.users("--resume" if weights else "--continue_train"):
        content = weights or files.read(path)
        files.load_weights(run.model, files.weights_of(content))
        if weights is None and (run.folder / "optimizer.pt").is_file():
            optimizer = files.read(run.folder / "optimizer.pt")
            files.same_epoch(content, optimizer)
            load_optimizer(run, optimizer)


def introduce(run: Run) -> None:
    """What is about to be trained."""
    say = run.journal.say
    say(f"Args: {run.args}")
    for name, count in run.model.parameter_counts().items():
        say(f"params {name}: {count / 1e6}M")
    say(f"{run.model}")
    for layer in run.model.rnns:
        if isinstance(layer, SparseLSTM):
            say(f"{layer.info_dict()}\n{layer.info()}")
    if run.progress.step:
        say(f"Resuming at epoch {run.progress.epoch}, update {run.progress.step}")


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """Validation, the best model, and NT-ASGD (Merity et al. 2017, Algorithm 1)."""
    args, p = run.args, run.progress
    with averaged(run.optimizer):
        loss = validate(run)
        if loss < p.best:
            save_best(run, loss, f"Saving {'Averaged' if run.averaging else 'Normal'}!")
            p.best = loss
    if not run.averaging and non_monotone(p.history, args.nonmono, loss):
        run.journal.say("Switching!")
        run.optimizer = make_optimizer(run, "asgd")
    p.history.append(loss)
    p.rising = p.rising + 1 if loss > p.previous else 0
    p.previous, p.done = loss, p.rising >= RISING_EPOCHS


def end_of_recital(run: Run) -> None:
    """main_overfit.py: how much of the training text is known by heart; the decay of the rate."""
    p = run.progress
    accuracy = p.correct / p.predicted
    run.journal.say(f"Epoch {p.epoch}  -   {p.correct}/{p.predicted} train items correctly "
                    f"predicted;  accuracy {accuracy:.3f}")
    run.journal.log(p.step, p.epoch, train_acc=accuracy)
    save_best(run, 1 - accuracy, "Saving Normal!")
    p.lr *= run.args.lr_decay
    p.done = 1 - accuracy < 1e-4


def train(run: Run) -> None:
    """All epochs, then the test of the best model (learning to recite has none)."""
    run_epochs(run, end_of_recital if run.args.recite else end_of_epoch)
    if run.args.recite:
        run.journal.close()
        return
    if run.progress.best == NOTHING_STORED:  # --max-steps ended the first epoch
        with averaged(run.optimizer):
            save_best(run, validate(run), "Saving Normal!")
    test(run)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with runs.orderly_exit("main.py"):
        train(build(args))


if __name__ == "__main__":
    main()
