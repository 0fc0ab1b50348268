"""Every script that trains, as a tiny run on the pretended GPU, with as many layers as published.

The number of operations of an update depends on the layers, not on their width: figures.json holds
what these runs were counted to need.
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.awd_lstm.small import write_corpus
from tests.sparse_seq.small import write_sentences
from tests.trellisnet.small import write_digits
from tests.trust.scripts import SCRIPTS, Script, write_listops

SINGLE = ("32", "bf16-mixed")
ROOT = Path(__file__).resolve().parents[2]
FAIRSEQ_DATA = ROOT / "tests/golden/cases/tnn_lm/cli/data-bin"


@dataclass(frozen=True)
class Run:
    """`script` on the GPU with `more` flags. interval: updates from one report to the next."""

    name: str
    script: Script
    more: str = ""
    interval: int = 2
    precisions: tuple[str, ...] = SINGLE
    before: str = ""               # a run whose finished files it starts from

    @property
    def updates(self) -> int:
        return 6 if self.interval == 2 else 12

    def argv(self, folder: Path, data: Path, precision: str, *more) -> list[str]:
        steps = ["--save-interval", "1000", "--device", "cuda"]
        if "--log-interval" in self.script.flags:
            steps += ["--log-interval", str(self.interval)]
        flags = [] if precision == "16-mixed" else ["--precision", precision]
        return [*cleaned(self.script.argv(folder, data)), *self.more.split(), *steps, *flags,
                *map(str, more)]


def cleaned(argv: list[str]) -> list[str]:
    """Without what says which device to use."""
    return [word for word, last in zip(argv, ["", *argv], strict=False)
            if word not in ("--no-cuda", "--device") and last != "--device"]


def of(name: str, **changes) -> Script:
    return replace(SCRIPTS[name], **changes)


def lra(task: str) -> Run:
    flags = SCRIPTS["tnn-lra"].flags.replace("--task listops --arch tno --n-layers 1",
                                             f"--task {task} --expand-tno 1")
    text = " --l-max 60" if task in ("imdb", "aan") else ""
    return Run(f"lra-{task}", of("tnn-lra", flags=flags + text))


def graphs(*runs: Run) -> list[Run]:
    """The runs with --cuda-graphs."""
    return [replace(run, name=f"{run.name}{GRAPHS}", more=f"{run.more} --cuda-graphs")
            for run in runs]


GRAPHS = "-graphs"
DENSE = ("--emsize 8 --nhid 10 --nlayers 3 --batch_size 6 --bptt 15 --log-interval 3 --seed 7 "
         "--lr 3 --wdrop 0.5 --dropoute 0.1")
EVEN = "--bptt 6 --seq_len_multiple 14"  # all of one length
RUNS = {run.name: run for run in (
    Run("awd-lstm", of("awd-main"), "--nlayers 3 --alpha 2 --beta 1"),
    Run("awd-qrnn", of("awd-qrnn"), "--nlayers 4 --alpha 2 --beta 1 --wdrop 0.1"),
    Run("awd-gru", of("awd-main"), "--nlayers 3 --model GRU --lr 3"),
    Run("awd-lstm-even", of("awd-main"), f"--nlayers 3 --alpha 2 --beta 1 {EVEN}"),
    Run("awd-qrnn-even", of("awd-qrnn"), f"--nlayers 4 --alpha 2 --beta 1 --wdrop 0.1 {EVEN}"),
    Run("awd-finetune", of("awd-finetune"), "--nlayers 3", before="awd-lstm"),
    Run("scratch", of("scratch-main"), "--nlayers 3"),
    Run("trellis-word", of("word-ptb", data="long"), "--nlevels 58 --aux_freq 12 --horizon 58 "
        "--seq_len 110 --batch_size 2 --optim SGD"),
    Run("trellis-small", of("word-ptb"), "--optim SGD"),
    Run("trellis-wt103", of("word-wt103"), "--nlevels 75 --aux_freq 25 --batch_size 4"),
    Run("trellis-char", of("char-ptb"), "--nlevels 125 --aux_freq 25 --batch_size 8"),
    Run("trellis-images", of("seq-images")),
    Run("sparse-lm", of("sparse-main"), "--nlayers 3 --wdrop 0.5"),
    Run("dense-lm", of("sparse-main", flags=DENSE)),
    Run("sparse-finetune", of("sparse-finetune"), before="sparse-lm"),
    Run("sparse-recite", of("sparse-recite")),
    Run("tagger", of("sparse-tagger"), interval=10),
    Run("im", of("tnn-im"), "--train-interpolation bicubic", interval=10,
        precisions=("16-mixed", "32", "bf16-mixed")),
    *(lra(task) for task in ("listops", "imdb", "aan", "cifar", "pathfinder", "pathfinderx")),
)}
RUNS |= {run.name: run for run in graphs(*(RUNS[name] for name in (
    "awd-lstm-even", "awd-qrnn-even", "trellis-word", "trellis-small", "trellis-char",
    "trellis-images", "im", "lra-cifar", "lra-pathfinder")))}


# What `make test` runs: a kind of layer or loop each, in one precision.
QUICK = {"awd-lstm": "bf16-mixed", "awd-gru": "bf16-mixed", "trellis-small": "32",
         "trellis-small-graphs": "32",
         "sparse-lm": "32", "tagger": "bf16-mixed", "im": "16-mixed", "lra-listops": "32"}


# ---------------------------------------------------------------------------------------- data
def write_all(folder: Path) -> Path:
    """What the runs read: long enough for twelve updates in one epoch."""
    write_corpus(folder / "texts", train=150, valid=25, test=25)
    write_corpus(folder / "long", train=170, valid=140, test=140)  # for published histories
    write_listops(folder / "lra/listops")
    write_sentences(folder / "tagged", train=90)
    write_digits(folder / "images", train=160)
    write_texts_of_the_arena(folder / "lra")
    return folder


def write_texts_of_the_arena(folder: Path) -> None:
    """Reviews, pairs of papers, CIFAR-10's batches and Pathfinder's pictures, tiny ones."""
    rng = random.Random(5)

    def text(count: int) -> str:
        return " ".join(rng.choice(("good", "bad", "film", "the", "a")) for _ in range(count))

    for split in ("train", "test"):
        for label in ("pos", "neg"):
            below = folder / "imdb/aclImdb" / split / label
            below.mkdir(parents=True)
            for i in range(20):
                (below / f"{i}_7.txt").write_text(text(rng.randint(4, 20)))
    (folder / "aan").mkdir()
    for split in ("train", "eval", "test"):
        lines = [f"{i % 2}.0\t{i}\t{i}\tb'{text(8)}'\tb'{text(9)}'" for i in range(40)]
        (folder / f"aan/new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n")
    write_cifar(folder / "cifar")
    for size in (32, 128):
        write_pathfinder(folder / f"pathfinder/pathfinder{size}/curv_contour_length_14", size)


def write_cifar(folder: Path) -> None:
    """The binary version: a byte for the label, then the pixels."""
    folder.mkdir(parents=True)
    rng = np.random.RandomState(6)
    for name, count in (("data_batch_1", 100), ("test_batch", 20)):
        records = rng.randint(0, 256, (count, 3073)).astype(np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"{name}.bin")


def write_pathfinder(folder: Path, size: int) -> None:
    from PIL import Image
    (folder / "imgs/0").mkdir(parents=True)
    (folder / "metadata").mkdir()
    rng, lines = np.random.RandomState(7), []
    for i in range(60):
        name = f"sample_{i}.png"
        Image.fromarray(rng.randint(0, 256, (size, size)).astype(np.uint8)).save(
            folder / "imgs/0" / name)
        lines.append(f"imgs/0 {name} {i} {i % 2} 0 0 0 0")
    (folder / "metadata/0.npy").write_text("\n".join(lines) + "\n")
