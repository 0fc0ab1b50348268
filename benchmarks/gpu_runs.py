"""What gpu_speed.py times: the scripts at their published sizes, with data made on the spot."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# What an H200 does by its data sheet, operations a second; how much of it large products reach, by
# experience; seconds that the host takes to launch one operation, alone and as part of a graph.
PEAK = {"float32": 67e12, "TF32": 494e12, "bf16": 989e12}
REACHED, LAUNCH, REPLAYED = 0.5, 5e-6, 1.2e-6
PTB = 929_589  # tokens

BOTH = ("eager", "compile")
ALL = ("eager", "graphs", "compile")
FLAGS = {"eager": (), "compile": ("--compile",), "graphs": ("--cuda-graphs",)}
PRECISION = {"TF32": ("--precision", "32", "--tf32"), "bf16": ("--precision", "bf16-mixed"),
             "float32": ("--precision", "32", "--no-tf32")}


@dataclass(frozen=True)
class Timed:
    """A script with the flags of its published run.

    unit, count: what an update learns from, and how many of them. operations: launches of an
    update, from results/gpu_counts.md. epoch, expected: updates of an epoch, and seconds that one
    should take on an H200 with TF32, as estimated before anything had run.
    """

    name: str
    module: str
    flags: str
    count: int
    operations: int
    unit: str = "tokens"
    modes: tuple[str, ...] = BOTH
    paths: str = "--data {data}/texts --save {folder}/m.pt --log-dir {folder}/logs"
    epoch: int = 0
    expected: float | None = None
    layer_form: str = ""           # of sparse layers, in place of the one that they choose
    graphs: str = ""               # flags that graphs need besides

    def argv(self, folder: Path, data: Path, form: str, mode: str, updates: int) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = self.paths.format(data=data, folder=folder)
        own = [*self.flags.split(), *paths.split()]
        if self.module == "fairseq_cli.train":
            return [*own, "--max-update", str(updates), *["--bf16"] * (form == "bf16")]
        own += self.graphs.split() * (mode == "graphs")
        return [*own, *PRECISION[form], *FLAGS[mode], "--device", "cuda", "--max-steps",
                str(updates)]

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """In the block sparse layers have the row's form."""
        if not self.layer_form:
            yield
            return
        from sparse_seq import rnn
        usual, rnn.choose_form = rnn.choose_form, lambda *given: self.layer_form
        try:
            yield
        finally:
            rnn.choose_form = usual

    def expected_ms(self, form: str, mode: str, flops: float) -> float:
        """The larger of what the arithmetic takes and what the launches do."""
        launching = self.operations * (REPLAYED if mode == "graphs" else LAUNCH)
        return 1000 * max(flops / (REACHED * PEAK[form]), launching)


LM = "sparse_seq.language_modeling.main"
EVEN = "--seq_len_multiple 10"  # lengths that come again
LOG = "--seed 7 --log-interval 10"
RUN = "--save {folder}/run --log-dir {folder}/logs --data {data}/texts"
SPEED = (
    Timed("AWD-LSTM", "awd_lstm.main", "--batch_size 20 --emsize 400 --nhid 1150 --nlayers 3 "
          f"--dropouti 0.4 --dropouth 0.25 --epochs 1 {LOG}", 1400, 118, modes=ALL,
          epoch=PTB // 1400, expected=4, graphs=EVEN),
    Timed("QRNN", "awd_lstm.main", "--model QRNN --batch_size 20 --emsize 400 --nhid 1550 "
          f"--nlayers 4 --clip 0.2 --wdrop 0.1 --epochs 1 {LOG}", 1400, 182,
          modes=ALL, epoch=PTB // 1400, expected=2, graphs=EVEN),
    Timed("TrellisNet", "trellisnet.word_PTB.word_ptb", f"--epochs 1 --name m {LOG}", 16 * 52, 606,
          modes=ALL, epoch=PTB // (16 * 52), expected=10),
    Timed("LRA imdb", "tnn.lra.main", f"--task imdb --epochs 9 --workers 4 --eval-limit 32 {LOG}",
          32, 496, "reviews", ALL,
          "--data {data}/lra --save {folder}/m.pt --log-dir {folder}/logs"),
    Timed("TNN-ViT tiny", "tnn.im.main", "--model tnn_vit_e3g1_tiny_rpe_l1_90_prenorm --data-set "
          "DIGITS --input-size 224 --batch-size 128 --num_workers 12 --aa= --reprob 0 --epochs 9 "
          "--seed 7 --clip-grad 5", 128, 1500, "images", ALL,
          "--data-path {data}/images --output_dir {folder}/run --log-dir {folder}/logs"),
    Timed("TNN language model", "fairseq_cli.train", "--user-dir tnn/fairseq_plugin "
          "--task dummy_lm --dict-size 50260 --arch tnn_v2_decay_99_pre "
          "--share-decoder-input-output-embed --dropout 0.1 --optimizer adam --weight-decay 0.2 "
          "--clip-norm 1 --lr 0.0005 "
          "--tokens-per-sample 512 --batch-size 128 --log-interval 10 --no-save "
          "--disable-validation --num-workers 0", 128 * 512, 654, modes=("eager",),
          paths="--save-dir {folder}"),
    Timed("sparse, streams", LM, "--batch_size 20 --emsize 400 --nhid 1725 --nlayers 3 "
          f"--sparse_mode sparse_hidden --sparse_fract 0.666 --epochs 1 {LOG}", 1400, 306,
          modes=("eager",), paths=RUN),
    Timed("sparse, sequential", LM, "--batch_size 20 --emsize 400 --nhid 1725 --nlayers 3 "
          f"--sparse_mode sparse_hidden --sparse_fract 0.666 --epochs 1 {LOG}", 1400, 306,
          modes=("eager",), paths=RUN, layer_form="sequential"),
    Timed("dense, cuDNN", LM, "--batch_size 20 --emsize 400 --nhid 1150 --nlayers 3 --epochs 1 "
          f"{LOG}", 1400, 144, modes=("eager",), paths=RUN),
)


# ---------------------------------------------------------------------------------------- data
def write_data(folder: Path, tokens: int = 120_000, words: int = 10_000, reviews: int = 1000,
               letters: int = 4200, images: int = 7680) -> Path:
    """Texts of so many different words; reviews of each of the two kinds; pictures of digits."""
    rng = random.Random(1)
    write_texts(folder / "texts", rng, words, tokens)
    for split, count in (("train", reviews), ("test", 32)):
        for label in ("pos", "neg"):
            below = folder / "lra/imdb/aclImdb" / split / label
            below.mkdir(parents=True)
            for i in range(count):
                text = "".join(rng.choices("abcdefghij klmnop", k=letters))
                (below / f"{i}_7.txt").write_text(text)
    write_images(folder / "images", images)
    return folder


def write_texts(folder: Path, rng: random.Random, words: int, tokens: int) -> None:
    folder.mkdir(parents=True)
    for split, share in (("train", 1.0), ("valid", 0.1), ("test", 0.1)):
        ids = rng.choices(range(words), k=int(tokens * share))
        if split == "train":
            ids[:words] = range(words)
        lines = (" ".join(f"w{i}" for i in ids[at:at + 20]) for at in range(0, len(ids), 20))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def write_images(folder: Path, images: int) -> None:
    folder.mkdir(parents=True)
    draw = np.random.RandomState(2)
    np.savez(folder / "digits.npz", **{
        f"{part}_{name}": values for part, count in (("train", images), ("test", 32))
        for name, values in (("images", draw.randint(0, 17, (count, 8, 8)).astype(np.uint8)),
                             ("labels", draw.randint(0, 10, count)))})


