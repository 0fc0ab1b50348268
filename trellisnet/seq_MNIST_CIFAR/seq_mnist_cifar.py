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
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness.flags import OnOff, parser, say_inert
from harness.home import home
from trellisnet import args as flags

SCRIPT = "trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py"
HERE = home(__file__)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The defaults are the paper's recipe."""
    p = parser("TrellisNet on images read pixel by pixel")
    p.add_argument("--data", default=None, metavar="DIR",
                   help="folder with MNIST (the four files, .gz or not), CIFAR-10 (python or "
                        "binary version) or digits.npz (None: data/mnist, with --cifar data, "
                        "beside this script)")
    p.add_argument("--cifar", action="store_true", help="CIFAR-10 instead of MNIST")
    p.add_argument("--permute", action=OnOff, default=True,
                   help="read the pixels in a random order, the same for all images")
    p.add_argument("--permutation", default="", metavar="FILE.npy",
                   help="that order ('': drawn from --seed)")
    flags.add_network(p, nhid=120, nlevels=11, dilation=[1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
                      aux=0.0, aux_freq=1e4, dropout=0.1, dropouti=0.2, dropouth=0.2, wdrop=0.1)
    p.add_argument("--eval-dropout", action="store_true",
                   help="leave the dropout of pixels and logits on in the test, as the original "
                        "did: the accuracy is then random and too low")
    p.add_argument("--predictions", default="", metavar="FILE",
                   help="with --eval: a new file, `label prediction` for each test image")
    flags.add_training(p, lr=4e-3, clip=0.5, epochs=200, batch_size=64, when=[50, 75, 90],
                       anneal=10)
    flags.add_run(p, "Trellis_seqMNIST_CIFAR", HERE)
    args = flags.parse(p, argv)
    say_inert(args, {"anneal": "here and in the original: the rate is cut after the epochs of "
                               "--when",
                     "aux_freq": "as classification has no auxiliary loss"})
    if args.predictions and not args.eval:
        p.error("--predictions needs --eval")
    if args.predictions and Path(args.predictions).exists():
        p.error(f"--predictions: {args.predictions} is there already; give another name")
    if args.data is None:
        args.data = str(HERE / ("data" if args.cifar else "data/mnist"))
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness import machine
from harness.endings import BadInput, bad_input
from harness.graphs import Graphed
from harness.inputs import digest_of, load_in_turn
from harness.keeper import Keeper
from trellisnet import model_files
from trellisnet.learning import Learning, Run, keep, take_sizes, warn
from trellisnet.seq_MNIST_CIFAR import model
from trellisnet.seq_MNIST_CIFAR.data import Images, load_images, pixel_order
from trellisnet.seq_MNIST_CIFAR.utils import TEST_LINE, TRAIN_LINE, batches, inert_flags, my_part


@dataclass
class ImageProgress(Learning):
    batch: int = 0      # batches done in this epoch
    loss: float = 0.0   # summed since the last report
    steps: int = 0      # pixels read one after the other, over all epochs

    def add(self, loss: float) -> None:
        """The loss of one more batch."""
        self.loss += loss


class ImageRun(Run):
    """A classifier's run, with its images in the order in which it reads their pixels."""

    progress: ImageProgress

    def __init__(self, args: argparse.Namespace, keeper: Keeper, loss: model.Classification,
                 images: tuple[Images, Images], order: Tensor | None):
        super().__init__(args, keeper, loss, ImageProgress(),
                         {"permutation": None if order is None else order.tolist()})
        self.inputs = {path.name: digest_of(path) for part in images for path in part.files}
        if order is not None:
            images = tuple(part.reordered(order) for part in images)
        self.train, self.test = (part.to(self.fabric.device) for part in images)

    def restore(self, state: dict, own: dict) -> None:
        if state["permutation"] != self.facts["permutation"]:
            raise BadInput("--resume: that run read the pixels in another order")
        super().restore(state, own)


def build(args: argparse.Namespace, keeper: Keeper) -> ImageRun:
    """Images, model and optimiser: fresh, --load's, or where --resume says. Raises BadInput."""
    given = take_sizes(args, keeper)
    images = load_in_turn(None, lambda: load_images(args.data, args.cifar), f"--data {args.data}")
    order = order_of_pixels(args, images[0].pixels, given or (args.load and keeper.found))
    with bad_input():
        loss = model.build(args, images[0].channels)
    inert = inert_flags(args, loss.model.tnet)
    run = ImageRun(args, keeper, loss, images, order)
    if inert:
        reason = ("--plain computes the levels in another way" if args.plain else
                  "only the positions that the last pixel sees are computed")
        warn(keeper, f"{', '.join(inert)}: no effect here, since {reason}")
    if args.aux > 0:
        warn(keeper, "--aux: classification has no auxiliary loss, here or in the original")
    keeper.say(f"Loading {'P' if args.permute else ''}{run.train.name}")
    if args.wnorm:
        keeper.say("Weight normalization applied")
    if not keeper.found:
        if given:
            model_files.load_weights(loss, given["model"], args.load)
        run.start(args.optim)
    keeper.resume(run)
    return run


def order_of_pixels(args: argparse.Namespace, pixels: int, trained: dict | None) -> Tensor | None:
    """In which order the pixels are read; None: row by row. A model that is `trained` already (its
    file or state) goes on in its own. Raises BadInput."""
    if not trained:
        with bad_input():
            return pixel_order(pixels, args) if args.permute else None
    if "permutation" not in trained:
        raise BadInput(f"--load: {args.load} is no classifier of images")
    order = trained["permutation"]
    if order is not None and len(order) != pixels:
        raise BadInput(f"--load: {args.load} is for images of {len(order)} pixels, those of --data "
                       f"have {pixels}")
    return None if order is None else torch.tensor(order)


def train_epoch(run: ImageRun) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, progress, keeper, images = run.args, run.progress, run.keeper, run.train
    if progress.batch == 0:
        progress.loss, progress.seconds = 0.0, 0.0
    start = time.time() - progress.seconds
    run.loss.train()
    plan = batches(len(images), args.batch_size, shuffle=args.cifar,
                   seed=args.seed + progress.epoch)
    for number in range(progress.batch, len(plan)):
        rows, weight = my_part(plan[number], run.fabric)
        run.optimizer.zero_grad()
        loss, = run.gradients(weight, *images.batch(rows))
        run.update(loss)
        keeper.later(progress.add, machine.weighted(loss, weight))
        progress.steps += images.pixels
        progress.batch = number + 1
        if number > 0 and number % args.log_interval == 0:
            keeper.settle()
            report(run, number, len(plan))
        progress.seconds = time.time() - start
        keeper.after_update()
        if keeper.out_of_steps():
            return


def report(run: ImageRun, number: int, planned: int) -> None:
    """The original's line; its first of an epoch covers one batch more than it divides by."""
    progress, args = run.progress, run.args
    loss = progress.loss / args.log_interval
    run.keeper.say(TRAIN_LINE.format(
        epoch=progress.epoch, seen=number * args.batch_size, total=len(run.train),
        percent=100 * number / planned, lr=progress.lr, loss=loss, steps=progress.steps))
    run.keeper.log(train_loss=loss, train_lr=progress.lr)
    progress.loss = 0.0


@torch.no_grad()
def test(run: ImageRun) -> list[tuple[int, int]]:
    """Mean loss and accuracy (percent) on the test images, reported and kept in run.losses. Returns
    (label, prediction) of each. Raises FloatingPointError if the loss is not finite."""
    run.loss.eval()
    losses, pairs, n = [], [], len(run.test)
    scored = Graphed(partial(score_batch, run), run.model, run.gradients.on)
    for rows in batches(n, run.args.batch_size):
        run.keeper.stop_if_asked()
        pixels, labels = run.test.batch(rows)
        loss, pair = scored(pixels, labels)
        losses.append(loss)
        pairs.append(pair)
    # Read here, not batch by batch: each time a GPU would be waited for.
    total = sum(torch.stack(losses).tolist())
    predictions = list(zip(*torch.cat(pairs, 1).tolist(), strict=True))
    correct = sum(label == predicted for label, predicted in predictions)
    run.losses = total / n, 100 * correct / n
    run.keeper.say("\n" + TEST_LINE.format(loss=total / n, correct=correct, total=n,
                                           percent=100 * correct / n) + "\n")
    run.keeper.log(test_loss=total / n, test_acc=100 * correct / n)
    run.keeper.check_finite(total / n, "the test loss")
    return predictions


def score_batch(run: ImageRun, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the losses; labels and predictions (2, N)."""
    with run.fabric.autocast():
        scores: Tensor = run.model(pixels, run.args.eval_dropout)
    return (torch.nn.functional.nll_loss(scores.float(), labels, reduction="sum"),
            torch.stack([labels, scores.argmax(1)]))


def train(run: ImageRun) -> None:
    """Epochs until --epochs or --max-steps; the model of the last one is kept."""
    args, progress, keeper = run.args, run.progress, run.keeper
    while progress.epoch <= args.epochs and not keeper.out_of_steps():
        train_epoch(run)
        start = time.time() - progress.seconds
        test(run)
        keeper.log(epoch_seconds=time.time() - start)
        loss, accuracy = run.losses
        keeper.save_best(model_files.content(run.loss, **run.facts, test_loss=loss,
                                             test_accuracy=accuracy, epoch=progress.epoch))
        if progress.batch < len(batches(len(run.train), args.batch_size)):
            return                                 # --max-steps ended the epoch before its end
        if progress.epoch in args.when:
            run.set_lr(progress.lr / 10)
        progress.epoch, progress.batch = progress.epoch + 1, 0
        keeper.save()


def main(argv: list[str] | None = None) -> ImageRun:
    args = parse_args(argv)
    with keep(SCRIPT, args) as keeper:
        run = build(args, keeper)
        if args.eval:
            predictions = test(run)
            if args.predictions and keeper.fabric.is_global_zero:
                with bad_input("--predictions: "), open(args.predictions, "x") as file:
                    file.writelines(f"{label} {said}\n" for label, said in predictions)
        else:
            run.say_settings()
            train(run)
    return run


if __name__ == "__main__":
    main()
