"""Adapters for recorded runs of the TrellisNet repository's scripts: our scripts' main() is run
with the recorded command line, and what it prints, measures and saves is compared."""

import contextlib
import csv
import functools
import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

from tests.golden.case import Case, close
from trellisnet.char_PTB import char_ptb
from trellisnet.lm import TrainingLoss
from trellisnet.seq_MNIST_CIFAR import seq_mnist_cifar
from trellisnet.weights import original_state
from trellisnet.word_PTB import word_ptb
from trellisnet.word_WT103 import word_wt103

SCRIPTS = {"word_ptb.py": word_ptb, "word_wt103.py": word_wt103, "char_ptb.py": char_ptb,
           "seq_mnist_cifar.py": seq_mnist_cifar}
# Giving these switched the feature off in the original.
REVERSED = {"word_ptb.py": ("--tied", "--temporalwdrop", "--cuda"),
            "word_wt103.py": ("--tied", "--temporalwdrop", "--cuda", "--wnorm", "--repack"),
            "char_ptb.py": ("--tied", "--temporalwdrop", "--cuda", "--wnorm", "--repack"),
            "seq_mnist_cifar.py": ("--temporalwdrop", "--cuda", "--wnorm", "--permute")}


def translate(script, argv, env):
    """The recorded command line in our spelling."""
    argv = [f"--no-{word[2:]}" if word in REVERSED[script] else word for word in argv]
    if script == "char_ptb.py":
        argv += ["--data", "corpus_char"]
    if script == "word_wt103.py" and "TN_SPLITS" in env:
        argv += ["--splits", *map(str, json.loads(env["TN_SPLITS"]))]
    return [*argv, "--device", "cpu", "--log-dir", "logs"]


@contextlib.contextmanager
def recording():
    """Notes the criterion's values and the gradient norm of each training step."""
    notes = SimpleNamespace(losses=[], norms=[])
    cross_entropy, get_total_norm = TrainingLoss.cross_entropy, torch.nn.utils.get_total_norm

    def noted_loss(self, output, targets, *rows):
        loss = cross_entropy(self, output, targets, *rows)
        if self.training:
            notes.losses.append(loss.item())
        return loss

    def noted_norm(grads):
        norm = get_total_norm(grads)
        notes.norms.append(norm.item())
        return norm
    with mock.patch.object(TrainingLoss, "cross_entropy", noted_loss), \
            mock.patch.object(torch.nn.utils, "get_total_norm", noted_norm):
        yield notes


@functools.cache
def run(folder, script, argv, env=()):
    """Runs our script in a fresh copy of `folder`; returns what it left behind."""
    with tempfile.TemporaryDirectory() as tmp, recording() as notes:
        work = Path(tmp) / "run"
        shutil.copytree(folder, work)
        for path in work.rglob("*"):
            path.chmod(0o755)
        cwd, said = Path.cwd(), io.StringIO()
        os.chdir(work)
        try:
            with contextlib.redirect_stdout(said):
                done = SCRIPTS[script].main(translate(script, argv, dict(env)))
            rows = [(row["name"], float(row["value"])) for path in work.glob("logs/*/metrics.csv")
                    for row in csv.DictReader(path.open(newline=""))]
        finally:
            os.chdir(cwd)
        state = {}
        for path in work.glob("*.state"):
            state = torch.load(path, weights_only=True)
        weights = {path.name: torch.load(path, weights_only=True)
                   for path in work.glob("weights/*.pkl")}
    return SimpleNamespace(run=done, log=said.getvalue().splitlines(), losses=notes.losses,
                           norms=notes.norms, rows=rows, weights=weights, state=state)


def of_metric(result, name):
    return [value for metric, value in result.rows if metric == name]


# ---------------------------------------------------------------------------- language models
def expected(path, tmp_path, monkeypatch, part):
    """One entry of expected.json or expected_seq.json."""
    if "/" not in part:
        classifier_transcript(path, part)
        return
    kind, _, name = part.partition("/")
    case = json.loads(path.read_text())[kind][name]
    env = case.get("env", {})
    if "zero_tail_splits" in name:
        env = {"TN_SPLITS": "[8,16,27]"}
    result = run(path.parent, case["script"], tuple(case["argv"]), tuple(env.items()))
    (evaluation if kind == "eval" else training)(case, result)


def parts(path):
    content = json.loads(path.read_text())
    if {"eval", "train"} & set(content):
        return [f"{kind}/{name}" for kind, cases in content.items() for name in cases]
    return list(content)


expected.parts = parts


def evaluation(case, result):
    for split in ("valid", "test"):
        expected = case.get(f"{split}_loss_f64", case.get(f"{split}_loss"))
        np.testing.assert_allclose(result.run.losses[split], expected, rtol=2e-6)
    assert [timeless(line) for line in result.log if line in result.log[-len(case["stdout"]):]] \
        == [timeless(line) for line in case["stdout"]]


def timeless(line):
    return re.sub(r"(time: ) *[\d.T]+s|(ms/batch) +[\d.T]+", r"\1\2 T", line)


def training(case, result):
    assert len(result.norms) == case["n_steps"]
    np.testing.assert_allclose(result.norms, case["grad_norms"], rtol=1e-3)
    np.testing.assert_allclose(of_metric(result, "valid_loss"), case["val_losses"], atol=1e-5)
    np.testing.assert_allclose(of_metric(result, "test_loss"), case["test_losses"], atol=1e-5)
    if steps := case.get("step_losses_raw_then_aux"):
        aux = len(steps) // case["n_steps"] - 1
        theirs = np.array(steps).reshape(case["n_steps"], aux + 1)
        calls = len(result.losses) // case["n_steps"]
        ours = np.array(result.losses).reshape(case["n_steps"], calls)
        np.testing.assert_allclose(ours[:, 0], theirs[:, 0], atol=1e-5)
        if aux:  # ours are the levels' mean
            np.testing.assert_allclose(ours[:, 1], theirs[:, 1:].mean(1), atol=1e-5)
    head = [timeless(line) for line in result.log if not line.startswith(("Args: ", "Model total"))]
    same_lines(head[:len(case["log_head"])], [timeless(line) for line in case["log_head"]])
    said = [line for line in result.log if line.startswith((
        "Saving", "ASGD", "Switching", "Annealing", "Saved as", "| End of training"))]
    if "original_ends_with" not in case:  # the original died before its closing lines
        expected = case["events"]
        said = [line for line in said if line in expected or "pre-trained" not in line]
        assert said == expected
    for epoch, lr in case["lr_per_epoch"].items():
        lines = [line for line in result.log if line.startswith(f"| epoch {int(epoch):3d} ")]
        assert all(float(re.search(r"lr ([\d.]+)", line)[1]) == lr for line in lines)
    np.testing.assert_allclose(result.run.progress.lr, case["final_lr"])
    assert list(result.weights) == [f"{result.run.args.save}.pkl"]  # theirs: the same for all runs


def final_weights(path, tmp_path, monkeypatch):
    """The weights at the start (of the classifier) and at the end of a recorded training."""
    case = Case(path)
    config = case.meta("config")
    if config["script"] == "seq_mnist_cifar.py":
        classifier_weights(path)
        return
    recorded = json.loads((path.parent / "expected.json").read_text())["train"]
    name = path.stem.removesuffix("_final")
    result = run(path.parent, config["script"], tuple(config["argv"]),
                 tuple(recorded.get(name, {}).get("env", {}).items()))
    loss = result.run.loss
    if best := case.below("best_sd/"):
        saved = next(iter(result.weights.values()))
        assert list(saved) == list(original_state(loss.model))
        for key, value in best.items():
            close(saved[key], value, 1e-4, what=key)
    if live := case.below("live_sd/"):
        loss.load_state_dict(result.state["model"])
        ours = original_state(loss.model)
        for key, value in live.items():
            close(ours[key], value, 1e-4, what=f"live {key}")
        names = [name for name, _ in loss.model.named_parameters()]
        averages = {name: result.state["optimizer"]["state"][n]["ax"]
                    for n, name in enumerate(names)}
        for key, value in case.below("asgd_average/").items():
            ours = averages[key.replace("tnet.module.full_conv.", "tnet.")]
            close(ours, value, 1e-4, what=f"average of {key}")
    for key, value in case.below("final_criterion/").items():
        close(loss.criterion.state_dict()[key], value, 1e-4, what=key)


# ------------------------------------------------------------------------------------ classifier
def run_classifier(path):
    """The script on the images that the recorded run had, written as MNIST files."""
    case = Case(path)
    config = case.meta("config")
    with tempfile.TemporaryDirectory() as tmp:
        raw = Path(tmp) / "mnist/MNIST/raw"
        raw.mkdir(parents=True)
        for part, name in (("train", "train"), ("test", "t10k")):
            idx(raw / f"{name}-images-idx3-ubyte", case[f"in/{part}_images_uint8"].squeeze(1))
            idx(raw / f"{name}-labels-idx1-ubyte", case[f"in/{part}_labels"].to(torch.uint8))
        argv = [*config["argv"], "--data", "mnist", "--seed", str(config["seed"])]
        if "in/permutation" in case:
            np.save(f"{tmp}/order.npy", case["in/permutation"].numpy())
            argv += ["--permutation", "order.npy"]
        started = {}
        build = seq_mnist_cifar.model.build

        def noted_build(*args):
            loss = build(*args)
            started.update((k, v.clone()) for k, v in original_state(loss.model).items())
            return loss
        with mock.patch.object(seq_mnist_cifar.model, "build", noted_build):
            result = run(Path(tmp), config["script"], tuple(argv))
    result.started = started
    return case, result


def idx(path, values):
    """MNIST's file format: zero, zero, type 8 (bytes), dimensions, sizes, values."""
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(bytes((0, 0, 8, values.ndim)) + sizes + values.numpy().tobytes())


def classifier_weights(path):
    case, result = run_classifier(path)
    for key, value in case.below("init_sd/").items():
        close(result.started[key], value, 0, what=f"start of {key}")
    ours = original_state(result.run.model)
    for key, value in case.below("final_sd/").items():
        close(ours[key], value, 1e-4, what=key)


def classifier_transcript(path, part):
    expected = json.loads(path.read_text())[part]
    _, result = run_classifier(path.parent / f"train_{part}.safetensors")
    np.testing.assert_allclose(result.norms, expected["grad_norms"], rtol=1e-3)
    np.testing.assert_allclose(of_metric(result, "test_loss"), expected["test_losses"], atol=1e-5)
    log = [line for line in result.log if line and not line.startswith(("Args: ", "Model total"))]
    same_lines(log, expected["log"])
    np.testing.assert_allclose(result.run.progress.lr, expected["final_lr"])


def same_lines(ours, theirs):
    """Equal but for one unit in the last digit of numbers of six decimals."""
    long = re.compile(r"\d+\.\d{6}")
    assert [long.sub("", line) for line in ours] == [long.sub("", line) for line in theirs]
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(*([float(n) for n in long.findall(line)]
                                     for line in (our, their)), atol=2e-6)
