"""Command lines: the original's flags, names and defaults, and those that all scripts share.

main.py and finetune.py take all; main_overfit.py has no dropouts and some other defaults. Nothing
here imports torch, so that -h and a typing mistake are answered at once.
"""

import argparse

from harness import flags
from harness.home import home
from sparse_seq.vocabulary import ORDERINGS
from texts.flags import add_vocabulary

HERE = home(__file__)
SPARSE_MODES = ("direct", "sparse_hidden", "sparse_emb", "sparse_all")
RATES = ("dropout", "dropouth", "dropouti", "dropoute", "wdrop", "dropoutl")
SHARES = ("emdensity", "sparse_density", "sparse_fract")
MOST_LAYERS = 1000

TEXTS = "folder with train.txt, valid.txt, test.txt (./getdata.sh ptb fetches it)"


def parser(description: str, data: str = TEXTS, **defaults) -> argparse.ArgumentParser:
    """The flags of all three scripts but the dropouts; `data`: the help of --data; `defaults` by
    flag."""
    p = flags.parser(description)
    _add_data_and_model(p, data)
    _add_sparseness(p)
    _add_training(p)
    flags.add_run(p, HERE / "logs")
    flags.add_machine(p)
    flags.add_parallel(p)
    p.set_defaults(**defaults)
    return p


def _add_data_and_model(p: argparse.ArgumentParser, data: str) -> None:
    g = p.add_argument_group("data and model")
    g.add_argument("--data", default=str(HERE / "data" / "penn"), metavar="DIR", help=data)
    add_vocabulary(g, but="; not with --emblocks, where a word's place among all decides how long "
                          "its vector is")
    g.add_argument("--ordering", default="up", choices=ORDERINGS,
                   help="order of the words by training count: up is rare to frequent")
    g.add_argument("--emsize", type=int, default=400, help="size of the word vectors")
    g.add_argument("--nhid", type=int, default=1150, help="hidden units of all layers but the last")
    g.add_argument("--nhidlast", type=int, default=-1,
                   help="hidden units of the last layer (negative: emsize)")
    g.add_argument("--nlayers", type=int, default=3, help="number of layers")
    g.add_argument("--n_experts", type=int, default=1, help="softmaxes that are mixed")


def _add_sparseness(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("predefined sparseness")
    g.add_argument("--emblocks", type=int, default=1, help="blocks of the embedding")
    g.add_argument("--emdensity", type=float, default=1.0,
                   help="share of the embedding's entries that exist")
    g.add_argument("--sparse_mode", default="direct", choices=SPARSE_MODES,
                   help="which sizes of the LSTM layers --sparse_fract reduces: those between the "
                        "layers, those at the embedding, or all; direct: as the next two say")
    g.add_argument("--sparse_blocks", type=int, default=1, help="direct: blocks of every layer")
    g.add_argument("--sparse_density", type=float, default=1.0,
                   help="direct: share of its input that each block reads")
    g.add_argument("--sparse_fract", type=float, default=1.0,
                   help="the layers have the parameters of dense ones that are this much smaller")


def _add_training(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("training")
    g.add_argument("--lr", type=float, default=30, help="initial learning rate")
    g.add_argument("--clip", type=float, default=0.25, help="gradient norm limit (0: none)")
    g.add_argument("--epochs", type=int, default=500, help="upper epoch limit")
    g.add_argument("--batch_size", type=int, default=20, help="columns of text read in parallel")
    g.add_argument("--small_batch_size", type=int, default=-1,
                   help="columns at a time, to save memory (negative: all)")
    g.add_argument("--bptt", type=int, default=70, help="mean sequence length")
    g.add_argument("--max_seq_len_delta", type=int, default=40,
                   help="sequences are at most this much longer than --bptt")
    g.add_argument("--seed", type=int, default=141, help="seed of every random stream")
    g.add_argument("--nonmono", type=int, default=5,
                   help="epochs without improvement before averaging starts (finetune: before it "
                        "stops, at least 100)")
    g.add_argument("--alpha", type=float, default=2,
                   help="activation regularisation of the dropped last output (0: none)")
    g.add_argument("--beta", type=float, default=1,
                   help="temporal activation regularisation, slowness of the last output (0: none)")
    g.add_argument("--wdecay", type=float, default=1.2e-6, help="weight decay of all weights")
    g.add_argument("--log-interval", type=int, default=250, metavar="N",
                   help="report every N updates")
    g.add_argument("--save", default="dev_runs", metavar="DIR",
                   help="folder for the corpus, the log, the best model and the training state")
    g.add_argument("--continue_train", action="store_true",
                   help="start from the model and optimizer in --save, with fresh epoch count")
    g.add_argument("--exact-loss", action=flags.OnOff, default=False,
                   help="divide evaluation losses by the number of predictions; the original (and "
                        "the published numbers) divide by one more per column")
    g.add_argument("--multi_gpu", action="store_true", help="--devices, with all GPUs there are")


def add_dropouts(p: argparse.ArgumentParser) -> None:
    """The flags that main_overfit.py does not have."""
    g = p.add_argument_group("dropout")
    g.add_argument("--dropout", type=float, default=0.4, help="on the last layer's output")
    g.add_argument("--dropouth", type=float, default=0.25, help="between the layers")
    g.add_argument("--dropouti", type=float, default=0.4, help="on the embedded input")
    g.add_argument("--dropoute", type=float, default=0.1, help="of whole words in the embedding")
    g.add_argument("--wdrop", type=float, default=0.5, help="on the recurrent weights")
    g.add_argument("--dropoutl", type=float, default=-1,
                   help="on the latent vector of the output layer (negative: dropouth)")


def parse(p: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Parses, fills in what depends on other flags, refuses nonsense (exit code 2)."""
    args = flags.parse(p, argv)
    args.nhidlast = args.emsize if args.nhidlast < 0 else args.nhidlast
    args.small_batch_size = (args.batch_size if args.small_batch_size < 0
                             else args.small_batch_size)
    if getattr(args, "dropoutl", 0) < 0:
        args.dropoutl = args.dropouth
    flags.check(p, args, positive=("emsize", "nhid", "nhidlast", "nlayers", "n_experts", "emblocks",
                                   "small_batch_size", "bptt", "sparse_blocks"),
                not_negative=("clip", "alpha", "beta", "wdecay", "nonmono", "max_seq_len_delta"),
                rates=RATES, most={"nlayers": MOST_LAYERS})
    for name in SHARES:
        if not 0 < (share := getattr(args, name)) <= 1:
            p.error(f"--{name} must be in (0, 1], not {share}")
    if args.vocabulary == "data" and args.continue_train:
        p.error("--vocabulary data: --continue_train goes on with the optimizer too, which knows "
                "the model's words: give --resume MODEL")
    if args.batch_size % args.small_batch_size:
        p.error(f"--small_batch_size {args.small_batch_size} does not divide --batch_size "
                f"{args.batch_size}")
    if args.small_batch_size % args.devices:
        p.error(f"--devices {args.devices} cannot share {args.small_batch_size} columns evenly")
    if args.sparse_mode == "direct":
        inert = {"sparse_fract": "with --sparse_mode direct: give sparse_hidden, sparse_emb or "
                                 "sparse_all"}
    else:
        inert = dict.fromkeys(("sparse_blocks", "sparse_density"),
                              f"with --sparse_mode {args.sparse_mode}: they are of direct")
    flags.say_inert(args, inert)
    return args
