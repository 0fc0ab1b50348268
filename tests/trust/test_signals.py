"""Ctrl-C, SIGTERM and SIGHUP at random places: the state is saved within one update, the exit code
is 130, 143 or 129, and the resumed run ends as the one that nothing happened to."""

import signal

import pytest

from tests.trust.runs import assert_same_run, events, step_of

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
WHERE = ("backward", "update", "save")


@pytest.mark.parametrize("times", [1, pytest.param(24, marks=pytest.mark.slow)])
def test_a_signal_saves_and_leaves(place, script, times):
    rng = place.random("signal", script.name, times)
    expected = place.unbroken(script)
    for _ in range(times):
        folder, name, where = place.folder(script), rng.choice(sorted(CODES)), rng.choice(WHERE)
        # The last saves belong to the end, when there is nothing to go on with.
        most = expected.updates if where != "save" else expected.saves - 2
        send = {"signal": getattr(signal, name).value, "where": where,
                "at": rng.randrange(1, most - 1)}
        print(send)
        journal = place.home / f"{folder.name}.journal"
        done = place.run(script, folder, code=CODES[name], send=send, journal=str(journal))
        assert "--resume" in done.out
        seen = [event["what"] for event in events(journal)]
        after = seen[seen.index("signal"):]
        assert after.count("update") <= 1, after
        assert step_of(script, folder) == seen.count("update")
        done = place.run(script, folder, "--resume")
        assert_same_run(script, folder, done, expected)
        place.count("signals", f"{name}: state saved, exit {CODES[name]}, resumed bit for bit")


@pytest.mark.slow
def test_before_and_after_training_there_is_nothing_to_lose(place, script):
    """SIGTERM at any time ends the run without a traceback, whatever it was doing."""
    rng = place.random("signal-any-time", script.name)
    expected = place.unbroken(script)
    folder = place.folder(script)
    child = place.start(script, folder)
    done = child.kill_after(rng.uniform(0, expected.seconds), signal.SIGTERM)
    assert "Traceback" not in done.err
    assert done.code in (143, -signal.SIGTERM, 0), done.err
    reached = step_of(script, folder)
    done = place.run(script, folder, *([] if reached is None else ["--resume"]))
    # Stopped behind its last save a run has printed its closing lines already.
    assert_same_run(script, folder, None if reached == expected.updates else done, expected)
