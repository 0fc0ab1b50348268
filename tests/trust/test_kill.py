"""SIGKILL at random moments, many of them inside a save: nothing is lost but the updates since the
last save, and the resumed run ends as the one that nothing happened to, bit for bit."""

import pytest

from tests.trust.hooks import STAGES
from tests.trust.runs import assert_same_run, events, step_of

INTERVAL = 3    # --save-interval of the table
CHAIN = 5       # kills that one run survives


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[
    pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_killed_runs_end_as_the_unbroken_one(place, script, kills):
    rng = place.random("kill", script.name, kills)
    held = killed = 0
    while killed < kills:
        folder, survived = place.folder(script), 0
        while survived < min(CHAIN, kills - killed):
            behind = held <= 0.4 * (killed + survived)
            inside = life(place, script, folder, rng, behind or rng.random() < 0.3)
            if inside is None:
                break           # it was through before the moment came: it must be right too
            survived, held = survived + 1, held + inside
        killed += survived
        reached, expected = step_of(script, folder), place.unbroken(script)
        done = place.run(script, folder, *([] if reached is None else ["--resume"]))
        # Killed behind its last save a run has printed its closing lines already.
        assert_same_run(script, folder, None if reached == expected.updates else done, expected)
        place.count("kill", "runs compared")
    assert held >= 0.3 * killed
    place.count("kill", f"kills of {script.name}", killed)
    place.count("kill", "inside a save", held)
    place.count("kill", "kills", killed)


def life(place, script, folder, rng, in_save: bool) -> bool | None:
    """Starts or goes on until killed. Returns whether that was inside a save; None if the run came
    to its end before."""
    expected = place.unbroken(script)
    before = step_of(script, folder)
    left = expected.updates - (before or 0)
    hold, moment = None, None
    if in_save:
        hold = {"save": rng.randrange(max(1, min(6, left // INTERVAL))),
                "stage": rng.choice(STAGES)}
    else:
        moment = rng.uniform(0, expected.seconds)
    place.folders += 1
    journal = place.home / f"journal-{place.folders}"
    child = place.start(script, folder, *([] if before is None else ["--resume"]),
                        journal=str(journal), hold=hold)
    done = child.wait() if hold else child.kill_after(moment)
    if done is None:
        child.kill()
        done = child.wait()
    if done.code == 0:
        return None
    assert done.code == -9, done.out + done.err
    assert_nothing_lost(script, folder, before, events(journal), hold)
    return hold is not None


def assert_nothing_lost(script, folder, before, seen, hold) -> None:
    """Every file is whole, and the state is no older than the last save."""
    for name in script.models:
        if (folder / name).is_file():
            script.read(folder / name)
    updates = [event["what"] for event in seen].count("update")
    now = step_of(script, folder)
    if now is None:
        assert updates <= INTERVAL
        return
    assert (before or 0) + updates - INTERVAL <= now <= (before or 0) + updates
    if hold and hold["stage"] == "done":
        assert seen[-1]["what"] == "saved"
