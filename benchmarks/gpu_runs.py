"""What gpu_steps.py runs: every script at a tiny size, and the language models at the published."""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

UPDATES = 60  # of a timed run; the script's last report covers twenty of them

TINY = "--emsize 32 --nhid 48 --batch_size 8 --seed 7 --log-interval 10 --epochs 3 --device cuda"
TRELLIS = ("--emsize 16 --nhid 24 --nout 16 --nlevels 8 --horizon 8 --aux_freq 4 --batch_size 8 "
           "--seed 7 --log-interval 10 --epochs 3 --device cuda --name m")
IMAGES = ("--data-set DIGITS --input-size 16 --arch-options patch_size=8 embed_dim=16 glu_dim=16 "
          "depth=2 rpe_embdding=16 --num_workers 0 --batch-size 16 --epochs 3 --clip-grad 5 "
          "--seed 7 --device cuda --fp32-resume")


@dataclass(frozen=True)
class Tiny:
    """A script with the flags of a tiny run. state: its training state below the run's folder."""

    module: str
    flags: str
    state: str = "m.pt.state"
    save: str = "m.pt"
    paths: str = "--data {data}/texts --save {save} --log-dir {logs}"
    safe: tuple[type, ...] = ()

    def argv(self, folder: Path, data: Path, *more) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = self.paths.format(data=data, save=folder / self.save, logs=folder / "logs")
        return [*self.flags.split(), *paths.split(), *map(str, more)]


@dataclass(frozen=True)
class Timed(Tiny):
    """At the published size. tokens, updates: of an update, of an epoch on PTB; expected: seconds
    that an epoch should take on an H200 with TF32, by arithmetic."""

    name: str = ""
    tokens: int = 0
    updates: int = 0
    expected: float | None = None


LM = "sparse_seq.language_modeling.main"
RUNS = {
    "awd-lstm": Tiny("awd_lstm.main", f"{TINY} --nlayers 3 --lr 5"),
    "awd-gru": Tiny("awd_lstm.main", f"{TINY} --nlayers 2 --model GRU --lr 5"),
    "awd-qrnn": Tiny("awd_lstm.main", f"{TINY} --nlayers 4 --model QRNN --lr 5"),
    "scratch": Tiny("awd_lstm.scratch.main", f"{TINY} --nlayers 2 --lr 5"),
    "trellis-word": Tiny("trellisnet.word_PTB.word_ptb", f"{TRELLIS} --lr 5"),
    "trellis-wt103": Tiny("trellisnet.word_WT103.word_wt103",
                          f"{TRELLIS} --lr 0.01 --splits 10 30"),
    "sparse-lm": Tiny(LM, f"{TINY} --nlayers 2 --lr 5 --sparse_mode sparse_all --sparse_fract 0.7 "
                      "--emblocks 2 --emdensity 0.6", "run/state.pt", "run"),
    "dense-lm": Tiny(LM, f"{TINY} --nlayers 2 --lr 5", "run/state.pt", "run"),
    "im": Tiny("tnn.im.main", IMAGES, "run/checkpoint_last.pth", "run",
               "--data-path {data}/images --output_dir {save} --log-dir {logs}",
               (argparse.Namespace,)),
    "lra": Tiny("tnn.lra.main", "--task listops --n-layers 2 --d-model 32 --batch-size 8 --epochs "
                "3 --warmup 5 --lr 0.01 --workers 0 --seed 7 --device cuda",
                paths="--data {data}/lra --save {save} --log-dir {logs}"),
}
PTB = 929_589  # tokens
SPEED = (
    Timed("awd_lstm.main", "--batch_size 20 --emsize 400 --nhid 1150 --nlayers 3 --dropouti 0.4 "
          "--dropouth 0.25 --seed 141 --log-interval 20 --epochs 1 --device cuda",
          name="AWD-LSTM", tokens=1400, updates=PTB // 1400, expected=4),
    Timed("awd_lstm.main", "--model QRNN --batch_size 20 --emsize 400 --nhid 1550 --nlayers 4 "
          "--clip 0.2 --wdrop 0.1 --seed 9001 --log-interval 20 --epochs 1 --device cuda",
          name="QRNN", tokens=1400, updates=PTB // 1400, expected=2),
    Timed("trellisnet.word_PTB.word_ptb", "--log-interval 20 --epochs 1 --device cuda --name m",
          name="TrellisNet", tokens=16 * 52, updates=PTB // (16 * 52), expected=10),
    Timed(LM, "--batch_size 20 --emsize 400 --nhid 1725 --nlayers 3 --sparse_mode sparse_hidden "
          "--sparse_fract 0.666 --log-interval 20 --epochs 1 --device cuda", "run/state.pt", "run",
          name="sparse, streams", tokens=1400, updates=PTB // 1400),
    Timed(LM, "--batch_size 20 --emsize 400 --nhid 1150 --nlayers 3 --log-interval 20 --epochs 1 "
          "--device cuda", "run/state.pt", "run",
          name="dense cuDNN", tokens=1400, updates=PTB // 1400),
)


def write_data(folder: Path, words: int = 60, tokens: int = 6000) -> Path:
    """Texts of so many different words, digits-like images, nested maxima."""
    rng = random.Random(1)
    (folder / "texts").mkdir(parents=True)
    for split, share in (("train", 1.0), ("valid", 0.1), ("test", 0.1)):
        ids = [rng.randrange(words) for _ in range(int(tokens * share))]
        if split == "train":
            ids[:words] = range(words)
        lines = (" ".join(f"w{i}" for i in ids[at:at + 20]) for at in range(0, len(ids), 20))
        (folder / "texts" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    write_images(folder / "images")
    write_trees(folder / "lra/listops")
    return folder


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    draw = np.random.RandomState(2)
    np.savez(folder / "digits.npz", **{
        f"{part}_{name}": values for part, count in (("train", 400), ("test", 32))
        for name, values in (("images", draw.randint(0, 17, (count, 8, 8)).astype(np.uint8)),
                             ("labels", draw.randint(0, 10, count)))})


def write_trees(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = random.Random(3)
    for split, count in (("train", 200), ("val", 16), ("test", 16)):
        rows = ["Source\tTarget"]
        for _ in range(count):
            digits = [rng.randrange(10) for _ in range(rng.randint(3, 12))]
            rows.append(f"[MAX {' '.join(map(str, digits))} ]\t{max(digits)}")
        (folder / f"basic_{split}.tsv").write_text("\n".join(rows) + "\n")
