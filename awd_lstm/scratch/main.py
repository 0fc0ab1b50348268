"""Trains the AWD-LSTM (Merity, Keskar, Socher 2017) that model.py writes out.

    ./getdata.sh ptb
    python main.py                        the paper: PTB, 24.2 M parameters, 500 epochs
    python main.py --finetune             continues from the best model, averaging from step 1
    python main.py --pointer              measures it with a continuous cache
    python main.py --as-published         the published from-scratch code as it was (91.0)

On a small machine (about a minute on one CPU core, validation perplexity about 250):
    ./getdata.sh pydoc
    python main.py --data data/pydoc --emsize 64 --nhid 128 --batch_size 40 --epochs 2 \\
                   --save small.pt

All settings are in settings.py, the model in model.py.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from awd_lstm.scratch.settings import parse_args

if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import operator
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from awd_lstm import training as toolkit
from awd_lstm.data import Corpus
from awd_lstm.inputs import columns_of, load_corpus
from awd_lstm.scratch.data import gen_sequence_lengths, get_batch, get_batches
from awd_lstm.scratch.model import AWD_LSTM, Hidden, TrainingLoss
from awd_lstm.scratch.pointer import pointer_loss
from awd_lstm.scratch.utils import (
    MODEL_FORMAT,
    NT_ASGD,
    epoch_metrics,
    load_weights,
    model_to_train,
    stringify,
    table_ending,
    trained_model,
    upgrade,
    weights_of,
    write_table,
)
from awd_lstm.utils import is_best
from common.asgd import averaged
from common.splitcross import SplitCrossEntropyLoss, perplexity
from harness import machine
from harness.endings import BadInput
from harness.keeper import Keeper

SCRIPT = "awd_lstm/scratch/main.py"
LONGER = "give a longer text"
BEFORE_THE_FIRST = 1e20  # "validation loss" that NT_ASGD is asked with before there is one


# -------------------------------------------------------------------------------------- the run
@dataclass
class Progress(toolkit.Progress):
    """How far a run is. `i` is the number of chunks done in this epoch."""

    lengths: list = field(default_factory=list)  # of this epoch's chunks, in the text's order
    val_loss: float = BEFORE_THE_FIRST           # after the last epoch
    history: list = field(default_factory=list)  # epoch_metrics of every epoch


@dataclass
class Run:
    """What is trained on what, how, and how far it is; harness.keeper says what a run offers."""

    args: argparse.Namespace
    keeper: Keeper
    script: str                                  # scratch or scratch-finetune
    corpus: Corpus
    train_data: Tensor                           # (rows, B)
    val_data: Tensor
    test_data: Tensor                            # (rows, 1)
    loss: TrainingLoss
    step_loss: nn.Module                         # the same, in the arithmetic of --precision
    schedule: NT_ASGD
    rng: np.random.RandomState                   # draws the sequence lengths
    progress: Progress = field(default_factory=Progress)
    hidden: Hidden | None = None
    in_epoch: bool = False                       # the test is of these weights, not of the best

    @property
    def model(self) -> AWD_LSTM:
        return self.loss.model

    @property
    def inputs(self) -> dict[str, str]:
        return self.corpus.digests

    @property
    def weights_for_use(self):
        """What evaluation and files see: the averages of ASGD, where they take effect."""
        return averaged(self.schedule.optimizer) if self.args.average else nullcontext()

    def count(self, loss: float) -> None:
        """One more chunk, with its cross entropy."""
        self.progress.total += loss
        self.progress.counted += 1

    def draw_lengths(self) -> list[int]:
        """The lengths of an epoch's chunks."""
        return gen_sequence_lengths(len(self.train_data), self.args.bptt, self.rng, self.args.cap)

    def rate(self, x: Tensor) -> float:
        """The learning rate of a chunk: a short one counts for its length (section 4.1)."""
        return self.args.lr * len(x) / self.args.bptt

    def state(self) -> dict:
        """What the next update depends on, beside the hidden states, `own`."""
        return {"triggered": self.schedule.triggered, "losses": self.schedule.losses,
                "optimizer": self.schedule.optimizer.state_dict(),
                "rng": machine.generator_state(self.rng), **weights_of(self)}

    def own(self) -> dict:
        return {"hidden": self.hidden}

    def restore(self, state: dict, own: dict) -> None:
        if state.get("corpus", self.corpus.key) != self.corpus.key:  # of release 0.1
            raise BadInput(f"--resume: the texts in {self.args.data} have changed since")
        load_weights(self.loss, "--resume", state)
        if state["triggered"]:
            self.schedule.start_averaging()
        self.schedule.losses = state["losses"]
        self.schedule.optimizer.load_state_dict(state["optimizer"])
        machine.set_generator_state(self.rng, state["rng"])
        self.hidden = own["hidden"]


# --------------------------------------------------------------------------------- data and model
def build(args: argparse.Namespace, keeper: Keeper, kind: type[Run] = Run) -> Run:
    """Texts, model, loss and optimiser, as at the start of the run."""
    fabric, device = keeper.fabric, keeper.fabric.device
    if fabric.world_size > 1:
        raise BadInput("this script trains in one process; awd_lstm/main.py takes --devices")
    keeper.say(f"Running on: {device}")
    corpus = load_corpus(args.data, fabric)
    model, criterion, corpus = model_to_train(args, corpus, keeper)
    train_data = columns_of(corpus, "train", args.batch_size, device,
                            f"{LONGER} or a smaller --batch_size", rows=3)
    val_data = columns_of(corpus, "valid", args.eval_batch_size or args.batch_size, device,
                          f"{LONGER} or a smaller --eval_batch_size")
    test_data = columns_of(corpus, "test", 1, device, LONGER)
    loss = TrainingLoss(model, criterion, args.alpha, args.beta)
    step_loss = fabric.setup_module(loss)
    if args.compile:
        for layer in model.layers:
            layer.cell.step = torch.compile(layer.cell.step)
    schedule = NT_ASGD(loss.parameters(), args.lr, args.wdecay, args.nonmono, args.average,
                       args.late_trigger)
    run = kind(args, keeper, "scratch-finetune" if args.finetune else "scratch", corpus, train_data,
               val_data, test_data, loss, step_loss, schedule, np.random.RandomState(args.seed))
    if args.finetune:
        schedule.start_averaging()
        keeper.best_suffix = ""  # the model in --save is the one to beat
    elif keeper.weights is not None:
        start_from(run, keeper.weights)
    toolkit.describe(run)
    return run


def start_from(run: Run, content: dict) -> None:
    """Weights of a file, everything else fresh."""
    if content.get("vocabulary", run.corpus.dictionary.digest()) != run.corpus.dictionary.digest():
        raise BadInput(f"--resume: the model's vocabulary is not that of {run.args.data}")
    load_weights(run.loss, "--resume", content)
    run.keeper.say("Starting from the weights given, with a fresh optimizer and epoch count")


# -------------------------------------------------------------------------------------- training
def train_epoch(run: Run) -> None:
    """Continues the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, progress, keeper = run.args, run.progress, run.keeper
    if progress.i == 0:  # new chunks, the state before the first word, and NT-ASGD's optimiser
        progress.lengths = run.draw_lengths()
        progress.batch, progress.total, progress.counted, progress.seconds = 0, 0.0, 0, 0.0
        progress.lr = args.lr
        run.hidden = run.model.init_hiddens(args.batch_size)
        run.schedule.get_optimizer(progress.val_loss)
    began, reported = time.time() - progress.seconds, (time.time(), progress.i)
    run.model.train()
    for x, y in get_batches(run.train_data, progress.lengths, args.sort_chunks)[progress.i:]:
        keeper.later(run.count, update(run, x, y))
        if progress.batch % args.log_interval == 0 and progress.batch > 0:
            keeper.settle()
            now = time.time()
            toolkit.report(run, 1000 * (now - reported[0]) / (progress.i + 1 - reported[1]))
            reported = (now, progress.i + 1)
        progress.i += 1
        progress.batch, progress.step = progress.i, progress.step + 1
        progress.seconds = time.time() - began
        keeper.after_update()
        if keeper.out_of_steps():
            return


def update(run: Run, x: Tensor, y: Tensor) -> Tensor:
    """One step of (averaged) SGD on one chunk x, y (T, B); returns its cross entropy."""
    optimizer = run.schedule.optimizer
    for group in optimizer.param_groups:
        group["lr"] = run.rate(x)
    optimizer.zero_grad()
    loss, ce, (h, c) = run.step_loss(x, y, run.hidden)
    run.keeper.fabric.backward(loss)
    run.keeper.clip_gradients(run.loss, loss, run.args.clip)
    run.keeper.step(optimizer)
    run.hidden = [s.detach() for s in h], [s.detach() for s in c]  # truncated backpropagation
    return ce.detach()


def end_of_epoch(run: Run) -> None:
    """Measures, keeps the best weights; fine-tuning ends when it no longer improves."""
    progress = run.progress
    with run.weights_for_use:
        progress.history.append(measure(run))
        if is_best(progress.val_loss, progress.stored_loss):
            save_best(run, "Saving model")
            progress.stored_loss = progress.val_loss
    if run.args.finetune and run.schedule.stopped_improving(progress.val_loss):
        run.keeper.say("Done!")
        progress.done = True
    progress.epoch, progress.i = progress.epoch + 1, 0
    # The table first: a run killed between the two does this epoch's end, and the table, again.
    write_table(f"{run.args.save}{table_ending(run.args)}", progress.history)
    run.keeper.save()


def stopped_by_max_steps(run: Run) -> None:
    """--max-steps ended the epoch before its end: measure, but leave the state where it stands."""
    with run.weights_for_use:
        measure(run)
        if run.progress.stored_loss == toolkit.NOTHING_STORED:
            save_best(run, "Saving model (the first)")
        else:
            toolkit.compare_with_best(run, run.progress.val_loss)


def save_best(run: Run, message: str) -> None:
    """Writes the model file with the weights as they are now."""
    run.keeper.save_best({"format": MODEL_FORMAT, "script": run.script, "epoch": run.progress.epoch,
                          "valid_loss": run.progress.val_loss, **weights_of(run)})
    run.keeper.say(message)


# ------------------------------------------------------------------------------------ evaluation
@torch.no_grad()
def evaluate(run: Run, data: Tensor) -> float:
    """Mean loss (nats per word) of a text (rows, B), the state carried along."""
    run.model.eval()
    hidden, losses = run.model.init_hiddens(data.shape[1]), []
    for i in range(0, len(data) - 1, run.args.bptt):
        run.keeper.stop_if_asked()
        x, y, length = get_batch(data, i, run.args.bptt)
        with run.keeper.fabric.autocast():
            output, _, hidden = run.model(x, hidden)
            losses.append((length, run.loss.cross_entropy(output, y)))
    run.model.train()
    lengths, values = zip(*losses, strict=True)
    return sum(map(operator.mul, lengths, torch.stack(values).tolist())) / (len(data) - 1)


def measure(run: Run) -> dict[str, float]:
    """The numbers of this epoch so far, printed; the weights are used as they are."""
    began, progress = time.time(), run.progress
    train_loss = evaluate(run, run.train_data[:run.args.train_rows])
    progress.val_loss = run.keeper.check_finite(evaluate(run, run.val_data))
    progress.seconds += time.time() - began
    found = epoch_metrics(progress.epoch, progress.seconds, train_loss, progress.val_loss,
                          run.schedule.triggered, run.keeper.fabric.device)
    run.keeper.say(stringify(found))
    run.keeper.log(train_eval_loss=train_loss, valid_loss=progress.val_loss,
                   valid_ppl=found["val_ppl"])
    return found


def test(run: Run) -> None:
    """The best model on the test text, which the published code never looked at."""
    if run.in_epoch:
        with run.weights_for_use:
            epoch, loss = run.progress.epoch, evaluate(run, run.test_data)
    else:
        load_weights(run.loss, "--save", best := run.keeper.read_best())
        epoch, loss = best.get("epoch", 0), evaluate(run, run.test_data)
    run.keeper.check_finite(loss, "the test loss")
    run.keeper.say(f"| End of training | test loss {loss:5.2f} | test ppl {perplexity(loss):8.2f}")
    run.keeper.log(epoch, test_loss=loss, test_ppl=perplexity(loss))


# ------------------------------------------------------------------------------------- the three
def train(run: Run) -> None:
    """Epochs until --epochs, --max-steps, the end of fine-tuning, or a signal; then the test."""
    progress, keeper = run.progress, run.keeper
    if run.args.finetune and progress.stored_loss == toolkit.NOTHING_STORED:
        # The state first: killed after its first best model, a rerun must not tune that one.
        progress.stored_loss = keeper.check_finite(evaluate(run, run.val_data))
        keeper.log(epoch=0, valid_loss=progress.stored_loss)
        keeper.save()
    while progress.epoch <= run.args.epochs and not progress.done and not keeper.out_of_steps():
        train_epoch(run)
        if progress.i == len(progress.lengths):
            end_of_epoch(run)
        else:
            stopped_by_max_steps(run)
    test(run)


def pointer(args: argparse.Namespace, keeper: Keeper) -> None:
    """Validation and test perplexity of the model in --save with a continuous cache."""
    fabric = keeper.fabric
    model, criterion, corpus = trained_model(args, load_corpus(args.data, fabric), keeper.say)
    criterion = criterion or SplitCrossEntropyLoss(args.emsize)
    module = fabric.setup_module(nn.ModuleList([model, criterion])).module
    for name, split in (("val", "valid"), ("test", "test")):
        loss = pointer_loss(*module, columns_of(corpus, split, 1, fabric.device, LONGER),
                            args.window, args.theta, args.lambdasm, args.bptt, fabric.autocast)
        keeper.say(f"| End of pointer | {name} loss {loss:5.2f} "
                   f"| {name} ppl {perplexity(loss):8.2f}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    label = "finetune" if args.finetune else ""
    with Keeper(SCRIPT, args, label=label, label_0_1="scratch-finetune" if label else "scratch",
                writes=not args.pointer, tunes=args.finetune, takes_weights=not args.finetune,
                upgrade=upgrade, also=(table_ending(args),)) as keeper:
        if args.pointer:
            pointer(args, keeper)
            return
        run = build(args, keeper)
        keeper.resume(run)
        train(run)


if __name__ == "__main__":
    main()
