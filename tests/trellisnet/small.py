"""Texts, images and sizes small enough to train on in a test, through the scripts' own code."""

from pathlib import Path

import numpy as np

from tests.awd_lstm.small import write_corpus
from trellisnet.char_PTB import char_ptb
from trellisnet.run import Run
from trellisnet.seq_MNIST_CIFAR import seq_mnist_cifar
from trellisnet.word_PTB import word_ptb
from trellisnet.word_WT103 import word_wt103

SCRIPTS = {"word": word_ptb, "wt": word_wt103, "char": char_ptb, "seq": seq_mnist_cifar}
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


def write_data(folder: Path) -> Path:
    """folder/texts of 30 words, folder/images of 16 pixels."""
    write_corpus(folder / "texts", train=60, valid=25, test=25)
    write_digits(folder / "images")
    return folder


def write_digits(folder: Path, train: int = 43, test: int = 19, side: int = 4) -> None:
    """Images in whose first rows the class shows."""
    rng = np.random.RandomState(0)
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


def train(name: str, folder: Path, *more) -> Run:
    """Runs a script in this process. Ends as the script does: SystemExit if it refuses."""
    return SCRIPTS[name].main(flags_of(name, folder, *more))
