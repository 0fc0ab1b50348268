"""Stopped after every update and gone on from there, across the ends of epochs, changes of the
learning rate and the switch to averaging: the same bits as the run that never stopped."""

import pytest

from tests.trust.runs import assert_same_run, step_of


@pytest.mark.parametrize("stops", [3, pytest.param(40, marks=[
    pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_stopped_after_every_update(place, script, stops):
    rng, expected = place.random("chain", script.name, stops), place.unbroken(script)
    every = range(1, expected.updates)
    if stops < len(every):
        every = sorted(rng.sample(every, stops))
    folder, resume = place.folder(script), []
    for step in every:
        place.run(script, folder, *resume, "--max-steps", step)
        assert step_of(script, folder) == step
        resume = ["--resume"]
    assert_same_run(script, folder, place.run(script, folder, "--resume"), expected)
    place.count("resume", f"stops of {script.name}", len(every))
    place.count("resume", "stops", len(every))


def test_the_runs_are_what_they_claim(place, script):
    """Epochs end within; rates change or averaging begins (place.unbroken looks for the words)."""
    expected = place.unbroken(script)
    assert expected.updates > 40
    assert script.read(expected.folder / script.state)["progress"]["epoch"] >= 4
    kinds = {event["what"] for event in expected.events}
    assert kinds == {"backward", "update", "save", "saved"}
