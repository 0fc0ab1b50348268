"""The training loop of main.py and finetune.py, its exact continuation and its orderly end.

A run is a `Run`: what is computed on (fabric, model, data), how (optimizer) and where it stands
(progress). Everything that the next update depends on is in the training state, so that a resumed
run gives, on the CPU, the same bits as one that never stopped.

Several processes (--devices N or torchrun) share the columns of the batch; each column's gradient
counts the same, so the update is that of one process on the whole batch.
"""

import signal
import time
from argparse import Namespace
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from awd_lstm import checkpoint
from awd_lstm.data import Corpus
from awd_lstm.environment import Interrupted, bad_input, my_columns
from awd_lstm.metrics import Metrics
from awd_lstm.model import Hidden, RNNModel, load_original_state
from awd_lstm.state import plain, save_state, state_file
from awd_lstm.utils import (
    batchify,
    draw_seq_len,
    evaluate,
    get_batch,
    perplexity,
    repackage_hidden,
)
from common.asgd import ASGD
from common.splitcross import SplitCrossEntropyLoss

NOTHING_STORED = 1e8              # "best validation loss" before the first


@dataclass
class Progress:
    """Where a run stands. i, batch, total and counted are those of the current epoch."""

    epoch: int = 1
    step: int = 0                 # updates so far, over all epochs
    i: int = 0                    # position in the text
    batch: int = 0                # updates in this epoch
    total: float = 0.0            # summed loss since the last report ...
    counted: int = 0              # ... of so many batches
    seconds: float = 0.0          # of this epoch, before the last interruption
    lr: float = 0.0
    stored_loss: float = NOTHING_STORED  # best validation loss so far
    best_val_loss: list = field(default_factory=list)
    done: bool = False            # finetune.py's stopping rule has spoken


@dataclass
class Run:
    """What is trained on what, and how far it is."""

    args: Namespace
    fabric: Fabric
    model: RNNModel
    criterion: SplitCrossEntropyLoss
    corpus: Corpus
    seq_len_rng: np.random.RandomState
    seq_len_cap: int | None = None           # finetune.py limits the drawn lengths
    script: str = "main"
    progress: Progress = field(default_factory=Progress)
    optimizer: torch.optim.Optimizer | None = None
    hidden: Hidden | None = None
    metrics: Metrics | None = None
    stop_signal: int = 0

    def __post_init__(self):
        args, fabric, corpus = self.args, self.fabric, self.corpus
        with bad_input(f"--data {args.data}: "):
            train_data = batchify(corpus.train, args.batch_size, fabric.device)
            self.val_data = batchify(corpus.valid, 10, fabric.device)
            self.test_data = batchify(corpus.test, 1, fabric.device)
        self.train_data = train_data[:, my_columns(fabric, args.batch_size)]
        # The share of this process in the batch, relative to the mean share.
        self.weight = self.train_data.shape[1] * fabric.world_size / args.batch_size
        if args.precision == "64":  # else Fabric rounds what a module returns to single precision
            torch.set_default_dtype(torch.float64)
        self.loss = TrainingLoss(self.model, self.criterion, args.alpha, args.beta)
        compiled = torch.compile(self.loss, dynamic=True) if args.compile else self.loss
        self.step_loss = fabric.setup_module(compiled)
        self.params = [*self.model.parameters(), *self.criterion.parameters()]
        if fabric.global_rank:  # the same start everywhere, other dropout masks
            torch.manual_seed(args.seed + fabric.global_rank)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._ask_to_stop)

    def _ask_to_stop(self, signum: int, frame) -> None:
        self.stop_signal = signum

    @property
    def averaging(self) -> bool:
        """Has NT-ASGD switched to averaged SGD?"""
        return isinstance(self.optimizer, ASGD)

    def say(self, text: str) -> None:
        """One process speaks for all."""
        if self.fabric.is_global_zero:
            print(text, flush=True)

    def evaluate(self, source: Tensor) -> float:
        """Mean loss of a text with the weights as they are now."""
        with self.fabric.autocast():
            return evaluate(self.model, self.criterion, source, self.args.bptt,
                            self.args.exact_loss, check=lambda: stop_if_asked(self))


class TrainingLoss(nn.Module):
    """Cross entropy plus activation regularisation (section 4.6)."""

    def __init__(self, model: RNNModel, criterion: SplitCrossEntropyLoss, alpha: float,
                 beta: float):
        super().__init__()
        self.model, self.criterion, self.alpha, self.beta = model, criterion, alpha, beta

    def forward(self, data: Tensor, targets: Tensor, hidden: Hidden):
        """data (T, B), targets (T*B,) -> loss, cross entropy alone, new hidden."""
        model = self.model
        output, hidden, raw, dropped = model(data, hidden, return_h=True)
        cross_entropy = self.criterion(model.decoder.weight, model.decoder.bias, output, targets)
        loss = cross_entropy
        if self.alpha:   # AR: mean square of the dropped last output (the paper writes an L2 norm)
            loss = loss + self.alpha * dropped[-1].pow(2).mean()
        if self.beta and len(data) > 1:  # TAR: of the undropped one; one time step has no slowness
            loss = loss + self.beta * (raw[-1][1:] - raw[-1][:-1]).pow(2).mean()
        return loss, cross_entropy, hidden


def train_epoch(run: Run) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, progress = run.args, run.progress
    if progress.i == 0:
        run.model.reset()
        run.hidden = run.model.init_hidden(run.train_data.shape[1])
        progress.batch, progress.total, progress.counted, progress.seconds = 0, 0.0, 0, 0.0
    run.model.train()
    epoch_start = time.time() - progress.seconds
    report_start, reported = time.time(), progress.batch
    while progress.i < len(run.train_data) - 2 and not out_of_steps(run):
        seq_len, loss = one_update(run)
        progress.total += loss
        progress.counted += 1
        done = progress.batch + 1
        if progress.batch % args.log_interval == 0 and progress.batch > 0:
            report(run, 1000 * (time.time() - report_start) / (done - reported))
            report_start, reported = time.time(), done
        progress.batch = done
        progress.step += 1
        progress.i += seq_len
        progress.seconds = time.time() - epoch_start
        if progress.step % args.save_interval == 0 or out_of_steps(run):
            save_state(run)
        stop_if_asked(run)


def out_of_steps(run: Run) -> bool:
    return bool(run.args.max_steps) and run.progress.step >= run.args.max_steps


def one_update(run: Run) -> tuple[int, float]:
    """Draws a length, computes the gradient, updates. Returns the length and the cross entropy."""
    args = run.args
    seq_len = draw_seq_len(run.seq_len_rng, args.bptt, run.seq_len_cap)
    # A longer sequence is fewer updates an epoch: each counts for its length (section 5).
    for group in run.optimizer.param_groups:
        group["lr"] = run.progress.lr * seq_len / args.bptt
    data, targets = get_batch(run.train_data, run.progress.i, seq_len)
    run.optimizer.zero_grad()
    loss, cross_entropy, hidden = run.step_loss(data, targets, run.hidden)
    run.fabric.backward(loss * run.weight)
    clip_and_check(run, loss)
    run.optimizer.step()
    run.hidden = repackage_hidden(hidden)
    for group in run.optimizer.param_groups:
        group["lr"] = run.progress.lr
    return seq_len, mean_over_processes(run, cross_entropy)


def clip_and_check(run: Run, loss: Tensor) -> None:
    """Clips the gradient norm; ends the run before the update if anything is not finite."""
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in run.params if p.grad is not None])
    if not torch.isfinite(norm + loss.detach()):  # looked at first: clipping spreads a NaN
        names = [name for name, p in run.loss.named_parameters()
                 if p.grad is not None and not p.grad.isfinite().all()]
        what = f"the gradient of {names[0]}" if names else "the loss"
        raise FloatingPointError(
            f"{what} is not finite at epoch {run.progress.epoch}, step {run.progress.step}; "
            "stopped before the update. Files written so far are good; a smaller --lr or --clip "
            "may help")
    if run.args.clip:
        torch.nn.utils.clip_grads_with_norm_(run.params, run.args.clip, norm)


def mean_over_processes(run: Run, value: Tensor) -> float:
    value = value.detach() * run.weight
    if run.fabric.world_size > 1:
        value = run.fabric.all_reduce(value, reduce_op="mean")
    return value.item()


def report(run: Run, ms_per_batch: float) -> None:
    """The original's line; finetune's has fewer digits and no bits per character."""
    args, p = run.args, run.progress
    loss = p.total / p.counted
    lr = f"{p.lr:05.5f}" if run.script == "main" else f"{p.lr:02.2f}"
    line = (f"| epoch {p.epoch:3d} | {p.batch:5d}/{len(run.train_data) // args.bptt:5d} batches "
            f"| lr {lr} | ms/batch {ms_per_batch:5.2f} | loss {loss:5.2f} "
            f"| ppl {perplexity(loss):8.2f}")
    run.say(line + (f" | bpc {loss / np.log(2):8.3f}" if run.script == "main" else ""))
    if run.metrics:
        run.metrics.log(p.step, p.epoch, train_loss=loss, train_lr=p.lr)
    p.total, p.counted = 0.0, 0


def report_epoch(run: Run, valid_loss: float) -> None:
    """The original's epoch line between two rules; the time includes the evaluation."""
    p = run.progress
    line = (f"| end of epoch {p.epoch:3d} | time: {p.seconds:5.2f}s | valid loss {valid_loss:5.2f} "
            f"| valid ppl {perplexity(valid_loss):8.2f}")
    bpc = f" | valid bpc {valid_loss / np.log(2):8.3f}" if run.script == "main" else ""
    run.say(f"{'-' * 89}\n{line}{bpc}\n{'-' * 89}")
    if run.metrics:
        run.metrics.log(p.step, p.epoch, valid_loss=valid_loss, valid_ppl=perplexity(valid_loss))


def stop_if_asked(run: Run) -> None:
    """Raises Interrupted if this or any other process was signalled: all stop at the same place."""
    signum = run.stop_signal
    if run.fabric.world_size > 1:
        asked = torch.tensor(signum, device=run.fabric.device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        signum = int(asked.item())
    if signum:
        run.stop_signal = 0
        raise Interrupted(signum)


def validate(run: Run) -> float:
    """Validation loss of the current weights, reported as the end of the epoch."""
    start = time.time()
    loss = run.evaluate(run.val_data)
    run.progress.seconds += time.time() - start
    report_epoch(run, loss)
    return loss


def save_best(run: Run, valid_loss: float, message: str, path: str | None = None) -> None:
    """Writes the model file with the weights as they are now."""
    if run.fabric.is_global_zero:
        checkpoint.save_model(path or run.args.save, run.model, run.criterion, plain(run.args),
                              run.corpus.dictionary.digest(), script=run.script,
                              epoch=run.progress.epoch, valid_loss=valid_loss)
    run.say(message)


def test(run: Run) -> None:
    """Loads the best model, evaluates it on the test text, prints the closing lines."""
    run.fabric.barrier()
    with bad_input("--save: "):
        best = checkpoint.read(run.args.save)
    load_original_state(run.model, best.get("model", best))  # finetune.py may have kept a bare one
    if "criterion" in best:
        run.criterion.load_state_dict(best["criterion"])
    loss = run.evaluate(run.test_data)
    line = f"| End of training | test loss {loss:5.2f} | test ppl {perplexity(loss):8.2f}"
    bpc = f" | test bpc {loss / np.log(2):8.3f}" if run.script == "main" else ""
    run.say(f"{'=' * 89}\n{line}{bpc}\n{'=' * 89}")
    if run.metrics:
        run.metrics.log(run.progress.step, best.get("epoch", 0), test_loss=loss,
                        test_ppl=perplexity(loss))
        run.metrics.close()


def leave_early(run: Run, stop: Interrupted) -> None:
    """Saves where the run stands. After Ctrl-C tests what there is, as the original did."""
    if not out_of_steps(run):  # else train_epoch has, and evaluation since reset the QRNN's frames
        save_state(run)
    run.say(f"{'-' * 89}\nExiting from training early\n"
            f"To go on: the same command with --resume ({state_file(run.args.save, run.script)})")
    if stop.signum == signal.SIGINT and run.progress.stored_loss < NOTHING_STORED:
        test(run)
