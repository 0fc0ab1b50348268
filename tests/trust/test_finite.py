"""NaN or infinity in the loss, a gradient or the batch: the run stops before the update, names step
and parameter, exits with 1; the last checkpoint is finite and the run can go on from it."""

import re

import pytest

from tests.trust.runs import assert_finite, assert_same_run, events, step_of

SAYS = r"(the loss|the gradient of (\S+)) is not finite at epoch \d+, step (\d+)"
VALUES = (float("nan"), float("inf"), float("-inf"))


@pytest.mark.parametrize(("what", "times"), [
    ("gradient", 1),
    *(pytest.param(what, 10, marks=pytest.mark.slow) for what in ("loss", "gradient", "batch"))])
def test_stops_before_the_update(place, script, what, times):
    rng, expected = place.random("finite", script.name, what, times), place.unbroken(script)
    backwards = sum(event["what"] == "backward" for event in expected.events)
    for _ in range(times):
        folder = place.folder(script)
        poison = {"what": what, "value": rng.choice(VALUES), "at": rng.randrange(8, backwards)}
        print(poison)
        journal = place.home / f"{folder.name}.journal"
        done = place.run(script, folder, code=1, poison=poison, journal=str(journal))
        assert len(done.complaints) == 1, done.err
        found = re.search(SAYS, done.line)
        assert found, done.line
        updates = [event["what"] for event in events(journal)].count("update")
        assert int(found[3]) == updates
        if what == "gradient":
            spoilt = re.search(r"^spoilt (\S+)$", done.out, re.M)[1]
            assert spoilt.endswith(found[2].removeprefix("model.")), (spoilt, done.line)
        for name in (script.state, *script.models):
            if (folder / name).is_file():
                assert_finite(script.read(folder / name)["model" if "optimizer.pt" not in name and
                              "corpus" not in name else "format"], name)
        assert_finite(script.read(folder / script.state)["optimizer"], "optimizer")
        assert updates - 3 <= step_of(script, folder) <= updates
        assert_same_run(script, folder, place.run(script, folder, "--resume"), expected)
        place.count("not finite", f"{what}: stopped before the update, resumed bit for bit")
