"""WikiText-103 with TrellisNet and the split softmax (section 5).

    ./getdata.sh wt103
    python word_wt103.py                    (published: test perplexity 29.19, 180 M parameters)
    torchrun --nproc-per-node 4 word_wt103.py
    python word_wt103.py --load_weight weights/Trellis_wordWT103.pt.pkl --eval

On a small machine (some minutes on two CPU cores):
    ./getdata.sh pydoc
    python word_wt103.py --data data/pydoc --emsize 64 --nout 64 --nhid 96 --nlevels 12 \\
                         --horizon 12 --aux_freq 6 --epochs 2
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness.flags import parser
from harness.home import home
from trellisnet import args as flags
from trellisnet.word_WT103.utils import check_model

SCRIPT = "trellisnet/word_WT103/word_wt103.py"
HERE = home(__file__)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The defaults are the paper's recipe."""
    p = parser("TrellisNet language model on WikiText-103")
    p.add_argument("--data", default=str(HERE / "data/wikitext-103"), metavar="DIR",
                   help="folder with train.txt, valid.txt, test.txt")
    flags.add_network(p, nhid=1600, nlevels=75, aux=0.1, aux_freq=25,
                      dropout=0.1, dropouti=0.1, dropouth=0.1, wdrop=0.0)
    flags.add_language_model(p, emsize=512, nout=512, horizon=75, seq_len=0, emb_dropout=0.0,
                             repack=True)
    flags.add_training(p, lr=1e-3, clip=0.07, epochs=25, batch_size=40, when=[15, 20])
    group = p.add_argument_group("WikiText-103")
    group.add_argument("--splits", type=int, nargs="*", default=None, metavar="WORD",
                       help="where the split softmax cuts the vocabulary (None: 2800 20000 76000 "
                            "for more than 75000 words, else nowhere)")
    flags.add_run(p, "Trellis_wordWT103", HERE)
    args = flags.parse(p, argv)
    flags.check_history(p, args)
    check_model(p, args)
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

from common.asgd import non_monotone
from trellisnet import training
from trellisnet.learning import keep
from trellisnet.lm import reading
from trellisnet.training import Recipe, TextRun
from trellisnet.word_WT103 import model
from trellisnet.word_WT103.data import GETDATA, load_corpus


def recipe(args: argparse.Namespace) -> Recipe:
    """How the texts are read."""
    how = reading(args.seq_len, args.horizon, args.repack)
    return Recipe(train=how, evaluate=how, eval_columns=1, lr="{:05.5f}", **training.WORD_LINES)


def anneal(run: TextRun, valid: float) -> None:
    """A tenth of the rate after the epochs of --when, and when validation stops improving."""
    progress, args = run.progress, run.args
    stuck = non_monotone(progress.val_losses, args.anneal, valid)
    if (stuck or progress.epoch in args.when) and progress.lr > 1e-5:
        run.keeper.say("Annealing learning rate")
        run.set_lr(progress.lr / 10)


def main(argv: list[str] | None = None) -> TextRun:
    args = parse_args(argv)
    with keep(SCRIPT, args) as keeper:
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
