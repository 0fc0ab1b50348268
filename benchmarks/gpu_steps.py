"""The steps of gpu_check.py, each a function that adds to a dictionary what it finds.

    python benchmarks/gpu_steps.py STEP FOUND.json SECONDS

The dictionary is written to FOUND.json at each addition. A step that measures does so for SECONDS
at most, the most important first.
"""

import contextlib
import importlib
import io
import json
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
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks import gpu_speed

ROOT = Path(__file__).resolve().parents[1]


class Found(dict):
    """What has been found so far, on disk as well."""

    def __init__(self, path: Path, seconds: float):
        super().__init__()
        self.path, self.end = path, time.time() + seconds
        self.failed = False

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


def kernels(found: Found, T: int = 70, B: int = 20, H: int = 1550, repeats: int = 30) -> None:
    """Forget-mult at QRNN's PTB size with both numbers of warps, TrellisNet's gates and the norm,
    each against PyTorch's operations."""
    from kernels import forget_mult_triton, gates_triton, rms_norm
    from trellisnet import gates

    def ms(function):
        return milliseconds(function, repeats)

    f, x = torch.rand(T, B, H, device="cuda"), torch.randn(T, B, H, device="cuda")
    c = forget_mult_triton.forward(f, x, None)
    usual = forget_mult_triton.WARPS
    for warps in (2, 4):
        forget_mult_triton.WARPS = warps
        found.add(f"forget-mult, {warps} warps, ms", {
            "forward": ms(lambda: forget_mult_triton.forward(f, x, None)),
            "backward": ms(lambda: forget_mult_triton.backward(f, x, None, c, x))})
    forget_mult_triton.WARPS = usual
    a = torch.randn(T, B, 4 * H, device="cuda")
    below, mask = torch.randn(T, B, H, device="cuda"), torch.ones(B, H, device="cuda")

    def eager():
        gates.eager_forward(a, below, mask, torch.float32)

    found.add("gates of a level, ms", {
        "triton": ms(lambda: gates_triton.forward(a, below, mask, torch.float32)),
        "eager": ms(eager)})
    rows = torch.randn(T * B, 512, device="cuda")
    found.add("norm, ms", {
        "triton": ms(lambda: rms_norm.rms_normalized(rows, 1e-8)),
        "eager": ms(lambda: rms_norm.rms_normalized_plain(rows, 1e-8))})


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
    output, kept = io.StringIO(), sys.argv
    script = importlib.import_module(module)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            if module == "fairseq_cli.train":  # reads sys.argv
                sys.argv = [module, *argv]
                script.cli_main()
            else:
                script.main(argv)
    finally:
        sys.argv = kept
    return output.getvalue()


def tiny(names: tuple[str, ...] | None):
    """The tiny runs of the tests, of these names or all: the runs, and what writes their data."""
    from tests.cuda_pretended.scripts import RUNS, write_all
    return [RUNS[name] for name in names or RUNS], RUNS, write_all


def scripts(found: Found, names: tuple[str, ...] | None = None, updates: int = 20) -> None:
    """Twenty updates of every script; how often the host waited in them, by line."""
    runs, known, write_all = tiny(names)
    with tempfile.TemporaryDirectory() as place:
        data = write_all(Path(place) / "data")
        for run in runs:
            if found.time_is_up:
                return
            folder = Path(place) / run.name
            if run.before:
                before = known[run.before]
                called(before.script.module, before.argv(folder, data, "32", "--max-steps", 2))
            try:
                found.add(run.name, waits(run.script.module,
                                          run.argv(folder, data, "32", "--max-steps", updates)))
            except (Exception, SystemExit) as failure:
                found.add(run.name, f"{type(failure).__name__}: {failure}"[:300])
                found.failed = True


def waits(module: str, argv: list[str]) -> dict:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            called(module, argv)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught
                     if "synchronizing" in str(w.message))
    return {"waits": places.total(), "at": dict(places.most_common(6))}


class Killed(BaseException):
    """No script catches it."""


@contextlib.contextmanager
def killed_after(updates: int):
    """Raises Killed in the optimiser's step with that number."""
    done = 0

    def step(*of_hook) -> None:
        nonlocal done
        done += 1
        if done == updates:
            raise Killed

    hook = register_optimizer_step_post_hook(step)
    try:
        yield
    except Killed:
        pass
    finally:
        hook.remove()


RESUMED = ("awd-lstm", "awd-lstm-even-graphs", "awd-qrnn", "trellis-small", "trellis-small-graphs",
           "im", "im-graphs", "lra-cifar")


def resume(found: Found, names: tuple[str, ...] = RESUMED) -> None:
    """With --deterministic: six updates at once; and killed in the fifth, resumed from the state
    after the third: to the same bits."""
    runs, _, write_all = tiny(names)
    with tempfile.TemporaryDirectory() as place:
        data = write_all(Path(place) / "data")
        for run in runs:
            states = []
            for name in ("whole", "killed"):
                folder = Path(place) / run.name / name
                argv = run.argv(folder, data, "32", "--deterministic", "--max-steps", 6,
                                "--save-interval", 3)
                if name == "killed":
                    with killed_after(5):
                        called(run.script.module, argv)
                    argv.append("--resume")
                called(run.script.module, argv)
                states.append(run.script.read(folder / run.script.state)["model"])
            differ = [key for key, value in states[0].items()
                      if not torch.equal(value, states[1][key])]
            found.add(run.name, {"same bits": not differ, "differ": differ[:5]})
            found.failed |= bool(differ)


GPU_TESTS = ("tests/kernels/test_forget_mult.py", "tests/kernels/test_lstm.py",
             "tests/kernels/test_product.py", "tests/sparse_seq/test_blocks.py",
             "tests/awd_lstm/test_qrnn.py")


def suite(found: Found, files: tuple[str, ...] = GPU_TESTS) -> None:
    """The tests that need a GPU and are skipped without one."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "gpu or cuda or "
         "streams", *files], cwd=ROOT, capture_output=True, text=True)
    found.add("pytest", ended.stdout.strip().splitlines()[-12:])
    found.failed |= bool(ended.returncode)


# ---------------------------------------------------------------------------------------- speed
def speed(found: Found, **more) -> None:
    """See gpu_speed.py."""
    gpu_speed.speed(found, called, **more)


EPOCH = ("--model QRNN --batch_size 20 --clip 0.2 --wdrop 0.1 --nhid 1550 --nlayers 4 --emsize 400 "
         "--dropouth 0.3 --seed 9001 --dropouti 0.4 --epochs 1 --device cuda")


def epoch(found: Found, data: Path = ROOT / "data/penn", flags: str = EPOCH) -> None:
    """A whole epoch of the QRNN on PTB, where data/penn holds it."""
    if not (data / "train.txt").is_file():
        found.add("skipped", "no data/penn: ./getdata.sh ptb fetches it")
        return
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        said = called("awd_lstm.main", [*flags.split(), "--data", str(data), "--save",
                                        f"{place}/m.pt", "--log-dir", f"{place}/logs"])
    found.add("end of epoch", [line for line in said.splitlines() if "end of epoch" in line])
    found.add("seconds in all", round(time.perf_counter() - begin, 1))
    found.add("expected of an H200, seconds an epoch", 2)


STEPS = {"versions": versions, "kernels": kernels, "precision": precision, "scripts": scripts,
         "resume": resume, "tests": suite, "epoch": epoch, "speed": speed}

if __name__ == "__main__":
    noted = Found(Path(sys.argv[2]), float(sys.argv[3]))
    STEPS[sys.argv[1]](noted)
    sys.exit(int(noted.failed))
