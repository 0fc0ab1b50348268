"""Adapters of golden/awd_lstm for its parts: QRNN, split cross entropy, NT-ASGD."""

from itertools import pairwise

import torch

from awd_lstm.qrnn import QRNN, QRNNLayer
from common.asgd import ASGD, non_monotone
from common.splitcross import SplitCrossEntropyLoss
from kernels.forget_mult import forget_mult, forget_mult_plain
from tests.golden.case import Case, close, grad_close


# ----------------------------------------------------------------------------------------- QRNN
def forget_mult_case(path, folder, monkeypatch):
    case = Case(path)
    for at in sorted({n.split(".")[0] + "." for n in case.names}):
        for ours in (forget_mult, forget_mult_plain):
            inputs = {n: case[at + n].requires_grad_() for n in ("f", "x")}
            if f"{at}hidden_init" in case:
                inputs["hidden_init"] = case[f"{at}hidden_init"].requires_grad_()
            out = ours(**inputs)
            close(out, case[f"{at}out"], what=at)
            out.backward(case[f"{at}grad_out"])
            for name, tensor in inputs.items():
                grad_close(tensor.grad, case[f"{at}grad_{name}"], f"{at}grad_{name}")


def qrnn_layer(path, folder, monkeypatch):
    case = Case(path)
    for at, config in case.meta("cases").items():
        config.pop("seed_before_forward")
        layer = QRNNLayer(**config)
        layer.load_state_dict(case.below(f"{at}state."))
        _qrnn_layer_mode(case, layer, at, "train")
        if f"{at}eval.loss" in case:
            _qrnn_layer_mode(case, layer, at, "eval")


def _qrnn_layer_mode(case, layer, at, mode):
    layer.train(mode == "train")
    layer.reset()
    layer.zero_grad()
    hidden_in = case[f"{at}hidden_in"].requires_grad_()
    hidden, loss, inputs = hidden_in, 0, []
    count = sum(n.startswith(f"{at}x.") for n in case.names)
    for i in range(count):
        x = case[f"{at}x.{i}"].requires_grad_()
        inputs.append(x)
        mask = case.get(f"{at}{mode}.zoneout_keep_mask.{i}")
        with _zoneout_mask(mask):
            y, hidden = layer(x, hidden)
        close(y, case[f"{at}{mode}.y.{i}"], what=f"{at}{mode}.y.{i}")
        close(hidden, case[f"{at}{mode}.c_last.{i}"], what=f"{at}{mode}.c_last.{i}")
        loss = loss + (case[f"{at}loss_weight.{i}"] * y).sum()
    close(loss, case[f"{at}{mode}.loss"], 1e-4, what=f"{at}{mode}.loss")
    if f"{at}{mode}.grad.hidden_in" not in case:
        return
    loss.backward()
    found = {"hidden_in": hidden_in, **dict(layer.named_parameters()),
             **{f"x.{i}": x for i, x in enumerate(inputs)}}
    for name, tensor in found.items():
        grad_close(tensor.grad, case[f"{at}{mode}.grad.{name}"], f"{at}{mode}.grad.{name}")


class _zoneout_mask:
    """Puts a recorded keep mask where QRNNLayer draws one with bernoulli."""

    def __init__(self, mask):
        self.mask = mask

    def __enter__(self):
        self.bernoulli_ = torch.Tensor.bernoulli_
        if self.mask is not None:
            torch.Tensor.bernoulli_ = lambda tensor, p: tensor.copy_(self.mask)

    def __exit__(self, *error):
        torch.Tensor.bernoulli_ = self.bernoulli_


def qrnn_stack(path, folder, monkeypatch):
    case = Case(path)
    names = ("input_size", "hidden_size", "num_layers", "dropout", "window", "save_prev_x")
    stack = QRNN(**{name: case.meta(name) for name in names}).eval()
    stack.load_state_dict(case.below("state."))
    hidden = None
    for i in (0, 1):
        y, hidden = stack(case[f"x.{i}"], hidden)
        close(y, case[f"y.{i}"], what=f"y.{i}")
        close(hidden, case[f"hidden.{i}"], what=f"hidden.{i}")


# ------------------------------------------------------------------------- split cross entropy
def splitcross_small(path, folder, monkeypatch):
    case = Case(path)
    for name, config in case.meta("cases").items():
        at = f"{name}."
        criterion = SplitCrossEntropyLoss(config["H"], config["splits"])
        criterion.load_state_dict(case.below(f"{at}criterion."))
        inputs = {n: case[at + n].requires_grad_() for n in ("weight", "bias", "hiddens")}
        loss = criterion(**inputs, targets=case[f"{at}targets"])
        close(loss, case[f"{at}loss"], what=f"{at}loss")
        loss.backward()
        for n, tensor in (*inputs.items(), *criterion.named_parameters()):
            grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            grad_close(grad, case[f"{at}grad.{n}"], f"{at}grad.{n}")
        weight, bias, first = (t.detach() for t in (*list(inputs.values())[:2],
                                                    inputs["hiddens"][:4]))
        whole = criterion.logprob(weight, bias, first)
        assert whole.shape == (len(first), config["V"])
        if config["splits"]:  # the original returns nothing without splits
            close(whole, case[f"{at}logprob_first4"], what=f"{at}logprob")
        for k in range(len(config["splits"]) + 1):
            if config["splits"] and f"{at}logprob_split{k}" in case:
                close(criterion.logprob(weight, bias, first, splits=[k]),
                      case[f"{at}logprob_split{k}"], what=f"{at}logprob_split{k}")


def splitcross_wt103(path, folder, monkeypatch):
    case = Case(path)
    for name, config in case.meta("cases").items():
        at = f"{name}."
        criterion = SplitCrossEntropyLoss(config["H"], config["splits"])
        criterion.load_state_dict(case.below(f"{at}criterion."))
        weight, bias = (case[at + n].float().requires_grad_() for n in ("weight", "bias"))
        hiddens, targets = case[f"{at}hiddens"].requires_grad_(), case[f"{at}targets"]
        loss = criterion(weight, bias, hiddens, targets)
        loss.backward()
        close(loss, case[f"{at}loss"], what="loss")
        edges = [0, *config["splits"], config["V"]]
        columns = torch.stack([weight.grad[a:b].sum(0)
                               for a, b in pairwise(edges)])
        found = {"hiddens": hiddens.grad, "tail_vectors": criterion.tail_vectors.grad,
                 "tail_bias": criterion.tail_bias.grad, "bias_norm": bias.grad.norm(),
                 "weight_norm": weight.grad.norm(), "weight_colsum_per_split": columns,
                 "weight_rows": weight.grad[case[f"{at}grad.weight_rows_index"]]}
        for n, value in found.items():
            grad_close(value, case[f"{at}grad.{n}"], f"grad.{n}")
        logprob = criterion.logprob(weight, bias, hiddens[:4]).detach()
        close(logprob.exp().sum(1), case[f"{at}logprob_first4_sum_exp"], what="sum of p")
        close(logprob[:, :64], case[f"{at}logprob_first4_head"], what="head")
        close(logprob.gather(1, targets[:4, None]), case[f"{at}logprob_first4_at_targets"],
              what="targets")


# ------------------------------------------------------------------------------------ optimiser
def ntasgd(path, folder, monkeypatch):
    case = Case(path)
    w = case["w0"].clone().requires_grad_()
    b = case["b0"].clone().requires_grad_()
    lr, decay = case.meta("base_lr"), case.meta("weight_decay")
    optimizer = torch.optim.SGD([w, b], lr=lr, weight_decay=decay)
    for step, seq_len in enumerate(case["seq_lens"].tolist()):
        if step == case.meta("switch_before_step"):
            optimizer = ASGD([w, b], lr=lr, t0=0, weight_decay=decay)
        at = f"step{step:02d}."
        optimizer.param_groups[0]["lr"] = lr * seq_len / case.meta("bptt")
        optimizer.zero_grad()
        loss = (case["A"] @ w + b - case["y"]).pow(2).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([w, b], case.meta("clip"))
        optimizer.step()
        optimizer.param_groups[0]["lr"] = lr
        found = {"loss": loss, "grad_norm": norm, "w": w, "b": b}
        if f"{at}mu" in case:
            state = optimizer.state
            found |= {"ax_w": state[w]["ax"], "ax_b": state[b]["ax"], "eta": state[w]["eta"],
                      "mu": state[w]["mu"]}
        for name, value in found.items():
            value = value.detach() if isinstance(value, torch.Tensor) else value
            close(value, case[at + name], what=at + name)
    for curve in sorted({n.split(".")[1] for n in case.names if n.startswith("trigger.")}):
        values = case[f"trigger.{curve}.val"].tolist()
        for n in (1, 2, 3, 5):
            fired = [e + 1 for e, v in enumerate(values) if non_monotone(values[:e], n, v)]
            assert (fired or [0])[0] == int(case[f"trigger.{curve}.nonmono{n}"]), (curve, n)
