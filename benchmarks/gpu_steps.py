"""The steps of gpu_check.py, each a function that adds to a dictionary what it finds.

    python benchmarks/gpu_steps.py STEP FOUND.json SECONDS

The dictionary is written to FOUND.json at each addition. A step that measures does so for SECONDS
at most, the most important first.
"""

import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.gpu_runs import RUNS, SPEED, UPDATES, Timed, write_data

ROOT = Path(__file__).resolve().parents[1]


class Found(dict):
    """What has been found so far, on disk as well."""

    def __init__(self, path: Path, seconds: float):
        super().__init__()
        self.path, self.end = path, time.time() + seconds

    def add(self, name: str, value) -> None:
        self[name] = value
        self.path.write_text(json.dumps(self))
        print(name, value, flush=True)

    @property
    def time_is_up(self) -> bool:
        return time.time() > self.end - 5


# ------------------------------------------------------------------------------------- versions
def versions(found: Found) -> None:
    import lightning_fabric
    found.add("python", sys.version.split()[0])
    found.add("torch", torch.__version__)
    found.add("fabric", lightning_fabric.__version__)
    found.add("cuda", torch.version.cuda)
    found.add("cudnn", torch.backends.cudnn.version())
    with contextlib.suppress(ImportError):
        import triton
        found.add("triton", triton.__version__)
    device = torch.cuda.get_device_properties(0)
    found.add("gpu", {"name": device.name, "gigabytes": round(device.total_memory / 2**30, 1),
                      "capability": f"{device.major}.{device.minor}",
                      "multiprocessors": device.multi_processor_count})


# -------------------------------------------------------------------------------------- kernels
def milliseconds(function, repeats: int = 30) -> float:
    """Of one call, the fastest of three runs of `repeats`."""
    function()
    torch.cuda.synchronize()
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(repeats):
            function()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begin) / repeats)
    return round(min(times), 4)


def kernels(found: Found) -> None:
    """Forget-mult at QRNN's PTB size with both numbers of warps, TrellisNet's gates and the norm,
    each against PyTorch's operations."""
    from kernels import forget_mult_triton, gates_triton, rms_norm
    from trellisnet import gates
    f, x = torch.rand(70, 20, 1550, device="cuda"), torch.randn(70, 20, 1550, device="cuda")
    c = forget_mult_triton.forward(f, x, None)
    for warps in (2, 4):
        forget_mult_triton.WARPS = warps
        found.add(f"forget-mult, {warps} warps, ms", {
            "forward": milliseconds(lambda: forget_mult_triton.forward(f, x, None)),
            "backward": milliseconds(lambda: forget_mult_triton.backward(f, x, None, c, x))})
    a = torch.randn(52, 16, 5600, device="cuda")
    below, mask = torch.randn(52, 16, 1400, device="cuda"), torch.ones(16, 1400, device="cuda")

    def eager():
        gates.eager_forward(a, below, mask, torch.float32)

    found.add("gates of a level, ms", {
        "triton": milliseconds(lambda: gates_triton.forward(a, below, mask, torch.float32)),
        "eager": milliseconds(eager)})
    rows = torch.randn(4096, 512, device="cuda")
    found.add("norm, ms", {
        "triton": milliseconds(lambda: rms_norm.rms_normalized(rows, 1e-8)),
        "eager": milliseconds(lambda: rms_norm.rms_normalized_plain(rows, 1e-8))})


# ------------------------------------------------------------------------------------ precision
def precision(found: Found, T: int = 35, B: int = 20, size: int = 400) -> None:
    """The LSTM in float32, TF32 and bf16 against float64: relative errors of the output and of the
    gradient of W_hh, and the type that it was computed in."""
    from kernels.cudnn import arithmetic
    from kernels.lstm import lstm
    torch.manual_seed(1)
    shapes = [(T, B, size), (1, B, size), (1, B, size), (4 * size, size), (4 * size, size),
              (4 * size,), (4 * size,)]
    exact = [torch.randn(shape, dtype=torch.float64) * 0.1 for shape in shapes]

    def computed(values, context):
        x, h, c, *weights = values
        weights = [w.requires_grad_() for w in weights]
        with context:
            kind = arithmetic(x) if x.is_cuda else x.dtype
            output, _ = lstm(x, (h, c), *weights)
        gradient, = torch.autograd.grad(output.float().square().sum() if x.is_cuda
                                        else output.square().sum(), weights[1])
        return kind, output.detach().double().cpu(), gradient.double().cpu()

    _, output, gradient = computed(exact, contextlib.nullcontext())
    for name in ("float32", "TF32", "bf16-mixed"):
        torch.backends.cudnn.allow_tf32 = name == "TF32"
        torch.set_float32_matmul_precision("high" if name == "TF32" else "highest")
        context = (torch.autocast("cuda", dtype=torch.bfloat16) if name == "bf16-mixed"
                   else contextlib.nullcontext())
        kind, y, g = computed([v.detach().float().to("cuda") for v in exact], context)
        found.add(name, {"computed in": str(kind).removeprefix("torch."),
                         "output": error(y, output), "gradient": error(g, gradient)})


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(f"{((found - exact).norm() / exact.norm()).item():.3g}")


# -------------------------------------------------------------------------------------- scripts
def called(module: str, argv: list[str]) -> str:
    """What the script says when its main is called. Raises what it raises."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        importlib.import_module(module).main(argv)
    return output.getvalue()


def scripts(found: Found, names: tuple[str, ...] = tuple(RUNS)) -> None:
    """Twenty updates of every script; how often the host waited in them, by line."""
    with tempfile.TemporaryDirectory() as place:
        data = write_data(Path(place) / "data")
        for name in names:
            if found.time_is_up:
                return
            folder = Path(place) / name
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    called(RUNS[name].module, RUNS[name].argv(folder, data, "--max-steps", 20))
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught
                             if "synchronizing" in str(w.message))
            found.add(name, {"waits": places.total(), "at": dict(places.most_common(6))})


def resume(found: Found, names: tuple[str, ...] = ("awd-lstm", "awd-qrnn", "trellis-word", "im")
           ) -> None:
    """With --deterministic: six updates at once, and three and three, to the same bits."""
    from harness import files
    with tempfile.TemporaryDirectory() as place:
        data = write_data(Path(place) / "data")
        for name in names:
            run, states = RUNS[name], []
            for parts in ((6,), (3, 6)):
                folder = Path(place) / f"{name}-{len(parts)}"
                for number, steps in enumerate(parts):
                    called(run.module, run.argv(folder, data, "--deterministic", "--max-steps",
                                                steps, *["--resume"] * bool(number)))
                states.append(files.read(folder / run.state, safe=run.safe)["model"])
            differ = [key for key, value in states[0].items()
                      if not torch.equal(value, states[1][key])]
            found.add(name, {"same bits": not differ, "differ": differ[:5]})


def tests(found: Found) -> None:
    """The tests that need a GPU and are skipped without one."""
    files = ["tests/kernels/test_forget_mult.py", "tests/kernels/test_lstm.py",
             "tests/kernels/test_product.py", "tests/sparse_seq/test_blocks.py",
             "tests/awd_lstm/test_qrnn.py"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "gpu or cuda or "
         "streams", *files], cwd=ROOT, capture_output=True, text=True)
    found.add("pytest", ended.stdout.strip().splitlines()[-12:])
    if ended.returncode:
        sys.exit(1)


# ---------------------------------------------------------------------------------------- speed
FORMS = {"TF32": ("32", "--tf32"), "bf16": ("bf16-mixed",), "float32": ("32", "--no-tf32")}


def speed(found: Found, timed: tuple[Timed, ...] = SPEED) -> None:
    """ms an update at the published sizes, tokens a second, peak memory, and what was expected."""
    with tempfile.TemporaryDirectory() as place:
        data = write_data(Path(place) / "data", words=10_000, tokens=120_000)
        for more in ((), ("--compile",)):
            for form, (kind, *switch) in FORMS.items():
                for run in timed:
                    if found.time_is_up:
                        found.add("not reached", f"from {run.name} {form} {' '.join(more)} on")
                        return
                    name = " ".join((run.name, form, *more))
                    folder = Path(place) / name.replace(" ", "-")
                    flags = ("--precision", kind, *switch, *more, "--max-steps", UPDATES)
                    try:
                        found.add(name, measured(run, run.argv(folder, data, *flags)))
                    except (Exception, SystemExit) as failure:
                        found.add(name, f"{type(failure).__name__}: {failure}"[:300])


def measured(run: Timed, argv: list[str]) -> dict:
    """Of the script's own last report."""
    torch.cuda.reset_peak_memory_stats()
    said = called(run.module, argv)
    ms = float(re.findall(r"ms/batch\s+([\d.]+)", said)[-1])
    return {"ms an update": ms, "tokens a second": round(1000 * run.tokens / ms),
            "peak GB": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "an epoch, seconds": round(run.updates * ms / 1000, 1),
            "expected of an H200 with TF32, seconds": run.expected}


def epoch(found: Found) -> None:
    """A whole epoch of the QRNN on PTB, where data/penn holds it."""
    data = ROOT / "data/penn"
    if not (data / "train.txt").is_file():
        found.add("skipped", "no data/penn: ./getdata.sh ptb fetches it")
        return
    with tempfile.TemporaryDirectory() as place:
        flags = ("--model QRNN --batch_size 20 --clip 0.2 --wdrop 0.1 --nhid 1550 --nlayers 4 "
                 "--emsize 400 --dropouth 0.3 --seed 9001 --dropouti 0.4 --epochs 1 --device cuda")
        said = called("awd_lstm.main", [*flags.split(), "--data", str(data), "--save",
                                        f"{place}/m.pt", "--log-dir", f"{place}/logs"])
    found.add("end of epoch", [line for line in said.splitlines() if "end of epoch" in line])


STEPS = {step.__name__: step for step in (versions, kernels, precision, scripts, resume, tests,
                                          speed, epoch)}

if __name__ == "__main__":
    STEPS[sys.argv[1]](Found(Path(sys.argv[2]), float(sys.argv[3])))
