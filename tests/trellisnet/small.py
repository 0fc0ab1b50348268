"""Texts, images and sizes small enough to train on in a test, through the scripts' own code."""

import csv
import importlib
from pathlib import Path

import numpy as np

SCRIPTS = {"word": "word_PTB/word_ptb.py", "wt": "word_WT103/word_wt103.py",
           "char": "char_PTB/char_ptb.py", "seq": "seq_MNIST_CIFAR/seq_mnist_cifar.py"}
LANGUAGE_MODELS = ("word", "wt", "char")
EVERY = "--device cpu --log-interval 3 --seed 7 --epochs 2"
TEXT = (f"{EVERY} --emsize 8 --nhid 12 --nout 8 --nlevels 4 --horizon 4 --aux_freq 2 "
        "--batch_size 4 --data texts")
FLAGS = {
    "word": f"{TEXT} --seq_len 10 --lr 1",
    "wt": f"{TEXT} --lr 0.01 --splits 8 20 --wdrop 0.2 --emb_dropout 0.1 --batch_size 8",
    "char": f"{TEXT} --lr 0.01 --dataset pydoc --batch_size 16",
    "seq": f"{EVERY} --nhid 6 --nlevels 3 --dilation 1 2 4 --batch_size 8 --lr 0.01 --data images",
}
NO_DROPOUT = ["--dropout", "0", "--dropouti", "0", "--dropouth", "0", "--wdrop", "0"]
NO_TEXT_DROPOUT = [*NO_DROPOUT, "--emb_dropout", "0"]


def script(name: str):
    """The module of a script. Imported when it is used: collecting the tests imports none."""
    return importlib.import_module(f"trellisnet.{SCRIPTS[name][:-3].replace('/', '.')}")


def write_data(folder: Path, lines: int = 16, images: int = 43) -> Path:
    """folder/texts of 30 words, valid.txt and test.txt of `lines` lines; folder/images of 16
    pixels, `images` to train on."""
    from tests.awd_lstm.small import write_corpus
    write_corpus(folder / "texts", train=60, valid=lines, test=lines)
    write_digits(folder / "images", train=images)
    return folder


def write_digits(folder: Path, train: int = 43, test: int = 19, side: int = 4, seed: int = 0
                 ) -> None:
    """Images in whose first rows the class shows."""
    rng = np.random.RandomState(seed)
    arrays = {}
    for part, n in (("train", train), ("test", test)):
        labels = rng.randint(0, 10, n)
        images = rng.randint(0, 4, (n, side, side))
        images[:, 0] += labels[:, None]
        arrays |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels}
    folder.mkdir(parents=True)
    np.savez(folder / "digits.npz", **arrays)


def flags_of(name: str, folder: Path, *more) -> list[str]:
    """A small run in `folder`: data there, m.pt and logs/ there."""
    flags = FLAGS[name].split()
    at = flags.index("--data") + 1
    flags[at] = str(folder / flags[at])
    return [*flags, "--save", str(folder / "m.pt"), "--log-dir", str(folder / "logs"),
            "--name", "m", *map(str, more)]


def train(name: str, folder: Path, *more):
    """Runs a script in this process; returns its run. Ends as the script does: SystemExit if it
    refuses."""
    return script(name).main(flags_of(name, folder, *more))


def curve(run, name: str) -> list[float]:
    """The values of one curve of a run."""
    with run.keeper.curves.path.open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]
