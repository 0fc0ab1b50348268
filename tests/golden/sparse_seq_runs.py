"""Whole runs of the original's scripts, replayed by ours and compared step by step."""

import torch

from sparse_seq import files
from sparse_seq.language_modeling import finetune, main_overfit, training
from sparse_seq.language_modeling import main as lm_main
from sparse_seq.sequence_labeling import main as tagger
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


# ---------------------------------------------------------------------------------------- tagger
def tagger_train(path, folder, monkeypatch, _):
    case = Case(path)
    config = case.meta("config")
    args = tagger.parse_args([*config["argv"], "--data", str(path.parent / config["data"]),
                              "--save", str(folder / "run"), "--log-dir", str(folder / "logs")])
    run = tagger.build(args)
    files.load_weights(run.model, case.below("init."))
    steps, epochs = [], []

    def one_update(run_, batch, own=tagger.one_update):
        steps.append(own(run_, batch))
        return steps[-1]

    def log(step, epoch, **values):
        epochs.append(values)

    monkeypatch.setattr(tagger, "one_update", one_update)
    monkeypatch.setattr(run.journal, "log", log)
    final = []
    monkeypatch.setattr(tagger, "test", lambda run_, own=tagger.test: (
        final.append({k: v.clone() for k, v in run_.model.state_dict().items()}), own(run_))[1])
    accuracy = tagger.train(run)
    series_close(steps, case["step_loss"], "step_loss")
    series_close([float(e["train_loss"]) for e in epochs[:-1]], case["epoch_train_loss"], "epochs")
    series_close([e["valid_acc"] for e in epochs[:-1]], case["valid_acc"], "valid_acc")
    assert accuracy == case["test_acc"].item() == epochs[-1]["test_acc"]
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
    args = script.parse_args([*(places.get(word, word) for word in config["argv"]), "--no-cuda",
                              "--log-dir", str(folder / "logs")])
    if script is finetune:
        (folder / "run").mkdir()
        torch.save(case.below("init."), folder / "run" / "model.pt")
    log = record(monkeypatch)
    run = build_overfit(args) if script is main_overfit else script.build(args)
    files.load_weights(run.model, case.below("init."))
    monkeypatch.setattr(run.journal, "log", lambda step, epoch, **values: log["epochs"].append(
        (run.progress.correct, run.progress.predicted, values)))
    (lm_main if script is main_overfit else script).train(run)
    compare(case, run, log)


def build_overfit(args):
    return main_overfit.build(args, "main_overfit.py")


def record(monkeypatch) -> dict:
    """Lists that fill up while a run goes on."""
    names = ("raw_loss", "seq_len", "grad_norm", "lr", "asgd", "eval", "eval_batch", "epochs")
    log = {name: [] for name in names}

    def forward(self, data, targets, hidden, own=training.TrainingLoss.forward):
        found = own(self, data, targets, hidden)
        log["raw_loss"].append(found[1].item())
        log["seq_len"].append(len(data))
        return found

    def before_update(run, loss, own=training.clip_and_check):
        log["lr"].append(run.optimizer.param_groups[0]["lr"])
        log["asgd"].append(int(run.averaging))
        log["grad_norm"].append(torch.nn.utils.get_total_norm(
            [p.grad for p in run.params if p.grad is not None]).item())
        own(run, loss)

    def evaluate(model, source, *rest, own=training.evaluate):
        log["eval_batch"].append(source.shape[1])
        log["eval"].append(own(model, source, *rest))
        return log["eval"][-1]

    monkeypatch.setattr(training.TrainingLoss, "forward", forward)
    monkeypatch.setattr(training, "clip_and_check", before_update)
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
        best = files.read(run.file("model.pt"))
        weights_close(best["model"] if files.is_ours(best) else best, case, "best.")
