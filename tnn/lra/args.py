"""The flags of main.py; those not given have the task's values, from recipes.py. No torch here."""

import argparse
import os

from harness import flags
from harness.flags import OnOff
from harness.home import home
from tnn.lra.recipes import ARCHS, NORMS, published_arch, settings_of
from tnn.lra.tasks import CONTOURS, TASKS

HERE = home(__file__)
MOST_LAYERS = 10_000
PRECISIONS = ("32", "bf16-mixed", "16-mixed", "64")


# Flags that only some tasks have a use for.
ONLY = {"min_freq": ("listops", "imdb", "aan"), "level": ("imdb", "aan"),
        "tsv_quoting": ("listops", "aan"), "color": ("cifar",),
        "contour_length": ("pathfinder", "pathfinderx")}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Raises SystemExit(2) for nonsense, in one sentence that names the flag."""
    p = flags.parser("TNN on the Long Range Arena")
    p.add_argument("--task", required=True, choices=tuple(TASKS), help="what to run")
    p.add_argument("--arch", choices=ARCHS, help="token mixer (None: tno for texts, tno2d for "
                   "images; gtu and gtu2d are the same under newer names)")
    p.add_argument("--settings", choices=("script", "yaml"), default="script",
                   help="hyperparameters of the published runs, or of the experiment files")
    for add in (add_model_flags, add_training_flags, add_data_flags, add_file_flags):
        add(p)
    flags.add_machine(p, PRECISIONS, cuda=False)
    flags.add_parallel(p)
    flags.add_graphs(p)
    flags.add_run(p, HERE / "logs")
    args = flags.parse(p, argv)
    for name, value in settings_of(args.task, args.settings, args.arch).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if args.save is None and not args.resume:  # a state named by its PATH knows its own
        args.save = f"{args.task}-{args.arch}.pt"
    check(p, args)
    share_batch(p, args)
    say_inert(args)
    args.workers = min(args.workers, os.cpu_count() or 1)
    return args


def add_model_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("network (no value: the task's, see --settings)")
    g.add_argument("--n-layers", type=int, metavar="N", help="pairs of token and channel mixers")
    g.add_argument("--d-model", type=int, metavar="N", help="width")
    g.add_argument("--expand-tno", type=float, metavar="X", help="token mixer's width / d_model")
    g.add_argument("--expand-glu", type=float, metavar="X", help="channel mixer's width / d_model")
    g.add_argument("--n-heads", type=int, default=1, metavar="N", help="heads of an encoder")
    g.add_argument("--use-decay", action=OnOff, help="damp the coefficient of lag k by gamma^k")
    g.add_argument("--gamma", type=float, help="that gamma")
    g.add_argument("--dpb-dim", type=int, metavar="N", help="width of the position encoder")
    g.add_argument("--dpb-type", type=int, metavar="N",
                   help="8: encoder of --dpb-layers stages; any other number: the published one")
    g.add_argument("--dpb-layers", type=int, metavar="N", help="has an effect with --dpb-type 8")
    g.add_argument("--tno-max-l", "--max-l", type=int, metavar="N",
                   help="lags that a token mixer in one dimension sees: +-(N-1); 0: all (tno 1024, "
                        "gtu 512)")
    g.add_argument("--norm", choices=NORMS, help="norm of the blocks")
    g.add_argument("--prenorm", action=OnOff, help="norm before the layer, not after the sum")
    g.add_argument("--dropout", type=float, help="in and after each layer")
    g.add_argument("--position-dropout", type=float, default=0.1,
                   help="after the position encoding, in every task as in the original")
    g.add_argument("--mask-padding", action=OnOff, default=False,
                   help="keep padded positions out of the mixing and of the norms' statistics; as "
                        "published they take part, and results depend on how far a batch is padded")


def add_training_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("training (no value: the task's, see --settings)")
    g.add_argument("--batch-size", type=int, metavar="N",
                   help="samples of one process and one backward pass (None: the task's batch "
                        "/ processes / --accumulate)")
    g.add_argument("--accumulate", type=int, default=1, metavar="N",
                   help="batches in an update; batch norm sees one batch at a time")
    g.add_argument("--epochs", type=int, help="passes over the training set")
    g.add_argument("--lr", type=float, help="learning rate after the warm-up")
    g.add_argument("--weight-decay", type=float, help="of all weights")
    g.add_argument("--warmup", type=int, metavar="N", help="updates until then; the first has lr 0")
    g.add_argument("--total-steps", type=int, metavar="N", help="update at which the cosine is 0")
    g.add_argument("--lr-after-end", choices=("cycle", "zero"), default="cycle",
                   help="beyond --total-steps the cosine rises again, as published, or stays 0")
    g.add_argument("--eval-drop-last", action="store_true",
                   help="leave the last incomplete batch unscored, as published")
    g.add_argument("--seed", type=int, default=2222, help="seed of every random stream")
    g.add_argument("--workers", type=int, default=4, metavar="N",
                   help="processes that read data, at most one per core")


def add_data_flags(p: argparse.ArgumentParser) -> None:
    """What is read and how; a default of None means the task's own, see TASKS."""
    g = p.add_argument_group("data")
    g.add_argument("--data-folder", metavar="NAME", help="folder below the data root instead "
                       "of the task's own, for instance cifar10-subset or aan-small")
    g.add_argument("--l-max", type=int, metavar="N", help="longest text, <eos> included "
                       "(listops 2048, imdb 4096, aan 4000); longer ones are cut")
    g.add_argument("--min-freq", type=int, metavar="N", help="a token seen less often in the "
                       "training texts becomes <unk> (imdb 15, else 1)")
    g.add_argument("--level", choices=("char", "byte"), default="char",
                       help="tokens of imdb and aan: Unicode characters (published) or UTF-8 bytes")
    g.add_argument("--val-split", type=float, default=0.0, metavar="SHARE",
                       help="imdb: this share of the training reviews for validation; 0, as "
                            "published, validates on the test set")
    g.add_argument("--tsv-quoting", choices=("minimal", "none"), default="minimal",
                       help="listops, aan: a field that starts with a double quote ends at the "
                            "next one (minimal, as published), or quotes mean nothing (none)")
    g.add_argument("--color", action=OnOff, default=False,
                       help="cifar: red, green and blue instead of one grey value per pixel")
    g.add_argument("--contour-length", type=int, choices=CONTOURS, default=14, help="pathfinder, "
                       "pathfinderx: dashes of a path, which name the set: 6 is curv_baseline")
    g.add_argument("--train-limit", type=int, metavar="N",
                       help="train on N samples only, drawn with seed 42")
    g.add_argument("--eval-limit", type=int, metavar="N",
                       help="validate and test on N samples each, drawn with seed 42")


def add_file_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("files")
    g.add_argument("--data", default=os.environ.get("DATA_PATH", str(HERE / "data")), metavar="DIR",
                   help="root of the tasks' folders, or of the Arena's release as unpacked, "
                        "lra_release/lra_release ($DATA_PATH)")
    g.add_argument("--save", metavar="FILE", help="best model (None: TASK-ARCH.pt in the working "
                   "directory); the training state goes beside it as *.state")
    g.add_argument("--load", default="", metavar="FILE",
                   help="start from these weights: a model file, or a checkpoint of the original")
    g.add_argument("--eval", action="store_true", help="evaluate, print, stop (with --load)")
    g.add_argument("--log-interval", type=int, default=10, metavar="N",
                   help="report every N updates")


# ------------------------------------------------------------------------------------ checking
def check(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    flags.check(p, args, positive=("n_layers", "d_model", "n_heads", "dpb_dim", "accumulate",
                                   "total_steps", "expand_tno", "expand_glu", "gamma", "min_freq",
                                   "train_limit", "eval_limit"),
                not_negative=("warmup", "weight_decay", "dpb_layers", "tno_max_l", "workers"),
                rates=("dropout", "position_dropout", "val_split"),
                most={"n_layers": MOST_LAYERS, "dpb_layers": MOST_LAYERS, "gamma": 1},
                shared_batch=False)
    for name in ("expand_tno", "expand_glu"):
        width = args.d_model * getattr(args, name)
        if not 1 <= width < 2**31:
            p.error(f"--d-model {args.d_model} x --{name.replace('_', '-')} {getattr(args, name)} "
                    f"makes a width of {width:.3g}, which cannot be")
    if args.d_model * args.expand_tno < args.n_heads:
        p.error(f"--n-heads {args.n_heads} is more than --d-model x --expand-tno, "
                f"{args.d_model * args.expand_tno:g}")
    text = published_arch(args.task) == "tno"
    if args.arch.endswith("2d") and text:
        p.error(f"--arch {args.arch}: {args.task} is text; tno2d and gtu2d are for images")
    if args.l_max is not None and not text:
        p.error(f"--l-max: the images of {args.task} always have {TASKS[args.task].l_max} pixels")
    if args.l_max is not None and args.l_max < 2:
        p.error(f"--l-max must be at least 2, not {args.l_max}")
    if args.val_split and args.task != "imdb":
        p.error(f"--val-split: only imdb lacks a validation set, not {args.task}")
    if args.cuda_graphs and args.mask_padding:
        p.error("--cuda-graphs and --mask-padding: whether a batch has padding is read from the "
                "GPU, which a recording cannot: give one of them")
    if args.eval and not args.load:
        p.error("--eval needs --load FILE")


def say_inert(args: argparse.Namespace) -> None:
    inert = {name: f"in {args.task}" for name, tasks in ONLY.items() if args.task not in tasks}
    if not args.use_decay:
        inert["gamma"] = "without --use-decay"
    if args.arch.startswith("gtu"):
        inert |= dict.fromkeys(("dpb_type", "dpb_layers"), f"in {args.arch}")
    elif args.dpb_type != 8:
        inert["dpb_layers"] = f"with --dpb-type {args.dpb_type}: give 8"
    flags.say_inert(args, inert)


def share_batch(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """--batch-size, where it is not given: the task's batch, shared by processes and by the parts
    of an update. Another batch than the published one is never chosen silently."""
    if args.batch_size is not None:
        return
    processes = int(os.environ.get("WORLD_SIZE", args.devices))  # torchrun's count wins
    parts = processes * args.accumulate
    args.batch_size, rest = divmod(args.batch, parts)
    if rest:
        each = max(1, args.batch_size)
        p.error(f"--devices {processes} x --accumulate {args.accumulate} cannot share the batch of "
                f"{args.batch} of {args.task} evenly; --batch-size {each} would make an update of "
                f"{each * parts}, --batch-size {each + 1} one of {(each + 1) * parts}")
