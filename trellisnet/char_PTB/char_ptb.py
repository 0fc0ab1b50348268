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
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from trellisnet import args as flags
from trellisnet.char_PTB.data import DATASETS, load_corpus
from trellisnet.char_PTB.model import build
from trellisnet.char_PTB.utils import END_CHAR, EPOCH_CHAR, STEP_CHAR
from trellisnet.environment import make_fabric, orderly_exit
from trellisnet.lm import reading
from trellisnet.training import LanguageModelRun, Recipe, run_language_model

HERE = Path(__file__).resolve().parent


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The defaults are the paper's recipe."""
    p = flags.parser("TrellisNet language model on character-level Penn Treebank")
    p.add_argument("--dataset", default="ptb", choices=DATASETS, help="which text")
    p.add_argument("--data", default=str(HERE / "data"), metavar="DIR",
                   help="folder with the texts: train.txt, valid.txt, test.txt, or as they lie in "
                        "Mikolov's archive (ptb.train.txt ... in simple-examples/data)")
    flags.network(p, nhid=1050, nlevels=140, aux=0.3, aux_freq=80,
                  dropout=0.1, dropouti=0.1, dropouth=0.29, wdrop=0.26)
    flags.language_model(p, emsize=200, nout=200, horizon=140, seq_len=0, emb_dropout=0.02,
                         repack=True)
    flags.training(p, lr=2e-3, clip=0.2, epochs=400, batch_size=24, wdecay=8e-7, when=[220, 350])
    p.add_argument("--load_weight", default="", metavar="FILE",
                   help="start from a state_dict as the original wrote it")
    flags.run(p, "Trellis_charPTB", HERE)
    args = p.parse_args(argv)
    flags.check(p, args)
    if args.seq_len and args.seq_len < args.horizon:
        p.error(f"--seq_len {args.seq_len} is shorter than --horizon {args.horizon}")
    return args


def end_of_epoch(run: LanguageModelRun, valid: float) -> None:
    """A tenth of the rate after the epochs of --when."""
    p = run.progress
    if p["best"] == valid:
        run.say(f"Saved as {p['best_file']}")
    if p["epoch"] in run.args.when and p["lr"] > 1e-5:
        run.say("Annealing learning rate")
        run.set_lr(p["lr"] / 10)


def main(argv: list[str] | None = None) -> LanguageModelRun:
    args = parse_args(argv)
    with orderly_exit("char_ptb.py"):
        fabric = make_fabric(args)
        corpus = load_corpus(args.data, args.dataset, fabric)
        how = reading(args.seq_len, args.horizon, args.repack)
        recipe = Recipe(train=how, evaluate=how, eval_batch_sizes=(10, 10), lr="{:05.5f}",
                        step=STEP_CHAR, epoch=EPOCH_CHAR, end=END_CHAR, say_sizes=True,
                        weights_file="pretrained_charptb.pkl", end_of_epoch=end_of_epoch)
        return run_language_model(args, fabric, corpus, build, recipe)


if __name__ == "__main__":
    main()
