"""A text and a model small enough to train in a test, through the scripts' own code."""

import random
from pathlib import Path

from awd_lstm import finetune, main

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


def train(script: str, folder: Path, *flags: str, save="m.pt") -> Path:
    """Runs a script in this process, in `folder`, on folder/texts. Returns the path of the model.
    Ends as the script does: SystemExit if it refuses."""
    module = SCRIPTS[script]
    path = folder / save
    module.main([*SETTINGS.split(), "--data", str(folder / "texts"), "--save", str(path),
                 "--log-dir", str(folder / "logs"), *flags])
    return path
