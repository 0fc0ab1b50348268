"""Flags that the scripts share; each script has its own defaults for those of its paper's recipe.

Switches that the original had the wrong way round (giving --tied untied the weights) are
--x/--no-x here: giving --x switches x on.
"""

import argparse
import math
from pathlib import Path

OnOff = argparse.BooleanOptionalAction
MOST_LEVELS = 10_000
RATES = ("dropout", "dropouti", "wdrop", "emb_dropout", "dropouth", "dropoutl")
# What makes a model: --load takes these from the file.
ARCHITECTURE = ("emsize", "nhid", "nout", "nlevels", "ksize", "dilation", "wnorm", "tied",
                "n_experts", "aux_freq", "last_word_padding", "splits", "cifar", "permute")
# Flags in which a resumed run may differ from its beginning.
FREE_ON_RESUME = {"epochs", "resume", "max_steps", "log_interval", "save_interval", "log_dir",
                  "device", "devices", "cuda", "data", "compile", "checkpoint_levels", "fir",
                  "load", "load_weight", "eval", "name", "save", "deterministic", "plain"}


def parser(description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=description,
                                   formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def network(p: argparse.ArgumentParser, **defaults) -> None:
    """Flags of the TrellisNet and its regularisation."""
    g = p.add_argument_group("network")
    g.add_argument("--nhid", type=int, help="hidden channels, without the output channels")
    g.add_argument("--nlevels", type=int, help="number of levels")
    g.add_argument("--ksize", type=int, default=2, help="kernel size")
    g.add_argument("--dilation", type=int, nargs="+", default=[1],
                   help="dilation of each level, repeated as often as needed")
    g.add_argument("--wnorm", action=OnOff, default=True, help="weight normalisation")
    g.add_argument("--aux", type=float, help="weight of the auxiliary losses (0 or less: none)")
    g.add_argument("--aux_freq", type=float, help="an auxiliary output every so many levels")
    g = p.add_argument_group("dropout")
    g.add_argument("--dropout", type=float, help="on the output")
    g.add_argument("--dropouti", type=float, help="on the input")
    g.add_argument("--dropouth", type=float, help="on the hidden channels, hidden to hidden")
    g.add_argument("--wdrop", type=float, help="on the weights")
    g.add_argument("--temporalwdrop", action=OnOff, default=True,
                   help="weight dropout only on weights of past time steps")
    p.set_defaults(**defaults)


def language_model(p: argparse.ArgumentParser, **defaults) -> None:
    """Flags that only the language models have."""
    g = p.add_argument_group("language model")
    g.add_argument("--emsize", type=int, help="size of the word vectors")
    g.add_argument("--nout", type=int, help="output channels")
    g.add_argument("--horizon", type=int, help="effective history length")
    g.add_argument("--seq_len", type=int,
                   help="length of a sequence, the effective history included (0: horizon)")
    g.add_argument("--repack", action=OnOff, default=False,
                   help="carry the hidden state over from sequence to sequence")
    g.add_argument("--tied", action=OnOff, default=True,
                   help="decode with the embedding matrix")
    g.add_argument("--n_experts", type=int, default=0,
                   help="softmaxes in the mixture (0: one ordinary softmax)")
    g.add_argument("--emb_dropout", type=float, help="dropout of whole words in the embedding")
    g.add_argument("--last-word-padding", action=OnOff, default=True,
                   help="as in the original, the last word's vector learns from the decoder alone")
    p.set_defaults(**defaults)


def training(p: argparse.ArgumentParser, **defaults) -> None:
    g = p.add_argument_group("training")
    g.add_argument("--lr", type=float, help="initial learning rate")
    g.add_argument("--clip", type=float, help="gradient norm limit (0 or less: none)")
    g.add_argument("--epochs", type=int, help="upper epoch limit")
    g.add_argument("--batch_size", type=int, help="sequences in a batch")
    g.add_argument("--optim", default="Adam", help="any optimiser of torch.optim")
    g.add_argument("--wdecay", type=float, default=0.0, help="weight decay of all weights")
    g.add_argument("--when", type=int, nargs="+", default=[-1], metavar="EPOCH",
                   help="epochs after which the learning rate is cut")
    g.add_argument("--anneal", type=int, default=5,
                   help="epochs without improvement before the learning rate is cut")
    g.add_argument("--seed", type=int, default=1111, help="seed of every random stream")
    p.set_defaults(**defaults)


def run(p: argparse.ArgumentParser, name: str, here: Path) -> None:
    """Flags about the run itself and the machine."""
    g = p.add_argument_group("run")
    g.add_argument("--name", default=name, help="name of the run: stem of its files")
    g.add_argument("--save", default=None, metavar="FILE",
                   help="best model (None: NAME.pt in the working directory); the training state "
                        "goes beside it as *.state.pt")
    g.add_argument("--load", default="", metavar="FILE",
                   help="start from a model file of ours, with its sizes")
    g.add_argument("--eval", action="store_true", help="evaluate, print, stop")
    g.add_argument("--resume", nargs="?", const="", default=None, metavar="PATH",
                   help="continue the run of --save exactly where it stopped, or that of PATH")
    g.add_argument("--log-interval", type=int, default=100, metavar="N",
                   help="report every N updates")
    g.add_argument("--save-interval", type=int, default=1000, metavar="N",
                   help="write the training state every N updates, and at each epoch's end")
    g.add_argument("--max-steps", type=int, default=0, metavar="N",
                   help="stop after N updates in all (0: no limit); --resume goes on from there")
    g.add_argument("--log-dir", default=str(here / "logs"), metavar="DIR",
                   help="where NAME.log, metrics.csv and TensorBoard files go")
    machine(p)
    g = p.add_argument_group("speed")
    g.add_argument("--devices", type=int, default=1, metavar="N",
                   help="processes, one per device, that share the batch (torchrun's count wins)")
    g.add_argument("--compile", action="store_true", help="compile the gates into one pass")
    g.add_argument("--checkpoint-levels", type=int, default=0, metavar="K",
                   help="keep every K-th level for the gradient and recompute the others: less "
                        "memory, same numbers (0: keep all)")
    g.add_argument("--fir", action="store_true",
                   help="kernel size 2: three products instead of four; equal in exact arithmetic, "
                        "about 2e-6 apart in float32")
    g.add_argument("--plain", action="store_true",
                   help="the equations as they stand: slow, for comparison")


def machine(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("machine")
    g.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"),
                   help="what to compute on")
    g.add_argument("--cuda", action=OnOff, default=None,
                   help="use CUDA (None: if there is a device); --no-cuda is --device cpu")
    g.add_argument("--precision", default="32", choices=("32", "bf16-mixed", "64"),
                   help="arithmetic: single, bfloat16 where it is safe, or double")
    g.add_argument("--deterministic", action="store_true",
                   help="only algorithms that give the same bits every time (CUDA)")


def check(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses nonsense in one sentence that names the flags (exit code 2)."""
    for name in ("emsize", "nhid", "nout", "nlevels", "ksize", "horizon", "epochs", "batch_size",
                 "log_interval", "save_interval", "devices"):
        if getattr(args, name, 1) < 1:
            p.error(f"--{flag(name)} must be at least 1")
    for name in RATES:
        if not 0 <= getattr(args, name, 0) < 1:
            p.error(f"--{name} must be in [0, 1)")
    for name in ("wdecay", "anneal", "max_steps", "checkpoint_levels", "seq_len", "n_experts"):
        if getattr(args, name, 0) < 0:
            p.error(f"--{flag(name)} must not be negative")
    for name, value in vars(args).items():
        if isinstance(value, float) and not math.isfinite(value):  # nan passes all that follows
            p.error(f"--{flag(name)} must be a finite number, not {value}")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 2**62:   # torch knows 64 bits
                p.error(f"--{flag(name)} {number} is too large")
    if args.lr <= 0:
        p.error("--lr must be positive")
    if args.nlevels > MOST_LEVELS:
        p.error(f"--nlevels must be at most {MOST_LEVELS}")
    if min(args.dilation) < 1:
        p.error("--dilation must be at least 1")
    if not 0 <= args.seed < 2**32:
        p.error("--seed must be in [0, 2**32)")
    if args.fir and args.ksize != 2:
        p.error(f"--fir is for --ksize 2, not {args.ksize}")
    if args.devices > args.batch_size:
        p.error(f"--devices {args.devices} cannot share --batch_size {args.batch_size} columns")
    if args.save is None:
        args.save = f"{args.name}.pt"


def flag(name: str) -> str:
    """How the flag of an argument is typed."""
    ours = ("log_interval", "save_interval", "max_steps", "checkpoint_levels")
    return name.replace("_", "-") if name in ours else name
