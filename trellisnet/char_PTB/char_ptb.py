"""Character-level Penn Treebank with TrellisNet (section 5).

    ./getdata.sh ptb
    python char_ptb.py                      (published: 1.16 bits per character on the test text)
    python char_ptb.py --load_weight pretrained.pkl --eval

On a small machine (some minutes on two CPU cores, about 2.5 bits per character):
    ./getdata.sh pydoc
    python char_ptb.py --dataset pydoc --emsize 32 --nout 32 --nhid 96 --nlevels 20 --horizon 20 \\
                       --aux_freq 10 --epochs 1
"""

import argparse
import sys
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness.flags import parser, say_inert
from harness.home import home
from trellisnet import args as flags
from trellisnet.char_PTB.utils import CHARACTER_LINES

SCRIPT = "trellisnet/char_PTB/char_ptb.py"
HERE = home(__file__)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The defaults are the paper's recipe."""
    p = parser("TrellisNet language model on character-level Penn Treebank")
    p.add_argument("--dataset", default="ptb", choices=flags.DATASETS, help="which text")
    p.add_argument("--data", default=str(HERE / "data"), metavar="DIR",
                   help="folder with the texts: train.txt, valid.txt, test.txt, or as they lie in "
                        "Mikolov's archive (ptb.train.txt ... in simple-examples/data)")
    flags.add_network(p, nhid=1050, nlevels=140, aux=0.3, aux_freq=80,
                      dropout=0.1, dropouti=0.1, dropouth=0.29, wdrop=0.26)
    flags.add_language_model(p, emsize=200, nout=200, horizon=140, seq_len=0, emb_dropout=0.02,
                             repack=True)
    flags.add_training(p, lr=2e-3, clip=0.2, epochs=400, batch_size=24, wdecay=8e-7,
                       when=[220, 350])
    flags.add_run(p, "Trellis_charPTB", HERE)
    args = flags.parse(p, argv)
    flags.check_history(p, args)
    say_inert(args, {"anneal": "here and in the original: the rate is cut after the epochs of "
                               "--when"})
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

from trellisnet import training
from trellisnet.char_PTB import model
from trellisnet.char_PTB.data import Characters
from trellisnet.learning import keep
from trellisnet.lm import reading
from trellisnet.training import Recipe, TextRun


def recipe(args: argparse.Namespace) -> Recipe:
    """How the texts are read."""
    how = reading(args.seq_len, args.horizon, args.repack)
    return Recipe(train=how, evaluate=how, eval_columns=10, lr="{:05.5f}", **CHARACTER_LINES)


def anneal(run: TextRun) -> None:
    """A tenth of the rate after the epochs of --when."""
    progress = run.progress
    if progress.epoch in run.args.when and progress.lr > 1e-5:
        run.keeper.say("Annealing learning rate")
        run.set_lr(progress.lr / 10)


def main(argv: list[str] | None = None) -> TextRun:
    args = parse_args(argv)
    with keep(SCRIPT, args) as keeper:
        corpus = training.read_texts(args, keeper, partial(Characters, dataset=args.dataset),
                                     args.dataset)
        if corpus.spaced:
            keeper.say("All words are one character long: they are the text, without the blanks")
        run = training.build(args, keeper, corpus, model.build, recipe(args))
        if args.eval:
            training.evaluate_only(run)
            return run
        for valid in training.epochs(run):
            if run.progress.best == valid:
                keeper.say(f"Saved as {keeper.best()}")
            anneal(run)
        training.closing_test(run)
    return run


if __name__ == "__main__":
    main()
