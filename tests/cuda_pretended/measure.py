"""Counts what the runs of scripts.py need, and what else is found about them.

    python -m tests.cuda_pretended.measure [NAME ...]      prints a line for each
"""

import sys
import tempfile
from pathlib import Path

from tests.cuda_pretended import pretended
from tests.cuda_pretended.scripts import RUNS, Run, write_all


def job(run: Run, folder: Path, data: Path, precision: str, *more) -> dict:
    return {"module": run.script.module, "argv": run.argv(folder, data, precision, *more)}


def jobs_of(run: Run, home: Path, data: Path, precision: str) -> list[dict]:
    """A run of `updates` updates; half of it, and the other half resumed: in home/whole and
    home/parts."""
    half = run.updates // 2
    made = []
    if run.before:
        first = RUNS[run.before]
        for folder in ("whole", "parts"):
            made.append(job(first, home / folder, data, precision, "--max-steps", 2))
    return [*made, job(run, home / "whole", data, precision, "--max-steps", run.updates),
            job(run, home / "parts", data, precision, "--max-steps", half),
            job(run, home / "parts", data, precision, "--max-steps", run.updates, "--resume")]


def per_update(run: Run, report: dict) -> tuple[float, float]:
    """Synchronisations from one report to the next, and operations an update. The first two updates
    are left out: they fill what is kept, and the first may be a report of its own."""
    updates = report["updates"]
    (waits, launched), (later_waits, later_launched) = updates[1], updates[-1]
    count = len(updates) - 2
    return ((later_waits - waits) * run.interval / count, (later_launched - launched) / count)


def main() -> None:
    names = sys.argv[1:] or list(RUNS)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        library, data = pretended.build(home), write_all(home / "data")
        for name in names:
            run = RUNS[name]
            for precision in run.precisions:
                here = home / f"{name}-{precision}"
                jobs = jobs_of(run, here, data, precision)
                reports = pretended.run_jobs(library, here, jobs[:-2])
                tell(name, precision, run, reports[-1])


def tell(name: str, precision: str, run: Run, report: dict) -> None:
    if report["exit"] or len(report["updates"]) < 3:
        print(name, precision, "FAILED", report["exit"], report["error"][-1500:],
              report["output"][-800:], flush=True)
        return
    waits, launched = per_update(run, report)
    print(f"{name} {precision}: {waits:g} syncs a report, {launched:g} operations an update",
          flush=True)
    for kind in ("problems", "warnings", "syncs"):
        for text, count in report[kind].items():
            print(f"    {kind} {count} {text}", flush=True)


if __name__ == "__main__":
    main()
