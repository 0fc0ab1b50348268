"""Preparing and loading texts the size of enwik8 and WikiText-103, and training on the latter's
vocabulary: seconds and peak memory. The texts are generated, since only their size matters.

    python benchmarks/awd_lstm_corpus.py [--folder DIR] [--millions 100] [--train]

--train makes two updates of the published WikiText-103 QRNN with its hidden layers reduced to 256
(embedding and split softmax full-size: they are what the vocabulary makes large).
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WT103_WORDS = 267_735
LOAD = """
import resource, sys, time
from awd_lstm.data import Corpus
start = time.time()
corpus = Corpus(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{'loaded' if corpus.cached else 'prepared'} in {time.time() - start:5.1f} s, peak memory "
      f"{peak:.2f} GiB: {len(corpus.train):,} tokens of {len(corpus.dictionary):,} types as "
      f"{corpus.train.dtype}")
"""


def enwik8_like(rng: np.random.Generator, count: int) -> str:
    """Bytes as decimal numbers."""
    return " ".join(map(str, rng.integers(0, 205, count).tolist())) + "\n"


def wikitext_like(rng: np.random.Generator, count: int) -> str:
    """Words with a Zipf-like distribution over WikiText-103's number of types."""
    ids = np.minimum(rng.zipf(1.15, count), WT103_WORDS - 1)
    words = [f"w{i:x}word" for i in ids.tolist()]
    return "\n".join(" ".join(words[i: i + 57]) for i in range(0, count, 57)) + "\n"


def generate(folder: Path, kind: str, tokens: int) -> None:
    """train.txt of `tokens` tokens, and small valid.txt and test.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    make = {"enwik8": enwik8_like, "wt103": wikitext_like}[kind]
    for split, count in (("train", tokens), ("valid", 200_000), ("test", 200_000)):
        with (folder / f"{split}.txt").open("w") as file:
            if kind == "wt103" and split == "train":  # every type occurs
                file.write("\n".join(f"w{i:x}word" for i in range(1, WT103_WORDS - 1)) + "\n")
            for done in range(0, count, 1_000_000):
                file.write(make(rng, min(1_000_000, count - done)))


def train(folder: Path) -> None:
    argv = ("--epochs 14 --nlayers 4 --emsize 400 --nhid 256 --alpha 0 --beta 0 --dropoute 0 "
            "--dropouth 0.1 --dropouti 0.1 --dropout 0.1 --wdrop 0 --wdecay 0 --bptt 140 "
            "--batch_size 60 --optimizer adam --lr 1e-3 --model QRNN --max-steps 2")
    with tempfile.TemporaryDirectory() as work:
        start = time.time()
        subprocess.run([sys.executable, str(ROOT / "awd_lstm/main.py"), *argv.split(), "--data",
                        str(folder), "--save", f"{work}/model.pt", "--log-dir", work], check=True,
                       cwd=ROOT)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"two updates, validation and test: {time.time() - start:.0f} s, peak memory "
          f"{peak:.2f} GiB")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--folder", type=Path, default=None, help="where to put the texts (1.3 GB)")
    p.add_argument("--millions", type=int, default=100, help="tokens of each text")
    p.add_argument("--train", action="store_true", help="also train on the large vocabulary")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        for kind in ("enwik8", "wt103"):
            generate(folder / kind, kind, args.millions * 1_000_000)
            size = (folder / kind / "train.txt").stat().st_size / 1e6
            print(f"{kind}-like, {size:.0f} MB")
            for _ in range(2):
                subprocess.run([sys.executable, "-c", LOAD, str(folder / kind)], check=True,
                               cwd=ROOT)
        if args.train:
            train(folder / "wt103")


if __name__ == "__main__":
    main()
