"""Records runs and reports them beside the published numbers.

    python -m report run ROW STEP [...] -- COMMAND    runs a command as a step of a row, records it
    python -m report finish ROW [STEP ...]            merges a row's steps into results/records/
    python -m report                                  results/README.md, the figures

run_step        the action `run`              command       starts the command, shows and logs it
finish_row      the action `finish`           step_files    a step's files, its lock
change          AS= and ARGS= of make         compare       --compare
measurements    curve and closing numbers     metrics_csv   ... from what the run wrote
provenance      machine, versions, commit     log_lines     ... from what the run said
published       rows, their published numbers step_numbers  our number of a step, written
needs           what each row takes           records       full, small, changed runs; seeds
results_readme  results/README.md             results_runs  ... its parts about single runs
figures         results/figures               plots         learning curves
demo_page       one page about some runs      tables        Markdown

results/ holds what this package reads and writes: data, no code.
"""

from pathlib import Path

CODE = Path(__file__).resolve().parent.parent  # the scripts: awd_lstm/main.py is below it
# runs/, results/ and data/ are in the checkout; installed from a wheel, in the working directory
ROOT = CODE if (CODE / "getdata.sh").is_file() else Path.cwd()
RESULTS = ROOT / "results"
