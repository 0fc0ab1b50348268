"""TNN on the Long Range Arena (Qin et al. 2023, section 5; data of Tay et al. 2021).

    python tnn/lra/main.py --task listops            (published test accuracies: listops 61.04,
    python tnn/lra/main.py --task imdb                imdb 87.90, aan 90.97, cifar 88.24,
    python tnn/lra/main.py --task pathfinder          pathfinder 93.00, pathfinderx 96.10)

On a small machine (about a minute and a half on one CPU core):
    ./getdata.sh listops
    python tnn/lra/main.py --task listops --d-model 64 --n-layers 2 --batch-size 16 \\
        --l-max 600 --train-limit 2000 --eval-limit 200 --epochs 1 --warmup 20 --lr 2e-3

--settings script (default) are the hyperparameters of the published runs, --settings yaml those of
the experiment files; both are in recipes.py, and each value has a flag.
"""

import argparse
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tnn.lra.args import parse_args

if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
import torch.nn.functional as F
from tqdm import tqdm

from harness import machine
from harness.endings import BadInput, bad_input
from harness.graphs import Graphed, wanted
from harness.inputs import load_in_turn, refuse_together
from harness.keeper import Keeper
from tnn.inputs import DamagedPicture
from tnn.lra.data import load_task
from tnn.lra.model import LraModel
from tnn.lra.recipes import model_arguments
from tnn.lra.run import MODEL_FORMAT, SCRIPT, Progress, Run, load_weights, upgrade
from tnn.lra.utils import (
    END_LINE,
    EPOCH_LINE,
    cosine_factor,
    counts,
    evaluation_batches,
    loader,
    make_optimizer,
    training_batches,
)


def build(args: argparse.Namespace, keeper: Keeper) -> Run:
    """Data, network and optimiser, the weights fresh or --load's. Raises BadInput."""
    fabric = keeper.fabric
    # Each process draws its own dropout masks; all take the first one's weights.
    machine.seed_everything(args.seed + fabric.global_rank)
    task = load_in_turn(fabric, lambda: load_task(args.task, Path(args.data), args),
                        f"--data {args.data}")
    with bad_input():
        model = LraModel(**model_arguments(args), classes=task.classes,
                         vocabulary=task.vocab_size, d_input=task.d_input)
    if args.precision == "64":
        model.double()
    net = fabric.setup_module(torch.compile(model) if args.compile else model)
    optimizer = fabric.setup_optimizers(make_optimizer(model, args.lr, args.weight_decay))
    if args.load:
        load_weights(model, args.load, task.itos)
    run = Run(args, keeper, task, model, net, optimizer, Progress())
    run.gradients = Graphed(partial(gradients, run), model, wanted(args, fabric, keeper.say),
                            trains=True)
    return run


def describe(run: Run) -> None:
    """Data, settings and number of parameters."""
    args, task, say = run.args, run.task, run.keeper.say
    total, trainable, used = counts(run.model)
    say(f"{task.name}, {args.arch}, {args.settings} settings: {len(task.train)} / {len(task.val)} "
        f"/ {len(task.test)} samples, {task.classes} classes, "
        + (f"{task.vocab_size} tokens" if task.vocab_size else f"{task.l_max} pixels"))
    say(f"Args: {vars(args)}")
    say(f"Model total parameters: {total} ({trainable} not frozen in the original, of which "
        f"{used} have a gradient)")
    if run.progress.step == 0:
        run.keeper.log(**{"params/total": total, "params/trainable": trainable,
                          "params/fixed": total - trainable})


# ---------------------------------------------------------------------------------- evaluation
@torch.no_grad()
def evaluate(run: Run, data) -> tuple[float, float]:
    """Mean loss and accuracy (percent)."""
    run.model.eval()
    args, fabric = run.args, run.fabric
    order = evaluation_batches(len(data), args.batch_size, fabric, args.eval_drop_last)
    losses, right, seen, damaged = [], [], 0, None
    scored = Graphed(partial(score_batch, run), run.model, run.gradients.on)
    try:
        for x, y, lengths in loader(data, order, run.task.collate, args.workers, fabric):
            if fabric.world_size == 1:  # the others may have another number of batches
                run.keeper.stop_if_asked()
            found = scored(x, y, lengths)
            losses.append(found[0])
            right.append(found[1])
            seen += len(y)
    except DamagedPicture as error:
        damaged = error
    refuse_together(run.keeper, damaged)
    # Read here, not batch by batch: each time a GPU would be waited for.
    loss, hits = (sum(torch.stack(values).tolist()) if values else 0 for values in (losses, right))
    loss, hits, seen = machine.total(fabric, loss, hits, seen)
    if not seen:
        raise BadInput(f"--eval-drop-last leaves nothing of {len(data)} samples in batches of "
                       f"{args.batch_size}")
    return loss / seen, 100 * hits / seen


def score_batch(run: Run, x: torch.Tensor, y: torch.Tensor, lengths: torch.Tensor
                ) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the losses, and how many are right."""
    with run.fabric.autocast():
        logits = run.model(x, lengths)
    return F.cross_entropy(logits.float(), y, reduction="sum"), (logits.argmax(-1) == y).sum()


def evaluate_both(run: Run) -> dict[str, float]:
    """Validation and test set; imdb's validation set is, as published, its test set. Raises
    FloatingPointError if a loss is not finite."""
    same = run.args.task == "imdb" and not run.args.val_split
    test_loss, test = evaluate(run, run.task.test)
    val_loss, val = (test_loss, test) if same else evaluate(run, run.task.val)
    run.keeper.check_finite(val_loss)
    run.keeper.check_finite(test_loss, "the test loss")
    return {"val_loss": val_loss, "val": val, "test_loss": test_loss, "test": test}


# ------------------------------------------------------------------------------------ training
def train_epoch(run: Run) -> bool:
    """Goes on with the current epoch; was it finished? Raises Interrupted, FloatingPointError."""
    args, p, fabric = run.args, run.progress, run.fabric
    order = training_batches(len(run.task.train), args.batch_size, fabric, args.seed + p.epoch)
    if not order:
        raise BadInput(f"{len(run.task.train)} training samples are not one batch of "
                       f"{args.batch_size} on each of {fabric.world_size} processes: give a "
                       "smaller --batch-size")
    run.net.train()
    started = time.time() - p.seconds
    batches = loader(run.task.train, order[p.batch:], run.task.collate, args.workers, fabric)
    bar = tqdm(desc=f"epoch {p.epoch}", total=len(order), initial=p.batch, leave=False,
               disable=None if fabric.is_global_zero else True)
    with bar:
        while p.batch < len(order) and not run.keeper.out_of_steps():
            one_update(run, next_group(run, batches))
            p.seconds = time.time() - started
            bar.set_postfix(loss=f"{run.last_loss:.3f}", refresh=False)
            bar.update(p.batch - bar.n)
            run.keeper.after_update()
    return p.batch == len(order)


def next_group(run: Run, batches) -> list:
    """The batches of one update: --accumulate of them, fewer at the end of an epoch."""
    group, damaged = [], None
    try:
        group = list(islice(batches, run.args.accumulate))
    except DamagedPicture as error:
        damaged = error
    refuse_together(run.keeper, damaged)
    return group


def one_update(run: Run, group: list) -> None:
    """Forward and backward on each batch of the group, then the step. Raises FloatingPointError
    before the step if a loss or a gradient is not finite."""
    args, p, keeper, start = run.args, run.progress, run.keeper, time.time()
    watched = (p.step + 1) % args.log_interval == 0
    run.optimizer.zero_grad()
    losses = []
    for i, batch in enumerate(group, 1):
        last = i == len(group)
        # A recording is the same in all updates.
        watch = last and (watched or run.gradients.on)
        loss, hits, *norms = run.gradients(len(group), last, watch, *batch)
        losses.append(loss)
        keeper.later(partial(run.count, len(batch[1])), loss, hits, over="own")
        p.batch += 1
    keeper.gradient_norm(run.model, sum(losses))
    lr = args.lr * cosine_factor(p.step, args.warmup, args.total_steps, args.lr_after_end)
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = lr
    keeper.step(run.optimizer)
    p.step += 1
    if watched:
        keeper.later(lambda loss, *norms: keeper.log(
            **{"trainer/loss": loss, "trainer/epoch": p.epoch, "trainer/lr": lr,
               "timer/step": time.time() - start},
            **{f"norm/{i}": norm for i, norm in enumerate(norms)}),
            losses[-1], *norms, over="own")
        keeper.settle()


def gradients(run: Run, parts: int, last: bool, watch: bool, x: torch.Tensor, y: torch.Tensor,
              lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Forward and backward on one of the `parts` batches of an update. Returns the loss, how many
    are right, and with `watch` what the model's `watch` collects."""
    run.model.watch = [] if watch else None
    with run.fabric.no_backward_sync(run.net, enabled=not last):
        logits = run.net(x, lengths)
        loss = F.cross_entropy(logits, y)
        run.fabric.backward(loss / parts)
    return loss.detach(), (logits.argmax(-1) == y).sum(), *(run.model.watch or ())


def end_of_epoch(run: Run, whole: bool) -> None:
    """Evaluates, reports, keeps the best model. Of an epoch that --max-steps cuts short none is
    kept unless there is no other: the state of the run knows nothing of it."""
    p, start = run.progress, time.time()
    run.keeper.settle()
    loss, hits, seen = machine.total(run.fabric, p.loss, p.hits, p.seen)
    scores = evaluate_both(run) | {"train_loss": loss / seen, "train": 100 * hits / seen}
    p.max_test = max(p.max_test, scores["test"])
    p.last = scores
    lr = run.optimizer.param_groups[0]["lr"]
    run.keeper.say(EPOCH_LINE.format(epoch=p.epoch, step=p.step, lr=lr,
                                     seconds=p.seconds + time.time() - start, **scores))
    splits = ("train", "val", "test")
    run.keeper.log(**{f"{split}/accuracy": scores[split] / 100 for split in splits},
                   **{f"{split}/loss": scores[f"{split}_loss"] for split in splits},
                   **{"timer/epoch": p.seconds, "timer/validation": time.time() - start})
    if p.best is None or (whole and scores["val"] > p.best["val"]):
        p.best = {"epoch": p.epoch, "val": scores["val"], "test": scores["test"]}
        run.keeper.save_best({"format": MODEL_FORMAT, "epoch": p.epoch, "itos": run.task.itos,
                              "val_accuracy": scores["val"], "test_accuracy": scores["test"],
                              "model": run.model.state_dict()})
    if whole:
        p.begin_next_epoch()
        run.keeper.save()


def close(run: Run) -> None:
    """The closing line."""
    p = run.progress
    if p.best is None or p.last is None:
        raise BadInput("--resume: that run is already past --max-steps, and was never evaluated")
    run.keeper.log(**{"final/val/accuracy": p.last["val"] / 100,
                      "final/test/accuracy": p.last["test"] / 100})
    run.keeper.say(END_LINE.format(**p.best, last=p.last["test"], max_test=p.max_test))


# ---------------------------------------------------------------------------------------- main
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with Keeper(SCRIPT, args, writes=not args.eval, upgrade=upgrade) as keeper:
        run = build(args, keeper)
        if args.eval:
            keeper.say("val loss {val_loss:.4f} acc {val:.2f} | test loss {test_loss:.4f} acc "
                       "{test:.2f}".format(**evaluate_both(run)))
            return
        keeper.resume(run)
        describe(run)
        whole = True
        while whole and run.progress.epoch <= args.epochs and not keeper.out_of_steps():
            whole = train_epoch(run)
            end_of_epoch(run, whole)
        close(run)


if __name__ == "__main__":
    main()
