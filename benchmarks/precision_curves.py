"""Whether training in bfloat16 ends where training in float32 does: every script, 300 updates each
at reduced size, three seeds.

    python benchmarks/precision_curves.py [--only NAME ...] [--seeds 1 2 3] [--updates 300]

Reads data/pydoc, data/pydoc-char, data/digits, data/tagging, data/listops (`./getdata.sh pydoc
pydoc-char digits tagging listops`) and the small data of tnn's scripts (`make data-tnn-smoke`). Of
each run the loss on held-out data after its last update counts; where there is none, its last
training loss. Both precisions of a seed begin with the same weights and see the same batches and
dropout masks. On a CPU without bfloat16 instructions --precision bf16-mixed, which would be
ignored, is forced, and computes the same roundings more slowly.
"""

import argparse
import csv
import importlib
import multiprocessing
import os
import re
import shlex
import statistics
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import torch

from benchmarks.peaks import describe

PRECISIONS = ("32", "bf16-mixed")
LSTM = "--data {root}/data/pydoc --emsize 32 --nhid 64 --nlayers 2 --batch_size 10 --bptt 35"
TRELLIS = "--emsize 32 --nout 32 --nhid 64 --nlevels 8 --horizon 8 --aux_freq 4 --batch_size 10"
FAIRSEQ = ("{root}/tnn/data/data-bin/pydoc-small --user-dir {root}/tnn/fairseq_plugin "
           "--save-dir {at} --optimizer adam --clip-norm 1.0 --weight-decay 0.2 "
           "--lr-scheduler inverse_sqrt --warmup-updates 50 --lr 0.002 --dropout 0.1 "
           "--batch-size 8 --no-epoch-checkpoints --num-workers 0 --log-format simple "
           "--log-interval 50")
SMALL_LM = "--decoder-embed-dim 64 --decoder-layers 2 --rpe-layers 1 --tokens-per-sample 64"
SMALL_MLM = "--encoder-embed-dim 64 --encoder-layers 2 --rpe-layers 1 --tokens-per-sample 64"
SPARSE = "sparse_seq.language_modeling"


@dataclass(frozen=True)
class Run:
    """The main(argv) of a module, with `flags`.

    loss: the name in its metrics.csv that counts. paths: where it reads and writes. before: the run
    whose model it starts from.
    """

    module: str
    flags: str
    loss: str = "valid_loss"
    paths: str = "--save {at}/m"
    before: str = ""

    def argv(self, at: Path, precision: str, seed: int, updates: int) -> list[str]:
        places = {"root": shlex.quote(str(ROOT)), "at": shlex.quote(str(at))}
        words = shlex.split(f"{self.flags} {self.paths}".format(**places))
        if self.module == "fairseq_cli.train":
            words += ["--bf16"] * (precision != "32") + ["--max-update", updates]
        else:
            words += ["--precision", precision, "--max-steps", updates, "--log-dir", at / "logs",
                      "--device", "cpu"]
        return [str(word) for word in [*words, "--seed", seed]]


RUNS = {
    "awd_lstm, LSTM": Run("awd_lstm.main", LSTM),
    "awd_lstm, GRU": Run("awd_lstm.main", f"{LSTM} --model GRU --lr 10"),
    "awd_lstm, QRNN": Run("awd_lstm.main", f"{LSTM} --model QRNN --wdrop 0.1"),
    "awd_lstm, finetune": Run("awd_lstm.finetune", LSTM, before="awd_lstm, LSTM"),
    "awd_lstm/scratch": Run("awd_lstm.scratch.main", LSTM),
    "trellisnet, words": Run("trellisnet.word_PTB.word_ptb",
                             f"{TRELLIS} --data {{root}}/data/pydoc --seq_len 40"),
    "trellisnet, WikiText-103": Run("trellisnet.word_WT103.word_wt103",
                                    f"{TRELLIS} --data {{root}}/data/pydoc --splits 1000 4000 "
                                    "--lr 0.01"),
    "trellisnet, characters": Run("trellisnet.char_PTB.char_ptb",
                                  f"{TRELLIS} --data {{root}}/data --dataset pydoc"),
    "trellisnet, images": Run("trellisnet.seq_MNIST_CIFAR.seq_mnist_cifar",
                              "--data {root}/data/digits --nhid 24 --nlevels 6 --dilation 1 1 2 4 "
                              "8 16 --lr 1e-2 --batch_size 32 --epochs 20", "test_loss"),
    "sparse_seq, sparse": Run(f"{SPARSE}.main",
                              f"{LSTM} --sparse_mode sparse_hidden --sparse_fract 0.5"),
    "sparse_seq, dense": Run(f"{SPARSE}.main", LSTM),
    "sparse_seq, finetune": Run(f"{SPARSE}.finetune", f"{LSTM} --sparse_mode sparse_hidden "
                                "--sparse_fract 0.5 --log-interval 50", "train_loss",
                                before="sparse_seq, sparse"),
    "sparse_seq, recite": Run(f"{SPARSE}.main_overfit", f"{LSTM} --lr 5 --log-interval 50",
                              "train_loss"),
    "sparse_seq, tagger": Run("sparse_seq.sequence_labeling.main", "--data {root}/data/tagging "
                              "--lr 0.01 --epochs 20", "train_loss"),
    "tnn, ALM": Run("fairseq_cli.train", f"{FAIRSEQ} {SMALL_LM} --task language_modeling --arch "
                    "tnn_v2_decay_99_pre --share-decoder-input-output-embed", paths=""),
    "tnn, BLM": Run("fairseq_cli.train", f"{FAIRSEQ} {SMALL_MLM} --task masked_lm --criterion "
                    "masked_lm --arch roberta_tnn_v2_decay_99 --mask-padding "
                    "--skip-invalid-size-inputs-valid-test", paths=""),
    "tnn/im": Run("tnn.im.main", "--input-size 32 --num_workers 0 --no-repeated-aug --mixup 0 "
                  "--cutmix 0 --data-set DIGITS --data-path {root}/data/digits --hflip 0 --aa '' "
                  "--color-jitter 0 --reprob 0 --arch-options patch_size=8 embed_dim=64 glu_dim=64 "
                  "depth=3 --batch-size 32 --lr 0.16 --warmup-epochs 1 --warmup-lr 1e-3 --epochs 7",
                  "test_loss", "--output_dir {at}"),
    "tnn/lra": Run("tnn.lra.main", "--task listops --data {root}/data --n-layers 1 --d-model 32 "
                   "--batch-size 8 --workers 0 --eval-limit 400 --warmup 30 --lr 0.005",
                   "val/loss", "--save {at}/m"),
}


def bf16_forced() -> None:
    """In this process bfloat16 is used, with instructions for it or without."""
    from harness import machine
    from kernels import library
    machine.bf16_pays = lambda: True
    library.has_bf16_instructions = lambda: True


def run(name: str, argv: list[str], at: Path) -> None:
    """In a process of its own, which exits: the script, its output in a file."""
    log = os.open(at / "out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1), os.dup2(log, 2)
    bf16_forced()
    code = 0
    try:
        module = importlib.import_module(RUNS[name].module)
        if RUNS[name].module == "fairseq_cli.train":
            sys.argv = ["fairseq-train", *argv]
            module.cli_main()
        else:
            module.main(argv)
    except SystemExit as end:
        code = end.code
    except Exception:
        traceback.print_exc()
        code = 1
    sys.exit(code)


def end_loss(name: str, at: Path) -> float:
    """The last loss that counts."""
    if RUNS[name].module == "fairseq_cli.train":
        said = (at / "out.txt").read_text()
        return float(re.findall(r"\| valid on .* \| loss ([\d.]+)", said)[-1])
    latest = max((at / "logs").rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    with latest.open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file)
                if row["name"] == RUNS[name].loss][-1]


def trained(name: str, precision: str, seed: int, updates: int, at: Path) -> float:
    """The end loss of one run in the folder `at`, after the run that it starts from."""
    at.mkdir(exist_ok=True)
    if RUNS[name].before:
        trained(RUNS[name].before, precision, seed, updates, at)
    argv = RUNS[name].argv(at, precision, seed, updates)
    process = multiprocessing.get_context("fork").Process(target=run, args=(name, argv, at))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{name}, {precision}, seed {seed} ended with {process.exitcode}:\n"
                 + (at / "out.txt").read_text()[-2000:])
    return end_loss(name, at)


def compared(name: str, seeds: list[int], updates: int) -> None:
    losses = {}
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            losses[precision] = [trained(name, precision, seed, updates, Path(folder) / str(seed))
                                 for seed in seeds]
    told = []
    for precision, found in losses.items():
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        told.append(f"{precision} {statistics.mean(found):.4f} +- {spread:.4f} "
                    f"({' '.join(f'{loss:.4f}' for loss in found)})")
    apart = statistics.mean(losses[PRECISIONS[1]]) - statistics.mean(losses[PRECISIONS[0]])
    within = abs(apart) <= max(losses[PRECISIONS[0]]) - min(losses[PRECISIONS[0]])
    print(f"{name:<26} {'  '.join(told)}  apart {apart:+.4f}  "
          f"{'within' if within else 'OUTSIDE'} float32's range", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    p.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME",
                   help="of: " + "; ".join(RUNS))
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument("--updates", type=int, default=300)
    args = p.parse_args()
    torch.set_num_threads(1)
    describe(measure=False)
    for name in args.only:
        compared(name, args.seeds, args.updates)


if __name__ == "__main__":
    main()
