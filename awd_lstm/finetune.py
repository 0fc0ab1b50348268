"""Fine-tunes a trained model: averaged SGD from the first step, stopped when validation no longer
improves (Merity et al. 2017, section 5, "fine-tuning"; NT-ASGD with T = 0).

    python finetune.py --batch_size 20 --data data/penn --dropouti 0.4 --dropouth 0.25 --seed 141 \\
                       --epoch 500 --save PTB.pt
    -> validation / test perplexity about 58.8 / 56.5 (published)

With other texts, --data OWN, the model's words stay (unknown ones are read as <unk>, counted and
named); --vocabulary data takes the words of the texts.

--save is read and, whenever validation improves, replaced, so that the published commands chain;
the model that was read is first kept as PTB.pt.main. Sizes and dropouts are the model's own.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from awd_lstm import args as toolkit
from harness import flags

NUMPY_SEED = 331  # the original's, whatever --seed says: it seeds the sequence lengths


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.parser("PyTorch PennTreeBank RNN/LSTM Language Model")
    toolkit.add_data_and_model(parser)
    parser.add_argument("--tied", action=flags.OnOff, default=True,
                        help="tie the word embedding and softmax weights (the model's own tying "
                             "counts)")
    toolkit.add_training(parser)
    toolkit.add_files_and_reports(parser)
    flags.add_run(parser, toolkit.HERE / "logs")
    flags.add_machine(parser)
    flags.add_parallel(parser)
    toolkit.add_lengths_and_graphs(parser)
    args = flags.parse(parser, argv)
    toolkit.check(parser, args)
    toolkit.check_lengths(parser, args)
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

from awd_lstm.inputs import load_corpus, load_model
from awd_lstm.training import (
    NOTHING_STORED,
    Run,
    compare_with_best,
    describe,
    epoch_is_over,
    make_optimizer,
    make_run,
    save_best,
    test,
    train_epoch,
    upgrade,
    validate,
)
from awd_lstm.vocabulary import (
    dictionary_of,
    model_with_words_of,
    of_other_texts,
    texts_of_model,
)
from common.asgd import averaged, non_monotone
from common.splitcross import perplexity
from harness.endings import BadInput, bad_input
from harness.keeper import Keeper


# --------------------------------------------------------------------------------- data and model
def build(args: argparse.Namespace, keeper: Keeper) -> Run:
    """Texts, the trained model and its loss, ASGD, as at the start of the run."""
    if not args.save:
        raise BadInput("--save FILE names the model to fine-tune (main.py wrote it)")
    corpus, model, criterion = texts_and_model(args, keeper)
    run = make_run(args, keeper, corpus, model, criterion, "finetune", seq_len_seed=NUMPY_SEED)
    run.seq_len_cap = args.bptt + 10  # main.py has none, as in the original
    run.optimizer = make_optimizer("asgd", run)
    run.progress.lr = args.lr
    if keeper.found is None:
        warn_of_inert_flags(run)
    describe(run)
    return run


def texts_and_model(args: argparse.Namespace, keeper: Keeper):
    """The texts, and the model in --save with its loss, with the words of --vocabulary. If these
    are its own, it is the one to beat. Raises BadInput."""
    corpus = load_corpus(args.data, keeper.fabric)
    rates = {name: getattr(args, name) for name in toolkit.DROPOUTS}
    with bad_input("--save: "):
        model, criterion, facts = load_model(args.save, rates)
    if of_other_texts(keeper, corpus):
        return corpus, model, criterion
    file = facts, model.ntoken, f"--save {args.save}"
    known = dictionary_of(*file)
    if (known is not None and args.vocabulary == "data"
            and known.digest() != corpus.dictionary.digest()):
        return corpus, *model_with_words_of(corpus, model, criterion, known, keeper.say)
    keeper.best_suffix = ""
    return texts_of_model(*file, corpus, args, keeper.say), model, criterion


def warn_of_inert_flags(run: Run) -> None:
    """Names the flags given that the model file overrules."""
    model = run.model
    own = {"model": model.rnn_type, "emsize": model.ninp, "nhid": model.nhid,
           "nlayers": model.nlayers, "tied": model.tie_weights,
           **{name: getattr(model, name) for name in toolkit.DROPOUTS}}
    if said := flags.overruled(run.args, own):
        run.keeper.say(said)


def measure_the_start(run: Run) -> None:
    """The validation loss to beat, written with a state before the first update: if the run is
    killed after its first best model, --resume continues instead of fine-tuning the tuned model.
    A model with other words than that in --save takes its place."""
    loss = run.keeper.check_finite(run.evaluate(run.val_data))
    run.progress.stored_loss = loss
    if run.keeper.best_suffix is None:
        save_best(run, loss, "Saving the model with the words of the texts")
    run.keeper.log(epoch=0, valid_loss=loss, valid_ppl=perplexity(loss))
    run.keeper.save()


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """Validation with the averages, the best model, and early stopping."""
    progress = run.progress
    with averaged(run.optimizer):
        loss = validate(run)
        if loss < progress.stored_loss:
            save_best(run, loss, "Saving Averaged!")
    if non_monotone(progress.best_val_loss, run.args.nonmono, loss):
        run.keeper.say("Done!")
        progress.done = True
    progress.best_val_loss.append(loss)
    progress.epoch, progress.i = progress.epoch + 1, 0
    run.keeper.save()


def stopped_by_max_steps(run: Run) -> None:
    """--max-steps ended the epoch before its end: measure, but leave the state where it stands."""
    with averaged(run.optimizer):
        loss = validate(run)
        compare_with_best(run, loss)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with Keeper("awd_lstm/finetune.py", args, label="finetune", tunes=True,
                upgrade=upgrade) as keeper:
        run = build(args, keeper)
        keeper.resume(run, on_ctrl_c=test)
        if run.progress.stored_loss == NOTHING_STORED:
            measure_the_start(run)
        while (not run.progress.done and run.progress.epoch <= args.epochs
               and not keeper.out_of_steps()):
            train_epoch(run)
            if epoch_is_over(run):
                end_of_epoch(run)
            else:
                stopped_by_max_steps(run)
        test(run)


if __name__ == "__main__":
    main()
