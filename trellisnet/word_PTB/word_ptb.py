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

from harness.flags import parser, say_inert
from harness.home import home
from trellisnet import args as flags
from trellisnet.word_PTB.utils import check_reading

SCRIPT = "trellisnet/word_PTB/word_ptb.py"
HERE = home(__file__)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The defaults are the paper's recipe."""
    p = parser("TrellisNet language model on word-level Penn Treebank")
    p.add_argument("--data", default=str(HERE / "data/penn"), metavar="DIR",
                   help="folder with train.txt, valid.txt, test.txt")
    flags.add_network(p, nhid=1000, nlevels=58, wnorm=False, aux=0.05, aux_freq=12,
                      dropout=0.45, dropouti=0.45, dropouth=0.28, wdrop=0.5)
    flags.add_language_model(p, emsize=400, nout=400, horizon=58, seq_len=110, emb_dropout=0.1)
    flags.add_training(p, lr=20, clip=0.225, epochs=500, batch_size=16, optim="SGD", wdecay=1.2e-6,
                       anneal=10)
    group = p.add_argument_group("word PTB")
    group.add_argument("--dropoutl", type=float, default=0.29,
                       help="on the mixture's latent vectors")
    group.add_argument("--alpha", type=float, default=2,
                       help="activation regularisation of the dropped output (0: none)")
    group.add_argument("--beta", type=float, default=1,
                       help="temporal activation regularisation, slowness of the output (0: none)")
    group.add_argument("--asgd", action="store_true",
                       help="when validation stops improving switch to averaged SGD")
    flags.add_run(p, "Trellis_wordPTB", HERE)
    args = flags.parse(p, argv)
    check_reading(p, args)
    say_inert(args, {"when": "here and in the original: the rate is cut when validation stops "
                             "improving (--anneal)",
                     **flags.without_mixture(args)})
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

from common.asgd import non_monotone
from trellisnet import training
from trellisnet.learning import keep, warn
from trellisnet.lm import reading
from trellisnet.training import Recipe, TextRun
from trellisnet.word_PTB import model
from trellisnet.word_PTB.data import GETDATA, load_corpus


def recipe(args: argparse.Namespace) -> Recipe:
    """How the texts are read. In training the history is discarded even if the state is carried
    over, as the original has it: the carried state is then of a later row than the segment needs.
    """
    return Recipe(train=reading(args.seq_len, args.horizon, args.repack, always_effective=True),
                  evaluate=reading(args.seq_len, args.horizon, args.repack),
                  eval_columns=12, lr="{:02.2f}", **training.WORD_LINES)


def anneal(run: TextRun, valid: float) -> None:
    """When validation stops improving: averaged SGD at the initial rate, or a quarter of the rate.

    Averaging starts with the next update; the validation losses before it stay in the history.
    """
    progress, args = run.progress, run.args
    if run.averaging or not non_monotone(progress.val_losses, args.anneal, valid):
        return
    if args.asgd:
        run.keeper.say("Switching to ASGD")
        progress.lr = args.lr
        run.make_optimizer("nt-asgd")
    elif progress.lr > 0.02:
        run.keeper.say("Annealing learning rate")
        run.set_lr(progress.lr / 4)


def main(argv: list[str] | None = None) -> TextRun:
    args = parse_args(argv)
    with keep(SCRIPT, args) as keeper:
        if args.repack and args.seq_len > 0:
            warn(keeper, "--repack with --seq_len: in training the carried state is of a later row "
                         "than the next segment begins at; --seq_len 0 avoids that")
        corpus = training.read_texts(args, keeper, load_corpus, GETDATA.get(Path(args.data).name))
        run = training.build(args, keeper, corpus, model.build, recipe(args))
        if args.eval:
            training.evaluate_only(run)
            return run
        for valid in training.epochs(run):
            anneal(run, valid)
        training.closing_test(run)
    return run


if __name__ == "__main__":
    main()
