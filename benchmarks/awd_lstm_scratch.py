"""Training steps of the readable AWD-LSTM beside nn.LSTM, all from the same weights.

    python benchmarks/awd_lstm_scratch.py                     the published size: nhid 1550, 20 x 35
    python benchmarks/awd_lstm_scratch.py --nhid 1150 --timesteps 70          the paper's size
    python benchmarks/awd_lstm_scratch.py --threads 1 --repeats 3

    published   the loop with a new weight mask at every time step (--mask-per-step --no-tied)
    loop        the loop as the paper has it, one weight mask per pass
    hoisted     input products outside the loop (main.py's default)
    nn.LSTM     torch's own layers, weights dropped once per pass
    toolkit     awd_lstm/main.py's layers

A step is forward, backward, clipping and update. The forms take turns, so that what else the
machine does hits all; the median is shown.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import nn

from awd_lstm.model import RNNModel
from awd_lstm.scratch.model import AWD_LSTM
from benchmarks.peaks import describe
from harness.memory import keep_freed_memory

VOCABULARY, EMBEDDING, B = 10_000, 400, 20
RATES = {"dropout": 0.4, "dropouth": 0.25, "dropouti": 0.4, "dropoute": 0.1, "wdrop": 0.5}


def scratch_step(model: AWD_LSTM):
    def forward(x, y):
        output, output_nodrop, _ = model(x, model.init_hiddens(B))
        loss = F.cross_entropy(model.decoder(output).flatten(0, 1), y.flatten())
        return (loss + model.activation_reg(output, 2)
                + model.temporal_activation_reg(output_nodrop, 1))
    return model, forward


def toolkit_step(nhid: int, torchs_own: bool):
    model = RNNModel("LSTM", VOCABULARY, EMBEDDING, nhid, 3, **RATES, tie_weights=True)
    if torchs_own:
        for layer in model.rnns:
            layer.module.__class__ = nn.LSTM

    def forward(x, y):
        result, _, raw, dropped = model(x, model.init_hidden(B), return_h=True)
        loss = F.cross_entropy(model.decoder(result), y.flatten())
        slow = (raw[-1][1:] - raw[-1][:-1]).pow(2).mean()
        return loss + 2 * dropped[-1].pow(2).mean() + slow
    return model, forward


def forms(nhid: int) -> dict:
    sizes = (VOCABULARY, EMBEDDING, nhid)
    published = {"tied": False, "mask_per_step": True, "shared_masks": True, "dropout_out": 0.25,
                 "detach_regularisers": True, "norm_regularisers": True}
    return {"published": scratch_step(AWD_LSTM(*sizes, **published)),
            "loop": scratch_step(AWD_LSTM(*sizes)),
            "hoisted": scratch_step(AWD_LSTM(*sizes, hoist=True)),
            "nn.LSTM": toolkit_step(nhid, torchs_own=True),
            "toolkit": toolkit_step(nhid, torchs_own=False)}


def timed_step(model, forward, optimizer, x, y) -> float:
    start = time.perf_counter()
    optimizer.zero_grad()
    loss = forward(x, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    loss.item()
    return time.perf_counter() - start


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nhid", type=int, default=1550)
    p.add_argument("--timesteps", type=int, default=35)
    p.add_argument("--repeats", type=int, default=3, help="timed steps of each form")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    torch.set_flush_denormal(True)
    describe(args.device)
    print(f"nhid {args.nhid}, batch {B} x {args.timesteps}, vocabulary {VOCABULARY}", flush=True)
    steppers = {}
    for name, (model, forward) in forms(args.nhid).items():
        model.to(args.device).train()
        steppers[name] = (model, forward, torch.optim.SGD(model.parameters(), lr=0.1))
    x, y = torch.randint(VOCABULARY, (2, args.timesteps, B)).to(args.device)
    seconds = {name: [] for name in steppers}
    for _ in range(args.repeats + 1):
        for name, stepper in steppers.items():
            seconds[name].append(timed_step(*stepper, x, y))
    own = statistics.median(seconds["nn.LSTM"][1:])
    for name, times in seconds.items():
        middle = statistics.median(times[1:])
        count = sum(q.numel() for q in steppers[name][0].parameters())
        print(f"{name:9} {B * args.timesteps / middle:7.0f} tokens/s  {middle:7.3f} s a step  "
              f"{own / middle:5.2f} of nn.LSTM  {count / 1e6:5.1f}M parameters", flush=True)


if __name__ == "__main__":
    main()
