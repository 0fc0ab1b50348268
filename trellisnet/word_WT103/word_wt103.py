"""WikiText-103 with TrellisNet and the split softmax (section 5).

    ./getdata.sh wt103
    python word_wt103.py                    (published: test perplexity 29.19, 180 M parameters)
    torchrun --nproc-per-node 4 word_wt103.py
    python word_wt103.py --load_weight weights/pretrained_wt103.pkl --eval

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

from common.asgd import non_monotone
from trellisnet import args as flags
from trellisnet.environment import make_fabric, orderly_exit
from trellisnet.lm import reading
from trellisnet.training import LanguageModelRun, Recipe, run_language_model
from trellisnet.word_WT103.data import load_corpus
from trellisnet.word_WT103.model import build
from trellisnet.word_WT103.utils import check_model

HERE = Path(__file__).resolve().parent


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The defaults are the paper's recipe."""
    p = flags.parser("TrellisNet language model on WikiText-103")
    p.add_argument("--data", default=str(HERE / "data/wikitext-103"), metavar="DIR",
                   help="folder with train.txt, valid.txt, test.txt")
    flags.network(p, nhid=1600, nlevels=75, aux=0.1, aux_freq=25,
                  dropout=0.1, dropouti=0.1, dropouth=0.1, wdrop=0.0)
    flags.language_model(p, emsize=512, nout=512, horizon=75, seq_len=0, emb_dropout=0.0,
                         repack=True)
    flags.training(p, lr=1e-3, clip=0.07, epochs=25, batch_size=40, when=[15, 20])
    g = p.add_argument_group("WikiText-103")
    g.add_argument("--splits", type=int, nargs="*", default=None, metavar="WORD",
                   help="where the split softmax cuts the vocabulary (None: 2800 20000 76000 for "
                        "more than 75000 words, else nowhere)")
    g.add_argument("--load_weight", default="", metavar="FILE",
                   help="start from a state_dict as the original wrote it")
    flags.run(p, "Trellis_wordWT103", HERE)
    args = p.parse_args(argv)
    flags.check(p, args)
    check_model(p, args)
    return args


def end_of_epoch(run: LanguageModelRun, valid: float) -> None:
    """A tenth of the rate after the epochs of --when, and when validation stops improving."""
    p, args = run.progress, run.args
    stuck = non_monotone(p["val_losses"], args.anneal, valid)
    if (stuck or p["epoch"] in args.when) and p["lr"] > 1e-5:
        run.say("Annealing learning rate")
        run.set_lr(p["lr"] / 10)


def main(argv: list[str] | None = None) -> LanguageModelRun:
    args = parse_args(argv)
    with orderly_exit("word_wt103.py"):
        fabric = make_fabric(args)
        corpus = load_corpus(args.data, fabric)
        how = reading(args.seq_len, args.horizon, args.repack)
        recipe = Recipe(train=how, evaluate=how, eval_batch_sizes=(1, 1), lr="{:05.5f}",
                        weights_file="pretrained_wt103.pkl", end_of_epoch=end_of_epoch)
        return run_language_model(args, fabric, corpus, build, recipe)


if __name__ == "__main__":
    main()
