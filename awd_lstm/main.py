"""Trains an AWD-LSTM, AWD-GRU or AWD-QRNN language model (Merity, Keskar, Socher 2017, 2018).

    ./getdata.sh ptb
    python main.py --batch_size 20 --data data/penn --dropouti 0.4 --dropouth 0.25 --seed 141 \\
                   --epoch 500 --save PTB.pt
    -> validation / test perplexity about 61.2 / 58.8 (published), then finetune.py and pointer.py

On a small machine (about a minute on two CPU cores, validation perplexity under 300):
    ./getdata.sh pydoc
    python main.py --data data/pydoc --emsize 64 --nhid 128 --nlayers 2 --batch_size 40 \\
                   --epochs 1 --save small.pt
"""

import argparse
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from awd_lstm import args as flags
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
from awd_lstm.model import RNNModel, load_original_state
from awd_lstm.state import (
    make_optimizer,
    read_for_resume,
    restore,
    save_state,
    set_state_aside,
)
from awd_lstm.training import (
    NOTHING_STORED,
    Run,
    leave_early,
    out_of_steps,
    save_best,
    test,
    train_epoch,
    validate,
)
from common.asgd import averaged, non_monotone
from common.splitcross import SplitCrossEntropyLoss


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="PyTorch PennTreeBank RNN/LSTM Language Model",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.data_and_model(p)
    flags.training(p)
    p.add_argument("--optimizer", default="sgd", choices=("sgd", "adam"),
                   help="sgd switches to averaged SGD when validation stops improving (NT-ASGD)")
    p.add_argument("--when", nargs="+", type=int, default=[-1], metavar="EPOCH",
                   help="after these epochs divide the learning rate by 10")
    flags.run(p)
    flags.device(p)
    flags.parallel(p)
    args = p.parse_args(argv)
    flags.check(p, args)
    if args.optimizer == "adam" and args.lr > 0.1:
        print(f"--optimizer adam with --lr {args.lr} will diverge; the published runs use 1e-3",
              file=sys.stderr)
    return args


# --------------------------------------------------------------------------------- data and model
def build(args: argparse.Namespace) -> Run:
    """Texts, model, loss and optimiser, at the start or where --resume says."""
    resume = read_for_resume(args, "main")
    fabric = make_fabric(args)
    args.save = fabric.broadcast(args.save or f"{time.time()}".replace(".", "") + ".pt")
    check_writable(args.save)
    claim(args.save, fabric)
    seq_len_rng = seed_everything(args)
    corpus = load_corpus(args.data, fabric)
    model = RNNModel(args.model, len(corpus.dictionary), args.emsize, args.nhid, args.nlayers,
                     args.dropout, args.dropouth, args.dropouti, args.dropoute, args.wdrop,
                     tie_weights=True)
    splits = checkpoint.default_splits(len(corpus.dictionary))
    criterion = SplitCrossEntropyLoss(args.emsize, splits)
    run = Run(args, fabric, model, criterion, corpus, seq_len_rng)
    run.say("Loading cached dataset..." if corpus.cached else "Producing dataset...")
    run.say(f"Using {splits}\n{model.rnns}")
    continued = resume is not None and resume.get("format") == checkpoint.STATE_FORMAT
    if continued:
        restore(run, resume)
        if run.progress.stored_loss < NOTHING_STORED and not Path(args.save).is_file():
            raise BadInput(f"--resume: the best model so far, {args.save}, is not there")
        run.say(f"Resuming at epoch {run.progress.epoch}, update {run.progress.step}")
    else:
        if resume is not None:
            start_from(run, resume)
        run.optimizer = make_optimizer(args.optimizer, run)
        run.progress.lr = args.lr
    if fabric.is_global_zero:
        prepare_files(run, resume if continued else None)
    run.say(f"Args: {args}\nModel total parameters: {sum(p.numel() for p in run.params)}")
    return run


def start_from(run: Run, content: dict) -> None:
    """Weights from a model file or an original's state_dict; everything else is fresh."""
    ours = "format" in content
    if ours and content["vocabulary"] != run.corpus.dictionary.digest():
        raise BadInput(f"--resume: the model's vocabulary is not that of {run.args.data}")
    with bad_input("--resume: "):
        load_original_state(run.model, content["model"] if ours else content)
        if ours:
            run.criterion.load_state_dict(content["criterion"])
    run.say("Starting from the weights given, with a fresh optimizer and epoch count")


def prepare_files(run: Run, resumed: dict | None) -> None:
    """Sets an earlier run's files aside, opens the log."""
    args = run.args
    name = Path(args.save).stem
    if resumed:
        folder = resumed_folder(resumed, args.save, Path(args.log_dir), name)
    else:
        aside = [(Path(args.save), checkpoint.set_aside(args.save, "old"))]
        for old, new in aside + set_state_aside(args.save, run.script):
            if new is not None:
                run.say(f"{old} is of an earlier run: kept as {new}")
        folder = run_folder(Path(args.log_dir), name)
    run.metrics = Metrics(folder, run.progress.step, resumed["metrics_size"] if resumed else 0)


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """Validation, the best model, and the schedule: NT-ASGD (Algorithm 1) or --when."""
    args, p = run.args, run.progress
    if run.averaging:
        with averaged(run.optimizer):
            loss = validate(run)
            if loss < p.stored_loss:
                save_best(run, loss, "Saving Averaged!")
                p.stored_loss = loss
    else:
        loss = validate(run)
        if loss < p.stored_loss:
            save_best(run, loss, "Saving model (new best validation)")
            p.stored_loss = loss
        if args.optimizer == "sgd" and non_monotone(p.best_val_loss, args.nonmono, loss):
            run.say("Switching to ASGD")
            run.optimizer = make_optimizer("asgd", run)
            p.lr = args.lr
        if p.epoch in args.when:
            save_best(run, loss, "Saving model before learning rate decreased",
                      f"{args.save}.e{p.epoch}")
            run.say("Dividing learning rate by 10")
            p.lr /= 10
        p.best_val_loss.append(loss)
    p.epoch, p.i = p.epoch + 1, 0
    save_state(run)


def stopped_by_max_steps(run: Run) -> None:
    """--max-steps ended the epoch before its end: measure, but leave the state where it stands."""
    with averaged(run.optimizer):
        loss = validate(run)
        if run.progress.stored_loss == NOTHING_STORED:
            save_best(run, loss, "Saving model (the first)")


def train(run: Run) -> None:
    """Epochs until --epochs, --max-steps or a signal; then the test."""
    try:
        while run.progress.epoch <= run.args.epochs and not out_of_steps(run):
            train_epoch(run)
            if run.progress.i < len(run.train_data) - 2:
                stopped_by_max_steps(run)
            else:
                end_of_epoch(run)
    except Interrupted as stop:
        leave_early(run, stop)
        raise
    test(run)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("main.py"):
        train(build(args))


if __name__ == "__main__":
    main()
