"""The flags. Names and defaults are the original's; those of ours come last. No torch here."""

import argparse
import os

from harness import flags
from harness.flags import OnOff
from harness.home import home
from tnn.im.architectures import ARCHITECTURES, arguments_of

HERE = home(__file__)
MOST_BOXES = 10_000
NO_EFFECT = "accepted, without effect"
PRECISIONS = ("32", "bf16-mixed", "16-mixed", "64")
DATA_SETS = ("IMNET", "CIFAR", "CIFAR10", "INAT", "INAT19", "DIGITS")  # data.py reads them
INAT = ("kingdom", "phylum", "class", "order", "supercategory", "family", "genus", "name")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Raises SystemExit(2) for nonsense, in one sentence that names the flag."""
    p = flags.parser("TNN on images, trained like DeiT")
    model_flags(p.add_argument_group("model"))
    optimizer_flags(p.add_argument_group("optimizer and schedule"))
    augmentation_flags(p.add_argument_group("augmentation"))
    data_flags(p.add_argument_group("data"))
    original_run_flags(p.add_argument_group("run, as in the original"))
    our_flags(p.add_argument_group("ours"))
    flags.add_machine(p, PRECISIONS, precision=None, cuda=False)
    flags.add_parallel(p)
    flags.add_graphs(p)
    flags.add_run(p, HERE / "logs", resume=None)
    args = flags.parse(p, argv)
    check(p, args)
    say_inert(args)
    args.num_workers = min(args.num_workers, os.cpu_count() or 1)
    if args.test:
        args.max_steps = 1
    return args


def model_flags(g) -> None:
    g.add_argument("--model", default="tnn_vit_e3g1_tiny_rpe_l1_90_prenorm", metavar="NAME",
                   help="tnn_vit_ or tno_vit_ with one of " + ", ".join(ARCHITECTURES))
    g.add_argument("--input-size", type=int, default=224, help="size of the images in pixels")
    g.add_argument("--drop", type=float, default=0.0, help=NO_EFFECT)
    g.add_argument("--drop-path", type=float, default=0.1,
                   help=f"{NO_EFFECT}, as in the original; see --stochastic-depth")
    g.add_argument("--finetune", default="", metavar="PATH|URL",
                   help="start from these weights; a head of another size is left out")


def optimizer_flags(g) -> None:
    g.add_argument("--epochs", type=int, default=300, help="epochs in all")
    g.add_argument("--batch-size", type=int, default=80, help="images per process")
    g.add_argument("--opt", default="adamw", help="any optimiser of timm")
    g.add_argument("--opt-eps", type=float, default=1e-8, help="epsilon of the optimiser")
    g.add_argument("--opt-betas", type=float, nargs="+", default=None, metavar="BETA",
                   help="betas of the optimiser (None: its own)")
    g.add_argument("--clip-grad", type=float, default=None, metavar="NORM",
                   help="gradient norm limit (None: no limit)")
    g.add_argument("--momentum", type=float, default=0.9, help="of SGD")
    g.add_argument("--weight-decay", type=float, default=0.05, help="of all but biases")
    g.add_argument("--smoothing", type=float, default=0.1, help="label smoothing")
    g.add_argument("--sched", default="cosine", choices=("cosine", "tanh", "step", "plateau"),
                   help="learning-rate schedule")
    g.add_argument("--lr", type=float, default=5e-4,
                   help="learning rate for 512 images an update; scaled to what there are")
    g.add_argument("--lr-noise", type=float, nargs="+", default=None, metavar="PCT",
                   help="shares of the epochs between which the rate is noisy")
    g.add_argument("--lr-noise-pct", type=float, default=0.67, help="limit of that noise")
    g.add_argument("--lr-noise-std", type=float, default=1.0, help="its standard deviation")
    g.add_argument("--warmup-lr", type=float, default=1e-6, help="rate to warm up from, not scaled")
    g.add_argument("--min-lr", type=float, default=1e-5, help="lowest rate, not scaled")
    g.add_argument("--decay-epochs", type=float, default=30, help="of --sched step")
    g.add_argument("--warmup-epochs", type=int, default=5, help="epochs of warming up")
    g.add_argument("--cooldown-epochs", type=int, default=10,
                   help=f"{NO_EFFECT}: the run ends at --epochs")
    g.add_argument("--patience-epochs", type=int, default=10, help="of --sched plateau")
    g.add_argument("--decay-rate", "--dr", type=float, default=0.1,
                   help="of --sched step and plateau")


def augmentation_flags(g) -> None:
    g.add_argument("--color-jitter", type=float, default=0.4, help="only with --aa ''")
    g.add_argument("--aa", default="rand-m9-mstd0.5-inc1", metavar="NAME",
                   help="policy of timm's AutoAugment ('': none)")
    g.add_argument("--train-interpolation", default="bicubic",
                   choices=("random", "bilinear", "bicubic"), help="of crops in training")
    g.add_argument("--repeated-aug", action=OnOff, default=True,
                   help="every image three times in a third of the batches")
    g.add_argument("--reprob", type=float, default=0.25, help="probability of random erasing")
    g.add_argument("--remode", default="pixel", choices=("const", "rand", "pixel"),
                   help="what is put in place of the erased")
    g.add_argument("--recount", type=int, default=1, help="boxes erased")
    g.add_argument("--resplit", action="store_true", help=NO_EFFECT)
    g.add_argument("--mixup", type=float, default=0.8, help="alpha of mixup (0: none)")
    g.add_argument("--cutmix", type=float, default=1.0, help="alpha of cutmix (0: none)")
    g.add_argument("--cutmix-minmax", type=float, nargs=2, default=None, metavar=("MIN", "MAX"),
                   help="sides of the box as shares of the image, in place of --cutmix")
    g.add_argument("--mixup-prob", type=float, default=1.0, help="probability of either")
    g.add_argument("--mixup-switch-prob", type=float, default=0.5,
                   help="probability of cutmix where both are on")
    g.add_argument("--mixup-mode", default="batch", choices=("batch", "pair", "elem"),
                   help="what shares its random numbers")


def data_flags(g) -> None:
    g.add_argument("--data-path", default="./images/", metavar="DIR", help="folder of the data set")
    g.add_argument("--data-set", default="IMNET", choices=DATA_SETS,
                   help="IMNET: a folder with train/CLASS/* and val/CLASS/*; CIFAR: CIFAR-100")
    g.add_argument("--inat-category", default="name", choices=INAT, help="what iNaturalist's "
                   "labels are")
    g.add_argument("--use-mcloader", action="store_true", help=NO_EFFECT)
    g.add_argument("--num_workers", type=int, default=10,
                   help="processes that load images, at most one per core")
    g.add_argument("--pin-mem", action=OnOff, default=True, help="pinned memory (CUDA)")


def original_run_flags(g) -> None:
    g.add_argument("--output_dir", default="", metavar="DIR",
                   help="checkpoints and log.txt ('': saves nothing)")
    g.add_argument("--seed", type=int, default=3407, help="process r starts from seed + r")
    g.add_argument("--resume", nargs="?", const="", default=None, metavar="PATH",
                   help="continue from this checkpoint; without PATH from checkpoint_last.pth in "
                        "--output_dir; where there is none, start afresh. With --eval: what to "
                        "evaluate")
    g.add_argument("--start_epoch", type=int, default=0, help="first epoch")
    g.add_argument("--eval", action="store_true", help="evaluate, print, stop")
    g.add_argument("--dist-eval", action="store_true", help="share the evaluation out")
    g.add_argument("--fp32-resume", action="store_true",
                   help="float32 (the published runs); without it 16-mixed on CUDA")
    g.add_argument("--test", action="store_true", help="one update, then stop")
    g.add_argument("--broadcast_buffers", action="store_true", help="of DistributedDataParallel")
    g.add_argument("--world_size", type=int, default=1,
                   help=f"{NO_EFFECT}: torchrun or --devices decide")
    g.add_argument("--dist_url", default="env://", help=NO_EFFECT)


def our_flags(g) -> None:
    g.add_argument("--accumulate", type=int, default=1, metavar="N",
                   help="batches per update; counts in the scaling of --lr")
    g.add_argument("--arch-options", nargs="+", default=[], metavar="NAME=NUMBER",
                   help="other sizes than --model's, e.g. patch_size=4 depth=6")
    g.add_argument("--stochastic-depth", type=float, default=0.0, metavar="P",
                   help="probability that a sample skips a branch of the last block, growing from "
                        "0 in the first")
    g.add_argument("--hflip", type=float, default=0.5, metavar="P",
                   help="probability of mirrored images")
    g.add_argument("--model-ema", type=float, default=0.0, metavar="DECAY",
                   help="also evaluate and keep an average of the weights (0: none)")


def check(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    flags.check(p, args, positive=("input_size", "accumulate", "recount", "decay_epochs",
                                   "lr_noise_pct"),
                not_negative=("mixup", "cutmix", "weight_decay", "warmup_epochs", "warmup_lr",
                              "min_lr", "num_workers", "start_epoch", "patience_epochs", "opt_eps",
                              "lr_noise_std", "color_jitter", "clip_grad", "momentum"),
                rates=("stochastic_depth",), most={"recount": MOST_BOXES}, shared_batch=False)
    for name in ("reprob", "mixup_prob", "mixup_switch_prob", "hflip", "smoothing", "model_ema"):
        if not 0 <= getattr(args, name) <= 1:
            p.error(f"{flags.typed(args, name)} must be in [0, 1], not {getattr(args, name)}")
    if args.start_epoch >= args.epochs and not args.eval:
        p.error(f"--start_epoch {args.start_epoch}: --epochs {args.epochs} are counted from 0")
    if not 0 < args.decay_rate < 1:
        p.error(f"--decay-rate must be in (0, 1), not {args.decay_rate}")
    if args.lr_noise_pct < args.lr_noise_std / 1000:  # timm draws until it is below the limit
        p.error(f"--lr-noise-pct {args.lr_noise_pct} is so small against --lr-noise-std "
                f"{args.lr_noise_std} that next to no noise is below it")
    if args.opt_betas is not None and len(args.opt_betas) < 2:
        p.error("--opt-betas: optimisers have two or more of them")
    if args.cutmix_minmax is not None:
        low, high = args.cutmix_minmax
        if not 0 <= low < high <= 1 or int(args.input_size * low) == int(args.input_size * high):
            p.error(f"--cutmix-minmax {low:g} {high:g}: give two shares of --input-size "
                    f"{args.input_size}, the lower first, at least a pixel apart")
    if mixing(args) and args.batch_size % 2:
        p.error(f"--batch-size {args.batch_size} must be even: mixup pairs the images of a batch")
    try:
        arguments_of(args.model)
    except ValueError as error:
        p.error(f"--model: {error}")
    for text in args.arch_options:
        _, _, value = text.partition("=")
        if not value.isdecimal() or int(value) < 1:
            p.error(f"--arch-options {text}: give NAME=NUMBER, such as depth=6")


def say_inert(args: argparse.Namespace) -> None:
    """Says which of the flags given do nothing."""
    inert = dict.fromkeys(("drop", "drop_path", "resplit", "use_mcloader"), "as in the original")
    inert |= {"cooldown_epochs": "as the run ends at --epochs",
              "world_size": "as torchrun or --devices decide", "dist_url": "as torchrun decides"}
    if args.aa:
        inert["color_jitter"] = f"with --aa {args.aa}: give --aa ''"
    if args.sched != "step":
        inert["decay_epochs"] = f"with --sched {args.sched}: it is of step"
    if args.sched != "plateau":
        inert["patience_epochs"] = f"with --sched {args.sched}: it is of plateau"
    if args.cutmix_minmax is not None:
        inert["cutmix"] = "with --cutmix-minmax"
    flags.say_inert(args, inert)


def arch_options(args: argparse.Namespace) -> dict[str, int]:
    """--arch-options by name."""
    return {name: int(value) for name, _, value in
            (text.partition("=") for text in args.arch_options)}


def mixing(args: argparse.Namespace) -> bool:
    """Are images mixed, so that targets are soft?"""
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
