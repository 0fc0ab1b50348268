"""Trains the AWD-LSTM (Merity, Keskar, Socher 2017) that model.py writes out.

    ./getdata.sh ptb
    python main.py                        the paper: PTB, 24.2 M parameters, 500 epochs
    python main.py --finetune             then goes on from the best model, averaging from step 1
    python main.py --pointer              then measures it with a continuous cache
    python main.py --as-published         the published from-scratch code as it was (91.0)

On a small machine (about a minute on one CPU core, validation perplexity about 250):
    ./getdata.sh pydoc
    python main.py --data data/pydoc --emsize 64 --nhid 128 --batch_size 40 --epochs 2 \\
                   --save small.pt

All settings are in settings.py, the model in model.py, the training loop in training.py.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from awd_lstm import checkpoint
from awd_lstm.environment import (
    BadInput,
    Interrupted,
    bad_input,
    check_writable,
    claim,
    load_corpus,
    make_fabric,
    orderly_exit,
    seed_everything,
)
from awd_lstm.metrics import Metrics, resumed_folder, run_folder
from awd_lstm.scratch.model import AWD_LSTM
from awd_lstm.scratch.pointer import pointer_loss
from awd_lstm.scratch.settings import parse_args
from awd_lstm.scratch.state import (
    load_model,
    restore,
    save_best,
    save_state,
    start_from,
    weights_of,
    write_table,
)
from awd_lstm.scratch.training import Run, end_of_epoch, evaluate, measure, train_epoch
from awd_lstm.state import read_for_resume, set_state_aside, state_file
from awd_lstm.training import NOTHING_STORED, out_of_steps
from awd_lstm.utils import batchify, perplexity
from common.splitcross import SplitCrossEntropyLoss


# --------------------------------------------------------------------------------- data and model
def model_flags(args: argparse.Namespace) -> dict:
    """AWD_LSTM's keyword arguments that are not sizes, from the flags."""
    same = ("tied", "hoist", "normal_init", "mask_per_step", "shared_masks", "pad_last_word",
            "detach_regularisers", "norm_regularisers")
    return {"dropout_wts": args.wdrop, "dropout_emb": args.dropoute, "dropout_inp": args.dropouti,
            "dropout_hid": args.dropouth, "dropout_out": args.dropout,
            **{name: getattr(args, name) for name in same}}


def new_model(args: argparse.Namespace, words: int):
    """A model with fresh weights and its loss."""
    model = AWD_LSTM(words, args.emsize, args.nhid, args.nlayers, **model_flags(args))
    splits = checkpoint.default_splits(words) if args.splits is None else args.splits
    return model, SplitCrossEntropyLoss(args.emsize, splits) if args.split else None


def build(args: argparse.Namespace) -> Run:
    """Texts, model, loss and optimiser, at the start or where --resume says."""
    script = "scratch-finetune" if args.finetune else "scratch"
    resume = read_for_resume(args, script)
    check_writable(args.save)
    fabric = make_fabric(args)
    if fabric.world_size > 1:
        raise BadInput("this script trains in one process; awd_lstm/main.py takes --devices")
    claim(args.save, fabric)
    rng = seed_everything(args)
    corpus = load_corpus(args.data)
    words = len(corpus.dictionary)
    if args.finetune:
        model, criterion = load_model("--save", args.save, words, corpus.dictionary.digest(),
                                      **model_flags(args))
    else:
        model, criterion = new_model(args, words)
    run = Run(args, fabric, model, criterion, corpus, rng, script)
    run.say(f"Running on: {fabric.device}")
    continued = resume is not None and resume.get("format") == checkpoint.STATE_FORMAT
    if continued:
        restore(run, resume)
        run.say(f"Resuming at epoch {run.progress.epoch}, update {run.progress.step}")
    elif resume is not None:
        start_from(run, resume)
    if args.finetune and not continued:
        run.schedule.start_averaging()
        run.progress.stored_loss = evaluate(run, run.val_data)
    prepare_files(run, resume if continued else None)
    run.say(f"Args: {args}\nModel total parameters: {sum(p.numel() for p in run.params)}")
    return run


def prepare_files(run: Run, resumed: dict | None) -> None:
    """Sets an earlier run's files aside, opens the log."""
    args = run.args
    stem = Path(args.save).stem + (".finetune" if args.finetune else "")
    if resumed:
        folder = resumed_folder(resumed, args.save, Path(args.log_dir), stem)
    else:
        label, keep = ("main", True) if args.finetune else ("old", False)
        aside = [(Path(args.save), checkpoint.set_aside(args.save, label, keep))]
        for old, new in set_state_aside(args.save, run.script) + aside:
            if new is not None:
                run.say(f"{old} is kept as {new}")
        folder = run_folder(Path(args.log_dir), stem)
    run.metrics = Metrics(folder, run.progress.step, resumed["metrics_size"] if resumed else 0)


# -------------------------------------------------------------------------------------- training
def train(run: Run) -> None:
    """Epochs until --epochs, --max-steps, the end of fine-tuning, or a signal; then the test."""
    p = run.progress
    try:
        while p.epoch <= run.args.epochs and not p.done and not out_of_steps(run):
            train_epoch(run, save_state)
            if p.i < len(p.lengths):  # --max-steps: measure, but leave the state where it stands
                with run.weights_for_use:
                    measure(run)
                    if p.stored_loss == NOTHING_STORED:
                        save_best(run, "Saving model (the first)")
            else:
                end_of_epoch(run, save_best)
                save_state(run)
                write_table(run)
    except Interrupted:
        leave_early(run)
        raise
    test(run)


def leave_early(run: Run) -> None:
    """Saves where the run stands, unless that is done."""
    if not out_of_steps(run):
        save_state(run)
    run.say("Exiting from training early\nTo go on: the same command with --resume "
            f"({state_file(run.args.save, run.script)})")


def test(run: Run) -> None:
    """The best model on the test text, which the published code never looked at."""
    with bad_input("--save: "):
        best = checkpoint.read(run.args.save)
    run.model.load_state_dict(weights_of(best))
    if run.criterion is not None and best.get("criterion"):
        run.criterion.load_state_dict(best["criterion"])
    loss = evaluate(run, run.test_data)
    run.say(f"| End of training | test loss {loss:5.2f} | test ppl {perplexity(loss):8.2f}")
    run.metrics.log(run.progress.step, best.get("epoch", 0), test_loss=loss,
                    test_ppl=perplexity(loss))
    run.metrics.close()


# --------------------------------------------------------------------------------------- pointer
def pointer(args: argparse.Namespace) -> None:
    """Validation and test perplexity of the model in --save with a continuous cache."""
    fabric = make_fabric(args)
    corpus = load_corpus(args.data)
    words = len(corpus.dictionary)
    model, criterion = load_model("--save", args.save, words, corpus.dictionary.digest(),
                                  **model_flags(args))
    criterion = criterion or SplitCrossEntropyLoss(args.emsize)
    module = fabric.setup_module(torch.nn.ModuleList([model, criterion])).module
    for name, ids in (("val", corpus.valid), ("test", corpus.test)):
        loss = pointer_loss(*module, batchify(ids, 1, fabric.device), args.window, args.theta,
                            args.lambdasm, args.bptt, fabric.autocast)
        print(f"| End of pointer | {name} loss {loss:5.2f} | {name} ppl {perplexity(loss):8.2f}",
              flush=True)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("main.py"):
        if args.pointer:
            pointer(args)
        else:
            train(build(args))


if __name__ == "__main__":
    main()
