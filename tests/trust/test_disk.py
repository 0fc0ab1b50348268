"""A save that fails (full disk, read-only disk, quota) is one clear line and exit code 1; what was
saved before stays whole, and the run goes on from there when there is room again."""

import errno

import pytest

from tests.trust.runs import assert_same_run, events, step_of

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_save_that_fails(place, script, times):
    """Half-way through the file, at random saves: of states and of models."""
    rng, expected = place.random("disk", script.name, times), place.unbroken(script)
    for _ in range(times):
        folder = place.folder(script)
        refuse = {"save": rng.randrange(1, expected.saves), "errno": rng.choice(ERRORS)}
        print(refuse)
        journal = place.home / f"{folder.name}.journal"
        done = place.run(script, folder, code=1, refuse=refuse, journal=str(journal))
        assert len(done.complaints) == 1, done.err
        failed = [event for event in events(journal) if event["what"] == "save"][-1]["name"]
        assert failed.strip(".").removesuffix(".part") in done.line, done.line
        for name in (script.state, *script.models):
            if (folder / name).is_file():
                script.read(folder / name)
        assert not list(folder.rglob(".*.part"))
        resume = ["--resume"] if step_of(script, folder) is not None else []
        assert_same_run(script, folder, place.run(script, folder, *resume), expected)
        place.count("disk", "failed saves: one line, files before it whole, resumed bit for bit")
