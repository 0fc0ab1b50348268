"""A text and a model small enough to train in a test, through the scripts' own code."""

import random
from pathlib import Path

import torch

from awd_lstm import finetune, main
from awd_lstm.inputs import MODEL_FORMAT
from awd_lstm.model import RNNModel
from common.splitcross import SplitCrossEntropyLoss
from harness import files

SCRIPTS = {"main": main, "finetune": finetune}


def write_corpus(folder: Path, train=400, valid=60, test=60, words=30, seed=0) -> Path:
    """Lines in which each word tends to follow the one before it, so that there is something to
    learn. Numbers are lines; every word occurs in train.txt."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [f"w{i}" for i in range(words)]
    for split, lines in (("train", train), ("valid", valid), ("test", test)):
        text = [" ".join(vocabulary)] if split == "train" else []
        for _ in range(lines):
            word, line = rng.randrange(words), []
            for _ in range(rng.randint(2, 7)):
                word = (word + rng.choice((1, 1, 1, 2, 5))) % words
                line.append(vocabulary[word])
            text.append(" ".join(line))
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n")
    return folder


SETTINGS = ("--emsize 6 --nhid 8 --nlayers 2 --batch_size 8 --bptt 15 --lr 5 --epochs 3 --seed 7 "
         "--log-interval 3 --no-cuda")
LEARNS = ("--lr", "20", "--dropout", "0.1", "--dropouth", "0.1", "--dropouti", "0.1")


def train(script: str, folder: Path, *flags: str, save="m.pt") -> Path:
    """Runs a script in this process, in `folder`, on folder/texts. Returns the path of the model.
    Ends as the script does: SystemExit if it refuses."""
    module = SCRIPTS[script]
    path = folder / save
    module.main([*SETTINGS.split(), "--data", str(folder / "texts"), "--save", str(path),
                 "--log-dir", str(folder / "logs"), *flags])
    return path


def small_model(seed=0, splits=(), **changes):
    """A model of the words of write_corpus, with its loss."""
    torch.manual_seed(seed)
    config = {"rnn_type": "LSTM", "ntoken": 31, "ninp": 6, "nhid": 8, "nlayers": 2,
              "dropout": 0.1, "dropouth": 0.2, "dropouti": 0.3, "dropoute": 0.4, "wdrop": 0.5,
              "tie_weights": True} | changes
    criterion = SplitCrossEntropyLoss(config["ninp"], splits)
    for p in criterion.parameters():
        torch.nn.init.normal_(p)
    return RNNModel(**config), criterion


def save_model(path: Path, model: RNNModel, criterion, vocabulary: str = "digest", **facts) -> None:
    """A model file as the scripts write it."""
    files.write(path, {"format": MODEL_FORMAT, "config": model.config(),
                       "model": model.state_dict(), "criterion": criterion.state_dict(),
                       "splits": criterion.splits, "vocabulary": vocabulary, **facts})


def same(a, b):
    """Tensors bit for bit, all else by ==."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
