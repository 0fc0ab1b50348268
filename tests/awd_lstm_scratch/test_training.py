"""The loop: what a loss is, what an update does, which weights are measured and kept."""

import pytest
import torch
import torch.nn.functional as F

from awd_lstm import checkpoint
from awd_lstm.scratch import main, training
from awd_lstm.scratch.settings import parse_args
from tests.awd_lstm.small import write_corpus

SMALL = "--emsize 6 --nhid 8 --nlayers 2 --batch_size 8 --bptt 15 --lr 5 --train_rows 40 --no-cuda"


@pytest.fixture
def build(tmp_path):
    write_corpus(tmp_path / "texts", train=100)

    def build(*flags):
        return main.build(parse_args([*SMALL.split(), "--data", str(tmp_path / "texts"), "--save",
                                      str(tmp_path / "m.pt"), "--log-dir", str(tmp_path / "logs"),
                                      *flags]))
    return build


def test_evaluation_is_the_mean_over_all_predictions(build):
    """Whatever the chunks: the state is carried, and rows - 1 rows are predicted."""
    run = build()
    model, data = run.model.eval(), run.val_data.long()
    output, _, _ = model(data[:-1], model.init_hiddens(data.shape[1]))
    expected = F.cross_entropy(model.decoder(output).flatten(0, 1), data[1:].flatten())
    assert training.evaluate(run, run.val_data) == pytest.approx(expected.item(), rel=1e-5)


def test_split_cross_entropy_without_splits_is_cross_entropy(build):
    split, plain = build(), build("--no-split")
    plain.model.load_state_dict(split.model.state_dict())
    x, y, _ = training.get_batch(split.train_data, 0, 9)
    output, _, _ = split.model.eval()(x, split.model.init_hiddens(8))
    torch.testing.assert_close(split.loss.cross_entropy(output, y),
                               plain.loss.cross_entropy(output, y))


def test_a_chunk_counts_for_its_length(build, monkeypatch):
    """The rate is scaled by the chunk's length (section 4.1)."""
    run, rates = build(), []
    training.start_epoch(run)

    def record(run_, loss):
        rates.append(run_.schedule.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(training.toolkit, "clip_and_check", record)
    for length in (5, 15, 20):
        x, y, _ = training.get_batch(run.train_data, 0, length)
        training.update(run, x, y)
    assert rates == pytest.approx([5 * 5 / 15, 5, 5 * 20 / 15])


def test_the_state_is_carried_without_its_history(build):
    run = build()
    training.start_epoch(run)
    assert not any(h.any() for h in run.hidden[0])
    x, y, _ = training.get_batch(run.train_data, 0, 5)
    training.update(run, x, y)
    assert all(h.any() for h in run.hidden[0])
    assert not any(s.requires_grad for part in run.hidden for s in part)


@pytest.mark.parametrize("average", [True, False], ids=["averages", "as-published"])
def test_measured_and_kept_are_the_averages(build, average):
    run = build(*([] if average else ["--no-average"]))
    run.schedule.start_averaging()
    training.train_epoch(run, save_state=lambda run: None)
    own = run.model.decoder.weight.detach().clone()
    training.end_of_epoch(run, main.save_best)
    saved = checkpoint.read(run.args.save)["model"]["decoder.weight"]
    assert torch.equal(run.model.decoder.weight, own)
    assert torch.equal(saved, own) is not average
    if average:
        assert torch.equal(saved, run.schedule.optimizer.state[run.model.decoder.weight]["ax"])


def test_fine_tuning_ends_when_it_no_longer_improves(build, monkeypatch):
    main.save_best(build(), "a model to start from")
    run = build("--finetune", "--nonmono", "1", "--epochs", "50")
    losses = iter([3.0, 2.9, 2.8, 2.95, 2.7])

    def measure(run_):
        run_.progress.val_loss = next(losses)
        return {"val_loss": run_.progress.val_loss}

    monkeypatch.setattr(training, "measure", measure)
    main.train(run)
    assert run.progress.done
    assert run.progress.epoch == 5  # 2.95 is worse than 2.9, the best of all but the last
