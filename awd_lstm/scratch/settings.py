"""Every hyperparameter and switch of main.py, the paper's value beside the published code's.

By default main.py is the paper: the authors' command for the Penn Treebank. --as-published is the
published from-scratch code, its mis-settings and bugs included (README.md says what each does).
Either way a flag given overrules, so one cause can be shown by itself:

    main.py --as-published --lr 30        the published code with one thing mended
    main.py --sort-chunks                 the paper's recipe with one thing spoiled
"""

import argparse
import math

from awd_lstm import args as toolkit
from harness import flags
from harness.home import home

HERE = home(__file__)

# flag and other names                paper    published  meaning
HYPERPARAMETERS = (
    ("--emsize",                      400,     400,     "size of the word vectors"),
    ("--nhid",                        1150,    1550,    "hidden units of all layers but the last"),
    ("--nlayers",                     3,       3,       "number of layers"),
    ("--dropout --dropout_out",       0.4,     0.25,    "on the last layer's output"),
    ("--dropouth --dropout_hid",      0.25,    0.25,    "between the layers"),
    ("--dropouti --dropout_inp",      0.4,     0.4,     "on the input vectors"),
    ("--dropoute --dropout_emb",      0.1,     0.1,     "of whole words"),
    ("--wdrop --dropout_wts",         0.5,     0.5,     "weight dropout on the recurrent matrices"),
    ("--alpha",                       2.0,     2.0,     "activation regularisation"),
    ("--beta",                        1.0,     1.0,     "temporal activation regularisation"),
    ("--lr",                          30.0,    0.4,     "learning rate"),
    ("--clip",                        0.25,    0.25,    "gradient norm limit (0: none)"),
    ("--wdecay --weight_decay",       1.2e-6,  1.2e-6,  "weight decay"),
    ("--nonmono --non_monotone",      5,       5,       "epochs without progress before averaging"
                                                        " starts (fine-tuning: before it ends)"),
    ("--epochs",                      500,     500,     "upper epoch limit"),
    ("--batch_size",                  20,      20,      "columns of text read in parallel"),
    ("--bptt --timesteps",            70,      35,      "mean sequence length"),
    ("--cap",                         math.inf, 5,      "longest sequence: bptt + cap"),
    ("--eval_batch_size",             10,      0,       "columns of the validation text (0: as"
                                                        " --batch_size)"),
    ("--seed",                        141,     141,     "seed of every random stream"),
)
SWITCHES = (
    ("--tied",                 True,    False,   "decoder matrix = word vectors (section 4.4)"),
    ("--split",                True,    False,   "split cross entropy (plain up to 75,000 words)"),
    ("--average",              True,    False,   "let the averages of ASGD take effect"),
    ("--late-trigger",         False,   True,    "the published condition for NT-ASGD's switch"),
    ("--normal-init",          False,   True,    "word vectors from N(0, 1), as torch has it"),
    ("--mask-per-step",        False,   True,    "a new weight mask at every time step"),
    ("--shared-masks",         False,   True,    "one dropout object between all layers"),
    ("--sort-chunks",          False,   True,    "longest chunks first, states carried all the"
                                                 " same"),
    ("--detach-regularisers",  False,   True,    "AR and TAR without gradient"),
    ("--norm-regularisers",    False,   True,    "AR and TAR as L2 norms, not mean squares"),
    ("--pad-last-word",        False,   True,    "no input gradient for the last word of all"),
)


def destination(names: str) -> str:
    return names.split()[0].lstrip("-").replace("-", "_")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 and one sentence if it makes no sense."""
    parser = flags.parser("AWD-LSTM, written out to be read", prog="main.py", allow_abbrev=False)
    g = parser.add_argument_group("what to do (default: train)")
    g.add_argument("--finetune", action="store_true",
                   help="continue from the model in --save with averaged SGD from the first step")
    g.add_argument("--pointer", action="store_true",
                   help="evaluate the model in --save with a continuous cache")
    g.add_argument("--as-published", action="store_true",
                   help="defaults of the published from-scratch code instead of the paper's")
    g = parser.add_argument_group("the paper's settings")
    for names, paper, _, meaning in HYPERPARAMETERS:
        kind = int if isinstance(paper, int) else float
        g.add_argument(*names.split(), type=kind, default=paper, help=meaning)
    g = parser.add_argument_group("what the published from-scratch code has otherwise")
    for names, paper, _, meaning in SWITCHES:
        g.add_argument(names, action=flags.OnOff, default=paper, help=meaning)
    g.add_argument("--splits", type=int, nargs="+", metavar="ID",
                   help="with --split: where to cut the vocabulary (None: as the authors)")
    add_cache(parser)
    add_run(parser)
    # The flag moves defaults, so it has to be known before the others are read.
    if parser.parse_known_args(argv)[0].as_published:
        parser.set_defaults(**{destination(names): published
                               for names, _, published, _ in (*HYPERPARAMETERS, *SWITCHES)})
    args = flags.parse(parser, argv, infinite=("cap",))
    check(parser, args)
    inert = {} if args.split else {"splits": "without --split"}
    if not args.pointer:
        inert |= dict.fromkeys(("window", "theta", "lambdasm"), "without --pointer")
    flags.say_inert(args, inert)
    return args


def add_cache(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("continuous cache (--pointer)")
    g.add_argument("--window", type=int, default=500, help="number of past states in the cache")
    g.add_argument("--theta", type=float, default=1.0,
                   help="flattens (< 1) or sharpens the cache's softmax")
    g.add_argument("--lambdasm", type=float, default=0.1, help="weight of the cache in the mixture")


def add_run(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("texts, files and reports")
    g.add_argument("--data", default=str(HERE / "data/penn"), metavar="DIR",
                   help="folder with train.txt, valid.txt, test.txt; ./getdata.sh ptb fetches it")
    g.add_argument("--save", default=str(HERE / "logs/scratch.pt"), metavar="FILE",
                   help="best model; beside it go the training state, FILE.state, and a table of "
                        "the epochs, FILE.csv (FILE.finetune.state, FILE.finetune.csv)")
    g.add_argument("--log-interval", type=int, default=200, metavar="N",
                   help="report every N updates")
    g.add_argument("--train_rows", type=int, default=3688, metavar="N",
                   help="rows of the training text that train_loss is measured on")
    flags.add_run(parser, HERE / "logs", resume="continue the run of --save (or of a training "
                  "state) exactly where it stopped; with a model file or a state_dict of the "
                  "published code: start from its weights")
    flags.add_machine(parser)
    g = parser.add_argument_group("speed")
    g.add_argument("--hoist", action=flags.OnOff, default=True,
                   help="input products outside the loop over time: same numbers, faster; "
                        "--no-hoist (and --mask-per-step) run the loop as the paper has it")
    flags.add_compile(g, "torch.compile the cell", slower_on_cpu=True)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses nonsense in one sentence that names the flags."""
    toolkit.check(parser, args)
    if args.finetune and args.pointer:
        parser.error("--finetune and --pointer are two runs, one after the other")
    if args.splits and (args.splits[0] < 0 or args.splits != sorted(set(args.splits))):
        parser.error("--splits must be increasing word ids")
    flags.check(parser, args, positive=("window",), not_negative=("cap", "eval_batch_size"),
                most={"lambdasm": 1})
    if args.train_rows < 2 or args.lambdasm < 0:
        parser.error("--train_rows must be at least 2, --lambdasm in [0, 1]")
