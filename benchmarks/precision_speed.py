"""A training step of every system in bfloat16 and in float32, in turn: what --precision bf16-mixed
gains on this CPU.

    python benchmarks/precision_speed.py [--threads 1 2] [--rounds 5] [--only NAME ...]

The models have their published sizes (the tagger its script's default, too), the data are random,
the optimiser of all but fairseq's is AdamW.
bfloat16 is what the scripts do: autocast around the forward pass and the loss; fairseq's language
model has fairseq's --bf16 (rounded weights beside float32 ones). Medians, of the processor's time
where there is one thread. On a CPU without bfloat16 instructions there is nothing to measure.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import (
    awd_lstm_scratch,
    awd_lstm_step,
    sparse_seq,
    tnn_block,
    tnn_im,
    tnn_lm,
    tnn_lra,
    trellisnet_images,
    trellisnet_step,
)
from benchmarks.peaks import describe, take_turns
from harness.memory import keep_freed_memory
from kernels.cpu import bf16_pays
from sparse_seq.language_modeling.model import LanguageModel, TrainingLoss
from sparse_seq.sequence_labeling.model import Tagger, packed

Parts = tuple[nn.Module, Callable[[], Tensor]]  # what is trained, and its loss on a batch


# -------------------------------------------------------------------------------------- the systems
def toolkit(kind: str) -> Parts:
    step = awd_lstm_step.Stepper("ours", kind, torch.device("cpu"))
    words = torch.randint(awd_lstm_step.VOCABULARY, (awd_lstm_step.T + 1, awd_lstm_step.B))
    step.model.train()
    return step.model, lambda: step.loss(words[:-1], words[1:].reshape(-1), step.hidden)[0]


def scratch(hoist: bool) -> Parts:
    model, loss = awd_lstm_scratch.scratch_step(awd_lstm_scratch.AWD_LSTM(
        awd_lstm_scratch.VOCABULARY, awd_lstm_scratch.EMBEDDING, 1550, hoist=hoist))
    return model, partial(loss, *torch.randint(awd_lstm_scratch.VOCABULARY, (2, 35, 20)))


def language_model(name: str) -> Parts:
    model = LanguageModel(sparse_seq.V, **sparse_seq.MODELS[name], wdrop=0.5, dropout=0.4,
                          dropouth=0.25, dropouti=0.4, dropoute=0.1)
    words = torch.randint(sparse_seq.V, (71, sparse_seq.B))
    loss, hidden = TrainingLoss(model, alpha=2, beta=1), model.init_hidden(sparse_seq.B)
    return model, lambda: loss(words[:-1], words[1:].flatten(), hidden)[0]


def tagger(emsize: int, nhid: int) -> Parts:
    """20 sentences of 5 to 43 words."""
    model = Tagger(20_000, emsize, nhid, 45, dropouti=0.2, wdrop=0.2)
    lengths = torch.arange(43, 3, -2)
    words, tags = torch.randint(20_000, (43, 20)), torch.randint(45, (43, 20))
    return model, lambda: F.cross_entropy(model(words, lengths), packed(tags, lengths))


def trellis_words() -> Parts:
    size = trellisnet_step.FULL
    step = trellisnet_step.Step(size, argparse.Namespace(device="cpu"))
    leaves = [step.x, step.weight1, step.weight2, step.bias, step.h0, step.c0]
    x, w1, w2, *state = leaves
    module = nn.ParameterList([nn.Parameter(leaf) for leaf in (w1, w2, state[0])])
    w1, w2, bias = module

    def loss() -> Tensor:
        outputs = trellisnet_step.trellis_levels(
            x, w1.permute(1, 2, 0), w2.permute(1, 2, 0), bias, *state[1:], step.mask,
            (1,) * size["levels"], size["nout"], size["start"], size["aux_levels"])[:2]
        return sum((a * b).sum() for a, b in zip(outputs, step.factors, strict=True))
    return module, loss


def trellis_images() -> Parts:
    step = trellisnet_images.Stepper("ours", 64)
    return step.loss, lambda: step.loss(*step.images)


def toeplitz_layer(n: int) -> Parts:
    layer = tnn_block.published(tnn_block.WIDTH)
    x, w = torch.randn(2, max(tnn_block.TOKENS // n, 1), n, tnn_block.WIDTH)
    x.requires_grad_()
    return layer, lambda: (layer(x) * w).sum()


def vision() -> Parts:
    model, labels = tnn_im.build(tnn_im.ARCH), torch.randint(1000, (8,))
    images = torch.randn(8, 3, 224, 224)
    return model, lambda: F.cross_entropy(model(images), labels)


def long_range(settings: str) -> Parts:
    model = tnn_lra.build(argparse.Namespace(task="imdb", settings=settings, device="cpu"))["ours"]
    texts, lengths = torch.randint(3, 135, (4, 4096)), torch.full((4,), 4096)
    labels = torch.randint(2, (4,))
    return model, lambda: F.cross_entropy(model(texts, lengths), labels)


class Step:
    """A model's update in one of the two arithmetics."""

    def __init__(self, parts: Callable[[], Parts], bf16: bool):
        torch.manual_seed(1)
        self.model, self.loss = parts()
        self.bf16 = bf16
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], fused=True)

    def step(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()


SYSTEMS: dict[str, Callable[[bool], Step | tnn_lm.Stepper]] = {
    name: partial(Step, parts) for name, parts in {
        "awd_lstm, LSTM": partial(toolkit, "LSTM"),
        "awd_lstm, QRNN": partial(toolkit, "QRNN"),
        "awd_lstm/scratch": partial(scratch, hoist=True),
        "awd_lstm/scratch, loop": partial(scratch, hoist=False),
        "trellisnet, words": trellis_words,
        "trellisnet, images": trellis_images,
        "sparse_seq, dense": partial(language_model, "dense 1150"),
        "sparse_seq, sparse": partial(language_model, "sparse 1725"),
        "tagger, as published": partial(tagger, 20, 10),
        "tagger, default": partial(tagger, 100, 50),
        "tnn, layer at 512": partial(toeplitz_layer, 512),
        "tnn, layer at 2048": partial(toeplitz_layer, 2048),
        "tnn, layer at 8192": partial(toeplitz_layer, 8192),
        "tnn/im": vision,
        "tnn/lra, script": partial(long_range, "script"),
        "tnn/lra, yaml": partial(long_range, "yaml"),
    }.items()}
SYSTEMS["tnn, fairseq"] = lambda bf16: tnn_lm.Stepper("ours", 2, 512, bf16)


def compare(name: str, rounds: int, threads: int) -> None:
    forms = {form: SYSTEMS[name](form == "bfloat16") for form in ("float32", "bfloat16")}
    if name.startswith("tagger"):  # some milliseconds
        rounds *= 40
    seconds = take_turns(forms, rounds, threads)
    told = "  ".join(f"{form} {1000 * taken:9.1f} ms" for form, taken in seconds.items())
    print(f"  {name:24} {told}   {seconds['float32'] / seconds['bfloat16']:5.2f}x", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    p.add_argument("--threads", type=int, nargs="+", default=[1])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME",
                   help="of: " + "; ".join(SYSTEMS))
    args = p.parse_args()
    keep_freed_memory()
    torch.set_flush_denormal(True)
    for threads in args.threads:
        torch.set_num_threads(threads)
        describe()
        if not bf16_pays():
            print("this CPU has no bfloat16 instructions: the scripts use float32 and say so, 1.0x")
            continue
        for name in args.only:
            compare(name, args.rounds, threads)


if __name__ == "__main__":
    main()
