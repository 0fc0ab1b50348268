"""Runs one step of a reproduction row and records it.

    python results/record.py run awd-ptb main --resume-flag "--resume" --resume-if PTB.state.pt \
        -- awd_lstm/main.py --batch_size 20 --data data/penn --seed 141 --epoch 500 --save PTB.pt
    python results/record.py run awd-ptb pointer -- awd_lstm/pointer.py --data data/penn ...
    python results/record.py finish awd-ptb main pointer

`run` starts the command in runs/<row>/ (where `data` is a link to the repository's data/), shows
its output, appends it to runs/<row>/<step>.log, and, if it succeeds, writes runs/<row>/<step>.json.
The script's path is relative to the repository. Typed again, a finished step is skipped and an
interrupted one continues. `finish` merges the steps into one file under results/records/<row>/,
which is committed; `python results/report.py` reads those.

Exit codes: that of the command; 2 bad input; 130 interrupted.
"""

import argparse
import json
import re
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from results import loglines, machine  # noqa: E402
from results.child import executable, execute  # noqa: E402
from results.store import (  # noqa: E402
    Step,
    UserError,
    locked,
    make_workdir,
    read_json,
    set_aside,
    write_json,
)


def difference(old, new):
    """One phrase for how two command lines differ."""
    gone = [word for word in old if word not in new]
    come = [word for word in new if word not in old]
    if not gone and not come:
        return f"was: {shlex.join(old)}; now: {shlex.join(new)}"
    parts = [("not now", gone), ("only now", come)]
    return "; ".join(f"{label}: {shlex.join(words)}" for label, words in parts if words)


def skip(step, command):
    """True if the step is done with this very command; refuses if it was done with another."""
    done = read_json(step.record)
    if done is None:
        return False
    if done["command"] != command:
        words = difference(done["command"], command)
        raise UserError(f"{step}: done with another command ({words}); --redo starts over")
    print(f"{step}: done on {done['date'][:10]}, skipped")
    return True


def earlier_attempts(step, command, args):
    """Attempts of this command that count, and whether the next one continues them."""
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


def seed_of(command):
    """The value of --seed in a command line, or None."""
    match = re.search(r"(?:^|\0)--seed[=\0](-?\d+)", "\0".join(command))
    return int(match.group(1)) if match else None


def make_record(step, command, attempts, args):
    """All that is known about a step that has succeeded."""
    curve, final = loglines.parse_log(step.log.read_text(errors="replace"))
    last = attempts[-1]
    return {
        "row": step.row, "step": step.name, "command": command, "exit_code": 0,
        "smoke": is_smoke(args), "like": args.like, "shrunk": args.shrunk,
        "artifacts": args.artifact, "commit": last["commit"], "dirty": last["dirty"],
        "seed": seed_of(command), "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **machine.facts(),
        "wall_seconds": round(sum(a["wall_seconds"] for a in attempts), 2),
        "peak_rss_mb": max(a.get("peak_rss_mb") or 0 for a in attempts),
        "attempts": attempts, "curve": curve, "final": final,
    }


def attempt(step, command, args):
    """Runs the command once more and writes down how it went; returns the exit code."""
    words = executable(command, step.workdir)
    attempts, resumes = earlier_attempts(step, command, args)
    if attempts and attempts[-1]["exit_code"] == 0 and not attempts[-1]["interrupted"]:
        return succeed(step, command, attempts, args)  # it was done, but we died before saying so
    if resumes:
        words += shlex.split(args.resume_flag)
    commit, dirty = machine.git_state(ROOT)
    this = {"command": command, "resumed": resumes, "started_at": time.time(), "commit": commit,
            "dirty": dirty, "exit_code": None, "wall_seconds": None}
    attempts.append(this)
    write_json(step.attempts, attempts)
    start = "=== record: resumed" if resumes else loglines.FRESH_START
    break_line = "\n" if step.log.exists() and step.log.stat().st_size else ""
    headline = f"{break_line}{start}, attempt {len(attempts)}: {shlex.join(command)}"
    code, interrupted, this["wall_seconds"], this["peak_rss_mb"] = execute(words, step, headline)
    this.update(exit_code=code, interrupted=interrupted)
    write_json(step.attempts, attempts)
    if interrupted:
        print(f"{step}: interrupted after {this['wall_seconds']:.0f} s; the same command goes on")
        return 130
    if code:
        print(f"{step}: failed with exit code {code}, see {step.log}", file=sys.stderr)
        return code
    return succeed(step, command, attempts, args)


def succeed(step, command, attempts, args):
    """Writes the record of a step whose last attempt went well; returns the exit code."""
    write_json(step.record, make_record(step, command, attempts, args))
    seconds = sum(attempt["wall_seconds"] for attempt in attempts)
    print(f"{step}: done in {seconds:.0f} s, recorded in {step.record}")
    return 0


def run(args, command):
    """The `run` action."""
    if not command:
        raise UserError("run needs a command after --")
    step = Step(args.row, args.step, root_of(args) / args.row)
    make_workdir(step.workdir)
    with locked(step):
        if args.redo:
            set_aside(step)
        return 0 if skip(step, command) else attempt(step, command, args)


def root_of(args):
    """The folder that holds the rows' working folders."""
    return Path(args.workdir_root or ROOT / "runs" / ("smoke" if args.smoke else "")).absolute()


def is_smoke(args):
    """Shrunk runs live below runs/: they are not the row they are named after."""
    return args.smoke or ROOT / "runs" in root_of(args).parents


def finished(step):
    """A step's record, or the reason why there is none."""
    done = read_json(step.record)
    if done is not None:
        return done
    attempts = read_json(step.attempts)
    if not attempts:
        raise UserError(f"{step}: missing, it was never run in {step.workdir}")
    code = attempts[-1]["exit_code"]
    how = "interrupted" if code is None or attempts[-1].get("interrupted") else f"exit code {code}"
    raise UserError(f"{step}: not finished ({how}), see {step.log}")


def scrubbed(value):
    """The same value without this machine's paths."""
    text = json.dumps(value)
    for path, name in ((str(ROOT), "."), (str(Path.home()), "~")):
        if len(path) > 1:  # a home of / would eat every slash
            text = re.sub(re.escape(json.dumps(path)[1:-1]) + r"(?![\w.-])", name, text)
    return json.loads(text)


def finish(args):
    """The `finish` action: merges the step files into one committed file."""
    workdir = root_of(args) / args.row
    names = args.steps or sorted(p.stem for p in workdir.glob("*.attempts"))
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
    folder = Path(args.into or ROOT / "results" / "records") / args.row
    folder.mkdir(parents=True, exist_ok=True)
    commit = last["commit"][:7] if last["commit"] else "nocommit"
    stem = f"{last['date'][:10]}-{machine.slug(last['hardware'])}-{commit}"
    number, path = 1, folder / f"{stem}.json"
    while path.exists() and read_json(path) != merged:  # another run of the same day
        number += 1
        path = folder / f"{stem}-{number}.json"
    write_json(path, merged)
    print(f"{args.row}: {len(steps)} steps recorded in {path}")
    return 0


def build_parser():
    """Flags of the two actions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    run_ = actions.add_parser("run", help="run and record one step: run ROW STEP [...] -- COMMAND")
    run_.add_argument("row")
    run_.add_argument("step", help="main, finetune, pointer, eval, ...")
    run_.add_argument("--redo", action="store_true", help="set the old record aside, start over")
    run_.add_argument("--resume-flag", metavar="WORDS", help='what makes it continue: "--resume"')
    run_.add_argument("--resume-if", metavar="PATH", help="... if this file exists in the folder")
    run_.add_argument("--artifact", metavar="FILE", action="append", default=[],
                      help="a text the step writes, shown by report.py --html (may be repeated)")
    run_.add_argument("--like", metavar="ROW", help="the published row this is a small version of")
    run_.add_argument("--shrunk", metavar="TEXT", help="what is smaller than in that row")
    finish_ = actions.add_parser("finish", help="merge the steps into results/records/<row>/")
    finish_.add_argument("row")
    finish_.add_argument("steps", nargs="*", help="steps it must have (default: all ever started)")
    finish_.add_argument("--into", metavar="DIR", help="instead of results/records")
    for action in (run_, finish_):
        action.add_argument("--workdir-root", metavar="DIR", help="instead of runs")
        action.add_argument("--smoke", action="store_true", help="a shrunk run: runs/smoke")
    return parser


def split_arguments(argv):
    """Our words and, after the first --, the command; `--resume-flag --x` is made one word."""
    ours, command = list(argv), []
    if "--" in ours:
        cut = ours.index("--")
        ours, command = ours[:cut], ours[cut + 1:]
    if "--resume-flag" in ours[:-1]:
        i = ours.index("--resume-flag")
        ours[i:i + 2] = [f"--resume-flag={ours[i + 1]}"]
    return ours, command


def main(argv=None):
    """Command line; returns the exit code."""
    ours, command = split_arguments(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(ours)
    try:
        return run(args, command) if args.action == "run" else finish(args)
    except UserError as error:
        print(f"record.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
