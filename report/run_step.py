"""The action `run`: one command as a step of a row, recorded when it succeeds.

A step that is done is skipped, an interrupted one continues, another command is refused.
"""

import re
import shlex
import sys
import time
from argparse import Namespace
from datetime import UTC, datetime

from report import ROOT, change, log_lines, measurements, metrics_csv, provenance
from report.command import executable, execute
from report.errors import UserError
from report.json_files import read_json, write_json
from report.step_files import Step, is_smoke, locked, make_workdir, runs_folder, set_aside


def run(args: Namespace, command: list[str]) -> int:
    """Runs the command unless it is done; returns the exit code. Raises UserError."""
    if not command:
        raise UserError("run needs a command after --")
    asked = change.asked()
    if asked:
        args.like, args.row = args.like or args.row, asked.row(args.row)
    args.changed = asked.text if asked else None
    step = Step(args.row, args.step, runs_folder(args) / args.row)
    make_workdir(step.workdir)
    if asked:
        command = change.applied(asked, step.name, command, step.workdir)
    with locked(step):
        if args.redo:
            set_aside(step)
        return 0 if skip(step, command) else attempt(step, command, args)


def skip(step: Step, command: list[str]) -> bool:
    """True if the step is done with this very command. Raises UserError if with another."""
    done = read_json(step.record)
    if done is None:
        return False
    if done["command"] != command:
        words = difference(done["command"], command)
        raise UserError(f"{step}: done with another command ({words}); --redo starts over")
    print(f"{step}: done on {done['date'][:10]}, skipped")
    return True


def difference(old: list[str], new: list[str]) -> str:
    """One phrase for how two command lines differ."""
    removed = [word for word in old if word not in new]
    added = [word for word in new if word not in old]
    if not removed and not added:
        return f"was: {shlex.join(old)}; now: {shlex.join(new)}"
    parts = [("no longer", removed), ("new", added)]
    return "; ".join(f"{label}: {shlex.join(words)}" for label, words in parts if words)


def attempt(step: Step, command: list[str], args: Namespace) -> int:
    """Runs the command once more and writes down how it went; returns the exit code."""
    words = executable(command, step.workdir)
    attempts, resumes = earlier_attempts(step, command, args)
    if attempts and attempts[-1]["exit_code"] == 0 and not attempts[-1]["interrupted"]:
        with provenance.Asked() as asked:  # it was done, but we died before saying so
            return succeed(step, command, attempts, args, asked)
    if resumes:
        words += shlex.split(args.resume_flag)
    else:
        step.curves.unlink(missing_ok=True)
    commit, dirty = provenance.git_state(ROOT)
    this = {"command": command, "resumed": resumes, "started_at": time.time(), "commit": commit,
            "dirty": dirty, "exit_code": None, "wall_seconds": None}
    attempts.append(this)
    write_json(step.attempts, attempts)
    with provenance.Asked() as asked:
        code, interrupted, this["wall_seconds"], this["peak_rss_mb"] = execute(
            words, step, headline(step, command, resumes, len(attempts)))
        this.update(exit_code=code, interrupted=interrupted)
        write_json(step.attempts, attempts)
        if interrupted:
            print(f"{step}: interrupted after {this['wall_seconds']:.0f} s; "
                  "the same command continues")
            return 130
        if code:
            print(f"{step}: failed with exit code {code}, see {step.log}", file=sys.stderr)
            return code
        return succeed(step, command, attempts, args, asked)


def earlier_attempts(step: Step, command: list[str], args: Namespace) -> tuple[list[dict], bool]:
    """Attempts of this command that count, and whether the next one continues them. Raises
    UserError."""
    attempts = read_json(step.attempts, [])
    if not attempts:
        return [], False
    if attempts[-1].get("wall_seconds") is None:  # killed, and we with it: the log knows until when
        last = step.log.stat().st_mtime if step.log.exists() else 0
        attempts[-1]["wall_seconds"] = round(max(0, last - attempts[-1]["started_at"]), 2)
    started_at = attempts[0]["started_at"]  # an older state file is that of an earlier step
    state = step.workdir / args.resume_if if args.resume_if else None
    resumes = bool(args.resume_flag and state and state.exists()
                   and state.stat().st_mtime >= started_at)
    if attempts[-1]["command"] == command:
        return attempts, resumes
    if resumes:
        words = difference(attempts[-1]["command"], command)
        raise UserError(f"{step}: begun with another command ({words}); --redo starts over")
    set_aside(step)
    return [], False


def headline(step: Step, command: list[str], resumes: bool, number: int) -> str:
    """What stands in the log above an attempt's output."""
    start = "=== record: resumed" if resumes else log_lines.FRESH_START
    line_break = "\n" if step.log.exists() and step.log.stat().st_size else ""
    return f"{line_break}{start}, attempt {number}: {shlex.join(command)}"


def succeed(step: Step, command: list[str], attempts: list[dict], args: Namespace,
            asked: provenance.Asked) -> int:
    """Writes the record of a step whose last attempt went well; returns the exit code."""
    write_json(step.record, make_record(step, command, attempts, args, asked))
    seconds = sum(attempt["wall_seconds"] for attempt in attempts)
    print(f"{step}: done in {seconds:.0f} s, recorded in {step.record}")
    return 0


def make_record(step: Step, command: list[str], attempts: list[dict], args: Namespace,
                asked: provenance.Asked) -> dict:
    """All that is known about a step that has succeeded."""
    curve, final = measurements.of_step(step)
    settings = metrics_csv.settings(metrics_csv.latest_folder(step.curves))
    last, seed = attempts[-1], seed_of(command)
    return {
        "row": step.row, "step": step.name, "command": command, "exit_code": 0,
        "smoke": is_smoke(args), "like": args.like, "shrunk": args.shrunk,
        "changed": args.changed,
        "artifacts": args.artifact, "commit": last["commit"], "dirty": last["dirty"],
        "seed": settings.get("seed") if seed is None else seed, "settings": settings,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **provenance.facts(asked),
        "wall_seconds": round(sum(a["wall_seconds"] for a in attempts), 2),
        "peak_rss_mb": max(a.get("peak_rss_mb") or 0 for a in attempts),
        "attempts": attempts, "curve": curve, "final": final,
    }


def seed_of(command: list[str]) -> int | None:
    """The value of --seed in a command line, or None."""
    match = re.search(r"(?:^|\0)--seed[=\0](-?\d+)", "\0".join(command))
    return int(match.group(1)) if match else None
