"""Settings of the tasks, flags, and the scripts that start runs."""

import os
import signal
import subprocess
import sys

import pytest

from harness import files
from harness.endings import SIGNALS
from tests.tnn.lra.small import ROOT, write_sums
from tnn import script_lra
from tnn.lra.args import parse_args
from tnn.lra.norms import NORMS as KNOWN_NORMS
from tnn.lra.recipes import NORMS, settings_of
from tnn.lra.tasks import TASKS
from tnn.lra.utils import cosine_factor, evaluation_batches, training_batches


@pytest.fixture
def data(tmp_path, monkeypatch):
    """22 / 5 / 5 sums modulo ten; the working directory."""
    monkeypatch.chdir(tmp_path)
    write_sums(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("more", "said"), [
    (["--accumulate", "3"], "batch of 128 of listops evenly; --batch-size 42 would make an update "
                            "of 126, --batch-size 43 one of 129"),
    (["--devices", "3"], "--devices 3 x --accumulate 1 cannot share"),
    (["--devices", "2", "--accumulate", "32"], None)])
def test_the_tasks_batch_is_never_another(more, said, capsys):
    if said is None:
        assert parse_args(["--task", "listops", *more]).batch_size == 2
        return
    with pytest.raises(SystemExit) as stop:
        parse_args(["--task", "listops", *more])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("block", ["script", "yaml"])
def test_flags_take_the_settings_of_the_task(task, block):
    args = vars(parse_args(["--task", task, "--settings", block]))
    assert all(args[name] == value for name, value in settings_of(task, block).items())
    assert parse_args(["--task", task, "--lr", "7"]).lr == 7
    assert parse_args(["--task", task, "--no-use-decay"]).use_decay is False


def test_the_cosine_returns_or_stays():
    for after_end, factor in (("cycle", 1.0), ("zero", 0.0)):
        assert cosine_factor(190, 10, 100, after_end) == pytest.approx(factor)
    assert cosine_factor(0, 10, 100) == 0
    assert cosine_factor(10, 10, 100) == 1


class Processes:
    def __init__(self, world_size, global_rank):
        self.world_size, self.global_rank = world_size, global_rank


def test_batches_of_all_processes_are_those_of_one():
    one = training_batches(23, 6, Processes(1, 0), 5)
    two = [training_batches(23, 3, Processes(2, rank), 5) for rank in range(2)]
    assert [sorted(a) for a in one] == [sorted(a + b) for a, b in zip(*two, strict=True)]
    assert one != training_batches(23, 6, Processes(1, 0), 6)
    scored = [i for rank in range(2) for batch in evaluation_batches(
        23, 3, Processes(2, rank), False) for i in batch]
    assert sorted(scored) == list(range(23))
    assert evaluation_batches(7, 3, Processes(1, 0), True) == [[0, 1, 2], [3, 4, 5]]


def shell(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=200,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout, done.stderr


def test_script_without_a_task_says_what_can_be_run(data):
    code, out, _ = shell(sys.executable, ROOT / "tnn/script_lra.py")
    assert code == 0
    assert "pathfinderx" in out
    assert "--task listops" in out
    code, out, _ = shell(sys.executable, ROOT / "tnn/script_lra.py", "--task", "all", "--gpus", 2,
                         "--dry-run", "--lr", "0.5")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 6
    assert all("--devices 2" in x and "--lr 0.5" in x
                                                 for x in lines)
    assert all(("tno2d" in line) == ("cifar" in line or "pathfinder" in line) for line in lines)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda each: each.name)
def test_a_signal_to_the_script_reaches_the_run(signum):
    """And the script waits for its end; the exit code is the run's."""
    name, handlers = signum.name[3:], {each: signal.getsignal(each) for each in SIGNALS}
    waits = f"trap 'sleep 0.1; exit 5' {name}; kill -{name} $PPID; while :; do sleep 0.05; done"
    try:
        assert script_lra.run(["bash", "-c", waits]) == 5
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def test_twenty_positional_arguments(data):
    code, _out, err = shell("bash", ROOT / "tnn/run_task.sh", "listops", "gtu", 4, 1, 8, 4, "batch",
                           2, 1.5, "False", 0.9, 0.01, 0.1, 1, 0, 0.1, 8, 2, "False", 3, "--data",
                           ".", "--max-steps", 1, "--log-dir", "logs")
    assert code == 0, err
    args = files.read("listops-gtu.pt")["args"]
    wanted = dict(batch_size=4, n_layers=1, d_model=8, dpb_dim=4, norm="batch", expand_tno=2,
                  expand_glu=1.5, use_decay=False, gamma=0.9, lr=0.01, weight_decay=0.1, workers=0,
                  dropout=0.1, dpb_type=8, dpb_layers=2, prenorm=False, warmup=3, devices=1)
    assert {name: args[name] for name in wanted} == wanted
    code, _, err = shell("bash", ROOT / "tnn/train_lra.sh", "listops")
    assert code == 2
    assert "usage" in err


def test_the_names_of_the_norms_are_those_that_there_are():
    assert set(NORMS) == set(KNOWN_NORMS)


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        parse_args(["-h"])
    assert "None)" in capsys.readouterr().out
