"""Every operation by which a run changes a file - open, write, fsync, link, rename, unlink,
truncate, mkdir - is a point at which it may be killed (before, behind, half-way through a write)
or be told that the disk is full, broken, read-only or over quota, at the default --save-interval.
Then the run is resumed or typed again as a user would do it, and must end as the one that nothing
happened to, bit for bit; and nothing that was there before may be gone.

A kill leaves the folder as it is at that moment. So one run, whose folder is copied at every
operation, shows what all kills would leave, and each different state is gone on from.
"""

import errno
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.trust.runs import assert_same_run, step_of
from tests.trust.scripts import SCRIPTS

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)
NO_LOCK = "no lock can be had there"
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


def few() -> list:
    """Script and situation, for the fast suite."""
    return [pytest.param(script, situations(script)[i % len(situations(script))],
                         id=f"{script.name}-{situations(script)[i % len(situations(script))]}")
            for i, script in enumerate(SCRIPTS.values())]


def all_cases() -> list:
    return [pytest.param(script, situation, id=f"{script.name}-{situation}",
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


def refusals(points: Iterable[int]) -> list[dict]:
    """Operations refused once, and they and all after them, the reasons taken in turn."""
    return [{"how": how, "at": at, "errno": ERRORS[(at + shift) % len(ERRORS)]}
            for at in points for shift, how in enumerate(("fail", "fail on"))]


def first_and_last(done: list[str]) -> list[int]:
    """Numbers of the operations that are the first or the last of their kind and file."""
    first, last = {}, {}
    for at, operation in enumerate(done, 1):
        first.setdefault(operation, at)
        last[operation] = at
    return sorted({*first.values(), *last.values()})


def digest_of(folder: Path, unfinished: bool) -> str:
    """Of all names and contents, TensorBoard's files aside; `unfinished`: of .part files too, which
    nobody reads."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if "tfevents" not in path.name:
            digest.update(f"{path.relative_to(folder)}\0".encode())
            if path.is_file() and (unfinished or path.suffix != ".part"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def different(states: list[Path]) -> list[Path]:
    """Of equal ones the first. Of those in which only a .part file has grown the first, the middle
    and the last."""
    groups: dict[str, dict[str, Path]] = {}
    for state in states:
        groups.setdefault(digest_of(state, False), {}).setdefault(digest_of(state, True), state)
    found = [[*group.values()] for group in groups.values()]
    return [state for group in found
            for state in dict.fromkeys((group[0], group[len(group) // 2], group[-1]))]


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


@pytest.mark.parametrize(("script", "situation"), few())
def test_killed_at_a_file_operation(place, script, situation):
    rng, expected = place.random("points", script.name, situation), place.unbroken(script)
    done = operations(place, script, situation)
    for fault in rng.sample(kills(done), FEW):
        print(fault, done[fault["at"] - 1])
        folder, more = prepared(place, script, situation)
        before = contents(folder)
        killed = place.start(script, folder, *more, fault={"folder": str(folder), **fault}).wait()
        assert killed.code == -9, killed.err
        assert_same_run(script, folder, run_again(place, script, folder), expected)
        if situation != "resumed":
            assert before <= contents(folder)
        place.count("crash points", "killed at a file operation, resumed or rerun bit for bit")


@pytest.mark.parametrize(("script", "situation"), all_cases())
def test_all_states_that_a_kill_can_leave(place, script, situation):
    expected, (folder, more) = place.unbroken(script), prepared(place, script, situation)
    before, copies = contents(folder), place.home / f"copies-{folder.name}"
    copies.mkdir()
    place.run(script, folder, *more,
              fault={"folder": str(folder), "how": "copy", "copies": str(copies)})
    states = sorted(copies.iterdir())
    assert len(states) > 60
    for state in different(states):
        print(state.name)
        shutil.rmtree(folder)
        state.rename(folder)  # a state knows its run by the folder's name
        assert_same_run(script, folder, run_again(place, script, folder), expected)
        if situation != "resumed":
            assert before <= contents(folder)
        place.count("crash points", "different states that a kill can leave, resumed or rerun bit "
                                    "for bit")
    place.count("crash points", "points of a kill that leave them", len(states))
    shutil.rmtree(copies)


def refuse(place, script, situation: str, faults: list[dict]) -> None:
    """Exit code 0 with the same result (a copy of the state before was not to be had), or one clear
    line, before it at most the notice that there is no lock, and the run goes on when the disk
    works again. Equal states are gone on from once."""
    expected, done = place.unbroken(script), operations(place, script, situation)
    tried: set[str] = set()
    for fault in faults:
        print(fault, done[fault["at"] - 1])
        folder, more = prepared(place, script, situation)
        before = contents(folder)
        ended = place.run(script, folder, *more, code=None,
                          fault={"folder": str(folder), **fault})
        if ended.code:
            assert ended.code in (1, 2), ended.err
            assert len([line for line in ended.complaints if NO_LOCK not in line]) == 1, ended.err
        if not ended.code or (state := digest_of(folder, True)) not in tried:
            if ended.code:
                tried.add(state)
                ended = run_again(place, script, folder)
            assert_same_run(script, folder, ended, expected)
        if situation != "resumed":
            assert before <= contents(folder)
        place.count("crash points", "refused file operations: one line, then bit for bit")


@pytest.mark.parametrize(("script", "situation"), few())
def test_refused_at_a_file_operation(place, script, situation):
    done = operations(place, script, situation)
    rng = place.random("refusals", script.name, situation)
    refuse(place, script, situation, rng.sample(refusals(range(1, len(done) + 1)), FEW))


@pytest.mark.parametrize(("script", "situation"), all_cases())
def test_refused_at_every_kind_of_file_operation(place, script, situation):
    done = operations(place, script, situation)
    refuse(place, script, situation, refusals(first_and_last(done)))


def test_the_points_are_those_of_a_run(place):
    """The count itself: a state is opened, written, flushed, linked and renamed, in this order."""
    done = operations(place, SCRIPTS["awd-main"], "alone")
    assert {"open", "write", "fsync", "link", "rename", "unlink", "mkdir"} <= {
        line.split()[0] for line in done}
    state = [line for line in done if "m.pt.state" in line]
    assert [line.split()[0] for line in state if "write" not in line][:4] == [
        "unlink", "open", "fsync", "unlink"]
