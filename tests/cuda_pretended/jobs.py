"""Runs jobs one after another in a process that has a pretended GPU:

    LD_PRELOAD=STUB PRETEND_LIB=STUB python -m tests.cuda_pretended.jobs JOBS.json REPORTS.json

A job is {"module": ..., "argv": [...]}, whose main(argv) is called, or {"code": ...}, which is
executed; "path" is put first on sys.path, "cwd" is where it runs. Its report holds "exit", "error"
(a traceback), "output", and what the ledger noted.
"""

import contextlib
import faulthandler
import importlib
import io
import json
import os
import signal
import sys
import traceback
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"


def main() -> None:
    jobs, reports = Path(sys.argv[1]), Path(sys.argv[2])
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # where does it stand?
    import torch
    torch.set_num_threads(1)
    given = json.loads(jobs.read_text())
    for name in dict.fromkeys(job["before"] for job in given if "before" in job):
        importlib.import_module(name)  # what must be imported while there is no device
    from tests.cuda_pretended import driver
    driver.install()
    found = []
    for job in given:
        found.append(run(job))
        reports.write_text(json.dumps(found))  # as far as it came


def run(job: dict) -> dict:
    import torch

    from tests.cuda_pretended import ledger
    ledger.begin()
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)
    here, output, report = os.getcwd(), io.StringIO(), {"exit": 0, "error": ""}
    os.chdir(job.get("cwd", here))
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            report["value"] = call(job)
    except SystemExit as stop:
        report["exit"] = stop.code or 0
    except BaseException:
        report |= {"exit": 1, "error": traceback.format_exc()}
    finally:
        os.chdir(here)
    return report | {"output": output.getvalue()} | ledger.LEDGER.report()


def call(job: dict):
    if "code" in job:
        names: dict = {}
        exec(job["code"], names)
        return names.get("value")
    module, kept = importlib.import_module(job["module"]), sys.argv
    sys.argv = [job["module"], *job["argv"]]
    try:
        if job["module"].startswith("fairseq_cli"):
            module.cli_main()
        else:
            module.main(list(job["argv"]))
    finally:
        sys.argv = kept
    return None


if __name__ == "__main__":
    main()
