"""Images read pixel by pixel: sequential and permuted MNIST, sequential CIFAR-10 (section 5).

    ./getdata.sh mnist cifar10
    python seq_mnist_cifar.py                          (permuted MNIST; published: 98.13 %)
    python seq_mnist_cifar.py --no-permute             (sequential MNIST; published: 99.20 %)
    python seq_mnist_cifar.py --cifar --no-permute     (sequential CIFAR-10; published: 73.42 %)

On a small machine (half a minute on two CPU cores, accuracy over 80 %):
    ./getdata.sh digits
    python seq_mnist_cifar.py --data data/digits --nhid 40 --dilation 1 1 2 4 8 16 32 --nlevels 7 \\
                              --no-permute --lr 1e-2 --dropout 0 --dropouti 0.1 --epochs 15
"""

import argparse
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import Tensor

from trellisnet import args as flags
from trellisnet.environment import BadInput, Interrupted, bad_input, make_fabric, orderly_exit
from trellisnet.run import Run, load_model, read_model
from trellisnet.seq_MNIST_CIFAR.data import Images, load_images, pixel_order
from trellisnet.seq_MNIST_CIFAR.model import build
from trellisnet.seq_MNIST_CIFAR.utils import TEST_LINE, TRAIN_LINE, batches, my_part

HERE = Path(__file__).resolve().parent


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The defaults are the paper's recipe."""
    p = flags.parser("TrellisNet on images read pixel by pixel")
    p.add_argument("--data", default=None, metavar="DIR",
                   help="folder with MNIST, CIFAR-10 (python or binary version) or digits.npz "
                        "(None: data/mnist, with --cifar data, beside this script)")
    p.add_argument("--cifar", action="store_true", help="CIFAR-10 instead of MNIST")
    p.add_argument("--permute", action=flags.OnOff, default=True,
                   help="read the pixels in a random order, the same for all images")
    p.add_argument("--permutation", default="", metavar="FILE.npy",
                   help="that order ('': drawn from --seed)")
    flags.network(p, nhid=120, nlevels=11, dilation=[1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
                  aux=0.0, aux_freq=1e4, dropout=0.1, dropouti=0.2, dropouth=0.2, wdrop=0.1)
    p.add_argument("--eval-dropout", action="store_true",
                   help="leave the dropout of pixels and logits on in the test, as the original "
                        "did: the accuracy is then random and too low")
    flags.training(p, lr=4e-3, clip=0.5, epochs=200, batch_size=64, when=[50, 75, 90], anneal=10)
    flags.run(p, "Trellis_seqMNIST_CIFAR", HERE)
    args = p.parse_args(argv)
    flags.check(p, args)
    if args.data is None:
        args.data = str(HERE / ("data" if args.cifar else "data/mnist"))
    if args.aux > 0:
        print("--aux: classification has no auxiliary loss, here or in the original",
              file=sys.stderr)
    return args


def build_run(args: argparse.Namespace, fabric) -> tuple[Run, Images, Images]:
    """Images, model and optimiser: fresh, --load's, or where --resume says."""
    content = read_model(args.load, args) if args.load else None
    train, test = load_images(args.data, args.cifar, fabric)
    order = pixel_order(train.pixels, args) if args.permute else None
    if content:
        order = order_of_file(content, train.pixels, args)
    with bad_input():
        loss = build(args, train.channels)
    run = Run(args, fabric, loss, loss.model, loss.model.tnet,
              permutation=None if order is None else order.tolist())
    run.progress |= {"batch": 0, "loss": 0.0, "steps": 0}
    run.say(f"Loading {'P' if args.permute else ''}{train.name}")
    if args.wnorm:
        run.say("Weight normalization applied")
    if args.resume is not None:
        run.restore()
        run.say(f"Resuming at epoch {run.progress['epoch']}, update {run.progress['step']}")
    else:
        if content:
            load_model(loss, content, args.load)
        if not args.eval:
            run.set_old_files_aside()
        run.make_optimizer(args.optim)
    if order is not None:
        train, test = train.reordered(order), test.reordered(order)
    return run, train.to(fabric.device), test.to(fabric.device)


def order_of_file(content: dict, pixels: int, args: argparse.Namespace) -> Tensor | None:
    """The order of pixels that a model file was trained in. Raises BadInput."""
    if "permutation" not in content:
        raise BadInput(f"--load {args.load} is no classifier of images")
    order = content["permutation"]
    if order is not None and len(order) != pixels:
        raise BadInput(f"--load {args.load} is for images of {len(order)} pixels, those of --data "
                       f"have {pixels}")
    return None if order is None else torch.tensor(order)


def train_epoch(run: Run, images: Images) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, p = run.args, run.progress
    if p["batch"] == 0:
        p["loss"] = 0.0
    run.loss.train()
    plan = batches(len(images), args.batch_size, shuffle=args.cifar, seed=args.seed + p["epoch"])
    for number in range(p["batch"], len(plan)):
        rows, weight = my_part(plan[number], run.fabric)
        run.optimizer.zero_grad()
        loss = run.step_loss(*images.batch(rows))
        run.update(loss, weight)
        p["loss"] += run.mean(loss.detach(), weight)
        p["steps"] += images.pixels
        p["batch"] = number + 1
        if number > 0 and number % args.log_interval == 0:
            report(run, number, len(plan), len(images))
        stopping = run.out_of_steps()
        if p["step"] % args.save_interval == 0 or stopping:
            run.save_state()
        run.stop_if_asked()
        if stopping:
            return


def report(run: Run, number: int, planned: int, total: int) -> None:
    """The original's line; its first of an epoch covers one batch more than it divides by."""
    p, args = run.progress, run.args
    loss = p["loss"] / args.log_interval
    run.say(TRAIN_LINE.format(epoch=p["epoch"], seen=number * args.batch_size, total=total,
                              percent=100 * number / planned, lr=p["lr"], loss=loss,
                              steps=p["steps"]))
    if run.metrics:
        run.metrics.log(p, train_loss=loss, train_lr=p["lr"])
    p["loss"] = 0.0


@torch.no_grad()
def test(run: Run, images: Images) -> tuple[float, float]:
    """Mean loss and accuracy (percent) on the test images, reported."""
    run.loss.eval()
    total, correct = 0.0, 0
    for rows in batches(len(images), run.args.batch_size):
        run.stop_if_asked()
        pixels, labels = images.batch(rows)
        with run.fabric.autocast():
            scores: Tensor = run.model(pixels, run.args.eval_dropout)
        total += torch.nn.functional.nll_loss(scores.float(), labels, reduction="sum").item()
        correct += (scores.argmax(1) == labels).sum().item()
    n = len(images)
    run.say("\n" + TEST_LINE.format(loss=total / n, correct=correct, total=n,
                                    percent=100 * correct / n) + "\n")
    if run.metrics:
        run.metrics.log(run.progress, test_loss=total / n, test_acc=100 * correct / n)
    return total / n, 100 * correct / n


def train(run: Run, images: Images, test_images: Images) -> None:
    p, args = run.progress, run.args
    run.open_log()
    count = sum(param.numel() for param in run.params)
    run.say(f"Args: {vars(args)}\nModel total parameters: {count}")
    while p["epoch"] <= args.epochs and not run.out_of_steps():
        start = time.time()
        train_epoch(run, images)
        run.losses = test(run, test_images)
        if run.metrics:
            run.metrics.log(p, epoch_seconds=time.time() - start)
        run.save_model(test_loss=run.losses[0], test_accuracy=run.losses[1])
        if p["batch"] < len(batches(len(images), args.batch_size)):
            return                                 # --max-steps ended the epoch before its end
        if p["epoch"] in args.when:
            run.set_lr(p["lr"] / 10)
        p["epoch"], p["batch"] = p["epoch"] + 1, 0
        run.save_state()


def main(argv: list[str] | None = None) -> Run:
    args = parse_args(argv)
    with orderly_exit("seq_mnist_cifar.py"):
        run, images, test_images = build_run(args, make_fabric(args))
        if args.eval:
            run.losses = test(run, test_images)
            return run
        try:
            train(run, images, test_images)
        except Interrupted:
            run.save_state()
            run.say(f"To go on: the same command with --resume ({run.state_path})")
            raise
        run.close()
        return run


if __name__ == "__main__":
    main()
