"""Command lines: the original's flags with the original's names and defaults, plus ours.

No flag of ours begins with --epoch: the published commands type `--epoch 500` for --epochs.
"""

import argparse
import math
from pathlib import Path

from awd_lstm.model import MODELS

HERE = Path(__file__).resolve().parent
OnOff = argparse.BooleanOptionalAction
MOST_LAYERS = 1000
DASHED = {"log_interval", "save_interval", "max_steps"}  # the others keep the original's underscore

# Where a flag may differ between a run and its resumption; any other must be the same.
FREE_ON_RESUME = {"epochs", "save", "resume", "max_steps", "log_interval", "save_interval",
                  "log_dir", "device", "devices", "cuda", "data", "exact_loss", "compile"}


def data_and_model(p: argparse.ArgumentParser, data: str = "data/penn/") -> None:
    """Flags of main.py and finetune.py that describe the text and the network."""
    g = p.add_argument_group("data and model")
    g.add_argument("--data", default=str(HERE / data), metavar="DIR",
                   help="folder with train.txt, valid.txt, test.txt (None: this toolkit's "
                        f"{data}; ./getdata.sh ptb fetches it)")
    g.add_argument("--model", default="LSTM", choices=MODELS, help="recurrent layer")
    g.add_argument("--emsize", type=int, default=400, help="size of the word vectors")
    g.add_argument("--nhid", type=int, default=1150, help="hidden units of all layers but the last")
    g.add_argument("--nlayers", type=int, default=3, help="number of layers")


def training(p: argparse.ArgumentParser) -> None:
    """Flags of main.py and finetune.py that describe the training."""
    g = p.add_argument_group("training")
    g.add_argument("--lr", type=float, default=30, help="initial learning rate")
    g.add_argument("--clip", type=float, default=0.25, help="gradient norm limit (0: none)")
    g.add_argument("--epochs", type=int, default=8000, help="upper epoch limit")
    g.add_argument("--batch_size", type=int, default=80, help="columns of text read in parallel")
    g.add_argument("--bptt", type=int, default=70, help="mean sequence length")
    g.add_argument("--seed", type=int, default=1111, help="seed of every random stream")
    g.add_argument("--nonmono", type=int, default=5,
                   help="NT-ASGD: epochs without improvement before averaging starts (finetune: "
                        "before it stops)")
    g.add_argument("--alpha", type=float, default=2,
                   help="activation regularisation of the dropped last output (0: none)")
    g.add_argument("--beta", type=float, default=1,
                   help="temporal activation regularisation, slowness of the last output (0: none)")
    g.add_argument("--wdecay", type=float, default=1.2e-6, help="weight decay of all weights")
    g = p.add_argument_group("dropout")
    g.add_argument("--dropout", type=float, default=0.4, help="on the last layer's output")
    g.add_argument("--dropouth", type=float, default=0.3, help="between the layers")
    g.add_argument("--dropouti", type=float, default=0.65, help="on the embedded input")
    g.add_argument("--dropoute", type=float, default=0.1, help="of whole words in the embedding")
    g.add_argument("--wdrop", type=float, default=0.5,
                   help="weight drop on the recurrent (QRNN: all of a layer's) weights")


def run(p: argparse.ArgumentParser) -> None:
    """Flags of main.py and finetune.py about the run itself."""
    g = p.add_argument_group("run")
    g.add_argument("--save", default=None, metavar="FILE",
                   help="best model (None: digits of the time, .pt); the training state goes "
                        "beside it as *.state.pt")
    g.add_argument("--resume", nargs="?", const="", default=None, metavar="PATH",
                   help="without PATH, or with a *.state.pt: continue that run exactly where it "
                        "stopped; with a model file: start from its weights with a fresh optimiser "
                        "and the dropouts given here, as the original did")
    g.add_argument("--log-interval", type=int, default=200, metavar="N",
                   help="report every N updates")
    g.add_argument("--log-dir", default=str(HERE / "logs"), metavar="DIR",
                   help="where metrics.csv and TensorBoard files go, in a folder named after "
                        "--save")
    g.add_argument("--save-interval", type=int, default=1000, metavar="N",
                   help="write the training state every N updates, and at each epoch's end")
    g.add_argument("--max-steps", type=int, default=0, metavar="N",
                   help="stop after N updates in all (0: no limit); --resume goes on from there")
    g.add_argument("--exact-loss", action=OnOff, default=False,
                   help="divide evaluation losses by the number of predictions; the original (and "
                        "the published numbers) divide by one more per column")


def device(p: argparse.ArgumentParser) -> None:
    """Flags of all four scripts about the machine."""
    g = p.add_argument_group("machine")
    g.add_argument("--cuda", action=OnOff, default=None,
                   help="use CUDA (None: if there is a device); --no-cuda is --device cpu")
    g.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"),
                   help="what to compute on")
    g.add_argument("--precision", default="32", choices=("32", "bf16-mixed", "64"),
                   help="arithmetic: single, bfloat16 where it is safe, or double")
    g.add_argument("--deterministic", action="store_true",
                   help="only algorithms that give the same bits every time (CUDA)")


def parallel(p: argparse.ArgumentParser) -> None:
    """Flags of main.py and finetune.py about several devices."""
    g = p.add_argument_group("speed")
    g.add_argument("--devices", type=int, default=1, metavar="N",
                   help="processes, one per device, that share the batch (torchrun's count wins)")
    g.add_argument("--compile", action="store_true", help="torch.compile the model")


def check_finite(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """nan passes every comparison, torch knows 64 bits; only --cap (scratch/) may be infinite."""
    for name, value in vars(args).items():
        flag = name.replace("_", "-") if name in DASHED else name
        if isinstance(value, float) and (math.isnan(value) or
                                         (math.isinf(value) and name != "cap")):
            p.error(f"--{flag} must be a finite number, not {value}")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 2**62:
                p.error(f"--{flag} {number} is too large")


def check(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses nonsense in one sentence that names the flags (exit code 2)."""
    check_finite(p, args)
    for name in ("emsize", "nhid", "nlayers", "batch_size", "bptt", "epochs", "log_interval",
                 "save_interval", "devices"):
        if getattr(args, name) < 1:
            p.error(f"--{name.replace('_', '-') if name in DASHED else name} must be at least 1")
    for name in ("dropout", "dropouth", "dropouti", "dropoute", "wdrop"):
        if not 0 <= getattr(args, name) < 1:
            p.error(f"--{name} must be in [0, 1)")
    for name in ("clip", "alpha", "beta", "wdecay", "nonmono", "max_steps"):
        if getattr(args, name) < 0:
            p.error(f"--{name.replace('_', '-')} must not be negative")
    if args.lr <= 0:
        p.error("--lr must be positive")
    if args.nlayers > MOST_LAYERS:
        p.error(f"--nlayers must be at most {MOST_LAYERS}")
    if not 0 <= args.seed < 2**32:
        p.error("--seed must be in [0, 2**32)")
    if args.devices > args.batch_size:
        p.error(f"--devices {args.devices} cannot share --batch_size {args.batch_size} columns")
