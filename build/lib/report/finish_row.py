"""The action `finish`: the step records of a row, merged into one committed file."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from report import RESULTS, ROOT, change, provenance, published
from report.errors import UserError
from report.json_files import read_json, write_json
from report.step_files import Step, is_smoke, runs_folder


def finish(args: Namespace) -> int:
    """Merges the steps and says where; returns the exit code. Raises UserError if one is missing
    or not finished."""
    asked = change.asked()
    if asked:
        args.row = asked.row(args.row)
    workdir = runs_folder(args) / args.row
    names = args.steps or sorted(path.stem for path in workdir.glob("*.attempts"))
    if not names:
        raise UserError(f"{args.row}: no step was run in {workdir}")
    steps = [finished(Step(args.row, name, workdir)) for name in names]
    if not args.steps:
        steps.sort(key=lambda step: step["date"])
    smoke = is_smoke(args) or any(step["smoke"] for step in steps)
    if smoke and not args.into:
        print(f"{args.row}: {len(steps)} steps done; a smoke run is recorded only with --into DIR")
        return 0
    last = max(steps, key=lambda step: step["date"])
    merged = scrubbed({"row": args.row, "date": last["date"], "smoke": smoke, "steps": steps})
    path = record_path(Path(args.into or RESULTS / "records") / args.row, last, merged)
    write_json(path, merged)
    print(change.beside_published(merged, published.load(RESULTS / "published.csv")))
    print(f"{args.row}: {len(steps)} steps recorded in {path}")
    return 0


def finished(step: Step) -> dict:
    """A step's record. Raises UserError with the reason why there is none."""
    done = read_json(step.record)
    if done is not None:
        return done
    attempts = read_json(step.attempts)
    if not attempts:
        raise UserError(f"{step}: missing, it was never run in {step.workdir}")
    code = attempts[-1]["exit_code"]
    how = "interrupted" if code is None or attempts[-1].get("interrupted") else f"exit code {code}"
    raise UserError(f"{step}: not finished ({how}), see {step.log}")


def scrubbed(value: Any) -> Any:
    """The same value without this machine's paths."""
    text = json.dumps(value)
    for path, name in ((str(ROOT), "."), (str(Path.home()), "~")):
        if len(path) > 1:  # a home of / would eat every slash
            text = re.sub(re.escape(json.dumps(path)[1:-1]) + r"(?![\w.-])", name, text)
    return json.loads(text)


def record_path(folder: Path, last: dict, merged: dict) -> Path:
    """Day, machine and commit of the last step; numbered if that is the name of another run."""
    folder.mkdir(parents=True, exist_ok=True)
    commit = last["commit"][:7] if last["commit"] else "nocommit"
    stem = f"{last['date'][:10]}-{provenance.slug(last['hardware'])}-{commit}"
    number, path = 1, folder / f"{stem}.json"
    while path.exists() and read_json(path) != merged:
        number += 1
        path = folder / f"{stem}-{number}.json"
    return path
