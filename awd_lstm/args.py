"""Flags of main.py and finetune.py: the original's, with its names and defaults, and ours.

No flag of ours begins with --epoch: the published commands type `--epoch 500` for --epochs.
Imports no torch, so that -h and a typing mistake answer at once.
"""

import argparse

from awd_lstm import MODELS
from harness import flags
from harness.home import home
from texts.flags import add_vocabulary

HERE = home(__file__)
MOST_LAYERS = 1000
DROPOUTS = ("dropout", "dropouth", "dropouti", "dropoute", "wdrop")
RESUME = ("without PATH, or with a training state: continue that run exactly where it stopped; "
          "with a model file: start from its weights with a fresh optimiser and the dropouts given "
          "here, as the original did")


def add_data_and_model(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("data and model")
    g.add_argument("--data", default=str(HERE / "data/penn/"), metavar="DIR",
                   help="folder with train.txt, valid.txt, test.txt; ./getdata.sh ptb fetches the "
                        "default")
    add_vocabulary(g)
    g.add_argument("--model", default="LSTM", choices=MODELS, help="recurrent layer")
    g.add_argument("--emsize", type=int, default=400, help="size of the word vectors")
    g.add_argument("--nhid", type=int, default=1150, help="hidden units of all layers but the last")
    g.add_argument("--nlayers", type=int, default=3, help="number of layers")


def add_training(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("training")
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
    g = parser.add_argument_group("dropout")
    g.add_argument("--dropout", type=float, default=0.4, help="on the last layer's output")
    g.add_argument("--dropouth", type=float, default=0.3, help="between the layers")
    g.add_argument("--dropouti", type=float, default=0.65, help="on the embedded input")
    g.add_argument("--dropoute", type=float, default=0.1, help="of whole words in the embedding")
    g.add_argument("--wdrop", type=float, default=0.5,
                   help="weight drop on the recurrent (QRNN: all of a layer's) weights")


def add_lengths_and_graphs(parser: argparse.ArgumentParser) -> None:
    """--cuda-graphs, and what makes lengths repeat."""
    g = flags.add_graphs(parser)
    g.add_argument("--seq_len_multiple", type=int, default=1, metavar="N",
                   help="take the multiple of N nearest to each drawn length, so that lengths "
                        "repeat: other batches and masks than the published run's (1: as drawn)")


def add_files_and_reports(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("files and reports")
    g.add_argument("--save", default=None, metavar="FILE",
                   help="best model (None: digits of the time, .pt); the training state goes "
                        "beside it as FILE.state, fine-tuning's as FILE.finetune.state")
    g.add_argument("--log-interval", type=int, default=200, metavar="N",
                   help="report every N updates")
    add_exact_loss(g)


def add_exact_loss(group) -> None:
    """Also a flag of pointer.py."""
    group.add_argument("--exact-loss", action=flags.OnOff, default=False,
                       help="divide evaluation losses by the number of predictions; the original "
                            "(and the published numbers) divide by one more per column")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses nonsense in one sentence that names the flag (exit code 2)."""
    flags.check(parser, args, positive=("emsize", "nhid", "nlayers", "bptt", "seq_len_multiple"),
                not_negative=("clip", "alpha", "beta", "wdecay", "nonmono"), rates=DROPOUTS,
                most={"nlayers": MOST_LAYERS})


def check_lengths(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses graphs of lengths that hardly repeat (exit code 2)."""
    if args.cuda_graphs and args.seq_len_multiple == 1:
        parser.error("--cuda-graphs: lengths as drawn hardly repeat, and each would be recorded: "
                     "add --seq_len_multiple 10, which trains on other batches than drawn")
