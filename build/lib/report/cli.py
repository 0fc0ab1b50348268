"""Runs one step of a reproduction row and records it; reports what is recorded.

    python -m report run awd-ptb main --resume-flag "--resume" --resume-if PTB.pt.state \\
        -- awd_lstm/main.py --batch_size 20 --data data/penn --seed 141 --epoch 500 --save PTB.pt
    python -m report run awd-ptb pointer -- awd_lstm/pointer.py --data data/penn ...
    python -m report finish awd-ptb main pointer
    python -m report                            results/README.md and its figures
    python -m report --compare awd-ptb awd-ptb-wider     their learning curves in one figure
    python -m report --html OUT.html --from runs/demo    one page about the runs in a folder

`run` starts the command in runs/ROW/ (where `data` is a link to the repository's data/), shows its
output, appends it to runs/ROW/STEP.log, and, if it succeeds, writes runs/ROW/STEP.json. The
script's path is relative to the repository. The numbers come from the metrics.csv of a training
run, otherwise from the log. Typed again, a finished step is skipped and an interrupted one
continues. `finish` merges the steps into one file in results/records/ROW/, which is committed.
`write`, which may be left out, reads those and results/published.csv: the same inputs give the same
results/README.md, byte for byte. STEP may be left out for a run of one step. With --html it reads
the step files of runs that are not (yet)
recorded, prints a table and writes a page that needs nothing but itself.

Exit codes: that of the command; 1 files that cannot be written; 2 bad input; 130 interrupted.
"""

import argparse
import errno
import sys
from pathlib import Path

from report import RESULTS, ROOT, compare, demo_page, published, results_readme
from report.errors import UserError
from report.finish_row import finish
from report.run_step import run

# The actions, and the flag that takes what they write elsewhere, as in another user's clone.
ELSEWHERE = {"run": "--workdir-root DIR", "finish": "--into DIR", "write": "--results DIR"}


def build_parser() -> argparse.ArgumentParser:
    """Flags of the three actions."""
    parser = argparse.ArgumentParser(
        prog="report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    step = actions.add_parser("run", help="run and record one step: run ROW STEP [...] -- COMMAND")
    step.add_argument("row")
    step.add_argument("step", nargs="?", default="main",
                      help="main (the default), finetune, pointer, eval, ...")
    step.add_argument("--redo", action="store_true", help="set the old record aside, start over")
    step.add_argument("--resume-flag", metavar="WORDS", help='what makes it continue: "--resume"')
    step.add_argument("--resume-if", metavar="PATH", help="... if this file exists in the folder")
    step.add_argument("--artifact", metavar="FILE", action="append", default=[],
                      help="a text the step writes, shown by --html (may be repeated)")
    step.add_argument("--like", metavar="ROW", help="the published row this is a small version of")
    step.add_argument("--shrunk", metavar="TEXT", help="what is smaller than in that row")
    row = actions.add_parser("finish", help="merge the steps into results/records/ROW/")
    row.add_argument("row")
    row.add_argument("steps", nargs="*", help="steps it must have (default: all ever started)")
    row.add_argument("--into", metavar="DIR", help="instead of results/records")
    for action in (step, row):
        action.add_argument("--workdir-root", metavar="DIR", help="instead of runs")
        action.add_argument("--smoke", action="store_true", help="a shrunk run: runs/smoke")
    page = actions.add_parser("write", help="report what is recorded (the default)")
    page.add_argument("--html", metavar="OUT", type=Path, help="write a page about --from")
    page.add_argument("--from", metavar="DIR", type=Path, dest="folder",
                      help="folder of runs, as `run` leaves it: DIR/ROW/STEP.json")
    page.add_argument("--compare", metavar="RUN", nargs="+",
                      help="draw the curves of these runs (rows, or folders with curves) together")
    page.add_argument("--out", metavar="FILE", type=Path, default=ROOT / "runs" / "compare.svg",
                      help="where --compare draws them (default: %(default)s)")
    page.add_argument("--results", metavar="DIR", type=Path, default=RESULTS,
                      help="where published.csv, records/, figures/ and README.md are")
    return parser


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our words, which begin with an action, and the command after the first --.
    `--resume-flag --x` is made one word."""
    ours, command = list(argv), []
    if "--" in ours:
        cut = ours.index("--")
        ours, command = ours[:cut], ours[cut + 1:]
    if not ours or ours[0] not in (*ELSEWHERE, "-h", "--help"):
        ours.insert(0, "write")
    if "--resume-flag" in ours[:-1]:
        i = ours.index("--resume-flag")
        ours[i:i + 2] = [f"--resume-flag={ours[i + 1]}"]
    return ours, command


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    ours, command = split_arguments(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(ours)
    try:
        if args.action == "run":
            return run(args, command)
        return finish(args) if args.action == "finish" else write(args)
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("filelock", "jinja2", "matplotlib"):
            raise
        print(f"report: {error.name} is not installed: pip install 'sequence-papers[report]' (in a "
              "checkout: make setup)", file=sys.stderr)
        return 2
    except OSError as error:
        forbidden = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        remedy = f"; {ELSEWHERE[args.action]} names another folder" if forbidden else ""
        print(f"report: {error}{remedy}", file=sys.stderr)
        return 1


def write(args: argparse.Namespace) -> int:
    """The action `write`. Raises UserError."""
    if bool(args.html) != bool(args.folder):
        raise UserError("--html OUT and --from DIR belong together")
    if args.compare:
        compare.compare(args.compare, args.out)
        return 0
    lines = published.load(args.results / "published.csv")
    if args.html:
        demo_page.write(args.html, args.folder, lines)
    else:
        results_readme.write(args.results, lines)
    return 0
