"""An epoch of main.py, finetune.py and main_overfit.py, its reports, and evaluation."""

import time

import torch

from common.splitcross import perplexity
from sparse_seq.language_modeling.run import Run
from sparse_seq.language_modeling.utils import detached, draw_length, evaluate, get_batch
from sparse_seq.weights import load_weights, weights_of


def more_epochs(run: Run) -> bool:
    """Until --epochs, early stopping or --max-steps."""
    p = run.progress
    return p.epoch <= run.args.epochs and not p.done and not run.keeper.out_of_steps()


def train_epoch(run: Run) -> bool:
    """Continues the current epoch to its end. False: --max-steps cut it short, and --resume will
    continue in the middle of it. Raises Interrupted."""
    args, p = run.args, run.progress
    if p.i == 0:
        run.hidden = [run.model.init_hidden(part.shape[1]) for part in run.parts]
        p.batch = p.counted = p.correct = p.predicted = 0
        p.total = p.seconds = 0.0
    run.model.train()
    began, reported, reported_at = time.time() - p.seconds, p.batch, time.time()
    while not epoch_is_over(run) and not run.keeper.out_of_steps():
        length = one_update(run)
        if p.batch % args.log_interval == 0 and p.batch > 0:
            run.keeper.settle()
            report(run, 1000 * (time.time() - reported_at) / (p.batch + 1 - reported))
            reported, reported_at = p.batch + 1, time.time()
        p.batch, p.step, p.i = p.batch + 1, p.step + 1, p.i + length
        p.seconds = time.time() - began
        run.keeper.after_update()
    return epoch_is_over(run)


def epoch_is_over(run: Run) -> bool:
    """As in the original: a rest of one row, whose target would be the last, is not trained on."""
    return run.progress.i >= run.rows - 2


def one_update(run: Run) -> int:
    """One update on a sequence of random length, which is returned."""
    args, p, keeper, fabric = run.args, run.progress, run.keeper, run.keeper.fabric
    length = draw_length(run.lengths, args.bptt, args.bptt + args.max_seq_len_delta)
    for group in run.optimizer.param_groups:  # each update counts for its length
        group["lr"] = p.lr * length / args.bptt
    run.optimizer.zero_grad()
    raw, losses, hits = [], [], []
    for k, part in enumerate(run.parts):
        data, targets = get_batch(part, p.i, length)
        last = k == len(run.parts) - 1
        with fabric.no_backward_sync(run.loss, enabled=not last):
            loss, raw_loss, hit, hidden = run.loss(data, targets, run.hidden[k])
            if len(run.parts) > 1:
                loss = loss / len(run.parts)
            fabric.backward(loss)
        run.hidden[k] = detached(hidden)
        raw.append(raw_loss.detach())
        losses.append(loss.detach())
        hits.append(hit)
    keeper.clip_gradients(run.model, sum(losses), args.clip)
    keeper.step(run.optimizer)
    if run.recipe.count:
        predicted = len(data) * args.batch_size   # by all processes
        keeper.later(lambda correct: p.hit(correct, predicted), sum(hits), over="sum")
    keeper.later(p.add, torch.stack(raw).mean())
    for group in run.optimizer.param_groups:
        group["lr"] = p.lr
    return length


# ------------------------------------------------------------------------- evaluation and reports
def report(run: Run, ms_per_batch: float) -> None:
    """The mean training loss since the last report."""
    p = run.progress
    loss = p.total / p.counted
    run.keeper.say(
        f"| epoch {p.epoch:3d} | {p.batch:5d}/{run.rows // run.args.bptt:5d} batches "
        f"| lr {p.lr:02.2f} | ms/batch {ms_per_batch:5.2f} | loss {loss:5.2f} "
        f"| ppl {perplexity(loss):8.2f}")
    run.keeper.log(train_loss=loss, train_ppl=perplexity(loss))
    p.total, p.counted = 0.0, 0


def measure(run: Run, text: torch.Tensor) -> float:
    """Mean loss of a text with the weights as they are now. Raises Interrupted."""
    with run.keeper.fabric.autocast():
        return evaluate(run.model, text, run.args.bptt, run.args.exact_loss,
                        run.keeper.stop_if_asked)


def validate(run: Run) -> float:
    """Validation loss of the weights as they are now, reported as the end of the epoch. Raises
    FloatingPointError if it is not finite."""
    p, began = run.progress, time.time()
    loss = run.keeper.check_finite(measure(run, run.valid))
    seconds = p.seconds + time.time() - began
    run.keeper.say(
        f"{'-' * 89}\n| end of epoch {p.epoch:3d} | time: {seconds:5.2f}s | valid loss {loss:5.2f} "
        f"| valid ppl {perplexity(loss):8.2f}\n{'-' * 89}")
    run.keeper.log(valid_loss=loss, valid_ppl=perplexity(loss))
    return loss


def test(run: Run) -> float:
    """Loads the best model, evaluates it on the test text, prints the closing lines."""
    load_weights(run.model, weights_of(run.keeper.read_best()))
    loss = run.keeper.check_finite(measure(run, run.test), "the test loss")
    run.keeper.say(f"{'=' * 89}\n| End of training | test loss {loss:5.2f} "
                   f"| test ppl {perplexity(loss):8.2f}\n{'=' * 89}")
    run.keeper.log(epoch=run.progress.epoch - 1, test_loss=loss, test_ppl=perplexity(loss))
    return loss


def next_epoch(run: Run) -> None:
    """The state after an epoch's end."""
    run.progress.epoch, run.progress.i = run.progress.epoch + 1, 0
    run.keeper.save()
