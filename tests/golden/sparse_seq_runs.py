"""Whole runs of the original's scripts, replayed by ours and compared step by step."""

import torch

from harness import files
from harness.keeper import Keeper
from sparse_seq.language_modeling import finetune, main_overfit, training
from sparse_seq.language_modeling import main as lm_main
from sparse_seq.language_modeling.model import TrainingLoss
from sparse_seq.sequence_labeling import main as tagger
from sparse_seq.weights import load_weights
from tests.golden.case import Case, close

SERIES, WEIGHTS = 2e-5, 1e-4


def series_close(ours, theirs, what):
    assert len(ours) == len(theirs), what
    close(torch.tensor(ours, dtype=torch.float64), theirs.double(), SERIES, 1e-5, what)


def weights_close(ours, case, prefix):
    wanted = case.below(prefix)
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        close(ours[name], value, WEIGHTS, what=f"{prefix}{name}")


def begin_with(script, case, monkeypatch):
    """The script's run begins with the case's weights."""
    def build(*arguments, own=script.build):
        run = own(*arguments)
        load_weights(run.model, case.below("init."))
        return run
    monkeypatch.setattr(script, "build", build)


# ---------------------------------------------------------------------------------------- tagger
def tagger_train(path, folder, monkeypatch, _):
    case = Case(path)
    config = case.meta("config")
    begin_with(tagger, case, monkeypatch)
    steps, epochs, final, tested = [], [], [], []

    def one_update(run, batch, own=tagger.one_update):
        loss = own(run, batch)
        steps.append(loss.item())
        return loss

    def test(run, own=tagger.test):
        final.append({k: v.clone() for k, v in run.model.state_dict().items()})
        tested.append(own(run))

    monkeypatch.setattr(tagger, "one_update", one_update)
    monkeypatch.setattr(tagger, "test", test)
    monkeypatch.setattr(Keeper, "log", lambda keeper, epoch=None, **values: epochs.append(values))
    tagger.main([*config["argv"], "--data", str(path.parent / config["data"]), "--save",
                 str(folder / "run"), "--log-dir", str(folder / "logs")])
    series_close(steps, case["step_loss"], "step_loss")
    series_close([float(e["train_loss"]) for e in epochs[:-1]], case["epoch_train_loss"], "epochs")
    series_close([e["valid_acc"] for e in epochs[:-1]], case["valid_acc"], "valid_acc")
    assert tested[0] == case["test_acc"].item() == epochs[-1]["test_acc"]
    weights_close(final[0], case, "final.")
    said = (folder / "run" / "log.txt").read_text().splitlines()
    for line in config["stdout"]:  # losses in the last digits apart
        start = line.split("train loss")[0] if line.startswith("Epoch") else line
        if not line.startswith("all_params"):
            assert any(own.startswith(start) for own in said), line


# ------------------------------------------------------------------------------- language models
def language_model(path, folder, monkeypatch, _):
    case = Case(path)
    config = case.meta("config")
    script = {"main.py": lm_main, "finetune.py": finetune,
              "main_overfit.py": main_overfit}[config["script"]]
    places = {"<data>": str(path.parent / config["data"]), "<save>": str(folder / "run")}
    if script is finetune:
        (folder / "run").mkdir()
        torch.save(case.below("init."), folder / "run" / "model.pt")
    begin_with(script, case, monkeypatch)
    log = record(monkeypatch)
    run = script.main([*(places.get(word, word) for word in config["argv"]), "--no-cuda",
                       "--log-dir", str(folder / "logs")])
    compare(case, run, log)


def record(monkeypatch) -> dict:
    """Lists that fill up during a run."""
    names = ("raw_loss", "seq_len", "grad_norm", "lr", "asgd", "eval", "eval_batch", "epochs")
    log = {name: [] for name in names}

    def forward(self, data, targets, hidden, own=TrainingLoss.forward):
        found = own(self, data, targets, hidden)
        log["raw_loss"].append(found[1].item())
        log["seq_len"].append(len(data))
        return found

    def before_update(keeper, module, loss, most, own=Keeper.clip_gradients):
        log["lr"].append(keeper.run.optimizer.param_groups[0]["lr"])
        log["asgd"].append(int(keeper.run.averaging))
        log["grad_norm"].append(torch.nn.utils.get_total_norm(
            [p.grad for p in module.parameters() if p.grad is not None]).item())
        own(keeper, module, loss, most)

    def evaluate(model, source, *rest, own=training.evaluate):
        log["eval_batch"].append(source.shape[1])
        log["eval"].append(own(model, source, *rest))
        return log["eval"][-1]

    def curves(keeper, epoch=None, **values):
        p = keeper.run.progress
        log["epochs"].append((p.correct, p.predicted, values))

    monkeypatch.setattr(TrainingLoss, "forward", forward)
    monkeypatch.setattr(Keeper, "clip_gradients", before_update)
    monkeypatch.setattr(Keeper, "log", curves)
    monkeypatch.setattr(training, "evaluate", evaluate)
    return log


def compare(case: Case, run, log: dict) -> None:
    for name, ours in (("raw_loss", "raw_loss"), ("grad_norm", "grad_norm"), ("lr_at_step", "lr"),
                       ("eval_losses", "eval")):
        series_close(log[ours], case[name], name)
    for name, ours in (("seq_len_of_forward", "seq_len"), ("is_asgd_step", "asgd"),
                       ("eval_batch_sizes", "eval_batch")):
        assert log[ours] == case[name].int().tolist(), name
    if "test_loss" in case:
        series_close(log["eval"][-1:], case["test_loss"].reshape(1), "test_loss")
    if "correct_total" in case:
        recited = [epoch for epoch in log["epochs"] if "train_acc" in epoch[2]]
        assert [[c, n] for c, n, _ in recited] == case["correct_total"].int().tolist()
        close(torch.tensor([v["train_acc"] for *_, v in recited]), case["accuracy_printed"].float(),
              6e-4, what="accuracy")
        weights_close(run.model.state_dict(), case, "final.")
    else:
        weights_close(files.read(run.keeper.places.best)["model"], case, "best.")
