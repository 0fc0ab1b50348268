"""What a run of the three scripts consists of: texts, model, optimizer, and what its files hold.

Several processes (--devices N or torchrun) share the columns of each batch; the update is that of
one process on the whole batch.
"""

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.asgd import ASGD
from harness import files, machine
from harness.endings import BadInput, bad_input
from harness.inputs import load_in_turn
from harness.keeper import Keeper
from harness.keeper import Progress as Steps
from sparse_seq.language_modeling.data import Corpus
from sparse_seq.language_modeling.model import Hidden, LanguageModel, TrainingLoss
from sparse_seq.language_modeling.utils import batchify
from sparse_seq.rnn import SparseLSTM
from sparse_seq.weights import FORMAT, is_ours, load_weights, weights_of
from texts.vocabulary import (
    UnknownWords,
    instead,
    pack,
    sentence_about,
    sentence_about_vectors,
    with_words,
    words_in_file,
)

HERE = Path(__file__).resolve().parent
NOTHING_STORED = 1e8              # "best validation loss" before the first
VALID_COLUMNS, TEST_COLUMNS = 10, 1
ROWS = ("encoder.embedders.0.weight", "encoder.decoder_bias")  # a row per word


@dataclass(frozen=True)
class Recipe:
    """How the three scripts train differently; the defaults are main.py's."""

    optimizer: str = "sgd"            # or asgd, averaged SGD, from the first step
    momentum: float = 0.0             # of sgd
    lr_decay: float = 1.0             # the learning rate is multiplied by it after every epoch
    count: bool = False               # how many words of the training text are predicted
    length_seed: int | None = None    # of the sequence lengths; None: --seed


@dataclass
class Progress(Steps):
    """Where a run stands; i, batch and what follows are of the current epoch."""

    lr: float = 0.0
    best: float = NOTHING_STORED   # validation loss of the stored model
    history: list = field(default_factory=list)   # validation losses, for NT-ASGD or the stop
    previous: float = NOTHING_STORED
    rising: int = 0                # epochs in a row in which the validation loss rose
    done: bool = False             # no further epoch
    i: int = 0                     # position in the text
    batch: int = 0                 # updates
    seconds: float = 0.0
    total: float = 0.0             # summed loss since the last report ...
    counted: int = 0               # ... of so many batches
    correct: int = 0               # with Recipe.count: words predicted before the update ...
    predicted: int = 0             # ... of so many

    def add(self, loss: float) -> None:
        """One more batch, with its cross entropy."""
        self.total, self.counted = self.total + loss, self.counted + 1

    def hit(self, correct: float, predicted: int) -> None:
        self.correct, self.predicted = self.correct + int(correct), self.predicted + predicted


@dataclass
class Run:
    """A model in training. harness.keeper asks for progress, inputs, state, own and restore."""

    args: Namespace
    keeper: Keeper
    recipe: Recipe
    corpus: Corpus
    model: LanguageModel
    loss: nn.Module                # its TrainingLoss, compiled and distributed as the flags say
    parts: list[Tensor]            # the training text by micro-batch, this process's columns of it
    valid: Tensor
    test: Tensor
    lengths: np.random.RandomState                # draws the sequence lengths
    optimizer: torch.optim.Optimizer
    inputs: dict[str, str]
    progress: Progress = field(default_factory=Progress)
    hidden: list[Hidden] = field(default_factory=list)   # per micro-batch, within an epoch

    @property
    def rows(self) -> int:
        """Of the training text."""
        return len(self.parts[0])

    @property
    def averaging(self) -> bool:
        """Is this averaged SGD?"""
        return isinstance(self.optimizer, ASGD)

    def epoch_share(self) -> float:
        """How far the run is in its epoch, from 0 to 1."""
        return self.progress.i / self.rows

    def state(self) -> dict:
        return {"model": self.model.state_dict(), **optimizer_content(self),
                "vocabulary": self.corpus.digest(), "word_list": pack(self.corpus.words)}

    def own(self) -> dict:
        return {"generator": machine.generator_state(self.lengths), "hidden": self.hidden}

    def restore(self, state: dict, own: dict) -> None:
        if state["vocabulary"] != self.corpus.digest():
            raise BadInput("--resume: the words are not those of the run so far")
        with bad_input("--resume: "):
            load_weights(self.model, state["model"])
            load_optimizer(self, state)
        self.hidden = [[tuple(layer) for layer in part] for part in own["hidden"] or []]
        machine.set_generator_state(self.lengths, own["generator"])


def use_all_gpus(args: Namespace) -> None:
    """--multi_gpu: as many processes as there are GPUs that can share the columns evenly."""
    if args.multi_gpu and args.devices == 1:
        gpus = range(1, torch.cuda.device_count() + 1)
        args.devices = max((n for n in gpus if args.small_batch_size % n == 0), default=1)


def places(args: Namespace, prefix: str = "") -> dict:
    """For Keeper: the files in --save, their names beginning with `prefix`. What --continue_train
    starts from stays, and keeps a second name (.main) for when it is overwritten."""
    also = ["state.prev.pt", *([] if args.continue_train else ["optimizer.pt"])]
    return {"folder": True, "best": f"{prefix}model.pt", "state": f"{prefix}state.pt",
            "also": tuple(f"{prefix}{name}" for name in also), "label": prefix.strip("_"),
            "tunes": args.continue_train, "free": ("continue_train", "multi_gpu"),
            "text_log": lambda args: Path(args.save) / f"{prefix}log.txt"}


# ------------------------------------------------------------------------------ texts and model
def load_corpus(args: Namespace, keeper: Keeper, words: list[str] | None = None) -> Corpus:
    """The texts in --data, with their own vocabulary or the one given; tells which of their words
    that one lacks. Raises BadInput."""
    name = {"penn": "ptb", "wikitext-2": "wt2", "pydoc": "pydoc"}.get(Path(args.data).name)

    def load() -> Corpus:
        try:
            return (Corpus.read(args.data, args.ordering) if words is None
                    else Corpus.read_with(words, args.data))
        except UnknownWords as error:
            if not keeper.found:
                # In several blocks a model cannot have them, see for_other_words.
                raise ValueError(f"{error}{instead(args) * (args.emblocks == 1)}") from error
            return Corpus.read(args.data, args.ordering)  # for the Keeper to refuse by file name
    corpus = load_in_turn(keeper.fabric, load, "--data",
                          f"./getdata.sh {name} fetches it" if name else "")
    if corpus.unknown:
        keeper.say(f"--data {args.data}: {sentence_about(corpus.unknown, sum(corpus.counts))}")
    return corpus


def words_of_start(keeper: Keeper) -> list[str] | None:
    """The words with which the texts are read: those of the model or the run that this one starts
    from. None if its file lists none, or there is none, or a model gets the words of the texts."""
    content = keeper.found or keeper.weights
    flag = "--resume: "
    if keeper.args.vocabulary == "data" and not keeper.found:
        return None
    if content is None and keeper.args.continue_train:
        flag = "--continue_train: "
        with bad_input(flag):
            content = files.read(keeper.places.best)
    with bad_input(flag):
        return words_in_file(content) if content else None


def make_model(args: Namespace, words: int) -> LanguageModel:
    """The model that the flags describe; flags that a script does not have keep their default."""
    names = ("emsize", "nhid", "nhidlast", "nlayers", "n_experts", "emblocks", "emdensity",
             "sparse_mode", "sparse_fract", "sparse_blocks", "sparse_density", "dropout",
             "dropouth", "dropouti", "dropoute", "wdrop", "dropoutl")
    with bad_input("the sizes do not go together: "):
        return LanguageModel(words, **{n: getattr(args, n) for n in names if hasattr(args, n)})


def make_run(keeper: Keeper, recipe: Recipe, corpus: Corpus, model: LanguageModel) -> Run:
    """A run at its beginning. Raises BadInput for texts that are too short."""
    args, fabric = keeper.args, keeper.fabric
    with bad_input(f"--data {args.data}: " if args.data else "corpus.pt: "):
        # With fewer than three rows there is no update: no sequence begins at the last but one.
        train = batchify(corpus.train, args.batch_size, "train.txt", rows=3,
                         remedy=" or a smaller --batch_size")
        valid = batchify(corpus.valid, VALID_COLUMNS, "valid.txt").to(fabric.device)
        test = batchify(corpus.test, TEST_COLUMNS, "test.txt").to(fabric.device)
    share = machine.share(fabric, args.small_batch_size)
    parts = [part[:, share].to(fabric.device) for part in train.split(args.small_batch_size, 1)]
    loss: nn.Module = TrainingLoss(model, args.alpha, args.beta, recipe.count)
    loss = fabric.setup_module(torch.compile(loss, dynamic=True) if args.compile else loss)
    machine.own_stream(fabric, args.seed)
    seed = args.seed if recipe.length_seed is None else recipe.length_seed
    return Run(args, keeper, recipe, corpus, model, loss, parts, valid, test,
               np.random.RandomState(seed), make_optimizer(keeper, model, recipe, recipe.optimizer),
               corpus.digests(), Progress(lr=args.lr))


def build(keeper: Keeper, recipe: Recipe) -> Run:
    """For main.py and main_overfit.py: a run at its beginning, or from the weights that
    --continue_train or --resume MODEL name."""
    corpus = load_corpus(keeper.args, keeper, words_of_start(keeper))
    run = make_run(keeper, recipe, corpus, make_model(keeper.args, len(corpus.words)))
    if keeper.weights is not None:
        start_from(run, keeper.weights)
    elif keeper.args.continue_train and keeper.found is None:
        start_from_best(run)
    return run


# ------------------------------------------------------------------------------------ optimizer
def make_optimizer(keeper: Keeper, model: nn.Module, recipe: Recipe, kind: str
                   ) -> torch.optim.Optimizer:
    """sgd, or asgd as NT-ASGD switches to."""
    args = keeper.args
    if kind == "asgd":
        return ASGD(model.parameters(), lr=args.lr, t0=0, weight_decay=args.wdecay)
    return torch.optim.SGD(model.parameters(), args.lr, recipe.momentum, weight_decay=args.wdecay,
                           fused=keeper.fabric.device.type in ("cpu", "cuda"))


def optimizer_content(run: Run) -> dict:
    return {"kind": "asgd" if run.averaging else "sgd", "optimizer": run.optimizer.state_dict()}


def load_optimizer(run: Run, content: dict) -> None:
    """Makes the optimizer of a file. Raises ValueError if that is another kind of file."""
    if "kind" not in content:
        raise ValueError("this file holds no optimizer of a language model")
    run.optimizer = make_optimizer(run.keeper, run.model, run.recipe, content["kind"])
    run.optimizer.load_state_dict(content["optimizer"])


# ---------------------------------------------------------------------------------------- files
def optimizer_file(run: Run) -> Path:
    """Beside the best model: model.pt and optimizer.pt, finetune_model.pt and finetune_..."""
    best = run.keeper.places.best
    return best.with_name(best.name.replace("model", "optimizer"))


def facts(run: Run) -> dict:
    """What the files of the best model and its optimizer say about themselves."""
    return {"format": FORMAT, "script": Path(run.keeper.script).name, "epoch": run.progress.epoch,
            "vocabulary": run.corpus.digest()}


def model_content(run: Run, loss: float) -> dict:
    """A model file: the weights as they are now, and what is needed to build the model again."""
    return {**facts(run), "config": run.model.config, "valid_loss": loss,
            "model": run.model.state_dict(), "word_list": pack(run.corpus.words)}


def save_best(run: Run, loss: float, message: str) -> None:
    """The model with the weights as they are now, and the optimizer beside it."""
    run.keeper.save_best(model_content(run, loss))
    if run.keeper.fabric.is_global_zero:
        files.write(optimizer_file(run), {**facts(run), **optimizer_content(run)})
    run.keeper.say(message)


def start_from_best(run: Run) -> None:
    """--continue_train: the best model of --save and the optimizer beside it; a fresh epoch count,
    so that the first epoch's model is always stored."""
    with bad_input("--continue_train: "):
        content = files.read(run.keeper.places.best)
        load_weights(run.model, weights_of(content))
        if (path := optimizer_file(run)).is_file():
            optimizer = files.read(path)
            if is_ours(content) and content.get("epoch") != optimizer.get("epoch"):
                raise ValueError("the model and the optimizer are of different epochs: the run was "
                                 "killed between the two; --resume continues from its state")
            load_optimizer(run, optimizer)


def start_from(run: Run, content: dict) -> None:
    """--resume MODEL: its weights, a fresh optimizer and epoch count. Raises BadInput."""
    with bad_input("--resume: "):
        state = weights_of(content)
        if is_ours(content) and content.get("vocabulary") != run.corpus.digest():
            if run.args.vocabulary == "model" or "word_list" not in content:
                raise ValueError("the model was trained on other words than those in "
                                 f"{run.args.data}")
            state = for_other_words(content, run.model, run.corpus.words, run.keeper)
        load_weights(run.model, state)


def for_other_words(content: dict, model: LanguageModel, words: list[str], keeper: Keeper
                    ) -> dict[str, Tensor]:
    """--vocabulary data: the weights of a model file for `model`, which was made for `words`.
    Raises ValueError."""
    if len(model.encoder.embedders) > 1:
        raise ValueError("--vocabulary data: in an embedding of several blocks (--emblocks) a "
                         "word's place among all words decides how long its vector is, and it has "
                         "another place among those of the texts: leave --vocabulary out")
    known = words_in_file(content) or []
    keeper.say(sentence_about_vectors(known, words))
    return with_words(content["model"], ROWS, known, words, model.state_dict())


def keep_corpus(run: Run, sources: list[str]) -> None:
    """What finetune.py reads, corpus.pt, and as in the original copies of the sources in scripts/.
    What an earlier run left there is set aside."""
    folder = Path(run.args.save)
    corpus = folder / "corpus.pt"
    if not run.keeper.fabric.is_global_zero or (run.keeper.found and corpus.is_file()):
        return
    files.set_aside(corpus)
    files.write(corpus, {"format": FORMAT, **run.corpus.content()})
    (folder / "scripts").mkdir(exist_ok=True)
    for name in sources:
        text, copy = (HERE / name).read_bytes(), folder / "scripts" / name
        if not copy.is_file() or copy.read_bytes() != text:
            files.set_aside(copy)
            files.replace(copy, lambda file, text=text: file.write(text))


# --------------------------------------------------------------------------------- what is said
def introduce(run: Run) -> None:
    """What is about to be trained."""
    say = run.keeper.say
    say(f"Args: {run.args}")
    for name, count in run.model.parameter_counts().items():
        say(f"params {name}: {count / 1e6}M")
    say(f"{run.model}")
    for layer in run.model.rnns:
        if isinstance(layer, SparseLSTM):
            say(f"{layer.info_dict()}\n{layer.info()}")
