"""Adapters of golden/awd_lstm_scratch: the published from-scratch code, recorded, against ours with
its switches. An adapter takes (path, a temporary folder, monkeypatch)."""

import json
import re
import shutil

import numpy as np
import torch
import torch.nn.functional as F

from awd_lstm.scratch import main, model
from awd_lstm.scratch.data import gen_sequence_lengths, get_batch, get_batches
from awd_lstm.scratch.model import AWD_LSTM, LSTMCell
from awd_lstm.scratch.utils import NT_ASGD, from_published
from awd_lstm.utils import batchify
from harness import files
from harness.keeper import Keeper
from tests.golden.case import Case, close

AS_PUBLISHED = {"tied": False, "normal_init": True, "mask_per_step": True, "shared_masks": True,
                "pad_last_word": True, "detach_regularisers": True, "norm_regularisers": True}
CAP = 5
FORWARD = {"atol": 2e-6, "rtol": 1e-5}
GRADIENT = {"atol": 1e-6, "rtol": 1e-4}


# ---------------------------------------------------------------------------------------- model
def cell(path, folder, monkeypatch):
    case = Case(path)
    config = case.meta("config")
    ours = LSTMCell(config["input_size"], config["output_size"], config["bias"])
    ours.load_state_dict(case.below("sd."))
    x, h, c = (case[name].requires_grad_() for name in ("x", "h0", "c0"))
    h1, c1 = ours(x, h, c)
    close(h1, case["h1"], **FORWARD, what="h1")
    close(c1, case["c1"], **FORWARD, what="c1")
    ((h1 * case["cotangent_h"]).sum() + c1.sum()).backward()
    for name, found in (("x", x), ("h0", h), ("c0", c)):
        close(found.grad, case[f"grad_{name}"], **GRADIENT, what=f"grad_{name}")
    for name, parameter in ours.named_parameters():
        close(parameter.grad, case[f"grad.{name}"], **GRADIENT, what=f"grad.{name}")


def build(case, **rates) -> AWD_LSTM:
    """The recorded model under the switches that make ours behave like it."""
    config = case.meta("config")
    ours = AWD_LSTM(config["ntokens"], config["embedding_size"], config["hidden_size"],
                    nlayers=sum(name.endswith("weight_raw") for name in case.below("sd.")),
                    bias=config.get("bias", True), **(AS_PUBLISHED | rates))
    ours.load_state_dict(from_published(case.below("sd.")))
    return ours


def states(case, prefix: str) -> list[torch.Tensor]:
    return list(case.below(f"{prefix}.").values())


def check_states(case, hidden) -> None:
    for name, found in zip(("hn", "cn"), hidden, strict=True):
        for k, (mine, theirs) in enumerate(zip(found, states(case, name), strict=True)):
            close(mine, theirs, **FORWARD, what=f"{name}.{k}")


def plain_and_hoisted(path, folder, monkeypatch):
    for hoist in (False, True):
        whole_model(Case(path), hoist)


def whole_model(case, hoist):
    config = case.meta("config")
    rates = dict.fromkeys(("dropout_wts", "dropout_emb", "dropout_inp", "dropout_hid",
                           "dropout_out"), 0)
    ours = build(case, **rates, hoist=hoist, mask_per_step=not hoist).eval()
    hidden = (states(case, "h0"), states(case, "c0"))
    output, _, after = ours(case["x"], hidden)
    close(ours.decoder(output), case["logits"], **FORWARD, what="logits")
    check_states(case, after)

    output, output_nodrop, _ = ours.train()(case["x"], hidden)
    ce = F.cross_entropy(ours.decoder(output).flatten(0, 1), case["y"].flatten())
    ar = ours.activation_reg(output, config["alpha"])
    tar = ours.temporal_activation_reg(output_nodrop, config["beta"])
    loss = ce + ar + tar
    loss.backward()
    for name, value in {"ce": ce, "ar": ar, "tar": tar, "loss": loss}.items():
        close(value, case[name], **FORWARD, what=name)
    norm = torch.nn.utils.get_total_norm([p.grad for p in ours.parameters()])
    close(norm, case["grad_norm"], **GRADIENT, what="grad_norm")
    expected = from_published(case.below("grad."))
    for name, parameter in ours.named_parameters():
        close(parameter.grad, expected.pop(name), **GRADIENT, what=f"grad.{name}")
    assert not expected


# -------------------------------------------------------------------------------------- dropout
def masks_in_order(case) -> list[torch.Tensor]:
    """The recorded masks as they are drawn."""
    weights = [case[f"mask_weight.{k}"] for k in range(len(case.below("mask_weight.")))]
    masks = [case["mask_emb"], case["mask_inp"]]
    for t in range(len(weights[0])):
        for k, weight in enumerate(weights):
            masks.append(weight[t])
            if t == 0:
                last = k == len(weights) - 1
                first = f"mask_hid_layer{k}_t0"
                masks.append(case["mask_out" if last else first if first in case else "mask_hid"])
    return masks


def model_dropout(path, folder, monkeypatch):
    """With the recorded masks in place of drawn ones."""
    case = Case(path)
    masks = masks_in_order(case)

    def recorded(shape, p, like):
        mask = masks.pop(0)
        assert tuple(mask.shape) == tuple(shape)
        return mask

    monkeypatch.setattr(model, "dropout_mask", recorded)
    check_dropout(case)
    assert not masks


def model_dropout_seeded(path, folder, monkeypatch):
    """With masks drawn from the recorded seed: the same random stream."""
    case = Case(path)
    masks = masks_in_order(case)

    def compared(shape, p, like, draw=model.dropout_mask):
        mask = draw(shape, p, like)
        close(mask, masks.pop(0), 1e-6, what="drawn mask")
        return mask

    monkeypatch.setattr(model, "dropout_mask", compared)
    check_dropout(case)
    assert not masks


def check_dropout(case) -> None:
    config = case.meta("config")
    rates = {name: config[name] for name in config if name.startswith("dropout_")}
    ours = build(case, dropout_out=rates["dropout_hid"], **rates).train()
    torch.manual_seed(config["torch_manual_seed"])
    output, output_nodrop, hidden = ours(case["x"], ours.init_hiddens(case["x"].shape[1]))
    found = {"logits": ours.decoder(output), "output": output, "output_nodrop": output_nodrop}
    for name, value in found.items():
        close(value, case[name], **FORWARD, what=name)
    check_states(case, hidden)


def ar_tar(path, folder, monkeypatch):
    case = Case(path)
    config = case.meta("config")
    ours = AWD_LSTM(2, 2, 2, norm_regularisers=True)
    close(ours.activation_reg(case["output"], config["alpha"]), case["ar"], **FORWARD, what="ar")
    close(ours.temporal_activation_reg(case["output_nodrop"], config["beta"]), case["tar"],
          **FORWARD, what="tar")


# ----------------------------------------------------------------------------------------- data
def data_loader(path, folder, monkeypatch):
    found = json.loads(path.read_text())
    for case in found["gen_sequence_lengths"]:
        rng = np.random.RandomState(case["np_seed"])
        assert gen_sequence_lengths(case["rows"], case["base_seq_len"], rng,
                                    CAP) == case["seq_lens"]
    for case in found["batch"]:
        assert batchify(np.arange(case["n"]), case["batch_size"]).tolist() == case["out"]
    for case in found["get_batch"]:
        data = batchify(np.arange(case["n"]), case["batch_size"])
        x, y, length = get_batch(data, case["i"], case["seq_len"])
        assert [x.tolist(), y.tolist(), length] == [case["x"], case["y"], case["returned_len"]]
    for case in found["get_batches"]:
        check_batches(case)
    for case in found["get_batch_jitter"]:
        rng = np.random.RandomState(case["np_seed"])
        data = torch.zeros(case["rows"], 2, dtype=torch.int64)
        for i, length in case["i_seqlen"]:
            assert get_batch(data, i, case["seq_len"], rng)[2] == length
    fixed = found["get_batches_fixed"]
    data = batchify(np.arange(fixed["n"]), fixed["batch_size"])
    chunks = get_batches(data, [fixed["base"]] * (len(data) // fixed["base"]), sort=True)
    assert [[list(x.shape), list(y.shape)] for x, y in chunks] == fixed["shapes"]
    assert [x[0, 0].item() for x, _ in chunks] == fixed["first"]


def check_batches(case) -> None:
    rows = case["rows"]
    data = torch.arange(rows * case["cols"]).view(case["cols"], rows).t()
    lengths = gen_sequence_lengths(rows, case["base_seq_len"],
                                   np.random.RandomState(case["np_seed"]), CAP)
    found = [{"len": len(x), "first_input": x[0, 0].item(), "len_y": len(y),
              "first_target": y[0, 0].item()} for x, y in get_batches(data, lengths, sort=True)]
    assert found == case["batches"]


# ------------------------------------------------------------------------------------- training
def triggered(losses, n) -> list[bool]:
    """What NT_ASGD with the published condition answers to one loss after the other."""
    schedule = NT_ASGD([torch.zeros(1, requires_grad=True)], 1, 0, n, average=False,
                       late_trigger=True)
    found = []
    for loss in losses:
        schedule.get_optimizer(loss)
        found.append(schedule.triggered)
    return found


def nt_asgd(path, folder, monkeypatch):
    for case in json.loads(path.read_text())["cases"]:
        assert triggered(case["losses"], case["n"]) == case["triggered"], case


def train_main(path, folder, monkeypatch):
    """A whole run of the published main.py, replayed by main.py --as-published."""
    case = Case(path)
    config = case.meta("config")
    texts = folder / "texts"  # a copy: tokenising leaves a cache beside the texts
    texts.mkdir()
    for text in (path.parent / config["data"]).glob("*.txt"):
        shutil.copyfile(text, texts / text.name)
    argv = ["--as-published", "--data", str(texts), "--save", str(folder / "scratch.pt"),
            "--log-dir", str(folder / "logs"), "--no-cuda"]
    for rate in ("wts", "emb", "inp", "hid", "out"):
        argv += [f"--dropout_{rate}", str(config["all_dropouts"])]
    for name, value in config["changed"].items():
        argv += [f"--{name}", value.removesuffix(".")]
    log = record(case, monkeypatch)
    main.main(argv)
    compare(case, folder / "scratch.pt", log)
    check_lines(config, log["lines"])


def record(case, monkeypatch) -> dict:
    """Lists that fill up while main.py runs."""
    log = {name: [] for name in ("ce_loss", "seq_len", "grad_norm", "lr_at_step", "is_asgd_step")}
    log["lines"] = []

    def build(args, keeper, own=main.build):
        run = own(args, keeper)
        run.model.load_state_dict(from_published(case.below("init.")))
        return run

    def clip(keeper, module, loss, most, own=Keeper.clip_gradients):
        optimizer = keeper.run.schedule.optimizer
        log["grad_norm"].append(torch.nn.utils.get_total_norm(
            [p.grad for p in module.parameters()]).item())
        log["lr_at_step"].append(optimizer.param_groups[0]["lr"])
        log["is_asgd_step"].append(isinstance(optimizer, torch.optim.ASGD))
        own(keeper, module, loss, most)

    def update(run, x, y, own=main.update):
        ce = own(run, x, y)
        log["ce_loss"].append(ce.item())
        log["seq_len"].append(len(x))
        return ce

    def test(run, own=main.test):
        log["history"] = run.progress.history
        log["final"] = {name: value.clone() for name, value in run.model.state_dict().items()}
        own(run)

    monkeypatch.setattr(Keeper, "clip_gradients", clip)
    monkeypatch.setattr(Keeper, "say", lambda keeper, text: log["lines"].append(text))
    for name, replacement in (("build", build), ("update", update), ("test", test)):
        monkeypatch.setattr(main, name, replacement)
    return log


def compare(case, best, log) -> None:
    for name in ("seq_len", "is_asgd_step"):
        assert log[name] == case[name].tolist(), name
    for name in ("ce_loss", "grad_norm", "lr_at_step"):
        close(log[name], case[name], 2e-5, what=name)
    for name in ("train_loss", "val_loss", "train_bpc", "val_bpc", "train_ppl", "val_ppl"):
        found = torch.tensor([row[name] for row in log["history"]], dtype=torch.float64)
        # Perplexities are some tens: the series' tolerance is that of the loss.
        rtol = 2e-5 if name.endswith("ppl") else 0
        close(found, case[f"epoch_{name}"], 2e-5, rtol, what=name)
    triggers = [int(row["asgd_triggered"]) for row in log["history"]]
    assert triggers == case["epoch_asgd_triggered"].tolist()
    best = files.read(best)["model"]
    for prefix, found in (("best.", best), ("final.", log["final"])):
        for name, value in from_published(case.below(prefix)).items():
            close(found[name], value, 1e-4, what=prefix + name)


def check_lines(config, lines) -> None:
    """What people parse, character for character but for the time and the last digit."""
    theirs = [line for line in config["stdout"] if line != "Switching to ASGD"]
    ours = [line for line in lines if line.startswith("epoch: ") or line == "Saving model"]
    number = re.compile(r"\d+\.\d\d")
    assert [number.sub("#", line) for line in ours] == [number.sub("#", line) for line in theirs]
    for mine, line in zip(ours, theirs, strict=True):
        for at, (a, b) in enumerate(zip(number.findall(mine), number.findall(line), strict=True)):
            assert at == 1 or abs(float(a) - float(b)) < 0.0101, f"{mine}\n{line}"  # 1: the time


def published_curves(path, folder, monkeypatch):
    """Our NT_ASGD with the published condition switches where the published run did."""
    case = Case(path)
    for name in ("exp4", "exp5"):
        if f"{name}.asgd_triggered" not in case:
            continue
        losses = [main.BEFORE_THE_FIRST, *case[f"{name}.val_ppl"].double().log().tolist()]
        found = triggered(losses[:-1], n=5)  # each epoch asks with the loss before it
        assert found == case[f"{name}.asgd_triggered"].bool().tolist(), name


KINDS = {
    "lstm_cell": [cell], "model": [plain_and_hoisted],
    "model_dropout_masks": [model_dropout, model_dropout_seeded], "ar_tar": [ar_tar],
    "data_loader": [data_loader], "nt_asgd": [nt_asgd], "train_main": [train_main],
    "published_curves": [published_curves],
}


def by_kind(path, folder, monkeypatch):
    """What a file holds it says itself."""
    kind = (json.loads(path.read_text()) if path.suffix == ".json"
            else Case(path).meta("config"))["kind"]
    assert kind in KINDS, f"no adapter knows the kind {kind!r} of {path}"
    for adapter in KINDS[kind]:
        with monkeypatch.context() as patch:
            adapter(path, folder, patch)


ADAPTERS = [("", by_kind)]
