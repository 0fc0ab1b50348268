"""What the page says about a run in words: system, paper, data, what guessing would give."""

import collections
import math
from pathlib import Path
from typing import NamedTuple

ARXIV = "https://arxiv.org/abs/"


class System(NamedTuple):
    """Scripts that begin with `script`: what they are, what they do with the data {data}."""

    script: str
    name: str
    does: str
    paper: str
    arxiv: str


# The first that fits. {model}, {embedding}, {data} are filled in by sentence().
SYSTEMS = (
    System("awd_lstm/scratch/", "The readable AWD-LSTM", "predicts the next word of {data}",
           "Merity et al. 2017", "1708.02182"),
    System("awd_lstm/", "AWD-{model}", "predicts the next word of {data}",
           "Merity et al. 2017, 2018", "1803.08240"),
    System("trellisnet/seq_MNIST_CIFAR/", "TrellisNet", "reads {data} pixel by pixel",
           "Bai et al. 2019", "1810.06682"),
    System("trellisnet/char_PTB/", "TrellisNet", "predicts the next character of {data}",
           "Bai et al. 2019", "1810.06682"),
    System("trellisnet/", "TrellisNet", "predicts the next word of {data}",
           "Bai et al. 2019", "1810.06682"),
    System("sparse_seq/sequence_labeling/", "A tagger with {embedding} embedding",
           "labels {data}", "Demeester et al. 2018", "1808.08720"),
    System("sparse_seq/", "An LSTM of predefined sparseness", "predicts the next word of {data}",
           "Demeester et al. 2018", "1808.08720"),
    System("tnn/im/", "TNN", "recognises {data}", "Qin et al. 2023", "2305.04749"),
    System("tnn/lra/", "TNN", "answers {data}", "Qin et al. 2023", "2305.04749"),
    System("tnn/script_lra.py", "TNN", "answers {data}", "Qin et al. 2023", "2305.04749"),
    System("tnn/", "TNN", "predicts the next token of {data}", "Qin et al. 2023", "2305.04749"),
)
# The last part of a data folder -> what it holds.
DATA = {
    "pydoc": "the docstrings of Python's standard library",
    "pydoc-small": "the docstrings of Python's standard library",
    "pydoc-char": "the docstrings of Python's standard library",
    "digits": "8 x 8 pictures of handwritten digits",
    "tagging": "the tokens of Python source with their roles",
    "listops": "nested list expressions",
    "penn": "the Penn Treebank", "pennchar": "the Penn Treebank",
    "wikitext-2": "WikiText-2", "wikitext-103": "WikiText-103", "enwik8": "enwik8",
    "mnist": "handwritten digits", "cifar10": "CIFAR-10", "conll2000": "CoNLL-2000",
    "imagenet": "ImageNet",
}
CLASSES = {"digits": 10, "mnist": 10, "cifar10": 10, "listops": 10, "imagenet": 1000}


class Baseline(NamedTuple):
    """What a guess gets that knows frequencies, or nothing: loss in nats; what to call it."""

    loss: float
    name: str


def script_of(step: dict) -> str:
    """The script in a step's command."""
    words = step["command"]
    return next((word for word in words if word.endswith((".py", ".sh"))), words[0])


def system_of(step: dict) -> System | None:
    """The system of a step; None for a command that is none of ours."""
    script = script_of(step)
    return next((system for system in SYSTEMS if script.startswith(system.script)), None)


def data_of(step: dict) -> Path | None:
    """The folder of data that a step was given, by its settings or its command."""
    settings, words = step.get("settings") or {}, step["command"]
    if settings.get("task") and "tnn/lra" in script_of(step):
        return Path(settings.get("data") or "data", settings["task"])
    for name in ("data", "data_path"):
        if isinstance(settings.get(name), str):
            return Path(settings[name])
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word in ("--data", "--data-path"):
            return Path(value)
    return next((Path(word) for word in words if "data-bin/" in word), None)


def sentence(step: dict) -> str:
    """'TrellisNet reads 8 x 8 pictures of handwritten digits pixel by pixel'; empty for a command
    that is none of ours."""
    system = system_of(step)
    if system is None:
        return ""
    settings, folder = step.get("settings") or {}, data_of(step)
    name = DATA.get(folder.name, folder.name) if folder else "its data"
    sparse = float(settings.get("emb_density") or 1) < 1
    words = {"model": settings.get("model", "LSTM"), "data": name,
             "embedding": "a sparse" if sparse else "a dense"}
    return f"{system.name} {system.does}".format(**words)


def folder_of(step: dict) -> Path | None:
    """The same, as a path that can be opened from anywhere."""
    folder = data_of(step)
    return folder if folder is None or folder.is_absolute() else step["folder"] / folder


def baseline(step: dict) -> Baseline | None:
    """What a guess would get on the step's data; None where that is not known."""
    folder = folder_of(step)
    if folder is None:
        return None
    if folder.name in CLASSES:
        return Baseline(math.log(CLASSES[folder.name]), "chance")
    for counts in (word_counts(folder), tag_counts(folder), binarised_counts(folder)):
        if counts:
            return Baseline(entropy(counts), "guessing by frequency")
    return None


def entropy(counts: collections.Counter) -> float:
    """In nats: the loss of a guess that knows how frequent each token is, and no more."""
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values() if n)


def word_counts(folder: Path) -> collections.Counter:
    """Words of train.txt, an end of sentence for each line; empty if there is none."""
    path = folder / "train.txt"
    if not path.is_file() or path.stat().st_size > 20e6:  # seconds, for a line in a picture
        return collections.Counter()
    counts = collections.Counter()
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            counts.update([*line.split(), "<eos>"])
    return counts


def tag_counts(folder: Path) -> collections.Counter:
    """Tags of train.conll."""
    path = folder / "train.conll"
    if not path.is_file():
        return collections.Counter()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return collections.Counter(line.split()[-1] for line in lines if line.strip())


def binarised_counts(folder: Path) -> collections.Counter:
    """Tokens of fairseq's dict.txt (token count)."""
    path = folder / "dict.txt"
    counts = collections.Counter()
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            token, _, count = line.rpartition(" ")
            if count.isdigit():
                counts[token] = int(count)
    return counts
