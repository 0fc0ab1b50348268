"""A trained language model with its words, for generate.py and score.py."""

import shlex
import sys
from argparse import Namespace
from dataclasses import dataclass
from importlib import import_module

from lightning_fabric import Fabric
from torch import Tensor

from harness.endings import BadInput, bad_input
from harness.home import home
from harness.inputs import load_in_turn
from loading.weights import bare_names
from texts.words import EOS
from trellisnet import model_files
from trellisnet.args import TASKS
from trellisnet.char_PTB import model as char_model
from trellisnet.char_PTB.data import Characters
from trellisnet.lm import TrainingLoss, TrellisNetLM
from trellisnet.release1 import SCRIPTS
from trellisnet.text import Corpus
from trellisnet.weights import load_original_state
from trellisnet.word_PTB import model as word_model
from trellisnet.word_PTB.data import load_corpus
from trellisnet.word_WT103 import model as wt103_model

HERE = home(__file__)
BUILD = {"word_PTB": word_model.build, "word_WT103": wt103_model.build,
         "char_PTB": char_model.build}


@dataclass
class Trained:
    """A model in evaluation mode, its words by id, and the flags that it was trained with."""

    loss: TrainingLoss
    words: list[str]
    task: str                # a key of BUILD
    settings: Namespace
    spaced: bool             # characters stand apart in its texts, blanks are no tokens

    @property
    def index(self) -> dict[str, int]:
        """token -> id."""
        return {word: i for i, word in enumerate(self.words)}

    @property
    def end(self) -> int:
        """The id of a line's end."""
        return self.words.index(EOS)


def load_trained(flag: str, path: str, args: Namespace, fabric: Fabric) -> Trained:
    """The model in a file of ours, or in a state_dict of the original's.

    args: `task`, or None for the file's own; `data` and `dataset`, for the vocabulary of a file
    that does not hold it; `trained_with`, for a state_dict. Raises BadInput.
    """
    content = model_files.read(path, flag, original=True)
    if "format" not in content:
        return load_original(flag, path, content, args, fabric)
    settings = Namespace(**content["args"])
    task = args.task or task_of(settings)
    if task not in BUILD:
        raise BadInput(f"{flag} {path} is no language model")
    with bad_input(f"{flag} {path}: "):
        words = model_files.words_of(content)
    spaced = content.get("spaced", False)
    if words is None:
        data = args.data or str(HERE / TASKS[task])
        corpus = read_corpus(data, task, args.dataset, fabric)
        words, spaced = corpus.words, getattr(corpus, "spaced", False)
        if content.get("vocabulary") != corpus.digest():
            raise BadInput(f"{flag} {path} was trained on other words than those of --data {data}")
    try:
        loss = BUILD[task](settings, len(words))
        loss.load_state_dict(content["model"])
    except (AttributeError, RuntimeError):
        raise BadInput(f"{flag} {path} is no model of --task {task}: give the script that trained "
                       "it") from None
    return Trained(fabric.to_device(loss).eval(), words, task, settings, spaced)


def load_original(flag: str, path: str, state: dict, args: Namespace, fabric: Fabric) -> Trained:
    """load_trained of a state_dict with the original's names, such as the released weights. Raises
    BadInput."""
    what, task = f"{flag} {path}", args.task
    if task is None:
        raise BadInput(f"{what} holds weights alone, as the original wrote them: say which script "
                       f"trained them, --task {' or '.join(BUILD)}, and on which texts, --data DIR")
    script = next(each for each in SCRIPTS.values() if f"/{task}/" in each)
    main = import_module(script.removesuffix(".py").replace("/", "."))
    settings = main.parse_args(shlex.split(args.trained_with))
    data = args.data or str(HERE / TASKS[task])
    corpus = read_corpus(data, task, args.dataset, fabric)
    encoder = bare_names(state).get("encoder.weight")
    if encoder is not None and len(encoder) != len(corpus):
        raise BadInput(f"{what} knows {len(encoder)} words, --data {data} has {len(corpus)}: give "
                       "the texts that it was trained on")
    with bad_input(f"{what} (as {script} {args.trained_with or 'by default'}): "):
        loss = BUILD[task](settings, len(corpus))
        load_original_state(loss.model, state)
    if any(True for _ in loss.criterion.parameters()):
        print(f"{what} has no parameters of the split softmax: they are zero", file=sys.stderr)
    return Trained(fabric.to_device(loss).eval(), corpus.words, task, settings,
                   getattr(corpus, "spaced", False))


def task_of(settings: Namespace) -> str:
    """The task whose script wrote a file: told by a flag that this script alone has."""
    script = next((script for flag, script in SCRIPTS.items() if hasattr(settings, flag)), "/")
    return script.split("/")[1]


def read_corpus(data: str, task: str, dataset: str, fabric: Fabric) -> Corpus:
    """The texts that a model was trained on. Raises BadInput."""
    return load_in_turn(fabric, lambda: Characters(data, dataset) if task == "char_PTB"
                        else load_corpus(data), f"--data {data}")


def log_probability(loss: TrainingLoss, output: Tensor) -> Tensor:
    """output (N, nout) -> log-probabilities (N, V)."""
    model: TrellisNetLM = loss.model
    if loss.criterion.splits:
        return loss.criterion.logprob(model.decoder.weight, model.decoder.bias, output)
    scores = model.decode(output)
    return scores if model.mixsoft else scores.log_softmax(-1)
