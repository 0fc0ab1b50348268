"""Word-level Penn Treebank with TrellisNet, with or without a mixture of softmaxes (section 5).

    ./getdata.sh ptb
    python word_ptb.py                      (published: test perplexity about 57, 24 M parameters)
    python word_ptb.py --n_experts 15       (published with a mixture of softmaxes: 54.19)
    python word_ptb.py --load_weight pretrained.pkl --eval

On a small machine (about four minutes on two CPU cores, validation perplexity under 250):
    ./getdata.sh pydoc
    python word_ptb.py --data data/pydoc --emsize 64 --nout 64 --nhid 96 --nlevels 12 \\
                       --horizon 12 --seq_len 36 --aux_freq 6 --epochs 2
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from common.asgd import non_monotone
from trellisnet import args as flags
from trellisnet.environment import make_fabric, orderly_exit
from trellisnet.lm import reading
from trellisnet.training import LanguageModelRun, Recipe, run_language_model
from trellisnet.word_PTB.data import load_corpus
from trellisnet.word_PTB.model import build
from trellisnet.word_PTB.utils import check_reading

HERE = Path(__file__).resolve().parent


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The defaults are the paper's recipe."""
    p = flags.parser("TrellisNet language model on word-level Penn Treebank")
    p.add_argument("--data", default=str(HERE / "data/penn"), metavar="DIR",
                   help="folder with train.txt, valid.txt, test.txt")
    flags.network(p, nhid=1000, nlevels=58, wnorm=False, aux=0.05, aux_freq=12,
                  dropout=0.45, dropouti=0.45, dropouth=0.28, wdrop=0.5)
    flags.language_model(p, emsize=400, nout=400, horizon=58, seq_len=110, emb_dropout=0.1)
    flags.training(p, lr=20, clip=0.225, epochs=500, batch_size=16, optim="SGD", wdecay=1.2e-6,
                   anneal=10)
    g = p.add_argument_group("word PTB")
    g.add_argument("--dropoutl", type=float, default=0.29, help="on the mixture's latent vectors")
    g.add_argument("--alpha", type=float, default=2,
                   help="activation regularisation of the dropped output (0: none)")
    g.add_argument("--beta", type=float, default=1,
                   help="temporal activation regularisation, slowness of the output (0: none)")
    g.add_argument("--asgd", action="store_true",
                   help="when validation stops improving switch to averaged SGD")
    g.add_argument("--load_weight", default="", metavar="FILE",
                   help="start from a state_dict as the original wrote it")
    flags.run(p, "Trellis_wordPTB", HERE)
    args = p.parse_args(argv)
    flags.check(p, args)
    check_reading(p, args)
    return args


def end_of_epoch(run: LanguageModelRun, valid: float) -> None:
    """When validation stops improving: averaged SGD at the initial rate, or a quarter of the rate.

    Averaging starts with the next update; the validation losses before it stay in the history.
    """
    p, args = run.progress, run.args
    if run.averaging or not non_monotone(p["val_losses"], args.anneal, valid):
        return
    if args.asgd:
        run.say("Switching to ASGD")
        p["lr"] = args.lr
        run.make_optimizer("nt-asgd")
    elif p["lr"] > 0.02:
        run.say("Annealing learning rate")
        run.set_lr(p["lr"] / 4)


def main(argv: list[str] | None = None) -> LanguageModelRun:
    args = parse_args(argv)
    with orderly_exit("word_ptb.py"):
        fabric = make_fabric(args)
        corpus = load_corpus(args.data, fabric)
        recipe = Recipe(
            # In training the history is discarded even if the state is carried over, as the
            # original has it: the carried state is then of a later row than the segment needs.
            train=reading(args.seq_len, args.horizon, args.repack, always_effective=True),
            evaluate=reading(args.seq_len, args.horizon, args.repack),
            eval_batch_sizes=(12, 12), weights_file="pretrained_wordptb.pkl",
            end_of_epoch=end_of_epoch)
        return run_language_model(args, fabric, corpus, build, recipe)


if __name__ == "__main__":
    main()
