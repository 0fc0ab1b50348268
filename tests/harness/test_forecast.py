"""harness.forecast: what a long run will take, on stderr; nothing of a short one."""

from argparse import Namespace
from dataclasses import dataclass, field

import pytest
import torch

from harness.forecast import Forecast, duration, memory
from harness.keeper import Progress


@dataclass
class Run:
    progress: Progress = field(default_factory=Progress)


@dataclass
class Telling(Run):
    """A run that says how far it is in its epoch."""

    per_epoch: int = 100

    def epoch_share(self):
        return self.progress.step % self.per_epoch / self.per_epoch


def train(run, forecast, updates, seconds, per_epoch, start=0.0):
    """Updates as a script makes them: the epoch's number changes after its last one."""
    for i in range(updates):
        run.progress.step += 1
        forecast.update(run, start + i * seconds)
        if run.progress.step % per_epoch == 0:
            run.progress.epoch += 1


def words(**changes):
    return Namespace(**{"epochs": 10, "max_steps": 0, **changes})


def test_a_long_run_says_so_after_its_first_updates(capsys):
    run = Telling()
    train(run, Forecast(words(), torch.device("cpu")), 30, 1.0, 100)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("forecast: about 16 min from here, ")  # 977 of 1000 updates of 1 s
    assert " GiB of memory so far" in err


def test_an_epochs_end_says_when_the_run_is_done(capsys):
    run = Run()
    train(run, Forecast(words(epochs=20), torch.device("cpu")), 101, 1.0, 50)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("forecast: an epoch takes 50 s; done in at most 16 min, ")
    assert lines[1].startswith("forecast: an epoch takes 50 s; done in at most 15 min, ")


@pytest.mark.parametrize("args", [words(), words(epochs=8000, max_steps=300)])
def test_nothing_is_said_of_a_short_run(capsys, args):
    run = Telling(per_epoch=20)
    train(run, Forecast(args, torch.device("cpu")), 120, 1.0, 20)
    assert capsys.readouterr().err == ""


def test_max_steps_limit_the_forecast(capsys):
    run = Run()
    train(run, Forecast(words(epochs=8000, max_steps=2000), torch.device("cpu")), 30, 1.0, 500)
    assert capsys.readouterr().err.startswith("forecast: about 33 min from here")


def test_a_resumed_run_speaks_of_whole_epochs_alone(capsys):
    run = Run(Progress(epoch=3, step=130))  # 30 of the 50 updates of its third epoch are done
    train(run, Forecast(words(epochs=40), torch.device("cpu")), 75, 1.0, 50)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "an epoch takes 50 s" in lines[0]


@pytest.mark.parametrize(("seconds", "said"), [
    (50, "50 s"), (420, "7 min"), (12000, "3 h 20 min"), (4e5, "5 days")])
def test_durations_are_as_people_say_them(seconds, said):
    assert duration(seconds) == said


def test_memory_is_of_this_process():
    assert float(memory(torch.device("cpu")).split()[0]) > 0.1
