"""NT-ASGD (section 3), the numbers of an epoch, model files, and weights under other names."""

import argparse
import csv
import io
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from awd_lstm import training as toolkit
from awd_lstm.data import Corpus
from awd_lstm.model import default_splits
from awd_lstm.scratch.model import AWD_LSTM, TrainingLoss
from awd_lstm.utils import single_precision
from awd_lstm.vocabulary import texts_in_words_of, texts_of_model, words_of_start
from common.splitcross import SplitCrossEntropyLoss, perplexity
from harness import files, flags
from harness.endings import BadInput, bad_input
from harness.inputs import say_if_state
from harness.keeper import STATE_FORMAT, Keeper
from loading.weights import bare_names

MODEL_FORMAT = "awd_lstm scratch model 1"
# AWD_LSTM's arguments -> flags
RATES = {"dropout_wts": "wdrop", "dropout_emb": "dropoute", "dropout_inp": "dropouti",
         "dropout_hid": "dropouth", "dropout_out": "dropout"}
SIZES = {"embedding_size": "emsize", "hidden_size": "nhid", "nlayers": "nlayers"}
SAME = ("tied", "hoist", "normal_init", "mask_per_step", "shared_masks", "pad_last_word",
        "detach_regularisers", "norm_regularisers")


class ASGD(torch.optim.Optimizer):
    """SGD that also keeps the mean of its iterates (Polyak and Juditsky 1992), as `ax`; what is
    evaluated and saved is that mean (common.asgd.averaged puts it into the model)."""

    reads_found_inf = True
    found_inf: Tensor | None = None     # on a GPU: is 1 where the update must not be made

    def __init__(self, params, lr: float, weight_decay: float = 0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            if self.found_inf is not None:
                self._on_gpu(group)
                continue
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state.update(k=0, ax=torch.zeros_like(w))
                w -= group["lr"] * (w.grad + group["weight_decay"] * w)
                state["k"] += 1
                state["ax"] += (w - state["ax"]) / state["k"]

    def _on_gpu(self, group: dict) -> None:
        """The same in three operations."""
        params = [w for w in group["params"] if w.grad is not None]
        for w in params:
            if not self.state[w]:
                self.state[w].update(k=0, ax=torch.zeros_like(w))
            self.state[w]["k"] += 1
        torch._fused_sgd_(params, [w.grad for w in params], [], momentum=0.0, lr=group["lr"],
                          weight_decay=group["weight_decay"], dampening=0.0, nesterov=False,
                          maximize=False, is_first_step=False, found_inf=self.found_inf)
        states = [self.state[w] for w in params]
        torch._foreach_lerp_([s["ax"] for s in states], params, [1 / s["k"] for s in states])


class NT_ASGD:
    """Algorithm 1: SGD until the validation loss stops improving, averaged SGD from then on.

    Args:
        parameters, lr, weight_decay: for both optimisers.
        n: the non-monotone interval, in epochs.
        average: False is the published from-scratch way: torch's ASGD made anew every epoch, so
            that its mean starts over, and is never used anyhow.
        late_trigger: the published condition instead of the authors'.
    """

    def __init__(self, parameters: Iterable, lr: float, weight_decay: float, n: int,
                 average: bool = True, late_trigger: bool = False):
        self.parameters = list(parameters)
        self.lr, self.weight_decay, self.n = lr, weight_decay, n
        self.average, self.late_trigger = average, late_trigger
        self.losses, self.triggered = [], False
        fused = all(p.is_cuda for p in self.parameters)
        self.optimizer = torch.optim.SGD(self.parameters, lr, weight_decay=weight_decay,
                                         fused=fused or None)

    def stopped_improving(self, loss: float) -> bool:
        """Is `loss`, the newest, worse than the best of all but the last n before it?"""
        if self.late_trigger:  # was the one n before the newest better than all since?
            losses = [*self.losses, loss]
            return len(losses) > self.n and losses[-self.n - 1] < min(losses[-self.n:])
        return len(self.losses) > self.n and loss > min(self.losses[:len(self.losses) - self.n])

    def get_optimizer(self, val_loss: float) -> torch.optim.Optimizer:
        """The optimiser of the next epoch, given the validation loss of the last."""
        if not self.triggered and self.stopped_improving(val_loss):
            print("Switching to ASGD", flush=True)
            self.start_averaging()
        elif self.triggered and not self.average:
            self.start_averaging()
        self.losses.append(val_loss)
        return self.optimizer

    def start_averaging(self) -> None:
        """From now on; fine-tuning does so before its first step."""
        self.triggered = True
        if self.average:
            self.optimizer = ASGD(self.parameters, self.lr, self.weight_decay)
        else:
            self.optimizer = torch.optim.ASGD(self.parameters, self.lr, lambd=0, t0=0,
                                              weight_decay=self.weight_decay)


# ------------------------------------------------------------------------ the numbers of an epoch
def epoch_metrics(epoch: int, seconds: float, train_loss: float, val_loss: float,
                  asgd_triggered: bool, device: torch.device) -> dict[str, float]:
    """What the published code reports after every epoch, under its names and in its order."""
    found = {"epoch": epoch, "time": seconds, "train_loss": train_loss, "val_loss": val_loss,
             "train_ppl": perplexity(train_loss), "val_ppl": perplexity(val_loss),
             "val_bpc": val_loss / math.log(2), "train_bpc": train_loss / math.log(2)}
    if device.type == "cuda":
        gigabytes = {"memalloc_Gb": torch.cuda.memory_allocated(),
                     "memcache_Gb": torch.cuda.memory_reserved(),
                     "max_memalloc_Gb": torch.cuda.max_memory_allocated(),
                     "max_memcache_Gb": torch.cuda.max_memory_reserved()}
        found |= {name: count * 1e-9 for name, count in gigabytes.items()}
    return found | {"asgd_triggered": float(asgd_triggered)}


def stringify(metrics: dict[str, float]) -> str:
    """`epoch: 1.00| time: 392.00| ...`"""
    return "| ".join(f"{name}: {value:.2f}" for name, value in metrics.items())


def table_ending(args: argparse.Namespace) -> str:
    """What the CSV of the epochs is called after --save."""
    return ".finetune.csv" if args.finetune else ".csv"


def write_table(path: str, history: list[dict]) -> None:
    """The published code's CSV, rewritten after every epoch: one line per epoch."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(history[0]))
    table.writeheader()
    table.writerows(history)
    files.replace(path, lambda file: file.write(text.getvalue().encode()))


# ------------------------------------------------------------------------------------ model files
def model_flags(args: argparse.Namespace) -> dict:
    """AWD_LSTM's keyword arguments that are not sizes, from the flags."""
    return {name: getattr(args, RATES.get(name, name)) for name in (*RATES, *SAME)}


def flags_of(config: dict) -> dict:
    """The flags that describe a model: the other way round, with the sizes."""
    names = RATES | SIZES | dict(zip(SAME, SAME, strict=True))
    return {flag: config[name] for name, flag in names.items() if name in config}


def new_model(args: argparse.Namespace, words: int
              ) -> tuple[AWD_LSTM, SplitCrossEntropyLoss | None]:
    """A model with fresh weights and its loss."""
    with single_precision():
        model = AWD_LSTM(words, args.emsize, args.nhid, args.nlayers, **model_flags(args))
    splits = default_splits(words) if args.splits is None else args.splits
    return model, SplitCrossEntropyLoss(args.emsize, splits) if args.split else None


def model_to_train(args: argparse.Namespace, corpus: Corpus, keeper: Keeper
                   ) -> tuple[AWD_LSTM, SplitCrossEntropyLoss | None, Corpus]:
    """The model to fine-tune, or one with fresh weights; its loss; and the texts, with the words of
    the model or the run that --save or --resume names. Raises BadInput."""
    if args.finetune:
        return trained_model(args, corpus, keeper.say)
    if known := words_of_start(keeper, corpus):
        corpus = texts_in_words_of(known, corpus, args, keeper.say)
    return *new_model(args, len(corpus.dictionary)), corpus


def weights_of(run) -> dict:
    """What a model file and a training state have in common: enough to rebuild the model."""
    criterion = run.loss.criterion
    return {"config": run.model.config, "model": run.model.state_dict(),
            "splits": criterion and criterion.splits,
            "criterion": criterion and criterion.state_dict(),
            "word_list": run.corpus.dictionary.packed(),
            "vocabulary": run.corpus.dictionary.digest()}


def trained_model(args: argparse.Namespace, corpus: Corpus, say: Callable[[str], None]
                  ) -> tuple[AWD_LSTM, SplitCrossEntropyLoss | None, Corpus]:
    """The model in --save, its loss, and the texts with its words; tells which of theirs it does
    not know. Raises BadInput."""
    with bad_input("--save: "):
        content = files.read(args.save)
    try:
        model, criterion = _model_in(content, args)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"--save {args.save} is no model of awd_lstm/scratch ({reason})") from None
    say_if_state(args.save, content)
    if said := flags.overruled(args, flags_of(model.config)):
        say(said)
    corpus = texts_of_model(content, model.config["ntokens"], f"--save {args.save}", corpus,
                            args, say)
    return model, criterion, corpus


def _model_in(content: dict, args: argparse.Namespace
              ) -> tuple[AWD_LSTM, SplitCrossEntropyLoss | None]:
    """A bare state_dict has no dropouts: those of the flags."""
    weights = weights_in(content)
    config = content.get("config") or config_of_state(weights) | model_flags(args)
    with single_precision():
        model = AWD_LSTM(**config)
    model.load_state_dict(weights)
    splits = content.get("splits", default_splits(config["ntokens"]))
    if splits is None:
        return model, None
    criterion = SplitCrossEntropyLoss(config["embedding_size"], splits)
    criterion.load_state_dict(content.get("criterion") or criterion.state_dict())
    return model, criterion


def weights_in(content: dict) -> dict:
    """The state_dict in a model file, a training state, or a bare one of the published code."""
    if "format" in content:
        return content["model"]
    content = bare_names(content)
    return from_published(content) if "layer0.weight_raw" in content else content


def load_weights(loss: TrainingLoss, flag: str, content: dict) -> None:
    """Puts the weights of a model file, a training state or a bare state_dict into the model.
    Raises BadInput."""
    try:
        loss.model.load_state_dict(weights_in(content))
        if loss.criterion is not None and content.get("criterion"):
            loss.criterion.load_state_dict(content["criterion"])
    except (KeyError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{flag}: these weights do not fit the flags given: {reason}") from None


def upgrade(content: dict) -> dict:
    """A training state of release 0.1 as harness.keeper writes it now; all else as it is."""
    if not str(content.get("script")).startswith("scratch") or content["format"] == MODEL_FORMAT:
        return toolkit.upgrade(content)
    stored = content["progress"]["stored_loss"]
    nothing = content["script"] == "scratch" and stored == toolkit.NOTHING_STORED
    return content | {
        "format": STATE_FORMAT, "script": "awd_lstm/scratch/main.py", "rng": content["numpy"],
        "processes": [{"random": {"torch": content["torch"], "cuda": content["cuda"]},
                       "own": {"hidden": content["hidden"]}}],
        "best": None if nothing else "", "inputs": None}


# ---------------------------------------------------------------------- weights under other names
def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of the published from-scratch code under our names. Its h2h.weight may be any
    dropped copy; weight_raw counts."""
    renamed = {}
    for key, tensor in state.items():
        if key.endswith("module.h2h.weight"):
            continue
        key = key.replace("weight_raw", "module.h2h.weight")
        if key.startswith("layer"):  # layer0.module.i2h.bias -> layers.0.cell.i2h.bias
            key = key.replace("layer", "layers.", 1).replace(".module.", ".cell.")
        renamed[key] = tensor
    return renamed


def from_nn_lstm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of awd_lstm's LSTM model (nn.LSTM layers) under our names, gates reordered."""
    renamed = {}
    for key, tensor in state.items():
        key = key.replace("encoder.", "embedding.").replace(".module.", ".").removesuffix("_raw")
        if key.startswith("rnns."):
            _, layer, name = key.split(".")
            kind, side, _ = name.split("_")                        # weight_hh_l0
            i, f, c_new, o = tensor.chunk(4)
            tensor = torch.cat([i, f, o, c_new])
            key = f"layers.{layer}.cell.{'i2h' if side == 'ih' else 'h2h'}.{kind}"
        renamed[key] = tensor
    return renamed


def config_of_state(state: dict[str, Tensor]) -> dict:
    """AWD_LSTM's sizes that a bare state_dict (our names) reveals."""
    words, embedding_size = state["embedding.weight"].shape
    layers = [key for key in state if key.endswith("h2h.weight")]
    return {"ntokens": words, "embedding_size": embedding_size, "nlayers": len(layers),
            "hidden_size": state["layers.0.cell.h2h.weight"].shape[1],
            "bias": "layers.0.cell.h2h.bias" in state,
            "tied": torch.equal(state["decoder.weight"], state["embedding.weight"])}
