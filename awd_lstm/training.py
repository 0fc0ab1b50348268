"""What main.py and finetune.py share: the run, its updates, reports, validation and test.

A `Run` is what is trained on what, how, and how far it is. Everything that the next update depends
on goes into the training state (harness.keeper), so a resumed run gives, on the CPU, the same bits
as one that never stopped.

Several processes (--devices N or torchrun) share the columns of the batch; each column's gradient
counts the same, so the update is that of one process on the whole batch.

Notation: T time steps, B batch columns.
"""

import time
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from awd_lstm.data import Corpus
from awd_lstm.inputs import MODEL_FORMAT, columns_of
from awd_lstm.model import Hidden, RNNModel, load_original_state
from awd_lstm.qrnn import QRNNLayer
from awd_lstm.steps import Steps
from awd_lstm.utils import NOTHING_STORED, draw_seq_len, evaluate, get_batch, text_on
from common.asgd import ASGD, averaged
from common.splitcross import SplitCrossEntropyLoss, perplexity
from harness import keeper as harness
from harness import machine
from harness.endings import BadInput, bad_input
from harness.graphs import check_recordable, wanted


@dataclass
class Progress(harness.Progress):
    """How far a run is. i, batch, total and counted are those of the current epoch."""

    i: int = 0                    # position in the text
    batch: int = 0                # updates in this epoch
    total: float = 0.0            # summed loss since the last report ...
    counted: int = 0              # ... of so many batches
    seconds: float = 0.0          # of this epoch, before the last interruption
    lr: float = 0.0
    stored_loss: float = NOTHING_STORED  # best validation loss so far
    best_val_loss: list = field(default_factory=list)
    done: bool = False            # finetune.py: early stopping has triggered


@dataclass
class Run:
    """What is trained on what, how, and how far it is; harness.keeper says what a run offers."""

    args: Namespace
    keeper: harness.Keeper
    script: str                              # main or finetune
    corpus: Corpus
    train_data: Tensor                       # (rows, this process's columns)
    on_host: Tensor                          # the same: a GPU is not asked for what is known here
    val_data: Tensor                         # (rows, 10)
    test_data: Tensor                        # (rows, 1)
    loss: "TrainingLoss"
    steps: Steps                             # what computes its gradients
    seq_len_rng: np.random.RandomState       # the same in all processes
    seq_len_cap: int | None = None           # finetune.py limits the drawn lengths
    progress: Progress = field(default_factory=Progress)
    optimizer: torch.optim.Optimizer | None = None
    hidden: Hidden | None = None
    in_epoch: bool = False                   # the test is of these weights, not of the best

    @property
    def model(self) -> RNNModel:
        return self.loss.model

    @property
    def criterion(self) -> SplitCrossEntropyLoss:
        return self.loss.criterion

    @property
    def inputs(self) -> dict[str, str]:
        return self.corpus.digests

    @property
    def averaging(self) -> bool:
        """Has NT-ASGD switched to averaged SGD?"""
        return isinstance(self.optimizer, ASGD)

    def epoch_share(self) -> float:
        """How far the run is in its epoch, from 0 to 1."""
        return self.progress.i / len(self.train_data)

    def count(self, loss: float) -> None:
        """One more batch, with its cross entropy."""
        self.progress.total += loss
        self.progress.counted += 1

    def evaluate(self, source: Tensor) -> float:
        """Mean loss of a text with the weights as they are now."""
        with self.keeper.fabric.autocast():
            return evaluate(self.model, self.criterion, source, self.args.bptt,
                            self.args.exact_loss, self.keeper.stop_if_asked, self.steps.score)

    def rows_of_parts(self, i: int, seq_len: int) -> tuple[Tensor, ...]:
        """Of the targets of a batch, see SplitCrossEntropyLoss."""
        if not self.criterion.splits or self.args.compile:  # traced: any number of rows
            return ()
        _, targets = get_batch(self.on_host, i, seq_len)
        return tuple(self.criterion.rows_of_parts(targets, self.train_data.device))

    # ------------------------------------------------------------------------ the training state
    def _qrnn_layers(self) -> list[QRNNLayer]:
        return [layer for layer in self.model.rnns if isinstance(layer, QRNNLayer)]

    def state(self) -> dict:
        kind = "asgd" if self.averaging else type(self.optimizer).__name__.lower()
        return {"optimizer": {"kind": kind, "state": self.optimizer.state_dict()},
                "seq_len_rng": machine.generator_state(self.seq_len_rng), **weights_of(self)}

    def own(self) -> dict:
        return {"hidden": self.hidden, "prev_x": [layer.prevX for layer in self._qrnn_layers()]}

    def restore(self, state: dict, own: dict) -> None:
        if state.get("corpus", self.corpus.key) != self.corpus.key:  # of release 0.1
            raise BadInput(f"--resume: the texts in {self.args.data} have changed since")
        with bad_input("--resume: "):
            load_original_state(self.model, state["model"])
        self.criterion.load_state_dict(state["criterion"])
        self.optimizer = make_optimizer(state["optimizer"]["kind"], self)
        self.optimizer.load_state_dict(state["optimizer"]["state"])
        machine.set_generator_state(self.seq_len_rng, state["seq_len_rng"])
        self.hidden = own["hidden"]
        for layer, frame in zip(self._qrnn_layers(), own["prev_x"], strict=True):
            layer.prevX = frame


def upgrade(content: dict) -> dict:
    """A training state of release 0.1 as harness.keeper writes it now; all else as it is."""
    if content.get("format") != "awd_lstm training state 1":
        return content
    script, stored = content["script"], content["progress"]["stored_loss"]
    if script not in ("main", "finetune"):
        return {"format": harness.STATE_FORMAT, "script": f"awd_lstm ({script})"}  # to be refused
    processes = [{"random": {name: part[name] for name in ("python", "torch", "cuda")},
                  "own": {name: part[name] for name in ("hidden", "prev_x")}}
                 for part in content["processes"]]
    return content | {
        "format": harness.STATE_FORMAT, "script": f"awd_lstm/{script}.py", "processes": processes,
        "best": "" if script == "finetune" or stored < NOTHING_STORED else None,
        "inputs": None}  # it has one digest of all three texts, which Run.restore compares


# ------------------------------------------------------------------------------------- building
class TrainingLoss(nn.Module):
    """Cross entropy plus activation regularisation (section 4.6)."""

    def __init__(self, model: RNNModel, criterion: SplitCrossEntropyLoss, alpha: float,
                 beta: float):
        super().__init__()
        self.model, self.criterion, self.alpha, self.beta = model, criterion, alpha, beta

    def forward(self, data: Tensor, targets: Tensor, hidden: Hidden,
                rows_of_parts: tuple[Tensor, ...] = ()):
        """data (T, B), targets (T*B,) -> loss, cross entropy alone, new hidden. rows_of_parts: of
        the targets, see SplitCrossEntropyLoss."""
        model = self.model
        output, hidden, raw, dropped = model(data, hidden, return_h=True)
        cross_entropy = self.criterion(model.decoder.weight, model.decoder.bias, output, targets,
                                       rows_of_parts)
        loss = cross_entropy
        if self.alpha:   # AR: mean square of the dropped last output (the paper writes an L2 norm)
            loss = loss + self.alpha * dropped[-1].pow(2).mean()
        if self.beta and len(data) > 1:  # TAR: of the undropped one; one time step has no slowness
            loss = loss + self.beta * (raw[-1][1:] - raw[-1][:-1]).pow(2).mean()
        return loss, cross_entropy, hidden


def make_run(args: Namespace, keeper: harness.Keeper, corpus: Corpus, model: RNNModel,
             criterion: SplitCrossEntropyLoss, script: str, seq_len_seed: int) -> Run:
    """Texts in columns, the model on its device and shared by all processes. No optimiser yet."""
    fabric = keeper.fabric
    longer = "give a longer text"
    on_host = columns_of(corpus, "train", args.batch_size, torch.device("cpu"),
                         f"{longer} or a smaller --batch_size", rows=3)
    train_data = text_on(fabric.device, on_host)
    val_data = columns_of(corpus, "valid", 10, fabric.device, f"{longer} (the original validates "
                          "in 10 columns)")
    test_data = columns_of(corpus, "test", 1, fabric.device, longer)
    loss = TrainingLoss(model, criterion, args.alpha, args.beta)
    # dynamic: almost every update has another length.
    step_loss = fabric.setup_module(torch.compile(loss, dynamic=True) if args.compile else loss)
    graphs = wanted(args, fabric, keeper.say)
    if graphs:
        check_recordable(criterion.splits)
    steps = Steps(loss, step_loss, fabric, graphs)
    machine.own_stream(fabric, args.seed)  # the same start everywhere, other dropout masks
    own = machine.share(fabric, args.batch_size)
    return Run(args, keeper, script, corpus, train_data[:, own], on_host[:, own], val_data,
               test_data, loss, steps, np.random.RandomState(seq_len_seed))


def make_optimizer(kind: str, run: Run) -> torch.optim.Optimizer:
    """kind: sgd, adam, or asgd (as NT-ASGD switches to: the initial lr, averaging from now on)."""
    lr, weight_decay = run.args.lr, run.args.wdecay
    # The loss's parameters, not the model's alone as in the original, whose ASGD left the split
    # softmax's tombstones as they were.
    if kind == "asgd":
        return ASGD(run.loss.parameters(), lr=lr, t0=0, weight_decay=weight_decay)
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind]
    fused = run.keeper.fabric.device.type in ("cpu", "cuda")  # one pass over the weights
    return optimizer(run.loss.parameters(), lr=lr, weight_decay=weight_decay, fused=fused)


def describe(run: Run) -> None:
    """The original's two lines before the first epoch."""
    parameters = sum(parameter.numel() for parameter in run.loss.parameters())
    run.keeper.say(f"Args: {run.args}\nModel total parameters: {parameters}")


# ------------------------------------------------------------------------------------- training
def train_epoch(run: Run) -> None:
    """Continues the current epoch to its end, or to --max-steps. Raises Interrupted."""
    progress, keeper = run.progress, run.keeper
    if progress.i == 0:
        run.model.reset()
        run.hidden = run.model.init_hidden(run.train_data.shape[1])
        progress.batch, progress.total, progress.counted, progress.seconds = 0, 0.0, 0, 0.0
    run.model.train()
    epoch_start = time.time() - progress.seconds
    report_start, reported = time.time(), progress.batch
    while not epoch_is_over(run) and not keeper.out_of_steps():
        seq_len, loss = one_update(run)
        keeper.later(run.count, loss)
        done = progress.batch + 1
        if progress.batch % run.args.log_interval == 0 and progress.batch > 0:
            keeper.settle()
            report(run, 1000 * (time.time() - report_start) / (done - reported))
            report_start, reported = time.time(), done
        progress.batch = done
        progress.step += 1
        progress.i += seq_len
        progress.seconds = time.time() - epoch_start
        keeper.after_update()


def epoch_is_over(run: Run) -> bool:
    """Are fewer than two predictions per column left? As in the original they are skipped: TAR is
    the mean of nothing on a batch of one time step."""
    return run.progress.i >= len(run.train_data) - 2


def one_update(run: Run) -> tuple[int, Tensor]:
    """Draws a length, computes the gradient, updates. Returns the length and the cross entropy."""
    args, keeper, fabric = run.args, run.keeper, run.keeper.fabric
    seq_len = draw_seq_len(run.seq_len_rng, args.bptt, run.seq_len_cap, args.seq_len_multiple)
    # A longer sequence is fewer updates an epoch: each counts for its length (section 5). The drawn
    # length, as in the original, also where the text's end cuts the batch short.
    for group in run.optimizer.param_groups:
        group["lr"] = run.progress.lr * seq_len / args.bptt
    data, targets = get_batch(run.train_data, run.progress.i, seq_len)
    run.optimizer.zero_grad()
    weight = run.train_data.shape[1] * fabric.world_size / args.batch_size
    loss, cross_entropy, run.hidden = run.steps.gradients(
        data, targets, run.hidden, weight, run.rows_of_parts(run.progress.i, seq_len))
    keeper.clip_gradients(run.loss, loss, args.clip)
    keeper.step(run.optimizer)
    for group in run.optimizer.param_groups:
        group["lr"] = run.progress.lr
    return seq_len, machine.weighted(cross_entropy, weight)


def report(run: Run, ms_per_batch: float) -> None:
    """The original's line; finetune's has fewer digits and no bits per character."""
    progress = run.progress
    loss = progress.total / progress.counted
    lr = f"{progress.lr:05.5f}" if run.script == "main" else f"{progress.lr:02.2f}"
    line = (f"| epoch {progress.epoch:3d} | {progress.batch:5d}/"
            f"{len(run.train_data) // run.args.bptt:5d} batches | lr {lr} "
            f"| ms/batch {ms_per_batch:5.2f} | loss {loss:5.2f} | ppl {perplexity(loss):8.2f}")
    run.keeper.say(line + (f" | bpc {loss / np.log(2):8.3f}" if run.script == "main" else ""))
    run.keeper.log(train_loss=loss, train_lr=progress.lr)
    progress.total, progress.counted = 0.0, 0


# ----------------------------------------------------------------------------- validation, test
def validate(run: Run) -> float:
    """Validation loss of the current weights, reported as the end of the epoch: the original's line
    between two rules; the time includes the evaluation. Raises FloatingPointError."""
    progress, start = run.progress, time.time()
    loss = run.keeper.check_finite(run.evaluate(run.val_data))
    progress.seconds += time.time() - start
    line = (f"| end of epoch {progress.epoch:3d} | time: {progress.seconds:5.2f}s "
            f"| valid loss {loss:5.2f} | valid ppl {perplexity(loss):8.2f}")
    bpc = f" | valid bpc {loss / np.log(2):8.3f}" if run.script == "main" else ""
    run.keeper.say(f"{'-' * 89}\n{line}{bpc}\n{'-' * 89}")
    run.keeper.log(valid_loss=loss, valid_ppl=perplexity(loss))
    return loss


def weights_of(run: Run) -> dict:
    """What a model file and a training state have in common: enough to rebuild the model."""
    return {"config": run.model.config(), "model": run.model.state_dict(),
            "criterion": run.criterion.state_dict(), "splits": run.criterion.splits,
            "word_list": run.corpus.dictionary.packed(),
            "vocabulary": run.corpus.dictionary.digest()}


def model_file(run: Run, valid_loss: float) -> dict:
    """The content of a model file, with the weights as they are now."""
    return {"format": MODEL_FORMAT, "script": run.script, "epoch": run.progress.epoch,
            "valid_loss": valid_loss, **weights_of(run)}


def save_best(run: Run, valid_loss: float, message: str) -> None:
    """Writes the model file and remembers its loss as the one to beat."""
    run.keeper.save_best(model_file(run, valid_loss))
    run.keeper.say(message)
    run.progress.stored_loss = valid_loss


def compare_with_best(run, loss: float) -> None:
    """--max-steps ended an epoch inside. Weights that are better than the best model so far do not
    take its place, since those of an unbroken run would not; but the closing test is of them."""
    run.in_epoch = loss < run.progress.stored_loss
    run.keeper.say("Better than the best model so far: tested as they are, kept in the training "
                   "state" if run.in_epoch else
                   "Not better than the best model so far, which is tested")


def test(run: Run) -> None:
    """Evaluates the best model on the test text, prints the closing lines."""
    epoch = run.progress.epoch if run.in_epoch else load_best(run)
    with averaged(run.optimizer) if run.in_epoch else nullcontext():
        loss = run.keeper.check_finite(run.evaluate(run.test_data), "the test loss")
    line = f"| End of training | test loss {loss:5.2f} | test ppl {perplexity(loss):8.2f}"
    bpc = f" | test bpc {loss / np.log(2):8.3f}" if run.script == "main" else ""
    run.keeper.say(f"{'=' * 89}\n{line}{bpc}\n{'=' * 89}")
    run.keeper.log(epoch, test_loss=loss, test_ppl=perplexity(loss))


def load_best(run: Run) -> int:
    """The best model's weights; returns its epoch."""
    best = run.keeper.read_best()
    with bad_input("--save: "):  # finetune.py may have kept an original's bare state_dict
        load_original_state(run.model, best.get("model", best))
    if "criterion" in best:
        run.criterion.load_state_dict(best["criterion"])
    return best.get("epoch", 0)
