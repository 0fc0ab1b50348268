"""The same seed gives the same bits, another seed others, and a hundred updates give the losses
that are written down in losses/ (made by `python -m tests.trust.test_determinism`)."""

import sys
from pathlib import Path

import pytest

from tests.trust.runs import Place, assert_same_run, events

LOSSES = Path(__file__).parent / "losses"
STEPS = 100
TOLERANCE = 1e-3     # other CPUs add in another order; a hundred updates of SGD magnify it
# Rates at which the loss falls: at those of the table it may run away, and magnify anything.
CALM = {"awd-main": 5, "awd-finetune": 5, "scratch-main": 5, "scratch-finetune": 5, "word-ptb": 2,
        "sparse-main": 5, "sparse-finetune": 5}
# What another processor, or another build of the libraries, would do.
OTHER_CPUS = {"no vectors": {"ATEN_CPU_CAPABILITY": "default"},
              "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                       "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}


def test_the_same_seed_twice(place, script):
    """Not the result alone: the weights after every update."""
    expected, folder = place.unbroken(script), place.folder(script)
    journal = place.home / f"{folder.name}.journal"
    done = place.run(script, folder, journal=str(journal))
    assert_same_run(script, folder, done, expected)
    assert weights(events(journal)) == weights(expected.events)
    place.count("determinism", "same seed, same bits")


def test_another_seed_differs(place, script):
    folder = place.folder(script)
    journal = place.home / f"{folder.name}.journal"
    place.run(script, folder, "--seed", "8", "--max-steps", "3", journal=str(journal))
    ours, theirs = weights(events(journal)), weights(place.unbroken(script).events)
    assert len(ours) == 3
    assert not set(ours) & set(theirs)
    place.count("determinism", "other seed, other weights")


def weights(seen) -> list[str]:
    return [event["weights"] for event in seen if event["what"] == "update"]


# ---------------------------------------------------------------------------------- golden losses
def losses_of(place: Place, script, environment: dict | None = None) -> list[float]:
    """Of a hundred backward passes; the epochs go on as long as needed."""
    folder = place.folder(script)
    journal = place.home / f"{folder.name}.journal"
    more = ["--epochs", "1000", "--max-steps", STEPS, "--save-interval", "1000"]
    more += ["--nonmono", "1000"] if "finetune" in script.name else []
    more += ["--lr", CALM[script.name]] if script.name in CALM else []
    place.run(script, folder, *more, journal=str(journal), environment=environment)
    return [event["loss"] for event in events(journal) if event["what"] == "backward"][:STEPS]


def assert_close(ours, script) -> float:
    rows = (LOSSES / f"{script.name}.csv").read_text().splitlines()[1:]
    golden = [float(row.split(",")[1]) for row in rows]
    assert len(ours) == len(golden) == STEPS
    for step, (a, b) in enumerate(zip(ours, golden, strict=True)):
        assert a == pytest.approx(b, rel=TOLERANCE), f"update {step}"
    return max(abs(a - b) / abs(b) for a, b in zip(ours, golden, strict=True))


def test_golden_losses(place, script):
    error = assert_close(losses_of(place, script), script)
    place.count("determinism", "golden loss curves met")
    print(f"largest relative difference {error:.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("cpu", OTHER_CPUS)
def test_golden_losses_on_another_cpu(place, script, cpu):
    """The tolerance is wide enough for what other instructions make of the sums."""
    ours = losses_of(place, script, OTHER_CPUS[cpu])
    print(f"largest relative difference {assert_close(ours, script):.1e}")
    place.count("determinism", f"golden loss curves met with {cpu}")


def record() -> None:
    """Writes losses/*.csv."""
    import tempfile

    from tests.trust.conftest import MODULES
    from tests.trust.forked import Server
    from tests.trust.scripts import SCRIPTS, write_data
    with tempfile.TemporaryDirectory() as folder, Server(MODULES) as server:
        place = Place(server, Path(folder), write_data(Path(folder) / "data"), 0)
        for name in sys.argv[1:] or SCRIPTS:
            found = losses_of(place, SCRIPTS[name])
            rows = [f"{step},{loss:.6f}" for step, loss in enumerate(found)]
            (LOSSES / f"{name}.csv").write_text("\n".join(["step,loss", *rows]) + "\n")
            print(name, found[0], found[-1])


if __name__ == "__main__":
    record()
