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
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from awd_lstm import args as toolkit
from harness import flags


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.parser("PyTorch PennTreeBank RNN/LSTM Language Model")
    toolkit.add_data_and_model(parser)
    toolkit.add_training(parser)
    g = parser.add_argument_group("schedule")
    g.add_argument("--optimizer", default="sgd", choices=("sgd", "adam"),
                   help="sgd switches to averaged SGD when validation stops improving "
                        "(NT-ASGD); adam takes an --lr of 1e-3 unless one is given")
    g.add_argument("--when", nargs="+", type=int, default=[-1], metavar="EPOCH",
                   help="after these epochs divide the learning rate by 10")
    g.add_argument("--max_seq_len_delta", type=int, default=None, metavar="N",
                   help="drawn sequences are at most this much longer than --bptt: bounds the "
                        "memory (None: as drawn, the published way)")
    toolkit.add_files_and_reports(parser)
    flags.add_run(parser, toolkit.HERE / "logs", toolkit.RESUME)
    flags.add_machine(parser)
    flags.add_parallel(parser)
    toolkit.add_lengths_and_graphs(parser)
    args = flags.parse(parser, argv)
    toolkit.check(parser, args)
    toolkit.check_lengths(parser, args)
    flags.check(parser, args, not_negative=("max_seq_len_delta",))
    flags.rate_of_adaptive(args, args.optimizer)
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

from awd_lstm.data import Dictionary
from awd_lstm.inputs import load_corpus
from awd_lstm.model import RNNModel, default_splits, load_original_state
from awd_lstm.training import (
    NOTHING_STORED,
    Run,
    compare_with_best,
    describe,
    epoch_is_over,
    make_optimizer,
    make_run,
    model_file,
    save_best,
    test,
    train_epoch,
    upgrade,
    validate,
)
from awd_lstm.utils import is_best, single_precision
from awd_lstm.vocabulary import adopt, texts_in_words_of, words_of_start
from common.asgd import averaged, non_monotone
from common.splitcross import SplitCrossEntropyLoss
from harness.endings import BadInput, bad_input
from harness.keeper import Keeper
from harness.places import name_by_time


# --------------------------------------------------------------------------------- data and model
def build(args: argparse.Namespace, keeper: Keeper) -> Run:
    """Texts, model, loss and optimiser, as at the start of the run."""
    corpus = load_corpus(args.data, keeper.fabric)
    known = words_of_start(keeper, corpus)
    if known and args.vocabulary == "model":
        corpus = texts_in_words_of(known, corpus, args, keeper.say)
    keeper.say("Loading cached dataset..." if corpus.cached else "Producing dataset...")
    words = len(corpus.dictionary)
    with single_precision():
        model = RNNModel(args.model, words, args.emsize, args.nhid, args.nlayers,
                         args.dropout, args.dropouth, args.dropouti, args.dropoute, args.wdrop,
                         tie_weights=True)
    criterion = SplitCrossEntropyLoss(args.emsize, default_splits(words))
    keeper.say(f"Using {criterion.splits}\n{model.rnns}")
    run = make_run(args, keeper, corpus, model, criterion, "main", seq_len_seed=args.seed)
    if args.max_seq_len_delta is not None:
        run.seq_len_cap = args.bptt + args.max_seq_len_delta
    if keeper.weights is not None:
        start_from(run, keeper.weights, known)
    run.optimizer = make_optimizer(args.optimizer, run)
    run.progress.lr = args.lr
    describe(run)
    return run


def start_from(run: Run, content: dict, known: Dictionary | None) -> None:
    """Weights from a model file or an original's state_dict; everything else is fresh. known: the
    words of the model, where the file lists them."""
    ours, words = "format" in content, run.corpus.dictionary
    if ours and known is None and content.get("vocabulary") != words.digest():
        raise BadInput(f"--resume: the model's vocabulary is not that of {run.args.data}")
    with bad_input("--resume: "):
        if known is not None and known.digest() != words.digest():  # --vocabulary data
            adopt(run.model, run.criterion, content["model"], content["criterion"], known, words,
                  run.keeper.say)
        else:
            load_original_state(run.model, content["model"] if ours else content)
            if ours:
                run.criterion.load_state_dict(content["criterion"])
    run.keeper.say("Starting from the weights given, with a fresh optimizer and epoch count")


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """Validation, the best model, and the schedule: NT-ASGD (Algorithm 1) or --when."""
    args, progress, keeper = run.args, run.progress, run.keeper
    if run.averaging:
        # What is measured and kept is the average; training continues from the weights themselves.
        with averaged(run.optimizer):
            loss = validate(run)
            if is_best(loss, progress.stored_loss):
                save_best(run, loss, "Saving Averaged!")
    else:
        loss = validate(run)
        if is_best(loss, progress.stored_loss):
            save_best(run, loss, "Saving model (new best validation)")
        if args.optimizer == "sgd" and non_monotone(progress.best_val_loss, args.nonmono, loss):
            keeper.say("Switching to ASGD")
            run.optimizer = make_optimizer("asgd", run)
            progress.lr = args.lr
        if progress.epoch in args.when:
            keeper.say("Saving model before learning rate decreased")
            keeper.save_model(model_file(run, loss), f".e{progress.epoch}")
            keeper.say("Dividing learning rate by 10")
            progress.lr /= 10
        progress.best_val_loss.append(loss)
    progress.epoch, progress.i = progress.epoch + 1, 0
    keeper.save()


def stopped_by_max_steps(run: Run) -> None:
    """--max-steps ended the epoch before its end: measure, but leave the state where it stands."""
    with averaged(run.optimizer):
        loss = validate(run)
        if run.progress.stored_loss == NOTHING_STORED:
            save_best(run, loss, "Saving model (the first)")
        else:
            compare_with_best(run, loss)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    before_decay = tuple(f".e{epoch}" for epoch in args.when if epoch > 0)
    with Keeper("awd_lstm/main.py", args, default_save=name_by_time, takes_weights=True,
                upgrade=upgrade, also=before_decay) as keeper:
        run = build(args, keeper)
        keeper.resume(run, on_ctrl_c=test)
        while run.progress.epoch <= args.epochs and not keeper.out_of_steps():
            train_epoch(run)
            if epoch_is_over(run):
                end_of_epoch(run)
            else:
                stopped_by_max_steps(run)
        test(run)


if __name__ == "__main__":
    main()
