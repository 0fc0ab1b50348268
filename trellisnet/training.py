"""What training the three language models shares: texts, epochs, evaluation, the closing test. The
schedule is each script's own:

    with keep("trellisnet/word_PTB/word_ptb.py", args) as keeper:
        run = build(args, keeper, corpus, make_loss, RECIPE)
        for valid in epochs(run):         trains an epoch, evaluates, keeps the best model
            ...                           what the script does about the learning rate
        closing_test(run)
"""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from common.asgd import averaged
from common.splitcross import perplexity
from harness import files, machine
from harness.endings import BadInput, bad_input
from harness.graphs import Graphed, check_recordable
from harness.inputs import load_in_turn
from harness.keeper import Keeper
from trellisnet import model_files, release1
from trellisnet.learning import Learning, Run, take_sizes, warn
from trellisnet.lm import Reading, TrainingLoss, batchify, evaluate, segments
from trellisnet.text import Corpus
from trellisnet.trellisnet import Hidden
from trellisnet.weights import load_original_state, original_state

WORD_LINES = {
    "step": "| epoch {epoch:3d} | {batch:5d}/{batches:5d} batches | lr {lr} | ms/batch {ms:5.2f} "
            "| raw_loss {raw:5.2f} | aux_loss {aux:5.2f} | ppl {ppl:8.2f}",
    "epoch": "| end of epoch {epoch:3d} | time: {seconds:5.2f}s | {split} loss {loss:5.2f} "
             "| {split} ppl {ppl:8.2f}",
    "end": "| End of training | test loss {loss:5.2f} | test ppl {ppl:8.2f}"}


@dataclass(frozen=True)
class Recipe:
    """How a task's texts are read and its lines look."""

    train: Reading
    evaluate: Reading
    eval_columns: int                # of the validation and test texts
    lr: str                          # how the log shows the learning rate
    step: str
    epoch: str
    end: str
    say_sizes: bool = False          # of the texts, as character PTB does


@dataclass
class TextProgress(Learning):
    row: int = 0           # of the training text: where the next segment begins
    batch: int = 0         # segments done in this epoch
    raw: float = 0.0       # sums since the last report
    aux: float = 0.0
    best: float | None = None
    val_losses: list[float] = field(default_factory=list)  # of the epochs before

    def add(self, raw: float, aux: float) -> None:
        """The losses of one more segment."""
        self.raw, self.aux = self.raw + raw, self.aux + aux


class TextRun(Run):
    """A language model's run on a corpus."""

    progress: TextProgress

    def __init__(self, args: Namespace, keeper: Keeper, loss: TrainingLoss, corpus: Corpus,
                 recipe: Recipe):
        super().__init__(args, keeper, loss, TextProgress(), corpus.facts())
        self.recipe, self.inputs = recipe, corpus.digests
        train, valid, test = (
            columns_of(corpus, split, how, columns, args.data)
            for split, how, columns in (("train", recipe.evaluate if args.eval else recipe.train,
                                         args.batch_size),
                                        ("valid", recipe.evaluate, recipe.eval_columns),
                                        ("test", recipe.evaluate, recipe.eval_columns)))
        self.on_host = train = train[:, machine.share(self.fabric, args.batch_size)]
        self.train, self.valid, self.test = (
            text.to(self.fabric.device) for text in (train, valid, test))
        self.weight = self.train.shape[1] * self.fabric.world_size / args.batch_size
        self.hidden: Hidden | None = None          # before the next segment
        if not corpus.cached and not recipe.say_sizes:
            keeper.say("Processing dataset...")
        if recipe.say_sizes:
            keeper.say(f"{train.size()} {self.valid.size()}")

    def epoch_share(self) -> float:
        """How far the run is in its epoch, from 0 to 1."""
        return self.progress.batch * self.recipe.train.stride / len(self.train)

    def own(self) -> dict:
        return {} if self.hidden is None else {"hidden": self.hidden}

    def restore(self, state: dict, own: dict) -> None:
        if state["vocabulary"] != self.facts["vocabulary"]:
            raise BadInput("--resume: the words of --data are not those of that run")
        super().restore(state, own)
        self.hidden = own.get("hidden")

    def training_loss(self, *batch) -> tuple[Tensor, ...]:
        """batch: words, targets, h, c, start, rows of parts, see TrainingLoss."""
        words, targets, h, c, start, *rows = batch
        total, raw, aux, hidden = self.step_loss(words, targets, (h, c), start, *rows)
        return total, raw, aux, *hidden

    def rows_of_parts(self, row: int, length: int) -> list[Tensor]:
        """Of the targets of a segment, see SplitCrossEntropyLoss."""
        criterion, start = self.loss.criterion, self.recipe.train.start
        if not criterion.splits:
            return []
        targets = self.on_host[row + 1 + start:row + 1 + length].long()
        return criterion.rows_of_parts(targets, self.fabric.device)

    def evaluate(self, source: Tensor) -> float:
        def scored(*batch) -> tuple[Tensor, Tensor, Tensor]:
            with self.fabric.autocast():
                return self.loss.scored(*batch)

        return evaluate(self.loss, source, self.recipe.evaluate, self.keeper.stop_if_asked,
                        Graphed(scored, self.loss, self.gradients.on))


def columns_of(corpus: Corpus, split: str, how: Reading, columns: int, folder: str) -> Tensor:
    """A text cut into columns, (rows, columns). Raises BadInput if nothing of it would be scored:
    no update, or a loss that is no number, would come of it."""
    ids = getattr(corpus, split)
    if not any(segments(len(ids) // columns, how)):
        history = f", of whose rows the first {how.start} are history" if how.start else ""
        smaller = ["--batch_size"] * (split == "train") + ["--horizon"] * (how.start > 0)
        remedy = " or ".join([f"a text of at least {(how.start + 2) * columns}",
                              *(f"a smaller {flag}" for flag in smaller)])
        raise BadInput(f"--data {folder}: {corpus.files[split].name} has {len(ids)} tokens, too "
                       f"few for {columns} columns{history}: give {remedy}")
    return batchify(ids, columns)


def read_texts(args: Namespace, keeper: Keeper, load: Callable[[str], Corpus], getdata: str | None
               ) -> Corpus:
    """What load(--data) makes; one process tokenises, the others read its cache.

    getdata: what getdata.sh calls these data, if it does. Raises BadInput.
    """
    hint = f"./getdata.sh {getdata} fetches it" if getdata else "give the folder with --data"
    return load_in_turn(keeper.fabric, lambda: load(args.data), f"--data {args.data}", hint)


def build(args: Namespace, keeper: Keeper, corpus: Corpus,
          make_loss: Callable[[Namespace, int], TrainingLoss], recipe: Recipe) -> TextRun:
    """Model, texts and optimiser: fresh, with weights of --load or --load_weight, or where --resume
    says. Raises BadInput."""
    given = take_sizes(args, keeper)
    corpus = model_files.texts_in_words_of(given or keeper.found, corpus, args, keeper.say)
    with bad_input():
        loss = make_loss(args, len(corpus))
    run = TextRun(args, keeper, loss, corpus, recipe)
    if run.gradients.on:
        check_recordable(loss.criterion.splits, "leave it out, or give --splits without a number")
    if args.aux > 0 and not loss.model.tnet.aux_levels:
        warn(keeper, f"--aux: {args.nlevels} levels have no auxiliary output at --aux_freq "
                     f"{args.aux_freq:g}")
    if loss.model.mixsoft:
        keeper.say("Applied Mixture of Softmax")
    if args.wnorm:
        keeper.say("Weight normalization applied")
    if not keeper.found:
        take_weights(run, given, corpus)
        run.start(args.optim)
    release1.adopt_best(keeper)
    keeper.resume(run, on_ctrl_c=closing_test)
    if not args.eval:
        set_weights_aside(run)
        run.say_settings()
    return run


def take_weights(run: TextRun, given: dict | None, corpus: Corpus) -> None:
    """Puts the weights of --load's file (`given`) or --load_weight's into a fresh run's model.
    Raises BadInput."""
    args = run.args
    if given:
        state = model_files.weights_for(corpus, run.loss, given, args, run.keeper.say)
        model_files.load_weights(run.loss, state, args.load)
    if args.load_weight:
        with bad_input("--load_weight: "):
            load_original_state(run.model, files.read(args.load_weight))
        if any(True for _ in run.loss.criterion.parameters()):
            warn(run.keeper, "--load_weight: the file has no parameters of the split softmax, they "
                             "start at zero")
        run.keeper.say(f"Model loaded successfully from {args.load_weight}")


# ------------------------------------------------------------------------------------- the loop
def epochs(run: TextRun) -> Iterator[float]:
    """Trains epoch by epoch until --epochs or --max-steps, evaluates after each and keeps the best
    model. Yields the validation loss, for the schedule; run.progress.val_losses are those before.

    Raises FloatingPointError if a loss is not finite, Interrupted.
    """
    keeper, progress = run.keeper, run.progress
    while progress.epoch <= run.args.epochs and not keeper.out_of_steps():
        train_epoch(run)
        if rest_of_epoch(run):                     # --max-steps ended the epoch before its end
            if progress.best is None:
                keep_if_best(run, report_epoch(run, progress.epoch, progress.seconds))
            else:
                keeper.say("Stopped inside an epoch: the best model so far is tested")
            return
        with averaged(run.optimizer) if run.averaging else nullcontext():
            valid = report_epoch(run, progress.epoch, progress.seconds)
            keep_if_best(run, valid)
        yield valid
        progress.val_losses.append(valid)
        progress.epoch, progress.row = progress.epoch + 1, 0
        keeper.save()


def rest_of_epoch(run: TextRun) -> list[tuple[int, int]]:
    """The segments of the training text that this epoch has not used yet."""
    return [segment for segment in segments(len(run.train), run.recipe.train)
            if segment[0] >= run.progress.row]


def train_epoch(run: TextRun) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, progress, keeper = run.args, run.progress, run.keeper
    if progress.row == 0:
        progress.batch, progress.raw, progress.aux, progress.seconds = 0, 0.0, 0.0, 0.0
        run.hidden = run.model.init_hidden(run.train.shape[1])
    run.loss.train()
    report_start = time.time()
    epoch_start, reported = report_start - progress.seconds, progress.batch
    for row, length in rest_of_epoch(run):
        one_update(run, row, length)
        if progress.batch > 0 and progress.batch % args.log_interval == 0:
            keeper.settle()
            now = time.time()
            # A run resumed where a report is due has no batch behind it.
            report(run, 1000 * (now - report_start) / max(1, progress.batch - reported))
            report_start, reported = now, progress.batch
        progress.batch += 1
        progress.row = row + run.recipe.train.stride
        progress.seconds = time.time() - epoch_start
        keeper.after_update()
        if keeper.out_of_steps():
            return


def one_update(run: TextRun, row: int, length: int) -> None:
    """Learns from the segment of `length` rows from `row` on."""
    progress, how = run.progress, run.recipe.train
    words = run.train[row:row + length + 1].long()
    run.optimizer.zero_grad()
    total, raw, aux, *hidden = run.gradients(run.weight, words[:-1], words[1:], *run.hidden,
                                             how.start, *run.rows_of_parts(row, length))
    run.update(total)
    if how.carry:
        run.hidden = tuple(hidden)
    run.keeper.later(progress.add, machine.weighted(raw, run.weight),
                     machine.weighted(aux, run.weight))


def report(run: TextRun, ms: float) -> None:
    """The original's line. Its first report of an epoch covers one batch more than it divides by;
    kept, since logs are compared."""
    progress, interval = run.progress, run.args.log_interval
    raw, aux = progress.raw / interval, progress.aux / interval
    run.keeper.say(run.recipe.step.format(
        epoch=progress.epoch, batch=progress.batch,
        batches=len(run.train) // run.recipe.train.stride, lr=run.recipe.lr.format(progress.lr),
        ms=ms, raw=raw, aux=aux, ppl=perplexity(raw), bpc=raw / math.log(2)))
    run.keeper.log(train_loss=raw, train_lr=progress.lr)
    progress.raw, progress.aux = 0.0, 0.0


def report_epoch(run: TextRun, epoch: int, seconds: float) -> float:
    """Evaluates the validation and test texts, prints both, returns the validation loss.

    seconds: those of the epoch's training, to which the evaluation's are added. Raises
    FloatingPointError if the validation loss is not finite.
    """
    start, keeper = time.time() - seconds, run.keeper
    run.losses = {"valid": run.evaluate(run.valid), "test": run.evaluate(run.test)}
    keeper.say("-" * 89)
    for split, loss in run.losses.items():
        keeper.say(run.recipe.epoch.format(epoch=epoch, seconds=time.time() - start, split=split,
                                           loss=loss, ppl=perplexity(loss),
                                           bpc=loss / math.log(2)))
    keeper.say("-" * 89)
    keeper.log(valid_loss=run.losses["valid"], test_loss=run.losses["test"])
    return keeper.check_finite(run.losses["valid"])


def evaluate_only(run: TextRun) -> None:
    """--eval."""
    run.keeper.say("Eval only mode")
    report_epoch(run, -1, 0.0)


def keep_if_best(run: TextRun, valid: float) -> None:
    """Writes the model to --save if its validation loss is the lowest so far; an averaged one to
    --save.asgd, beside the best of plain SGD."""
    progress, keeper = run.progress, run.keeper
    if progress.best is None or valid < progress.best:
        suffix = ".asgd" if run.averaging else ""
        keeper.say(f"{'ASGD ' if run.averaging else ''}Saving model (new best validation) in "
                   f"{keeper.best(suffix)}")
        keeper.save_best(model_files.content(run.loss, **run.facts, valid_loss=valid,
                                             epoch=progress.epoch), suffix)
        progress.best = valid


def weights_path(run: TextRun) -> Path:
    """Where the best weights end up under the original's names. The run's own name is in it, so
    that two runs never write to the same file."""
    best = run.keeper.places.best
    return best.parent / "weights" / f"{best.name}.pkl"


def set_weights_aside(run: TextRun) -> None:
    """A fresh run keeps an earlier run's weights file under another name."""
    if run.fabric.is_global_zero and not run.keeper.found:
        with bad_input("--save: "):
            if (kept := files.set_aside(weights_path(run))) is not None:
                run.keeper.say(f"{weights_path(run)} is of an earlier run: kept as {kept}")


def closing_test(run: TextRun) -> None:
    """Goes back to the best model, writes its weights under the original's names, tests it."""
    keeper = run.keeper
    run.loss.load_state_dict(keeper.read_best()["model"])
    if run.fabric.is_global_zero:
        keeper.say("Saving the pre-trained weights of the best saved model")
        path = weights_path(run)
        path.parent.mkdir(exist_ok=True)
        files.write(path, original_state(run.model))
    loss = keeper.check_finite(run.evaluate(run.test), "the test loss")
    line = run.recipe.end.format(loss=loss, ppl=perplexity(loss), bpc=loss / math.log(2))
    for text in ("=" * 89, line, "=" * 89):
        keeper.say(text)
    keeper.log(final_test_loss=loss)
    run.losses = {"test": loss}
