"""Two runs that would write to the same files: the second refuses, in one line, and the first goes
on as if nothing had been. A run that was killed stands in nobody's way."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.trust.runs import assert_same_run
from tests.trust.scripts import SCRIPTS


def checkpoints(folder) -> dict:
    """Models and states with their contents."""
    return {path: path.read_bytes() for path in folder.rglob("*.pt*") if path.is_file()}


def test_the_second_refuses(place, script):
    expected = place.unbroken(script)
    flag = re.search(r"(\S+) \{save\}", script.paths)[1]
    folder = place.folder(script)
    first = place.start(script, folder, hold={"save": 3, "stage": "sync"})
    assert first.wait() is None
    before = checkpoints(folder)
    for more in ([], ["--resume"]):
        second = place.run(script, folder, *more, code=2)
        assert len(second.complaints) == 1, second.err
        assert flag in second.line
        assert "another run is writing there" in second.line
        place.count("same --save", "second run refused, exit 2")
    assert checkpoints(folder) == before
    first.kill(signal.SIGCONT)
    done = first.wait()
    assert done.code == 0, done.err
    assert_same_run(script, folder, done, expected)
    assert not list(folder.rglob(".*lock"))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in (
    "word-ptb", "tnn-im") else [pytest.mark.slow]) for name in SCRIPTS])
def test_runs_started_together_with_the_default_log_dir(place, name):
    """In working folders of their own, with the same --save and no --log-dir: each has curves of
    its own, with its own settings and nothing of the others."""
    script, save = SCRIPTS[name], f"together-{os.getpid()}-{name}"
    folders = [place.folder(script) for _ in range(3)]
    paths = script.paths.partition("--log-dir")[0]
    runs = []
    for seed, folder in enumerate(folders, 100):
        own = folder / save
        if script.before:
            shutil.move(folder / script.save, own)
        given = paths.format(data=place.data / script.data, save=own)
        argv = [*script.flags.split(), *given.split(), "--seed", str(seed), "--max-steps", "2"]
        runs.append(place.server.start(script.module, argv, folder,
                                       environment={"HARNESS_CURVES_LIST": str(folder / "list")}))
    for run in runs:
        assert run.wait().code == 0, run.wait().err
    found = [Path((folder / "list").read_text().splitlines()[-1]) for folder in folders]
    try:
        assert len(set(found)) == 3
        seeds = [json.loads((curves / "args.json").read_text())["seed"] for curves in found]
        assert seeds == [100, 101, 102]
        for curves in found:
            lines = (curves / "metrics.csv").read_text().split()[1:]
            steps = [line.split(",")[0] for line in lines]
            assert steps == sorted(steps, key=int)
            assert len(list(curves.glob("events.*"))) == 1
    finally:
        for curves in found:
            assert save in curves.name
            shutil.rmtree(curves, ignore_errors=True)
    place.count("same --save", "runs started together, curves apart")


@pytest.mark.slow
def test_a_killed_run_leaves_no_lock(place, script):
    folder = place.folder(script)
    first = place.start(script, folder, hold={"save": 0, "stage": "done"})
    assert first.wait() is None
    first.kill()
    assert first.wait().code == -signal.SIGKILL
    place.run(script, folder, "--max-steps", "1")
    assert not list(folder.rglob(".*lock"))
    place.count("same --save", "a killed run's place taken over")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in (
    "awd-main", "scratch-main", "word-ptb", "sparse-main") else [pytest.mark.slow])
    for name in SCRIPTS])
def test_a_copy_of_a_run_leaves_the_original_alone(place, name):
    """Both go on and end alike, each with curves of its own."""
    script = SCRIPTS[name]
    expected, folder = place.unbroken(script), place.folder(script)
    place.run(script, folder, "--max-steps", "20")
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert_same_run(script, copy, place.run(script, copy, "--resume"), expected)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert_same_run(script, folder, place.run(script, folder, "--resume"), expected)
    place.count("same --save", "copies of runs gone on with, originals untouched")
