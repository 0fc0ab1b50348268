"""Every operation by which a run changes a file - open, write, fsync, link, rename, unlink,
truncate, mkdir - is a point at which it may be killed (before, behind, half-way through a write)
or be told that the disk is full, broken, read-only or over quota. All of them are tried, at the
default --save-interval, then the run is resumed or typed again as a user would do it, and must end
as the one that nothing happened to, bit for bit; and nothing that was there before may be gone.
"""

import errno
import hashlib
import shutil
from pathlib import Path

import pytest

from tests.trust.runs import assert_same_run, step_of
from tests.trust.scripts import SCRIPTS

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)
DEFAULT_INTERVAL = ("--save-interval", "1000")
SITUATIONS = ("alone", "beside an earlier run", "resumed")
FEW = 2         # points of each script in the fast suite, which takes the situations in turn

_operations: dict = {}


@pytest.fixture(autouse=True)
def compiler(place):
    if not (place.home / "faults.so").exists():
        pytest.skip("no C compiler: faults.c cannot be built")


def situations(script) -> tuple[str, ...]:
    """Fine-tuning typed again is meant to begin from the tuned model, so it ends elsewhere."""
    return tuple(each for each in SITUATIONS if not (script.before and "beside" in each))


def cases() -> list:
    """Script, situation, and whether all points are tried or a few."""
    taken = [(script, situations(script)[i % len(situations(script))])
             for i, script in enumerate(SCRIPTS.values())]
    few = [pytest.param(script, situation, False, id=f"{script.name}-{situation}-few")
           for script, situation in taken]
    return few + [pytest.param(script, situation, True, id=f"{script.name}-{situation}-all",
                               marks=[pytest.mark.slow, pytest.mark.timeout(7200)])
                  for script in SCRIPTS.values() for situation in situations(script)]


def prepared(place, script, situation: str) -> tuple[Path, tuple[str, ...]]:
    """A folder as it is before the run, and the run's further flags."""
    folder = place.folder(script)
    if situation == "beside an earlier run":
        shutil.copytree(place.unbroken(script).folder, folder, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("journal"))
    if situation == "resumed":
        place.run(script, folder, *DEFAULT_INTERVAL, "--max-steps", "20")
        return folder, (*DEFAULT_INTERVAL, "--resume")
    return folder, DEFAULT_INTERVAL


def operations(place, script, situation: str) -> list[str]:
    """What the run does to files, in order: an unbroken run's log."""
    key = script.name, situation
    if key not in _operations:
        folder, more = prepared(place, script, situation)
        log = place.home / f"operations-{folder.name}"
        place.run(script, folder, *more, fault={"folder": str(folder), "log": str(log)})
        _operations[key] = [line.replace(str(folder), "") for line in log.read_text().splitlines()]
    return _operations[key]


def kills(done: list[str]) -> list[dict]:
    """Every fault that ends the process."""
    return [{"how": how, "at": at} for at, operation in enumerate(done, 1)
            for how in ("before", "after", *(["half"] if operation.startswith("write") else []))]


def refusals(done: list[str]) -> list[dict]:
    """Every operation refused once, and it and all after it, the reasons taken in turn."""
    return [{"how": how, "at": at, "errno": ERRORS[(at + shift) % len(ERRORS)]}
            for at in range(1, len(done) + 1) for shift, how in enumerate(("fail", "fail on"))]


def some(faults: list[dict], rng, all_of_them: bool) -> list[dict]:
    return faults if all_of_them else rng.sample(faults, min(FEW, len(faults)))


def contents(folder: Path) -> set[str]:
    """Of all files that a user could miss: hidden ones, curves and logs are the run's own."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".") and "logs" not in path.parts
            and path.suffix != ".txt"}


def run_again(place, script, folder: Path):
    """As a user would: with --resume if there is a training state. None for a run that was through
    with its last update: it has printed its closing lines already."""
    reached = step_of(script, folder)
    done = place.run(script, folder, *DEFAULT_INTERVAL, *([] if reached is None else ["--resume"]))
    return None if reached == place.unbroken(script).updates else done


@pytest.mark.parametrize(("script", "situation", "all_of_them"), cases())
def test_killed_at_every_file_operation(place, script, situation, all_of_them):
    rng, expected = place.random("points", script.name, situation), place.unbroken(script)
    done = operations(place, script, situation)
    for fault in some(kills(done), rng, all_of_them):
        print(fault, done[fault["at"] - 1])
        folder, more = prepared(place, script, situation)
        before = contents(folder)
        killed = place.start(script, folder, *more, fault={"folder": str(folder), **fault}).wait()
        assert killed.code == -9, killed.err
        assert_same_run(script, folder, run_again(place, script, folder), expected)
        if situation != "resumed":
            assert before <= contents(folder)
        place.count("crash points", "killed at a file operation, resumed or rerun bit for bit")


@pytest.mark.parametrize(("script", "situation", "all_of_them"), cases())
def test_refused_at_every_file_operation(place, script, situation, all_of_them):
    """Exit code 0 with the same result (a copy of the state before was not to be had), or one clear
    line, and the run goes on when the disk works again."""
    rng, expected = place.random("refusals", script.name, situation), place.unbroken(script)
    done = operations(place, script, situation)
    for fault in some(refusals(done), rng, all_of_them):
        print(fault, done[fault["at"] - 1])
        folder, more = prepared(place, script, situation)
        before = contents(folder)
        ended = place.run(script, folder, *more, code=None,
                          fault={"folder": str(folder), **fault})
        if ended.code:
            assert ended.code in (1, 2), ended.err
            assert len(ended.complaints) == 1, ended.err
            ended = run_again(place, script, folder)
        assert_same_run(script, folder, ended, expected)
        if situation != "resumed":
            assert before <= contents(folder)
        place.count("crash points", "refused file operations: one line, then bit for bit")


def test_the_points_are_those_of_a_run(place):
    """The count itself: a state is opened, written, flushed, linked and renamed, in this order."""
    done = operations(place, SCRIPTS["awd-main"], "alone")
    assert {"open", "write", "fsync", "link", "rename", "unlink", "mkdir"} <= {
        line.split()[0] for line in done}
    state = [line for line in done if "m.pt.state" in line]
    assert [line.split()[0] for line in state if "write" not in line][:4] == [
        "unlink", "open", "fsync", "unlink"]
