"""Two processes are one run: they save one state, stop together, and are refused together."""

import csv
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from harness import files
from tests.exits import as_torchrun_starts, free_port
from tests.harness.same import same

TOY = "tests.harness.toy"
FLAGS = ["--save-interval", "4", "--devices", "2"]

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")


def start(server, folder: Path, *more: str, per_rank=lambda rank: {}) -> list:
    """As torchrun starts them. per_rank: hooks of each."""
    port, found = free_port(), []
    for rank in range(2):
        found.append(server.start(TOY, [*FLAGS, *more], folder,
                                  environment=as_torchrun_starts(rank, 2, port), **per_rank(rank)))
    return found


def ended(children: list) -> list:
    return [child.wait(120) for child in children]


def run(server, folder: Path, *more: str) -> list:
    done = ended(start(server, folder, *more))
    assert [each.code for each in done] == [0, 0], [each.err for each in done]
    return done


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    done = run(server, folder)
    return folder, done


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = (files.read(folder / "m.pt.state") for folder in (one, other))
    for key in ("model", "optimizer", "processes", "progress", "best"):
        assert same(ours[key], theirs[key]), key
    ours, theirs = ((folder / "logs/m.pt/metrics.csv").read_text() for folder in (one, other))
    assert ours == theirs


def test_one_state_with_a_part_of_each(unbroken):
    folder, _ = unbroken
    state = files.read(folder / "m.pt.state")
    assert len(state["processes"]) == 2
    mine, others = state["processes"]
    assert not torch.equal(mine["own"]["hidden"], others["own"]["hidden"])  # its own points
    assert not torch.equal(mine["random"]["torch"], others["random"]["torch"])
    assert state["progress"]["step"] == 15
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "m.pt", "m.pt.state", "m.pt.state.prev", "m.pt.txt"}


def test_the_first_process_speaks_and_draws(unbroken):
    folder, (first, second) = unbroken
    assert second.out == ""
    assert first.out.startswith("epoch 1 loss")
    assert [path.name for path in (folder / "logs").iterdir()] == ["m.pt"]
    assert len(list((folder / "logs/m.pt").glob("events*"))) == 1
    with (folder / "logs/m.pt/metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["name"] == "train_loss"]
    assert steps == [*range(1, 16)]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_stops_both(server, unbroken, tmp_path, rank):
    """At the same update, with the state saved once; and the run goes on bit for bit."""
    send = {"signal": signal.SIGTERM, "where": "update", "at": 6}
    done = ended(start(server, tmp_path, per_rank=lambda r: {"send": send} if r == rank else {}))
    assert [each.code for each in done] == [143, 143], [each.err for each in done]
    assert "To go on: the same command with --resume (m.pt.state)" in done[0].out
    assert files.read(tmp_path / "m.pt.state")["progress"]["step"] == 7
    run(server, tmp_path, "--resume")
    assert_same_run(tmp_path, unbroken[0])


def test_max_steps_stops_both(server, unbroken, tmp_path):
    run(server, tmp_path, "--max-steps", "6")
    run(server, tmp_path, "--resume")
    assert_same_run(tmp_path, unbroken[0])


def test_both_are_refused_by_a_run_that_is_there(server, tmp_path):
    holder = server.start(TOY, ["--save", "m.pt"], tmp_path, hold={"save": 0, "stage": "begin"})
    assert holder.wait() is None
    try:
        done = ended(start(server, tmp_path))
        assert [each.code for each in done] == [2, 2]
        for each in done:
            assert each.line == ("toy.py: --save m.pt: another run is writing there; wait for its "
                                 "end or give another --save")
    finally:
        holder.kill()
        holder.wait()


def test_data_that_are_not_there_stop_both(server, tmp_path):
    """The first process finds it out; the other does not wait for it for ever."""
    done = ended(start(server, tmp_path, "--text", "none.txt"))
    assert [each.code for each in done] == [2, 2], [each.err for each in done]
    assert "toy.py: --text none.txt: " in done[0].line


def test_curves_that_cannot_be_drawn_stop_both(server, tmp_path):
    """Only the first process draws."""
    (tmp_path / "file").touch()
    done = ended(start(server, tmp_path, "--log-dir", "file"))
    assert [each.code for each in done] == [2, 2], [each.err for each in done]
    assert all(each.line.startswith("toy.py: --log-dir file: ") for each in done)


def test_another_number_of_processes_is_refused(server, unbroken, tmp_path):
    """In one line, by one process that would go on."""
    for name in ("m.pt", "m.pt.state"):
        (tmp_path / name).write_bytes((unbroken[0] / name).read_bytes())
    done = server.run(TOY, ["--resume"], tmp_path)
    assert done.code == 2
    assert done.complaints == ["toy.py: --resume: m.pt.state is of 2 processes, not 1: give "
                               "--devices 2"]


def test_a_loss_that_is_not_finite_stops_both(server, tmp_path):
    """Averaged over the processes, a gradient that is nan in one is nan in both."""
    done = ended(start(server, tmp_path, "--spoil", "5"))
    assert [each.code for each in done] == [1, 1]
    assert all("is not finite at epoch 2, step 5" in each.line for each in done)
    assert files.read(tmp_path / "m.pt.state")["progress"]["step"] == 5
