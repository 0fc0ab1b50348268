"""Complete runs of the originals' main.py and finetune.py, replayed by ours and compared step by
step: lengths, rates, losses, gradient norms, the ASGD switch, checkpoints, test loss."""

import shlex

import torch

from awd_lstm import finetune, main, training
from awd_lstm.data import SPLITS
from awd_lstm.inputs import load_model
from awd_lstm.model import load_original_state
from harness.keeper import Keeper
from tests.golden.case import Case, close


def write_corpus(case: Case, folder) -> None:
    for split in SPLITS:
        (folder / f"{split}.txt").write_bytes(case.bytes(f"corpus.{split}.txt"))


def run_transcript(path, folder, monkeypatch):
    """As a user runs it. Over hundreds of steps at a high rate rounding grows: multiplying the
    start weights by 1 +- 1e-7 moves the last ones of run_lstm_ntasgd by up to 1.2e-4."""
    replay(path, folder, monkeypatch, weight_atol=3e-4)


def run_transcript_plain(path, folder, monkeypatch):
    """With PyTorch's own LSTM and loops, whose rounding is nearer to the original's."""
    monkeypatch.setenv("KERNELS", "0")
    replay(path, folder, monkeypatch, weight_atol=1e-4)


def replay(path, folder, monkeypatch, weight_atol):
    case = Case(path)
    write_corpus(case, folder)
    words = shlex.split(case.meta("command").replace("CORPUS", str(folder)))
    script = {"main.py": main, "finetune.py": finetune}[words[0]]
    # --cuda switched CUDA off in the original.
    argv = ["--no-cuda" if word == "--cuda" else word for word in words[1:]]
    argv += ["--log-dir", str(folder / "logs")]
    args = script.parse_args(argv)
    if script is finetune:
        torch.save(case.below("init."), args.save)
    log = record(case, script, monkeypatch)
    script.main(argv)
    if script is finetune:
        close(log["initial_val_loss"], case["initial_val_loss"], 1e-5, what="initial val loss")
    compare(case, args.save, log, weight_atol)


def record(case, script, monkeypatch) -> dict:
    """Lists that fill up while the script runs."""
    log = {name: [] for name in ("seq_len", "lr", "raw_loss", "loss", "grad_norm", "actual_len",
                                 "step_is_asgd", "val", "val_is_averaged")}

    def build(args, keeper, own=script.build):
        run = own(args, keeper)
        if script is main:
            load_original_state(run.model, case.below("init."))
        return run

    def before_update(keeper, module, loss, most, own=Keeper.clip_gradients):
        log["lr"].append(keeper.run.optimizer.param_groups[0]["lr"])
        log["loss"].append(loss.item())
        log["grad_norm"].append(torch.nn.utils.get_total_norm(
            [p.grad for p in module.parameters() if p.grad is not None]).item())
        log["step_is_asgd"].append(keeper.run.averaging)
        own(keeper, module, loss, most)

    def update(run, own=training.one_update):
        log.setdefault("initial_val_loss", run.progress.stored_loss)
        left = len(run.train_data) - 1 - run.progress.i
        seq_len, raw_loss = own(run)
        log["seq_len"].append(seq_len)
        log["actual_len"].append(min(seq_len, left))
        log["raw_loss"].append(raw_loss.item())
        return seq_len, raw_loss

    def validate(run, own=training.validate):
        log["val_is_averaged"].append(run.averaging)
        log["val"].append(own(run))
        return log["val"][-1]

    def test(run, own=training.test):
        log["final"] = {k: v.clone() for k, v in run.model.state_dict().items()}
        log["final_ax"] = {n: run.optimizer.state[p]["ax"].clone() if run.averaging else None
                           for n, p in run.model.named_parameters()}
        own_evaluate = type(run).evaluate
        monkeypatch.setattr(type(run), "evaluate", lambda self, source: log.setdefault(
            "test_loss", own_evaluate(self, source)))
        own(run)

    monkeypatch.setattr(Keeper, "clip_gradients", before_update)
    monkeypatch.setattr(training, "one_update", update)
    for name, replacement in (("build", build), ("validate", validate), ("test", test)):
        monkeypatch.setattr(script, name, replacement)
    return log


def compare(case: Case, save: str, log: dict, weight_atol: float) -> None:
    for name in ("seq_len", "actual_len", "step_is_asgd", "val_is_averaged"):
        assert log[name] == case[name].tolist(), name
    close(log["lr"], case["lr"], 1e-9, what="lr")
    for name, atol in (("raw_loss", 1e-4), ("loss", 1e-4), ("val", 1e-5)):
        close(log[name], case[name], atol, what=name)
    close(log["grad_norm"], case["grad_norm"], 1e-4, 1e-3, what="grad_norm")
    if "test_loss" in case:
        close(log["test_loss"], case["test_loss"], 1e-5, what="test_loss")
    for name, value in case.below("final.").items():
        close(log["final"][name], value, weight_atol, what=f"final {name}")
    for name, value in case.below("final_ax.").items():
        close(log["final_ax"][name], value, weight_atol, what=f"final average of {name}")
    best, _, _ = load_model(save)
    for name, value in case.below("best.").items():
        close(best.state_dict()[name], value, weight_atol, what=f"best {name}")
