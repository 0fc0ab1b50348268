"""Fine-tunes a trained model: averaged SGD from the first step, stopped when validation no longer
improves (Merity et al. 2017, section 5, "fine-tuning"; NT-ASGD with T = 0).

    python finetune.py --batch_size 20 --data data/penn --dropouti 0.4 --dropouth 0.25 --seed 141 \\
                       --epoch 500 --save PTB.pt
    -> validation / test perplexity about 58.8 / 56.5 (published)

--save is read and, whenever validation improves, replaced, so that the published commands chain;
the model that was read is first kept as PTB.main.pt. Sizes and dropouts are the model's own.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from awd_lstm import args as flags
from awd_lstm import checkpoint
from awd_lstm.environment import (
    BadInput,
    Interrupted,
    check_writable,
    claim,
    load_corpus,
    load_trained,
    make_fabric,
    orderly_exit,
    seed_everything,
)
from awd_lstm.metrics import Metrics, resumed_folder, run_folder
from awd_lstm.state import (
    make_optimizer,
    read_for_resume,
    restore,
    save_state,
    set_state_aside,
)
from awd_lstm.training import (
    Run,
    leave_early,
    out_of_steps,
    save_best,
    test,
    train_epoch,
    validate,
)
from common.asgd import averaged, non_monotone

NUMPY_SEED = 331  # the original's, whatever --seed says: it seeds the sequence lengths


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="PyTorch PennTreeBank RNN/LSTM Language Model",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.data_and_model(p)
    flags.training(p)
    p.add_argument("--tied", action=flags.OnOff, default=True,
                   help="tie the word embedding and softmax weights (the model's own tying counts)")
    flags.run(p)
    flags.device(p)
    flags.parallel(p)
    args = p.parse_args(argv)
    flags.check(p, args)
    return args


# --------------------------------------------------------------------------------- data and model
def build(args: argparse.Namespace) -> Run:
    """Texts, the trained model and its loss, ASGD; at the start or where --resume says."""
    resume = read_for_resume(args, "finetune")
    if resume is not None and resume.get("format") != checkpoint.STATE_FORMAT:
        raise BadInput("--resume takes a fine-tuning state here; the model to start from is --save")
    if not args.save:
        raise BadInput("--save FILE names the model to fine-tune (main.py wrote it)")
    check_writable(args.save)
    fabric = make_fabric(args)
    claim(args.save, fabric)
    seq_len_rng = seed_everything(args, NUMPY_SEED)
    corpus = load_corpus(args.data, fabric)
    rates = {name: getattr(args, name)
             for name in ("dropout", "dropouth", "dropouti", "dropoute", "wdrop")}
    model, criterion = load_trained("--save", args.save, args.data, corpus, rates)
    run = Run(args, fabric, model, criterion, corpus, seq_len_rng, script="finetune",
              seq_len_cap=args.bptt + 10)
    if resume is not None:
        restore(run, resume)
        run.say(f"Resuming at epoch {run.progress.epoch}, update {run.progress.step}")
    else:
        warn_of_inert_flags(run)
        run.optimizer = make_optimizer("asgd", run)
        run.progress.lr = args.lr
        run.progress.stored_loss = run.evaluate(run.val_data)
    if fabric.is_global_zero:
        prepare_files(run, resume)
    run.say(f"Args: {args}\nModel total parameters: {sum(p.numel() for p in run.params)}")
    return run


def prepare_files(run: Run, resumed: dict | None) -> None:
    """Keeps the input and an earlier run's state under other names, opens the log."""
    args = run.args
    name = f"{Path(args.save).stem}.finetune"
    if resumed:
        folder = resumed_folder(resumed, args.save, Path(args.log_dir), name)
    else:
        for old, new in set_state_aside(args.save, run.script):
            run.say(f"{old} is of an earlier run: kept as {new}")
        aside = checkpoint.set_aside(args.save, "main", keep=True)
        run.say(f"{args.save} will be updated in place; as it was it is kept as {aside}")
        folder = run_folder(Path(args.log_dir), name)
    run.metrics = Metrics(folder, run.progress.step, resumed["metrics_size"] if resumed else 0)


def warn_of_inert_flags(run: Run) -> None:
    """Names the flags given that the model file overrules."""
    args, model = run.args, run.model
    own = {"model": model.rnn_type, "emsize": model.ninp, "nhid": model.nhid,
           "nlayers": model.nlayers, "dropout": model.dropout, "dropouth": model.dropouth,
           "dropouti": model.dropouti, "dropoute": model.dropoute, "wdrop": model.wdrop}
    differ = [f"--{name} {getattr(args, name)} (model: {value})" for name, value in own.items()
              if getattr(args, name) != value]
    if differ:
        run.say(f"The model's own settings are used, not {', '.join(differ)}")


# -------------------------------------------------------------------------------------- training
def end_of_epoch(run: Run) -> None:
    """Validation with the averages, the best model, and the stopping rule."""
    p = run.progress
    with averaged(run.optimizer):
        loss = validate(run)
        if loss < p.stored_loss:
            save_best(run, loss, "Saving Averaged!")
            p.stored_loss = loss
    if non_monotone(p.best_val_loss, run.args.nonmono, loss):
        run.say("Done!")
        p.done = True
    p.best_val_loss.append(loss)
    p.epoch, p.i = p.epoch + 1, 0
    save_state(run)


def train(run: Run) -> None:
    """Epochs until the stopping rule, --epochs, --max-steps or a signal; then the test."""
    p = run.progress
    try:
        while not p.done and p.epoch <= run.args.epochs and not out_of_steps(run):
            train_epoch(run)
            if p.i < len(run.train_data) - 2:
                with averaged(run.optimizer):
                    validate(run)
            else:
                end_of_epoch(run)
    except Interrupted as stop:
        leave_early(run, stop)
        raise
    test(run)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("finetune.py"):
        train(build(args))


if __name__ == "__main__":
    main()
