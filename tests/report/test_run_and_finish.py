"""The actions run and finish: real processes that run small fake scripts in a temporary folder."""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from report import command
from report.cli import build_parser
from report.errors import UserError
from report.json_files import read_json, write_json
from report.step_files import Step, is_smoke, runs_folder
from tests.report.steps import CURVES, GOOD, record_of, script

ROOT = Path(__file__).resolve().parents[2]


def test_success_is_recorded(rec, tmp_path):
    path = script(tmp_path, GOOD)
    done = rec("run", "awd-ptb", "main", "--", path, "--seed", "141", "--save", "PTB.pt")
    assert done.returncode == 0, done.stderr
    assert "| End of training | test loss  4.07" in done.stdout
    assert "argv ['--seed', '141', '--save', 'PTB.pt'] data True" in done.stdout
    step = record_of(tmp_path)
    assert step["command"] == [path, "--seed", "141", "--save", "PTB.pt"]
    assert (step["seed"], step["exit_code"], step["threads"]) == (141, 0, 2)
    assert step["hardware"]["gpus"] == ["NVIDIA H200"]
    assert step["versions"]["torch"] == "9.9"
    assert step["peak_rss_mb"] > 0
    assert len(step["attempts"]) == 1
    assert step["wall_seconds"] == step["attempts"][0]["wall_seconds"] > 0
    assert [(point["valid_loss"], point["seconds"]) for point in step["curve"]] == [
        (5.7, 65.12), (4.11, 64.98)]
    assert step["final"]["test_loss"] == 4.0742  # more digits than the log has
    assert step["final"]["params"] == 24221600
    assert "end of epoch   1" in (tmp_path / "runs" / "awd-ptb" / "main.log").read_text()


def test_failure_passes_the_exit_code_on(rec, tmp_path):
    path = script(tmp_path, "import sys; print('bad flag'); sys.exit(7)")
    done = rec("run", "awd-ptb", "main", "--", path)
    assert done.returncode == 7
    assert "failed with exit code 7" in done.stderr
    assert not (tmp_path / "runs" / "awd-ptb" / "main.json").exists()
    assert "bad flag" in (tmp_path / "runs" / "awd-ptb" / "main.log").read_text()


def test_command_killed_by_a_signal(rec, tmp_path):
    path = script(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert rec("run", "awd-ptb", "main", "--", path).returncode == 137


def test_other_commands_run_as_they_are(rec, tmp_path):
    done = rec("run", "tnn-alm", "main", "--", "bash", "-c", "echo $(basename $PWD); python -V")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tnn-alm\nPython 3")
    assert record_of(tmp_path, row="tnn-alm")["seed"] is None


def test_done_step_is_skipped(rec, tmp_path):
    path = script(tmp_path, GOOD)
    rec("run", "awd-ptb", "main", "--", path)
    again = rec("run", "awd-ptb", "main", "--", path)
    assert again.returncode == 0
    assert len(again.stdout.splitlines()) == 1
    assert "skipped" in again.stdout
    assert (tmp_path / "runs" / "awd-ptb" / "calls").read_text() == "x"


def test_success_that_was_not_written_down_is_not_run_again(rec, tmp_path):
    path = script(tmp_path, GOOD)
    rec("run", "awd-ptb", "main", "--", path)
    (tmp_path / "runs" / "awd-ptb" / "main.json").unlink()  # as after a power cut
    assert rec("run", "awd-ptb", "main", "--", path).returncode == 0
    assert record_of(tmp_path)["final"]["test_loss"] == 4.0742
    assert (tmp_path / "runs" / "awd-ptb" / "calls").read_text() == "x"


def test_differing_command_is_refused_until_redo(rec, tmp_path):
    path = script(tmp_path, GOOD)
    rec("run", "awd-ptb", "main", "--", path, "--epoch", "500")
    other = rec("run", "awd-ptb", "main", "--", path, "--epoch", "5")
    assert other.returncode == 2
    assert len(other.stderr.splitlines()) == 1
    assert "no longer: 500; new: 5" in other.stderr
    redo = rec("run", "awd-ptb", "main", "--redo", "--", path, "--epoch", "5")
    assert redo.returncode == 0
    assert record_of(tmp_path)["command"][-1] == "5"
    kept = list((tmp_path / "runs" / "awd-ptb" / "old").glob("*/main.json"))
    assert json.loads(kept[0].read_text())["command"][-1] == "500"


RESUMABLE = f"""{CURVES}
import sys
state = pathlib.Path("PTB.state.pt")
if "--resume" in sys.argv:
    print("| end of epoch   2 | time:  2.00s | valid loss  4.00 | valid ppl    54.60")
    curves("PTB.pt", (1, "valid_loss", 5), (2, "valid_loss", 4), (3, "valid_loss", 3))
else:
    for epoch in (1, 2):
        print(f"| end of epoch   {{epoch}} | time:  1.00s | valid loss  5.00 | valid ppl   148.41")
    curves("PTB.pt", (1, "valid_loss", 5), (2, "valid_loss", 5))
    state.write_text("epoch 2")
    sys.exit(1)
"""
RESUME = ("--resume-flag", "--resume", "--resume-if", "PTB.state.pt")


def test_resume_flag_is_appended_and_the_resumed_curve_is_read(rec, tmp_path):
    path = script(tmp_path, RESUMABLE)
    assert rec("run", "awd-ptb", "main", *RESUME, "--", path).returncode == 1
    done = rec("run", "awd-ptb", "main", *RESUME, "--", path)
    assert done.returncode == 0, done.stderr
    step = record_of(tmp_path)
    assert step["command"] == [path]
    assert [a["resumed"] for a in step["attempts"]] == [False, True]
    assert step["wall_seconds"] == pytest.approx(sum(a["wall_seconds"] for a in step["attempts"]))
    assert [p["valid_loss"] for p in step["curve"]] == [5, 4, 3]
    assert [p.get("seconds") for p in step["curve"]] == [1.0, 2.0, None]


def test_resumable_step_refuses_another_command(rec, tmp_path):
    path = script(tmp_path, RESUMABLE)
    rec("run", "awd-ptb", "main", *RESUME, "--", path)
    other = rec("run", "awd-ptb", "main", *RESUME, "--", path, "--epoch", "9")
    assert other.returncode == 2
    assert "begun with another command (new: --epoch 9)" in other.stderr


def test_state_of_an_earlier_step_is_not_resumed(rec, tmp_path):
    workdir = tmp_path / "runs" / "awd-ptb"
    workdir.mkdir(parents=True)
    (workdir / "PTB.state.pt").write_text("of the step before")
    os.utime(workdir / "PTB.state.pt", (1e9, 1e9))
    path = script(tmp_path, "import sys; sys.exit('--resume' in sys.argv or 3)")
    for _ in range(2):
        assert rec("run", "awd-ptb", "finetune", *RESUME, "--", path).returncode == 3


def test_fresh_start_forgets_the_curve_of_the_broken_one(rec, tmp_path):
    path = script(tmp_path, CURVES + """
import sys
first = not pathlib.Path("once").exists()
pathlib.Path("once").touch()
epoch = 9 if first else 1
print(f"| end of epoch   {epoch} | time:  1.00s | valid loss  5.00 | valid ppl   148.41")
curves("first" if first else "second", (epoch, "valid_loss", 5))
sys.exit(first)
""")
    rec("run", "awd-ptb", "main", "--", path)
    assert rec("run", "awd-ptb", "main", "--", path).returncode == 0
    assert [point["epoch"] for point in record_of(tmp_path)["curve"]] == [1]


INTERRUPTIBLE = """
import pathlib, signal, sys, time
if "--resume" in sys.argv:
    sys.exit(0)
try:
    print("ready", flush=True)  # who reads this may interrupt at once
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)  # a second Ctrl-C here would break the saving
    pathlib.Path("PTB.state.pt").write_text("saved")
    sys.exit(130)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_waits_for_the_command_and_goes_on_later(rec, tmp_path, signum):
    path = script(tmp_path, INTERRUPTIBLE)
    process = rec.start("run", "awd-ptb", "main", *RESUME, "--", path)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted" in out
    workdir = tmp_path / "runs" / "awd-ptb"
    assert (workdir / "PTB.state.pt").read_text() == "saved"
    assert not (workdir / "main.json").exists()
    assert rec("finish", "awd-ptb").returncode == 2
    assert rec("run", "awd-ptb", "main", *RESUME, "--", path).returncode == 0
    step = record_of(tmp_path)
    assert [a["interrupted"] for a in step["attempts"]] == [True, False]
    assert step["wall_seconds"] > 0.5


def test_a_log_on_a_full_disk_leaves_no_command_running(tmp_path, monkeypatch):
    """It is stopped as by Ctrl-C, and waited for: the state is saved when the error is said."""
    def full(stream, log):
        assert stream.readline() == b"ready\n"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(command, "tee", full)
    step = Step("awd-ptb", "main", tmp_path)
    path = script(tmp_path, INTERRUPTIBLE)
    with pytest.raises(OSError, match="No space left"):
        command.execute([sys.executable, path], step, "")
    assert (tmp_path / "PTB.state.pt").read_text() == "saved"


def test_second_run_of_a_running_step_is_refused(rec, tmp_path):
    path = script(tmp_path, INTERRUPTIBLE)
    process = rec.start("run", "awd-ptb", "main", "--", path)
    process.stdout.readline()
    second = rec("run", "awd-ptb", "main", "--", path)
    assert second.returncode == 2
    assert "already running" in second.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


def test_numbers_of_a_step_that_only_evaluates_are_those_of_its_log(rec, tmp_path):
    path = script(tmp_path, """
        print("| End of pointer | val loss  3.97 | val ppl    53.20")
        print("| End of pointer | test loss  3.96 | test ppl    52.50")
        """)
    assert rec("run", "awd-ptb", "pointer", "--", path).returncode == 0
    step = record_of(tmp_path, "pointer")
    assert step["curve"] == []
    assert step["final"] == {"valid_loss": 3.97, "valid_ppl": 53.2, "test_loss": 3.96,
                             "test_ppl": 52.5}


def test_curves_that_are_gone_are_named(rec, tmp_path):
    path = script(tmp_path, GOOD + "\nimport shutil; shutil.rmtree('logs')")
    done = rec("run", "awd-ptb", "main", "--", path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "logs/PTB.pt/args.json" in done.stderr


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["x.json"]
    path.write_text("{")
    with pytest.raises(UserError, match=r"x\.json: not readable"):
        read_json(path)


def test_finish_merges_the_steps_and_names_no_path_of_the_machine(rec, tmp_path):
    path = script(tmp_path, GOOD)
    rec("run", "awd-ptb", "main", "--", path, "--note", str(ROOT / "data"), f"{Path.home()}/x")
    rec("run", "awd-ptb", "pointer", "--", path)
    into = tmp_path / "records"
    for _ in range(2):  # the second time writes the same file
        done = rec("finish", "awd-ptb", "main", "pointer", "--into", str(into))
        assert done.returncode == 0, done.stderr
    (file,) = into.glob("awd-ptb/*.json")
    record = json.loads(file.read_text())
    assert [step["step"] for step in record["steps"]] == ["main", "pointer"]
    assert file.name.startswith(record["date"][:10] + "-1x-nvidia-h200-")
    assert record["steps"][0]["command"][-2:] == ["./data", "~/x"]
    assert str(ROOT) not in file.read_text()


def test_finish_refuses_missing_and_failed_steps(rec, tmp_path):
    rec("run", "awd-ptb", "main", "--", script(tmp_path, GOOD))
    into = ("--into", str(tmp_path / "records"))
    missing = rec("finish", "awd-ptb", "main", "pointer", *into)
    assert missing.returncode == 2
    assert "awd-ptb pointer: missing" in missing.stderr
    rec("run", "awd-ptb", "pointer", "--", script(tmp_path, "raise SystemExit(4)", "p.py"))
    failed = rec("finish", "awd-ptb", *into)
    assert failed.returncode == 2
    assert "awd-ptb pointer: not finished (exit code 4)" in failed.stderr
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("words", [
    ("run", "awd-ptb", "main"),
    ("run", "../escape", "main", "--", "true"),
    ("run", "awd-ptb", "main", "--", "no/such/script.py"),
    ("run", "awd-ptb", "main", "--", "no-such-command"),
    ("finish", "never-run"),
])
def test_bad_input_is_one_line(rec, words):
    done = rec(*words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("report: ")


def test_smoke_runs_stay_out_of_the_records():
    parse = build_parser().parse_args
    assert is_smoke(parse(["finish", "x", "--smoke"]))
    assert is_smoke(parse(["finish", "x", "--workdir-root", str(ROOT / "runs" / "demo")]))
    assert not is_smoke(parse(["finish", "x"]))
    assert runs_folder(parse(["finish", "x", "--smoke"])) == ROOT / "runs" / "smoke"


def test_the_step_may_be_left_out_and_the_settings_are_kept(rec, tmp_path):
    """Any script of one's own: report run NAME -- SCRIPT. The default seed counts as the seed."""
    settings = ('"seed": 1111, "lr": 30, "cap": float("inf"), "when": [-1], '
                f'"log_dir": "{ROOT / "awd_lstm/logs"}", "data": "/elsewhere/penn"')
    path = script(tmp_path, GOOD.replace('"script": "awd_lstm/main.py"',
                                         f'"script": "awd_lstm/main.py", {settings}'))
    assert rec("run", "mine", "--", path).returncode == 0
    step = record_of(tmp_path, row="mine")
    assert step["seed"] == 1111
    assert step["settings"] == {"seed": 1111, "lr": 30, "cap": "inf", "when": [-1],
                                "log_dir": "awd_lstm/logs", "data": "/elsewhere/penn"}
    assert rec("run", "seeded", "--", path, "--seed", "5").returncode == 0
    assert record_of(tmp_path, row="seeded")["seed"] == 5
