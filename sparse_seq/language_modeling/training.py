"""The training loop of main.py, finetune.py and main_overfit.py, and what a run consists of.

Several processes (--devices N or torchrun) share the columns of each batch; the update is that of
one process on the whole batch.
"""

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from common.asgd import ASGD
from sparse_seq import files, runs
from sparse_seq.language_modeling.data import Corpus
from sparse_seq.language_modeling.model import Hidden, LanguageModel
from sparse_seq.language_modeling.utils import (
    batchify,
    detached,
    draw_length,
    evaluate,
    get_batch,
    perplexity,
)

NOTHING_STORED = 1e8  # "best validation loss" before the first


@dataclass
class Progress:
    """Where a run stands; i, batch and what follows are of the current epoch."""

    epoch: int = 1
    step: int = 0                  # updates so far, over all epochs
    lr: float = 0.0
    best: float = NOTHING_STORED   # validation loss of the stored model
    history: list = field(default_factory=list)   # validation losses, for NT-ASGD or the stop
    previous: float = NOTHING_STORED
    rising: int = 0                # epochs in a row in which the validation loss rose
    done: bool = False
    i: int = 0                     # position in the text
    batch: int = 0                 # updates
    seconds: float = 0.0
    total: float = 0.0             # summed loss since the last report ...
    counted: int = 0               # ... of so many batches
    correct: int = 0               # main_overfit.py: training words predicted before the update
    predicted: int = 0


class TrainingLoss(nn.Module):
    """Cross entropy and activation regularisation (Merity et al. 2017, section 4.6)."""

    def __init__(self, model: LanguageModel, args: Namespace):
        super().__init__()
        self.model, self.alpha, self.beta, self.count = model, args.alpha, args.beta, args.recite

    def forward(self, data: Tensor, targets: Tensor, hidden: Hidden):
        """data (T, B), targets (T*B) -> loss, cross entropy alone, hits, new hidden."""
        found = self.model.run_layers(data, hidden)
        raw_loss, hits = self.model.score(found.output, targets, self.count)
        loss = raw_loss
        if self.alpha:
            loss = loss + self.alpha * found.dropped[-1].pow(2).mean()
        if self.beta and len(data) > 1:  # one time step has no slowness
            loss = loss + self.beta * found.raw[-1].diff(dim=0).pow(2).mean()
        return loss, raw_loss, hits, found.hidden


@dataclass
class Run:
    """What is trained on what, and how far it is. `prefix` begins the names of its files."""

    args: Namespace
    fabric: Fabric
    corpus: Corpus
    model: LanguageModel
    folder: Path
    script: str
    length_rng: np.random.RandomState
    prefix: str = ""
    progress: Progress = field(default_factory=Progress)
    optimizer: torch.optim.Optimizer | None = None
    hidden: list[Hidden] | None = None            # per micro-batch
    journal: runs.Journal | None = None
    stop: runs.StopSignals | None = None

    def __post_init__(self):
        args, fabric = self.args, self.fabric
        with runs.users(f"--data {args.data}"):
            train = batchify(self.corpus.train, args.batch_size, fabric.device)
            self.valid = batchify(self.corpus.valid, 10, fabric.device)
            self.test = batchify(self.corpus.test, 1, fabric.device)
        self.rows = len(train)
        share = args.small_batch_size // fabric.world_size
        first = fabric.global_rank * share
        self.parts = [part[:, first:first + share]
                      for part in train.split(args.small_batch_size, 1)]
        loss = TrainingLoss(self.model, args)
        self.loss = fabric.setup_module(torch.compile(loss, dynamic=True) if args.compile else loss)
        self.params = list(self.model.parameters())
        self.progress.lr = args.lr
        if fabric.global_rank:  # the same start everywhere, other dropout masks
            torch.manual_seed(args.seed + fabric.global_rank)
        self.stop = runs.StopSignals(fabric)

    @property
    def averaging(self) -> bool:
        """Is this averaged SGD?"""
        return isinstance(self.optimizer, ASGD)

    def file(self, name: str) -> Path:
        return self.folder / f"{self.prefix}{name}"

    def evaluate(self, source: Tensor) -> float:
        """Mean loss with the weights as they are now."""
        with self.fabric.autocast():
            return evaluate(self.model, source, self.args.bptt, self.args.exact_loss,
                            self.stop.check)

    def out_of_steps(self) -> bool:
        return bool(self.args.max_steps) and self.progress.step >= self.args.max_steps


def make_optimizer(run: Run, kind: str) -> torch.optim.Optimizer:
    """sgd (with main_overfit.py's momentum), or asgd as NT-ASGD switches to."""
    args = run.args
    if kind == "asgd":
        return ASGD(run.params, lr=args.lr, t0=0, weight_decay=args.wdecay)
    return torch.optim.SGD(run.params, args.lr, args.momentum, weight_decay=args.wdecay,
                           fused=run.fabric.device.type in ("cpu", "cuda"))


# ------------------------------------------------------------------------------------- one epoch
def train_epoch(run: Run) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, p = run.args, run.progress
    if p.i == 0:
        run.hidden = [run.model.init_hidden(part.shape[1]) for part in run.parts]
        p.batch = p.counted = p.correct = p.predicted = 0
        p.total = p.seconds = 0.0
    run.model.train()
    began, reported, reported_at = time.time() - p.seconds, p.batch, time.time()
    while p.i < run.rows - 2 and not run.out_of_steps():
        length, loss = one_update(run)
        p.total, p.counted = p.total + loss, p.counted + 1
        if p.batch % args.log_interval == 0 and p.batch > 0:
            report(run, 1000 * (time.time() - reported_at) / (p.batch + 1 - reported))
            reported, reported_at = p.batch + 1, time.time()
        p.batch, p.step, p.i = p.batch + 1, p.step + 1, p.i + length
        p.seconds = time.time() - began
        if p.step % args.save_interval == 0 or run.out_of_steps():
            save_state(run)
        run.stop.check()


def run_epochs(run: Run, end_of_epoch: Callable[[Run], None]) -> None:
    """Epochs until --epochs, --max-steps, progress.done or a signal, which raises Interrupted after
    the state is saved. An epoch that --max-steps cuts short has no end: its state stays as it is,
    and --resume goes on in the middle of it."""
    p = run.progress
    try:
        while p.epoch <= run.args.epochs and not p.done and not run.out_of_steps():
            train_epoch(run)
            if 0 < p.i < run.rows - 2:
                break
            end_of_epoch(run)
            p.epoch, p.i = p.epoch + 1, 0
            save_state(run)
    except runs.Interrupted:
        leave_early(run)
        raise


def one_update(run: Run) -> tuple[int, float]:
    """One update on a sequence of random length. Returns the length and the cross entropy."""
    args, p, fabric = run.args, run.progress, run.fabric
    length = draw_length(run.length_rng, args.bptt, args.bptt + args.max_seq_len_delta)
    for group in run.optimizer.param_groups:  # each update counts for its length
        group["lr"] = p.lr * length / args.bptt
    run.optimizer.zero_grad()
    raw, total = [], None
    for k, part in enumerate(run.parts):
        data, targets = get_batch(part, p.i, length)
        last = k == len(run.parts) - 1
        with fabric.no_backward_sync(run.loss, enabled=not last):
            loss, raw_loss, hits, hidden = run.loss(data, targets, run.hidden[k])
            loss = loss / len(run.parts)
            fabric.backward(loss)
        run.hidden[k] = detached(hidden)
        raw.append(raw_loss.detach())
        total = loss.detach() if total is None else total + loss.detach()
        if args.recite:
            p.correct += int(fabric.all_reduce(hits, reduce_op="sum"))
            p.predicted += len(targets) * fabric.world_size
    clip_and_check(run, total)
    run.optimizer.step()
    for group in run.optimizer.param_groups:
        group["lr"] = p.lr
    return length, fabric.all_reduce(torch.stack(raw).mean(), reduce_op="mean").item()


def clip_and_check(run: Run, loss: Tensor) -> None:
    """Clips the gradient norm; ends the run before the update if anything is not finite."""
    grads = [p.grad for p in run.params if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    if not torch.isfinite(norm + loss):
        raise FloatingPointError(
            f"{runs.not_finite(run.model)} is not finite at epoch {run.progress.epoch}, step "
            f"{run.progress.step}; stopped before the update. Files written so far are good; a "
            "smaller --lr or --clip may help")
    if run.args.clip:
        torch.nn.utils.clip_grads_with_norm_(run.params, run.args.clip, norm)


# -------------------------------------------------------------------------------------- reporting
def report(run: Run, ms_per_batch: float) -> None:
    p, loss = run.progress, run.progress.total / run.progress.counted
    run.journal.say(
        f"| epoch {p.epoch:3d} | {p.batch:5d}/{run.rows // run.args.bptt:5d} batches "
        f"| lr {p.lr:02.2f} | ms/batch {ms_per_batch:5.2f} | loss {loss:5.2f} "
        f"| ppl {perplexity(loss):8.2f}")
    run.journal.log(p.step, p.epoch, train_loss=loss, train_ppl=perplexity(loss))
    p.total, p.counted = 0.0, 0


def validate(run: Run) -> float:
    """Validation loss of the weights as they are now, reported as the end of the epoch."""
    p, began = run.progress, time.time()
    loss = run.evaluate(run.valid)
    seconds = p.seconds + time.time() - began
    run.journal.say(
        f"{'-' * 89}\n| end of epoch {p.epoch:3d} | time: {seconds:5.2f}s | valid loss {loss:5.2f} "
        f"| valid ppl {perplexity(loss):8.2f}\n{'-' * 89}")
    run.journal.log(p.step, p.epoch, valid_loss=loss, valid_ppl=perplexity(loss))
    return loss


def test(run: Run) -> float:
    """Loads the best model, evaluates it on the test text, prints the closing lines."""
    run.fabric.barrier()
    with runs.users("--save"):
        best = files.read(run.file("model.pt"))
    files.load_weights(run.model, files.weights_of(best))
    loss = run.evaluate(run.test)
    run.journal.say(f"{'=' * 89}\n| End of training | test loss {loss:5.2f} "
                    f"| test ppl {perplexity(loss):8.2f}\n{'=' * 89}")
    run.journal.log(run.progress.step, run.progress.epoch - 1, test_loss=loss,
                    test_ppl=perplexity(loss))
    run.journal.close()
    return loss


# ------------------------------------------------------------------------------------------ files
def save_best(run: Run, loss: float, message: str) -> None:
    """The model with the weights as they are now, and the optimizer beside it."""
    if run.fabric.is_global_zero:
        facts = {"script": run.script, "args": runs.plain(run.args), "epoch": run.progress.epoch,
                 "vocabulary": run.corpus.digest()}
        files.write(run.file("model.pt"), {**facts, "config": run.model.config, "valid_loss": loss,
                                           "model": run.model.state_dict()})
        files.write(run.file("optimizer.pt"), {**facts, **_optimizer_state(run)})
    run.journal.say(message)


def _optimizer_state(run: Run) -> dict:
    return {"kind": "asgd" if run.averaging else "sgd", "optimizer": run.optimizer.state_dict()}


def load_optimizer(run: Run, content: dict) -> None:
    """Makes the optimizer of a file. Raises ValueError if that is another kind of file."""
    if "kind" not in content:
        raise ValueError("this file holds no optimizer of a language model")
    run.optimizer = make_optimizer(run, content["kind"])
    run.optimizer.load_state_dict(content["optimizer"])


def save_state(run: Run) -> None:
    """Everything that the next update depends on."""
    mine = {**runs.random_state(run.fabric, run.length_rng),
            "hidden": [[[s.cpu() for s in layer] for layer in part] for part in run.hidden]}
    parts = runs.of_all_processes(run.fabric, mine)
    if run.fabric.is_global_zero:
        files.write(run.file("state.pt"), {
            "script": run.script, "args": runs.plain(run.args), "model": run.model.state_dict(),
            **_optimizer_state(run), "progress": asdict(run.progress), "processes": parts,
            "vocabulary": run.corpus.digest(), "save": str(run.folder.absolute()),
            "metrics": str(run.journal.folder), "metrics_size": run.journal.size},
            keep_previous=True)


def restore(run: Run, state: dict) -> None:
    """Puts a run where the training state says. Raises BadInput if it is of other texts."""
    if state["vocabulary"] != run.corpus.digest():
        raise runs.BadInput("--resume: the words are not those of the run so far")
    files.load_weights(run.model, state["model"])
    load_optimizer(run, state)
    run.progress = Progress(**state["progress"])
    mine = state["processes"][run.fabric.global_rank]
    run.hidden = [[tuple(s.to(run.fabric.device) for s in layer) for layer in part]
                  for part in mine["hidden"]]
    runs.restore_random_state(mine, run.length_rng)


def leave_early(run: Run) -> None:
    """After Ctrl-C or SIGTERM: the state as it stands, and how to go on."""
    save_state(run)
    run.journal.say(f"{'-' * 89}\nExiting from training early\nTo go on: the same command with "
                    f"--resume ({run.file('state.pt')})")
