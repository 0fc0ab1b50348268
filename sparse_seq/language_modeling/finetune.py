"""Fine-tunes the model in --save: averaged SGD from the first step, stopped when validation no
longer improves (Merity et al. 2017, section 5).

    python finetune.py --save logs/awd-lstm
    python finetune.py --sparse_mode sparse_hidden --sparse_fract 0.66666 --nhid 1725 \\
                       --save logs/awd-lstm-sparse
    -> test perplexity 56.6 and 57.0 on the Penn Treebank (published)

The model comes from --save, where main.py put it, and so do its sizes and dropouts: flags that say
otherwise have no effect. The texts are those that it was trained on, or with --data others. Its
words stay (unknown ones are read as <unk>, counted and named); --vocabulary data takes the words of
the texts. The result is --save/finetune_model.pt.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from sparse_seq.language_modeling import args as flags


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.parser(
        "Fine-tuning of a dense or sparse AWD-LSTM",
        data="folder with train.txt, valid.txt, test.txt (None: the texts that main.py left in "
             "--save)")
    flags.add_dropouts(parser)
    parser.set_defaults(data=None)
    return flags.parse(parser, argv)


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes are answered before torch is imported

from common.asgd import averaged, non_monotone
from common.splitcross import perplexity
from harness import files
from harness.endings import BadInput, bad_input
from harness.flags import overruled
from harness.keeper import Keeper
from sparse_seq.first_release import upgrade
from sparse_seq.language_modeling.data import Corpus
from sparse_seq.language_modeling.model import LanguageModel
from sparse_seq.language_modeling.run import (
    NOTHING_STORED,
    Recipe,
    Run,
    for_other_words,
    introduce,
    load_corpus,
    make_model,
    make_run,
    model_content,
    places,
    save_best,
    start_from_best,
    use_all_gpus,
)
from sparse_seq.language_modeling.training import (
    measure,
    more_epochs,
    next_epoch,
    test,
    train_epoch,
    validate,
)
from sparse_seq.weights import is_ours, load_weights, weights_of
from texts.vocabulary import words_in_file

LENGTH_SEED = 331  # the original's, whatever --seed says
SHORTEST = 100     # epochs before early stopping may trigger


# --------------------------------------------------------------------------------- data and model
def load_texts(args: argparse.Namespace, keeper: Keeper) -> Corpus:
    """Those that main.py left in --save, or with --data others, by default with the words of the
    model. Raises BadInput."""
    kept, trained = (Path(args.save) / name for name in ("corpus.pt", "model.pt"))
    with bad_input("--save: "):
        corpus = Corpus.from_content(files.read(kept)) if kept.is_file() else None
        if args.data is not None:
            words = None
            if args.vocabulary == "model":
                words = words_in_file(files.read(trained)) or (corpus.words if corpus else None)
            return load_corpus(args, keeper, words)
    if corpus is None:
        raise BadInput(f"--save: there is no file {kept}; give the texts with --data")
    return corpus


def load_model(args: argparse.Namespace, corpus: Corpus, keeper: Keeper) -> LanguageModel:
    """What main.py left; for an original's state_dict, the flags give sizes and dropouts."""
    with bad_input("--save: "):
        trained = files.read(Path(args.save) / "model.pt")
        if not is_ours(trained):
            model, state = make_model(args, len(corpus.words)), trained
        elif "config" not in trained:
            raise ValueError(f"the model in {args.save} is not one that main.py wrote")
        elif trained["vocabulary"] == corpus.digest():
            model, state = LanguageModel(**trained["config"]), weights_of(trained)
            if said := overruled(args, trained["config"]):
                keeper.say(said)
        elif args.vocabulary == "data" and "word_list" in trained:
            model = LanguageModel(**trained["config"] | {"ntoken": len(corpus.words)})
            state = for_other_words(trained, model, corpus.words, keeper)
        else:
            raise ValueError(f"the model in {args.save} was trained on other words than those of "
                             f"{args.data or 'its corpus.pt'}")
        load_weights(model, state)
    return model


def build(args: argparse.Namespace, keeper: Keeper) -> Run:
    """The trained model and averaged SGD, or what --continue_train names."""
    corpus = load_texts(args, keeper)
    run = make_run(keeper, Recipe(optimizer="asgd", length_seed=LENGTH_SEED), corpus,
                   load_model(args, corpus, keeper))
    if args.continue_train and keeper.found is None:
        start_from_best(run)
    return run


def keep_beginning(run: Run) -> None:
    """The model to improve on is the one that was read. It and the training state are stored before
    the first update, so that a run killed from then on is resumed, not begun again."""
    loss = run.keeper.check_finite(measure(run, run.valid))
    if run.args.continue_train:  # it is in its place already
        run.keeper.best_suffix = ""
    else:
        run.keeper.save_best(model_content(run, loss))
    run.progress.best = loss
    run.keeper.log(epoch=0, valid_loss=loss, valid_ppl=perplexity(loss))
    run.keeper.save()


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """Validation with the averages, the best model, early stopping."""
    p = run.progress
    with averaged(run.optimizer):
        loss = validate(run)
        if loss < p.best:
            save_best(run, loss, "Saving Averaged!")
            p.best = loss
    if len(p.history) > SHORTEST and non_monotone(p.history, run.args.nonmono, loss):
        run.keeper.say("Done!")
        p.done = True
    p.history.append(loss)
    next_epoch(run)


def main(argv: list[str] | None = None) -> Run:
    args = parse_args(argv)
    use_all_gpus(args)
    # Without --save there is no model either, as load_texts will say: no folder is made for that.
    with Keeper("sparse_seq/language_modeling/finetune.py", args, upgrade=upgrade,
                writes=Path(args.save).is_dir(), **places(args, "finetune_")) as keeper:
        run = build(args, keeper)
        keeper.resume(run, on_ctrl_c=test)
        introduce(run)
        if run.progress.best == NOTHING_STORED:
            keep_beginning(run)
        while more_epochs(run):
            if train_epoch(run):
                end_of_epoch(run)
        test(run)
    return run


if __name__ == "__main__":
    main()
