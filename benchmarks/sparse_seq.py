"""Sparse layers and the sparse decoder: their forms against one another and against dense ones.

    python benchmarks/sparse_seq.py [--repeats 5] [--threads N] [--device cpu|cuda] [--model]

Per layer, forward and backward over T = 35, B = 20: dense nn.LSTM of equal width and of equal
number of parameters, and the forms of the SparseLSTM that this device has, in one process and in
turn, so that other load on the machine falls on all alike; the fastest of the repeats counts.
--model adds a training step of the language models of the paper.
"""

import argparse
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.peaks import best, describe
from sparse_seq import SparseEmbedding, SparseLSTM
from sparse_seq.blocks import choose_form
from sparse_seq.language_modeling.model import LanguageModel, TrainingLoss

T, B, V = 35, 20, 10_000
F = 0.66666
LAYERS = {  # (input, hidden, reduce_in, reduce_out): those of the paper's models
    "1725 -> 1725, 3 blocks": (1725, 1725, F, F),
    "1725 -> 400, 2 blocks": (1725, 400, F, 1),
    "1150 -> 1150, 5 blocks (recite)": (1150, 1150, 0.5, 0.5),
    "400 -> 1150, 5 blocks (recite)": (400, 1150, 0.5, 0.5),
}
MODELS = {
    "dense 1150": {},
    "dense 1725": {"nhid": 1725},
    "sparse 1725": {"nhid": 1725, "sparse_mode": "sparse_hidden", "sparse_fract": F},
    "recite dense": {"emsize": 400},
    "recite sparse2": {"emblocks": 10, "emdensity": 0.5, "sparse_mode": "sparse_all",
                       "sparse_fract": 0.5},
}


def fastest(jobs: dict[str, Callable], repeats: int, device: str) -> dict[str, float]:
    """Seconds of the fastest call of each, the jobs taking turns."""
    times = {name: [] for name in jobs}
    for repeat in range(repeats + 1):  # the first round warms up
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def layer_job(layer: nn.Module, size_in: int, size: int, device: str) -> Callable:
    x = torch.randn(T, B, size_in, device=device, requires_grad=True)
    state = tuple(torch.zeros(1, B, size, device=device) for _ in "hc")
    layer = layer.to(device)

    def job():
        layer.zero_grad()
        layer(x, state)[0].sum().backward()
    return job


def layers(args: Namespace, peak: float) -> None:
    forms = ("sequential", "streams") if args.device == "cuda" else ("sequential",)
    for title, (i, h, a, b) in LAYERS.items():
        sparse = {form: SparseLSTM(i, h, reduce_in=a, reduce_out=b, form=form) for form in forms}
        jobs = {"dense, equal width": layer_job(nn.LSTM(i, h), i, h, args.device),
                "dense, equal parameters": layer_job(nn.LSTM(round(a * i), round(b * h)),
                                                     round(a * i), round(b * h), args.device)}
        jobs |= {form: layer_job(layer, i, h, args.device) for form, layer in sparse.items()}
        seconds = fastest(jobs, args.repeats, args.device)
        comp = sparse["sequential"].composition
        flop = 6 * T * B * 4 * sum((i1 - i0 + o1 - o0) * (o1 - o0)
                                   for (i0, i1), (o0, o1) in comp.ranges)
        x = torch.zeros(T, B, i, device=args.device)
        print(f"{title}: {comp.parameters:,} parameters, {flop / 1e9:.0f} GFLOP; auto = "
              f"{choose_form(sparse['sequential'], x)}")
        for name, value in seconds.items():
            share = f"{flop / value / peak:4.0%} of the best rate" if name in forms else ""
            print(f"  {name:24s} {1000 * value:8.1f} ms   {seconds['sequential'] / value:5.2f} x "
                  f"sequential   {share}")


def decoder(args: Namespace) -> None:
    layer = SparseEmbedding(V, 400, 10, 0.5, has_decoder=True).to(args.device)
    hidden = torch.randn(T * B, 400, device=args.device, requires_grad=True)

    def job(form: Callable) -> Callable:
        def step():
            layer.zero_grad()
            form(hidden).sum().backward()
        return step

    seconds = fastest({"plain (zeros multiplied)": job(layer.decode_plain),
                       "zeros skipped": job(layer.decode)}, args.repeats, args.device)
    print("decoder 400 -> 10000, 10 blocks, density 0.5")
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"  {name:24s} {1000 * value:8.1f} ms   {first / value:5.2f} x plain")


def model_job(settings: dict, device: str, form: str) -> Callable:
    model = LanguageModel(V, **settings, wdrop=0.5, dropout=0.4, dropouth=0.25, dropouti=0.4,
                          dropoute=0.1).to(device)
    for layer in model.rnns:
        if isinstance(layer, SparseLSTM):
            layer.form = form
    loss_of = TrainingLoss(model, alpha=2, beta=1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, fused=True)
    words = torch.randint(V, (71, B), device=device)
    hidden = model.init_hidden(B)

    def job():
        optimizer.zero_grad()
        loss_of(words[:-1], words[1:].flatten(), hidden)[0].backward()
        optimizer.step()
    return job


def models(args: Namespace) -> None:
    print("language models, one training step of 20 x 70")
    for name, settings in MODELS.items():
        both = "sparse_mode" in settings and args.device == "cuda"
        forms = ("sequential", "auto") if both else ("auto",)
        jobs = {form: model_job(settings, args.device, form) for form in forms}
        for form, value in fastest(jobs, args.repeats, args.device).items():
            print(f"  {name:16s} {form if len(forms) > 1 else '':12s} {value:6.3f} s  "
                  f"{1400 / value:7.0f} tokens/s")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--repeats", type=int, default=5, help="timed calls of each")
    p.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where")
    p.add_argument("--model", action="store_true", help="whole language models too")
    args = p.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    peak = best(describe(args.device))
    print(f"T {T}, B {B}")
    layers(args, peak)
    decoder(args)
    if args.model:
        models(args)


if __name__ == "__main__":
    main()
