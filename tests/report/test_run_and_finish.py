"""The actions run and finish: real processes that run small fake scripts in a temporary folder."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import filelock
import pytest

from report.cli import build_parser
from report.errors import UserError
from report.json_files import read_json, write_json
from report.step_files import Step, is_smoke, locked, runs_folder

ROOT = Path(__file__).resolve().parents[2]
LOG = """Model total parameters: 24221600
| end of epoch   1 | time: 65.12s | valid loss  5.70 | valid ppl   298.87 | valid bpc    8.223
| end of epoch   2 | time: 64.98s | valid loss  4.11 | valid ppl    60.95 | valid bpc    5.930
| End of training | test loss  4.07 | test ppl    58.80 | test bpc    5.877
"""
CURVES = """
import json, os, pathlib

def curves(name, *rows):
    \"\"\"What the harness does: a run's folder, announced to whoever asked.\"\"\"
    folder = pathlib.Path("logs", name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["step,epoch,name,value", *(f"{epoch},{epoch},{name},{value}"
             for epoch, name, value in rows)]
    (folder / "metrics.csv").write_text("\\n".join(lines))
    (folder / "args.json").write_text(json.dumps({"script": "awd_lstm/main.py"}))
    with open(os.environ["HARNESS_CURVES_LIST"], "a") as file:
        file.write(f"{folder}\\n")
"""
FAKE_TORCH = """
__version__ = "9.9"
def get_num_threads(): return 2
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda i: "NVIDIA H200")
"""
GOOD = f"""{CURVES}
import sys
print({LOG!r})
curves("PTB.pt", (1, "valid_loss", 5.7), (2, "valid_loss", 4.11), (2, "test_loss", 4.0742))
print("argv", sys.argv[1:], "data", pathlib.Path("data").is_symlink())
with open("calls", "a") as file:
    file.write("x")
"""


@pytest.fixture
def rec(tmp_path):
    """A function that calls report on runs below tmp_path; torch is a stand-in (fast)."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "torch.py").write_text(FAKE_TORCH)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'fake'}{os.pathsep}{ROOT}"}

    def start(action, *words):
        place = ["--workdir-root", str(tmp_path / "runs")] if "--smoke" not in words else []
        cut = words.index("--") if "--" in words else len(words)
        argv = [sys.executable, "-m", "report", action, *words[:cut], *place, *words[cut:]]
        # a test run started in the background ignores Ctrl-C, and its children would too
        return subprocess.Popen(
            argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def call(*words):
        process = start(*words)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    call.start = start
    return call


def script(tmp_path, text, name="main.py"):
    """Writes a fake script and returns its path."""
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def record_of(tmp_path, step="main", row="awd-ptb"):
    """The step's record."""
    return json.loads((tmp_path / "runs" / row / f"{step}.json").read_text())


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
print("ready")
try:
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
    out, err = process.communicate(timeout=30)
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


def test_second_run_of_a_running_step_is_refused(rec, tmp_path):
    path = script(tmp_path, INTERRUPTIBLE)
    process = rec.start("run", "awd-ptb", "main", "--", path)
    process.stdout.readline()
    second = rec("run", "awd-ptb", "main", "--", path)
    assert second.returncode == 2
    assert "already running" in second.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError("flock")])
def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, capsys, error):
    def refuse(self, timeout=-1):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with locked(Step("awd-ptb", "main", tmp_path)):
        said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "no lock can be had there" in said


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
