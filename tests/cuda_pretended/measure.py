"""Counts what the runs of scripts.py need, and what else is found about them.

    python -m tests.cuda_pretended.measure [--write] [NAME ...]     prints a line for each

--write puts the counts into figures.json, which the tests compare with, and makes the table
results/gpu_counts.md from it.
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.cuda_pretended import pretended
from tests.cuda_pretended.scripts import ROOT, RUNS, Run, write_all

FIGURES = Path(__file__).resolve().parent / "figures.json"
TABLE = ROOT / "results/gpu_counts.md"
HEAD = """# Host synchronisations and operations of an update on a GPU

Counted on the pretended device of tests/cuda_pretended, at tiny widths; the language models have
the published number of layers. The number of operations does not depend on the widths. `Before` is
commit 1a75f50. Waits are those from one report of the loss to the next (two updates; ten for im and
the tagger); the one that is left reads the losses, the gradients' norms and the flag of the finite
check together. Those of `fairseq` are an update's: its trainer's own. Its operations before are
those of one of 16 micro-batches; with BATCH_SIZE=128 an update has one. An operation is one call of
PyTorch that launches something; some are several kernels. Runs named -graphs replay their updates
(--cuda-graphs): counted is what is launched besides, and each graph as one. A cell without a number
was not counted, or, `before`, did not run (im in 16-mixed with --clip-grad). Made by
`python -m tests.cuda_pretended.measure --write`.

| run | precision | waits a report, before | now | operations an update, before | now |
|---|---|---:|---:|---:|---:|
"""


def job(run: Run, folder: Path, data: Path, precision: str, *more) -> dict:
    return {"module": run.script.module, "argv": run.argv(folder, data, precision, *more)}


def first_jobs(run: Run, home: Path, data: Path, precision: str) -> list[dict]:
    """What must have run before, in home/whole and home/parts."""
    if not run.before:
        return []
    return [job(RUNS[run.before], home / folder, data, precision, "--max-steps", 2)
            for folder in ("whole", "parts")]


def jobs_of(run: Run, home: Path, data: Path, precision: str) -> list[dict]:
    """A run of `updates` updates; half of it, and the other half resumed: in home/whole and
    home/parts. The last three jobs."""
    half = run.updates // 2
    return [*first_jobs(run, home, data, precision),
            job(run, home / "whole", data, precision, "--max-steps", run.updates),
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
    write = "--write" in sys.argv
    names = [name for name in sys.argv[1:] if name != "--write"] or list(RUNS)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        library, data = pretended.build(home), write_all(home / "data")
        wanted = [(RUNS[name], precision) for name in names for precision in RUNS[name].precisions]
        jobs, which = [], []
        for run, precision in wanted:
            here = home / f"{run.name}-{precision}"
            jobs += [*first_jobs(run, here, data, precision),
                     job(run, here / "whole", data, precision, "--max-steps", run.updates)]
            which.append(len(jobs) - 1)
        reports = pretended.run_jobs(library, home / "jobs", jobs, seconds=3600)
    figures = json.loads(FIGURES.read_text())
    for (run, precision), number in zip(wanted, which, strict=True):
        counted = tell(run, precision, reports[number])
        if write and counted:
            figures.setdefault(run.name, {}).setdefault(precision, {})["now"] = counted
    if write:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        TABLE.write_text(HEAD + "".join(rows(figures)))


def tell(run: Run, precision: str, report: dict) -> list[float] | None:
    if report["exit"] or len(report["updates"]) < 3:
        print(run.name, precision, "FAILED", report["exit"], report["error"][-1500:],
              report["output"][-800:], flush=True)
        return None
    waits, launched = per_update(run, report)
    print(f"{run.name} {precision}: {waits:g} waits a report, {launched:g} operations an update",
          flush=True)
    for kind in ("problems", "warnings", "syncs"):
        for text, count in report[kind].items():
            print(f"    {kind} {count} {text}", flush=True)
    return [waits, launched]


def rows(figures: dict):
    for name, precisions in figures.items():
        for precision, found in precisions.items():
            before, now = found.get("before", ["", ""]), found.get("now", ["", ""])
            cells = (before[0], now[0], before[1], now[1])
            yield (f"| {name} | {precision} | "
                   + " | ".join(f"{c:,.0f}" if c != "" else "" for c in cells) + " |\n")


if __name__ == "__main__":
    main()
