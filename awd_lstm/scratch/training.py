"""The training loop, evaluation, and the end of an epoch.

A `Run` holds what is trained on what and how far it is; the next update depends on nothing else, so
a resumed run gives, on the CPU, the same bits as one that never stopped (state.py writes it down).
"""

import signal
import time
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from awd_lstm import training as toolkit
from awd_lstm.data import Corpus
from awd_lstm.environment import bad_input
from awd_lstm.metrics import Metrics
from awd_lstm.scratch.data import gen_sequence_lengths, get_batch, get_batches
from awd_lstm.scratch.model import AWD_LSTM, Hidden
from awd_lstm.scratch.utils import NT_ASGD, epoch_metrics, stringify
from awd_lstm.utils import batchify
from common.asgd import averaged
from common.splitcross import SplitCrossEntropyLoss

BEFORE_THE_FIRST = 1e20  # "validation loss" that NT_ASGD is asked with before there is one


@dataclass
class Progress(toolkit.Progress):
    """Where a run stands. `i` is the number of chunks done in this epoch."""

    lengths: list = field(default_factory=list)  # of this epoch's chunks, in the text's order
    val_loss: float = BEFORE_THE_FIRST           # after the last epoch
    history: list = field(default_factory=list)  # epoch_metrics of every epoch


@dataclass
class Run:
    """What is trained on what, how, and how far it is."""

    args: Namespace
    fabric: Fabric
    model: AWD_LSTM
    criterion: SplitCrossEntropyLoss | None
    corpus: Corpus
    rng: np.random.RandomState                   # draws the sequence lengths
    script: str = "scratch"
    progress: Progress = field(default_factory=Progress)
    schedule: NT_ASGD | None = None
    hidden: Hidden | None = None
    metrics: Metrics | None = None
    stop_signal: int = 0

    def __post_init__(self):
        args, device = self.args, self.fabric.device
        columns = args.eval_batch_size or args.batch_size
        with bad_input(f"--data {args.data}: "):
            self.train_data = batchify(self.corpus.train, args.batch_size, device)
            self.val_data = batchify(self.corpus.valid, columns, device)
            self.test_data = batchify(self.corpus.test, 1, device)
        if args.precision == "64":  # else Fabric rounds what a module returns to single precision
            torch.set_default_dtype(torch.float64)
        self.loss = TrainingLoss(self.model, self.criterion, args.alpha, args.beta)
        self.step_loss = self.fabric.setup_module(self.loss)
        if args.compile:
            for layer in self.model.layers:
                layer.cell.step = torch.compile(layer.cell.step)
        self.params = list(self.loss.parameters())
        self.schedule = NT_ASGD(self.params, args.lr, args.wdecay, args.nonmono, args.average,
                                args.late_trigger)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._ask_to_stop)

    def _ask_to_stop(self, signum: int, frame) -> None:
        self.stop_signal = signum

    def say(self, text: str) -> None:
        print(text, flush=True)

    @property
    def weights_for_use(self):
        """What evaluation and files see: the averages of ASGD, where they take effect."""
        return averaged(self.schedule.optimizer) if self.args.average else nullcontext()


class TrainingLoss(nn.Module):
    """Cross entropy + AR + TAR."""

    def __init__(self, model: AWD_LSTM, criterion: SplitCrossEntropyLoss | None, alpha: float,
                 beta: float):
        super().__init__()
        self.model, self.criterion, self.alpha, self.beta = model, criterion, alpha, beta

    def forward(self, x: Tensor, y: Tensor, hidden: Hidden) -> tuple[Tensor, Tensor, Hidden]:
        """x, y (T, B) -> the loss, cross entropy alone, the state after x."""
        output, output_nodrop, hidden = self.model(x, hidden)
        ce = self.cross_entropy(output, y)
        ar = self.model.activation_reg(output, self.alpha)
        tar = self.model.temporal_activation_reg(output_nodrop, self.beta)
        return ce + ar + tar, ce, hidden

    def cross_entropy(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean -log p(y) over the chunk: output (T, B, E), y (T, B)."""
        decoder = self.model.decoder
        if self.criterion is None:
            return F.cross_entropy(decoder(output).flatten(0, 1), y.flatten())
        return self.criterion(decoder.weight, decoder.bias, output, y)


# -------------------------------------------------------------------------------------- training
def start_epoch(run: Run) -> None:
    """New chunks, the state before the first word, and the optimiser that NT-ASGD chooses."""
    args, p = run.args, run.progress
    p.lengths = gen_sequence_lengths(len(run.train_data), args.bptt, run.rng, args.cap)
    p.batch, p.total, p.counted, p.seconds, p.lr = 0, 0.0, 0, 0.0, args.lr
    run.hidden = run.model.init_hiddens(args.batch_size)
    run.schedule.get_optimizer(p.val_loss)


def train_epoch(run: Run, save_state) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, p = run.args, run.progress
    if p.i == 0:
        start_epoch(run)
    began, reported = time.time() - p.seconds, (time.time(), p.i)
    run.model.train()
    for x, y in get_batches(run.train_data, p.lengths, args.sort_chunks)[p.i:]:
        p.total += update(run, x, y)
        p.counted += 1
        if p.batch % args.log_interval == 0 and p.batch > 0:
            now = time.time()
            toolkit.report(run, 1000 * (now - reported[0]) / (p.i + 1 - reported[1]))
            reported = (now, p.i + 1)
        p.i, p.batch, p.step = p.i + 1, p.i + 1, p.step + 1
        p.seconds = time.time() - began
        if p.step % args.save_interval == 0 or toolkit.out_of_steps(run):
            save_state(run)
        toolkit.stop_if_asked(run)
        if toolkit.out_of_steps(run):
            return


def update(run: Run, x: Tensor, y: Tensor) -> float:
    """One step of (averaged) SGD on one chunk x, y (T, B); returns its cross entropy."""
    args, optimizer = run.args, run.schedule.optimizer
    for group in optimizer.param_groups:  # a short chunk counts for its length (section 4.1)
        group["lr"] = args.lr * len(x) / args.bptt
    optimizer.zero_grad()
    loss, ce, (h, c) = run.step_loss(x, y, run.hidden)
    run.fabric.backward(loss)
    toolkit.clip_and_check(run, loss)
    optimizer.step()
    run.hidden = [s.detach() for s in h], [s.detach() for s in c]  # truncated backpropagation
    return ce.item()


# ------------------------------------------------------------------------------------ evaluation
@torch.no_grad()
def evaluate(run: Run, data: Tensor) -> float:
    """Mean loss (nats per word) of a text (rows, B), the state carried along."""
    run.model.eval()
    hidden, total = run.model.init_hiddens(data.shape[1]), 0.0
    for i in range(0, len(data) - 1, run.args.bptt):
        toolkit.stop_if_asked(run)
        x, y, length = get_batch(data, i, run.args.bptt)
        with run.fabric.autocast():
            output, _, hidden = run.model(x, hidden)
            total += length * run.loss.cross_entropy(output, y).item()
    run.model.train()
    return total / (len(data) - 1)


def measure(run: Run) -> dict[str, float]:
    """The numbers of this epoch so far, printed; the weights are used as they are."""
    began, p = time.time(), run.progress
    train_loss = evaluate(run, run.train_data[:run.args.train_rows])
    p.val_loss = evaluate(run, run.val_data)
    p.seconds += time.time() - began
    found = epoch_metrics(p.epoch, p.seconds, train_loss, p.val_loss, run.schedule.triggered,
                          run.fabric.device)
    run.say(stringify(found))
    if run.metrics:
        run.metrics.log(p.step, p.epoch, train_eval_loss=train_loss, valid_loss=p.val_loss,
                        valid_ppl=found["val_ppl"])
    return found


def end_of_epoch(run: Run, save_best) -> None:
    """Measures, keeps the best weights; fine-tuning ends when it no longer improves."""
    p = run.progress
    with run.weights_for_use:
        p.history.append(measure(run))
        if p.val_loss < p.stored_loss:
            save_best(run, "Saving model")
            p.stored_loss = p.val_loss
    if run.args.finetune and run.schedule.stopped_improving(p.val_loss):
        run.say("Done!")
        p.done = True
    p.epoch, p.i = p.epoch + 1, 0
