"""The scripts timed at their published sizes, in three arithmetics, operation by operation, as CUDA
graphs and compiled: a step of gpu_check.py.

A script runs as it is typed. What is measured is seen from the end of each optimiser step: the
first updates are left out, the next are timed, the last are profiled.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_runs import PEAK, SPEED, Timed, write_data

SIZE = 8192          # of the products that show the peak
COUNTED = 3          # the update whose arithmetic is counted
aten = torch.ops.aten


def peaks(size: int = SIZE, rounds: int = 5) -> dict[str, float]:
    """Operations a second of a large product in each arithmetic, the best of some."""
    a = torch.randn(size, size, device="cuda")
    found = {}
    for form in PEAK:
        torch.set_float32_matmul_precision("high" if form == "TF32" else "highest")
        b = a.bfloat16() if form == "bf16" else a
        best = float("inf")
        for _ in range(rounds + 1):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            b @ b
            torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begin)
        found[form] = 2 * size**3 / best
    return found


class Watch:
    """Called at the end of each optimiser step. Attributes, when `skip` + `timed` + `profiled`
    updates are done:

        ms        of an update
        busy      share of the time in which the GPU computes
        flops     multiplications and additions of an update's products, if they were counted
    """

    def __init__(self, skip: int, timed: int, profiled: int, count_flops: bool):
        self.skip, self.timed, self.profiled, self.count_flops = skip, timed, profiled, count_flops
        self.updates, self.ms, self.busy, self.flops = 0, None, None, None
        self.counter: FlopCounterMode | None = None
        self.profiler: profile | None = None

    @property
    def all(self) -> int:
        return self.skip + self.timed + self.profiled

    def __call__(self, *of_hook) -> None:
        self.updates += 1
        if self.count_flops and self.updates == COUNTED:
            self.counter = FlopCounterMode(display=False, custom_mapping=RECURRENT)
            self.counter.__enter__()
        elif self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.flops, self.counter = self.counter.get_total_flops(), None
        if self.updates == self.skip:
            self.begin = now()
        elif self.updates == self.skip + self.timed:
            self.ms = 1000 * (now() - self.begin) / self.timed
            self.profiler = profile(activities=[ProfilerActivity.CUDA])
            self.profiler.__enter__()
            self.begin = now()
        elif self.updates == self.all and self.profiler is not None:
            seconds = now() - self.begin
            self.profiler.__exit__(None, None, None)
            self.busy = busy_seconds(self.profiler) / seconds
            self.profiler = None

    def close(self) -> None:
        """Leaves what a run that failed has left open."""
        for opened in (self.counter, self.profiler):
            if opened is not None:
                opened.__exit__(None, None, None)


def now() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def busy_seconds(profiler: profile) -> float:
    """How long at least one kernel ran."""
    spans = sorted((event.time_range.start, event.time_range.end) for event in profiler.events()
                   if event.device_type == DeviceType.CUDA)
    total, end = 0.0, 0.0
    for first, last in spans:
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total / 1e6


def recurrent(factor: int) -> Callable:
    """Of cuDNN's LSTM and GRU, which the counter does not know. Arguments come as shapes."""
    def flops(x, weights, *rest, out_shape=None, **kwargs) -> int:
        matrices = sum(shape[0] * shape[1] for shape in weights if len(shape) == 2)
        return factor * 2 * x[0] * x[1] * matrices
    return flops


RECURRENT = {aten._cudnn_rnn: recurrent(1), aten._cudnn_rnn_backward: recurrent(2)}


def speed(found, call: Callable[[str, list[str]], str], rows: tuple[Timed, ...] = SPEED,
          peak_size: int = SIZE, updates: tuple[int, int, int] = (20, 20, 10)) -> None:
    """Adds to `found` each row in each arithmetic and mode, the operations one by one first and the
    compiled last, until the time is up. call(module, argv) runs a script."""
    reached = peaks(peak_size)
    found.add("peak, TFLOP/s", {form: round(rate / 1e12, 1) for form, rate in reached.items()})
    flops: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as place:
        data = write_data(Path(place) / "data")
        for number, (mode, form, row) in enumerate(order(rows)):
            if found.time_is_up:
                found.add("not reached", f"from {row.name}, {form}, {mode} on")
                return
            watch = Watch(*updates, count_flops=mode == "eager" and row.name not in flops)
            argv = row.argv(Path(place) / str(number), data, form, mode, watch.all)
            name = f"{row.name}, {form}, {mode}"
            try:
                with row.chosen():
                    said = watched(watch, form, lambda row=row, argv=argv: call(row.module, argv))
            except (Exception, SystemExit) as failure:
                found.add(name, f"{type(failure).__name__}: {failure}"[:300])
                continue
            if watch.flops is not None:
                flops[row.name] = watch.flops
            found.add(name, facts(row, form, mode, watch, flops.get(row.name, 0), reached[form])
                      if watch.ms else f"ended after {watch.updates} updates: {said[-200:]}")


def order(rows: tuple[Timed, ...]) -> list[tuple[str, str, Timed]]:
    return [(mode, form, row) for mode in ("eager", "graphs", "compile")
            for form in ("TF32", "bf16", "float32") for row in rows if mode in row.modes]


def watched(watch: Watch, form: str, run: Callable[[], str]) -> str:
    """What the script says while `watch` looks on."""
    torch.set_float32_matmul_precision("high" if form == "TF32" else "highest")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    hook = register_optimizer_step_post_hook(watch)
    try:
        return run()
    finally:
        hook.remove()
        watch.close()


def facts(row: Timed, form: str, mode: str, watch: Watch, flops: float, peak: float) -> dict:
    """Measured beside expected."""
    assert watch.ms is not None
    assert watch.busy is not None
    values = {"ms an update": round(watch.ms, 3),
              "expected ms": round(row.expected_ms(form, mode, flops), 3),
              f"{row.unit} a second": round(1000 * row.count / watch.ms),
              "GPU busy": round(watch.busy, 3),
              "share of peak": float(f"{flops / (watch.ms / 1000) / peak:.3g}"),
              "TFLOP an update": float(f"{flops / 1e12:.3g}"),
              "peak GB": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
    if row.epoch:
        values["an epoch, seconds"] = round(row.epoch * watch.ms / 1000, 1)
    if row.expected is not None:
        values["expected of an H200 with TF32, seconds"] = row.expected
    return values
