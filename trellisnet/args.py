"""Flags that the scripts share; each script has its own defaults for those of its paper's recipe.

Switches that the original had the wrong way round (giving --tied untied the weights) are
--x/--no-x here: giving --x switches x on. Imports no torch: -h and typing mistakes answer at once.
"""

import argparse
from pathlib import Path

from harness import flags
from harness.flags import OnOff
from texts.flags import add_vocabulary

DATASETS = ("ptb", "pydoc")  # of character PTB
RATES = ("dropout", "dropouti", "wdrop", "emb_dropout", "dropouth", "dropoutl")


def add_network(parser: argparse.ArgumentParser, **defaults) -> None:
    """Flags of the TrellisNet and its regularisation."""
    group = parser.add_argument_group("network")
    group.add_argument("--nhid", type=int, help="hidden channels, without the output channels")
    group.add_argument("--nlevels", type=int, help="number of levels")
    group.add_argument("--ksize", type=int, default=2, help="kernel size")
    group.add_argument("--dilation", type=int, nargs="+", default=[1],
                       help="dilation of each level, repeated as often as needed")
    group.add_argument("--wnorm", action=OnOff, default=True, help="weight normalisation")
    group.add_argument("--aux", type=float, help="weight of the auxiliary losses (0 or less: none)")
    group.add_argument("--aux_freq", type=float, help="an auxiliary output every so many levels")
    group = parser.add_argument_group("dropout")
    group.add_argument("--dropout", type=float, help="on the output")
    group.add_argument("--dropouti", type=float, help="on the input")
    group.add_argument("--dropouth", type=float, help="on the hidden channels, hidden to hidden")
    group.add_argument("--wdrop", type=float, help="on the weights")
    group.add_argument("--temporalwdrop", action=OnOff, default=True,
                       help="weight dropout only on weights of past time steps")
    parser.set_defaults(**defaults)


def add_language_model(parser: argparse.ArgumentParser, **defaults) -> None:
    """Flags that only the language models have."""
    group = parser.add_argument_group("language model")
    group.add_argument("--emsize", type=int, help="size of the word vectors")
    group.add_argument("--nout", type=int, help="output channels")
    group.add_argument("--horizon", type=int, help="effective history length")
    group.add_argument("--seq_len", type=int,
                       help="length of a sequence, the effective history included (0: horizon)")
    group.add_argument("--repack", action=OnOff, default=False,
                       help="carry the hidden state over from sequence to sequence")
    group.add_argument("--tied", action=OnOff, default=True,
                       help="decode with the embedding matrix")
    group.add_argument("--n_experts", type=int, default=0,
                       help="softmaxes in the mixture (0: one ordinary softmax)")
    group.add_argument("--emb_dropout", type=float, help="dropout of whole words in the embedding")
    group.add_argument("--last-word-padding", action=OnOff, default=True,
                       help="as in the original, the last word's vector learns from the decoder "
                            "alone")
    add_vocabulary(group)
    group.add_argument("--load_weight", default="", metavar="FILE",
                       help="start from a state_dict as the original wrote it")
    parser.set_defaults(**defaults)


TASKS = {"word_PTB": "word_PTB/data/penn", "word_WT103": "word_WT103/data/wikitext-103",
         "char_PTB": "char_PTB/data"}  # the language models: task -> its data


def add_trained(parser: argparse.ArgumentParser) -> None:
    """For generate.py and score.py: what a model file of before it held its words leaves open, and
    an original's state_dict."""
    parser.add_argument("--task", default=None, choices=TASKS,
                        help="which script trained it (None: the file tells; an original's "
                             "state_dict does not)")
    parser.add_argument("--trained-with", default="", metavar="FLAGS",
                        help="an original's state_dict: the flags that made it, in quotes, where "
                             "they are not the script's defaults, which fit the released weights")
    parser.add_argument("--data", default=None, metavar="DIR",
                        help="texts that it was trained on, if its file does not hold its "
                             "vocabulary (None: the task's)")
    parser.add_argument("--dataset", default="ptb", choices=DATASETS,
                        help="char_PTB: which text --data is")


def check_history(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """--seq_len, where it is given, must hold the history (exit code 2)."""
    if args.seq_len and args.seq_len < args.horizon:
        parser.error(f"--seq_len {args.seq_len} is shorter than --horizon {args.horizon}")


def add_training(parser: argparse.ArgumentParser, **defaults) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--lr", type=float, help="initial learning rate")
    group.add_argument("--clip", type=float, help="gradient norm limit (0 or less: none)")
    group.add_argument("--epochs", type=int, help="upper epoch limit")
    group.add_argument("--batch_size", type=int, help="sequences in a batch")
    group.add_argument("--optim", default="Adam",
                       help="any optimiser of torch.optim; one of Adam's kind takes an --lr of "
                            "1e-3 where the default is for SGD")
    group.add_argument("--wdecay", type=float, default=0.0, help="weight decay of all weights")
    group.add_argument("--when", type=int, nargs="+", default=[-1], metavar="EPOCH",
                       help="epochs after which the learning rate is cut")
    group.add_argument("--anneal", type=int, default=5,
                       help="epochs without improvement before the learning rate is cut")
    group.add_argument("--seed", type=int, default=1111, help="seed of every random stream")
    group.add_argument("--log-interval", type=int, default=100, metavar="N",
                       help="report every N updates")
    parser.set_defaults(**defaults)


def add_run(parser: argparse.ArgumentParser, name: str, here: Path) -> None:
    """Flags about the run's files, the machine and how the numbers are computed."""
    group = parser.add_argument_group("files")
    group.add_argument("--name", default=name, help="name of the run")
    group.add_argument("--save", default=None, metavar="FILE",
                       help="best model (None: NAME.pt in the working directory); the training "
                            "state goes beside it as FILE.state")
    group.add_argument("--load", default="", metavar="FILE",
                       help="start from a model file of ours, with its sizes")
    group.add_argument("--eval", action="store_true", help="evaluate, print, stop")
    flags.add_run(parser, here / "logs")
    flags.add_machine(parser)
    flags.add_parallel(parser, compiles="compile the gates into one pass", slower_on_cpu=False)
    flags.add_graphs(parser)
    group = parser.add_argument_group("how the levels are computed")
    group.add_argument("--checkpoint-levels", type=int, default=0, metavar="K",
                       help="keep every K-th level for the gradient and recompute the others: less "
                            "memory, same numbers (0: keep all)")
    group.add_argument("--fir", action=OnOff, default=None,
                       help="kernel size 2: three products instead of four; equal in exact "
                            "arithmetic, about 2e-6 apart in float32 (None: in float32 on a CPU, "
                            "a fifth faster; a resumed run goes on as it began)")
    group.add_argument("--plain", action="store_true",
                       help="the equations as they stand: slow, for comparison")


def without_mixture(args: argparse.Namespace) -> dict[str, str]:
    """For flags.say_inert: what is of the mixture of softmaxes alone."""
    return {} if args.n_experts else {"dropoutl": "without a mixture of softmaxes (--n_experts)"}


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> flags.Namespace:
    """The flags' values. Refuses nonsense in one sentence that names the flag (exit code 2)."""
    args = flags.parse(parser, argv)
    flags.rate_of_adaptive(args, args.optim)
    flags.check(parser, args, rates=RATES, most={"nlevels": 10_000},
                positive=("emsize", "nhid", "nout", "nlevels", "ksize", "horizon"),
                not_negative=("wdecay", "anneal", "checkpoint_levels", "seq_len", "n_experts",
                              "alpha", "beta"))
    if min(args.dilation) < 1:
        parser.error("--dilation must be at least 1")
    if args.eval and not (args.load or getattr(args, "load_weight", "")
                          or args.resume is not None):
        weights = " or --load_weight FILE" * hasattr(args, "load_weight")
        parser.error(f"--eval: which weights? Give --load FILE{weights}")
    if args.fir and args.ksize != 2:
        parser.error(f"--fir is for --ksize 2, not {args.ksize}")
    args.save = args.save or f"{args.name}.pt"
    return args
