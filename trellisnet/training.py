"""The loop of the three language models: epochs, evaluation, the best model, the closing test.

Each script gives its own readings of the text, its lines, and what it does after an epoch.
"""

import math
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric
from torch import Tensor

from common.asgd import averaged
from trellisnet import files
from trellisnet.environment import BadInput, Interrupted, bad_input
from trellisnet.lm import Reading, TrainingLoss, batchify, evaluate, segments
from trellisnet.run import Run, load_model, read_model
from trellisnet.text import Corpus
from trellisnet.weights import load_original_state, original_state

STEP_WORD = ("| epoch {epoch:3d} | {batch:5d}/{batches:5d} batches | lr {lr} | ms/batch {ms:5.2f} "
             "| raw_loss {raw:5.2f} | aux_loss {aux:5.2f} | ppl {ppl:8.2f}")
EPOCH_WORD = ("| end of epoch {epoch:3d} | time: {seconds:5.2f}s | {split} loss {loss:5.2f} "
              "| {split} ppl {ppl:8.2f}")
END_WORD = "| End of training | test loss {loss:5.2f} | test ppl {ppl:8.2f}"


@dataclass
class Recipe:
    """What differs between the three tasks."""

    train: Reading
    evaluate: Reading
    eval_batch_sizes: tuple[int, int]              # columns of the validation and test texts
    weights_file: str                              # where the best weights end up, below weights/
    end_of_epoch: Callable[["Run", float], None]   # the schedule, given the validation loss
    lr: str = "{:02.2f}"                           # how the log shows the learning rate
    step: str = STEP_WORD
    epoch: str = EPOCH_WORD
    end: str = END_WORD
    say_sizes: bool = False                        # of the texts, as character PTB does


class LanguageModelRun(Run):
    """A run on a text."""

    def __init__(self, args: Namespace, fabric: Fabric, loss: TrainingLoss, corpus: Corpus,
                 recipe: Recipe):
        super().__init__(args, fabric, loss, loss.model, loss.model.tnet,
                         vocabulary=corpus.digest(), words=len(corpus))
        self.recipe = recipe
        self.progress |= {"i": 0, "batch": 0, "raw": 0.0, "aux": 0.0, "seconds": 0.0,
                          "best": None, "best_file": args.save, "val_losses": []}
        sizes = (args.batch_size, *recipe.eval_batch_sizes)
        with bad_input("--data: "):
            train, self.valid, self.test = (
                batchify(ids, n).to(fabric.device) for ids, n in
                zip((corpus.train, corpus.valid, corpus.test), sizes, strict=True))
        self.train = train[:, self.share]
        if not corpus.cached and not recipe.say_sizes:
            self.say("Processing dataset...")
        if recipe.say_sizes:
            self.say(f"{train.size()} {self.valid.size()}")
        self.weight = self.train.shape[1] * fabric.world_size / args.batch_size

    def start(self, load_content: dict | None) -> None:
        """Weights and optimiser: fresh, given by --load or --load_weight, or --resume's."""
        args = self.args
        if args.resume is not None:
            self.restore()
            self.find_best(Path(args.resume or self.state_path).parent)
        else:
            if load_content is not None:
                take_weights(self, load_content)
            if args.load_weight:
                with bad_input("--load_weight: "):
                    load_original_state(self.model, files.read(args.load_weight))
                if any(True for _ in self.loss.criterion.parameters()):
                    print("--load_weight: the file has no parameters of the split softmax, they "
                          "start at zero", file=sys.stderr)
            if not args.eval:
                self.set_old_files_aside()
            self.make_optimizer(args.optim)
        if not args.eval:
            self.open_log()
        if args.load_weight and args.resume is None:
            self.say(f"Model loaded successfully from {args.load_weight}")
        if args.resume is not None:
            self.say(f"Resuming at epoch {self.progress['epoch']}, update {self.progress['step']}")

    def find_best(self, folder: Path) -> None:
        """The best model so far is beside the state, also where both were moved. Raises BadInput:
        it cannot be made again."""
        p = self.progress
        p["best_file"] = str(folder / Path(p["best_file"]).name)
        if p["best"] is not None and not Path(p["best_file"]).is_file():
            raise BadInput(f"--resume: the best model so far, {p['best_file']}, is not there")

    def evaluate(self, source: Tensor) -> float:
        with self.fabric.autocast():
            return evaluate(self.loss, source, self.recipe.evaluate, self.stop_if_asked)


def take_weights(run: LanguageModelRun, content: dict) -> None:
    """Puts the weights of a model file of ours into the model. Raises BadInput."""
    if "words" not in content:
        raise BadInput(f"--load {run.args.load} is no language model")
    if run.facts["words"] != content["words"]:
        raise BadInput(f"--load {run.args.load} knows {content['words']} words, --data has "
                       f"{run.facts['words']}")
    if run.facts["vocabulary"] != content["vocabulary"]:
        raise BadInput(f"--load {run.args.load} was trained on other words than those of --data")
    load_model(run.loss, content, run.args.load)


def run_language_model(args: Namespace, fabric: Fabric, corpus: Corpus,
                       build: Callable[[Namespace, int], TrainingLoss], recipe: Recipe
                       ) -> LanguageModelRun:
    """Builds, trains and tests; or with --eval evaluates. Raises BadInput, Interrupted."""
    content = read_model(args.load, args) if args.load else None
    with bad_input():
        loss = build(args, len(corpus))
    run = LanguageModelRun(args, fabric, loss, corpus, recipe)
    if args.aux > 0 and not loss.model.tnet.aux_levels:
        print(f"--aux: {args.nlevels} levels have no auxiliary output at --aux_freq "
              f"{args.aux_freq:g}", file=sys.stderr)
    if loss.model.mixsoft:
        run.say("Applied Mixture of Softmax")
    if args.wnorm:
        run.say("Weight normalization applied")
    run.start(content)
    if args.eval:
        print("Eval only mode")
        report_epoch(run, time.time(), -1)
        return run
    run.say(f"Args: {vars(args)}\nModel total parameters: {sum(p.numel() for p in run.params)}")
    try:
        train(run)
    except Interrupted as stop:
        run.save_state()
        run.say(f"{'-' * 89}\nExiting from training early\n"
                f"To go on: the same command with --resume ({run.state_path})")
        if stop.exit_code == 128 + signal.SIGINT and run.progress["best"] is not None:
            closing_test(run)
        raise
    closing_test(run)
    run.close()
    return run


def train(run: LanguageModelRun) -> None:
    """Epochs until --epochs or --max-steps."""
    p, args = run.progress, run.args
    while p["epoch"] <= args.epochs and not run.out_of_steps():
        train_epoch(run)
        if p["i"] < len(run.train) - 1:            # --max-steps ended the epoch before its end
            if p["best"] is None:
                keep_if_best(run, report_epoch(run, time.time(), p["epoch"]))
            return
        with averaged(run.optimizer) if run.averaging else nullcontext():
            valid = report_epoch(run, time.time() - p["seconds"], p["epoch"])
            keep_if_best(run, valid)
        run.recipe.end_of_epoch(run, valid)
        p["val_losses"].append(valid)
        p["epoch"], p["i"] = p["epoch"] + 1, 0
        run.save_state()


def train_epoch(run: LanguageModelRun) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, p, how = run.args, run.progress, run.recipe.train
    if p["i"] == 0:
        p.update(batch=0, raw=0.0, aux=0.0, seconds=0.0)
        run.extra["hidden"] = run.model.init_hidden(run.train.shape[1])
    run.loss.train()
    epoch_start = report_start = time.time()
    epoch_start, reported = epoch_start - p["seconds"], p["batch"]
    for i, length in segments(len(run.train), how):
        if i < p["i"]:
            continue
        one_update(run, i, length)
        if p["batch"] > 0 and p["batch"] % args.log_interval == 0:
            now = time.time()
            # A run resumed where a report is due has no batch behind it.
            report(run, 1000 * (now - report_start) / max(1, p["batch"] - reported))
            report_start, reported = now, p["batch"]
        p.update(batch=p["batch"] + 1, i=i + how.stride, seconds=time.time() - epoch_start)
        stopping = run.out_of_steps()
        if p["step"] % args.save_interval == 0 or stopping:
            run.save_state()
        run.stop_if_asked()
        if stopping:
            return
    p["i"] = len(run.train)


def one_update(run: LanguageModelRun, i: int, length: int) -> None:
    p, how = run.progress, run.recipe.train
    words = run.train[i:i + length + 1].long()
    run.optimizer.zero_grad()
    loss = run.step_loss(words[:-1], words[1:], run.extra["hidden"], how.start)
    run.update(loss.total, run.weight)
    if how.carry:
        run.extra["hidden"] = tuple(state.detach() for state in loss.hidden)
    p["raw"] += run.mean(loss.raw, run.weight)
    p["aux"] += run.mean(loss.aux, run.weight)


def report(run: LanguageModelRun, ms: float) -> None:
    """The original's line. Its first report of an epoch covers one batch more than it divides by;
    kept, since logs are compared."""
    p, n = run.progress, run.args.log_interval
    raw, aux = p["raw"] / n, p["aux"] / n
    run.say(run.recipe.step.format(
        epoch=p["epoch"], batch=p["batch"], batches=len(run.train) // run.recipe.train.stride,
        lr=run.recipe.lr.format(p["lr"]), ms=ms, raw=raw, aux=aux, ppl=perplexity(raw),
        bpc=raw / math.log(2)))
    if run.metrics:
        run.metrics.log(p, train_loss=raw, train_lr=p["lr"])
    p["raw"], p["aux"] = 0.0, 0.0


def report_epoch(run: LanguageModelRun, start: float, epoch: int) -> float:
    """Evaluates the validation and test texts, prints both, returns the validation loss."""
    losses = {"valid": run.evaluate(run.valid), "test": run.evaluate(run.test)}
    run.say("-" * 89)
    for split, loss in losses.items():
        run.say(run.recipe.epoch.format(epoch=epoch, seconds=time.time() - start, split=split,
                                        loss=loss, ppl=perplexity(loss), bpc=loss / math.log(2)))
    run.say("-" * 89)
    if run.metrics and not run.args.eval:
        run.metrics.log(run.progress, valid_loss=losses["valid"], test_loss=losses["test"])
    run.losses = losses
    return losses["valid"]


def keep_if_best(run: LanguageModelRun, valid: float) -> None:
    p = run.progress
    if p["best"] is None or valid < p["best"]:
        path = Path(run.args.save)
        if run.averaging:  # beside the best of plain SGD
            path = path.with_stem(f"{path.stem}_asgd")
        run.say(f"{'ASGD ' if run.averaging else ''}Saving model (new best validation) in {path}")
        run.save_model(path, valid_loss=valid)
        p.update(best=valid, best_file=str(path))


def closing_test(run: LanguageModelRun) -> None:
    """Reloads the best model, writes its weights under the original's keys, tests it."""
    run.fabric.barrier()
    with bad_input("--save: "):
        best = files.read(run.progress["best_file"])
    run.loss.load_state_dict(best["model"])
    if run.fabric.is_global_zero:
        run.say("Saving the pre-trained weights of the best saved model")
        folder = Path(run.args.save).parent / "weights"
        folder.mkdir(exist_ok=True)
        files.write(folder / run.recipe.weights_file, original_state(run.model))
    loss = run.evaluate(run.test)
    run.say("=" * 89)
    run.say(run.recipe.end.format(loss=loss, ppl=perplexity(loss), bpc=loss / math.log(2)))
    run.say("=" * 89)
    if run.metrics:
        run.metrics.log(run.progress, final_test_loss=loss)
    run.losses = {"test": loss}


def perplexity(loss: float) -> float:
    """exp(loss); inf where a diverged run would overflow."""
    return math.exp(loss) if loss < 700 else math.inf
