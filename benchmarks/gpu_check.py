"""Everything that only a GPU can tell, in at most eight minutes: `make gpu-check`.

    python benchmarks/gpu_check.py [--only STEP ...] [--out results/gpu] [--minutes 8]

Each step (gpu_steps.py) runs in a process of its own with its own time limit. What it finds is
written as it goes, by the step and by this script, so that a check which is cut short leaves what
it has found so far: results/gpu/<date>-<GPU>-<commit>.json. One GPU is used. Nothing is downloaded:
the texts and images are made on the spot, PTB is used where data/penn holds it.

Exit codes: 0 all steps ended well; 1 some did not; 2 there is no GPU here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Seconds that a step may take, without --only. What does not fit the minutes is left out, from the
# end: so is, of the speed, what is compiled.
STEPS = {"versions": 40, "kernels": 60, "precision": 40, "scripts": 110, "resume": 80, "tests": 90,
         "epoch": 60, "speed": 300}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="Checks and times this project on one NVIDIA GPU")
    p.add_argument("--only", nargs="+", choices=tuple(STEPS), metavar="STEP",
                   help=f"these steps alone, of {', '.join(STEPS)}")
    p.add_argument("--out", type=Path, default=ROOT / "results/gpu", metavar="DIR",
                   help="where the JSON file goes (results/gpu)")
    p.add_argument("--minutes", type=float, default=8.0, help="for all steps together (8)")
    args = p.parse_args(argv)
    if args.minutes <= 0:
        p.error(f"--minutes must be positive, not {args.minutes:g}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    import torch
    if not torch.cuda.is_available():
        print("gpu-check: PyTorch finds no CUDA device here; run it on a machine with an NVIDIA "
              "GPU and a torch built for it", file=sys.stderr)
        return 2
    end = time.time() + 60 * args.minutes
    path = args.out / f"{date.today()}-{name_of(torch.cuda.get_device_name(0))}-{commit()}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict] = {}
    for step in args.only or STEPS:
        left = end - time.time()
        limit = left if args.only else min(STEPS[step], left)
        found[step] = run(step, limit) if limit > 5 else {"outcome": "no time left"}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{step}: {found[step]['outcome']}", flush=True)
    print(f"written: {path}")
    return int(any(step["outcome"] not in ("good", "no time left") for step in found.values()))


def run(step: str, limit: float) -> dict:
    """What the step found, how it ended and how long it took."""
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "found.json"
        command = [sys.executable, str(ROOT / "benchmarks/gpu_steps.py"), step, str(result),
                   str(limit)]
        try:
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
            outcome = "good" if ended.returncode == 0 else f"exit {ended.returncode}"
            said = ended.stdout + ended.stderr
        except subprocess.TimeoutExpired as error:
            outcome = f"stopped after {limit:.0f} s"
            said = "".join(part.decode(errors="replace") if isinstance(part, bytes) else part or ""
                           for part in (error.stdout, error.stderr))
        found = json.loads(result.read_text()) if result.is_file() else {}
    report = {"outcome": outcome, "seconds": round(time.time() - began, 1), "found": found}
    return report if outcome == "good" else report | {"said": said[-3000:]}


def name_of(device: str) -> str:
    """NVIDIA H200 -> h200."""
    return "-".join(word for word in device.lower().split() if word not in ("nvidia", "geforce"))


def commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True,
                          text=True)
    return said.stdout.strip() or "no-commit"


if __name__ == "__main__":
    sys.exit(main())
