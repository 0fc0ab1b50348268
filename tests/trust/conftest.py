"""One server and one set of data for all trust tests; the report of what they did.

TRUST_SEED=n picks other random moments (a failure prints the seed it used).
TRUST_REPORT=results/trust.md has the figures written there when the session ends; with --lf, what
became of the tests that had failed, beside the figures of the whole run.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path
from zlib import crc32

import pytest

from tests.trust import faults, report
from tests.trust.forked import Server
from tests.trust.runs import Place
from tests.trust.scripts import SCRIPTS, write_data

MODULES = sorted({script.module for script in SCRIPTS.values()}
                 | {"awd_lstm.pointer", "awd_lstm.generate", "awd_lstm.score",
                    "trellisnet.generate", "trellisnet.score", "trellisnet.theorem1",
                    "tnn.script_lra", "tnn.lra.tasks.listops", "tnn.lra.tasks.pathfinder"})


# Of these every script's run counts in the default suite: they hold each script to its numbers, and
# to its promise to stop when asked.
ALWAYS = {"test_golden_losses", "test_a_signal_saves_and_leaves"}


@pytest.hookimpl(tryfirst=True)  # before -m takes out the slow ones
def pytest_collection_modifyitems(items):
    """In the default suite each test takes every fourth script, and each script every fourth test,
    to keep to its time: what is tested stands once, in harness/. `make test-trust` runs all.

    Forking is for Linux; elsewhere torch's threads do not survive it."""
    places = {name: index for index, name in enumerate(SCRIPTS)}
    for item in items:
        found = getattr(item, "callspec", None) and item.callspec.params.get("script")
        name = getattr(item, "originalname", item.name)
        if (Path(__file__).parent in item.path.parents and getattr(found, "name", None) in places
                and name not in ALWAYS and (places[found.name] + crc32(name.encode())) % 4):
            item.add_marker(pytest.mark.slow)
    if sys.platform != "linux":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="forks processes that use torch"))


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    home = tmp_path_factory.mktemp("trust")
    with Server(MODULES, faults.build(home)) as server:
        found = Place(server, home, write_data(home / "data"), int(os.environ.get("TRUST_SEED", 0)))
        yield found
        add(found.tally)


TALLY: Counter = Counter()   # of this process and, where tests run side by side, of the workers
OUTCOME: Counter = Counter()
BEGAN = time.monotonic()


def add(tally: dict) -> None:
    """Counts are summed, of measured values the largest is kept."""
    for what, value in tally.items():
        TALLY[what] = max(TALLY[what], value) if isinstance(value, float) else TALLY[what] + value


def pytest_runtest_logreport(report):
    """Counts what became of the tests."""
    if report.when == "call" or report.outcome != "passed":  # a fixture may skip or fail too
        OUTCOME["xfailed" if hasattr(report, "wasxfail") else report.outcome] += 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """A worker of pytest-xdist is through."""
    add({(point, what): value for point, what, value in node.workeroutput["trust"]})


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["trust"] = [[*what, value] for what, value in TALLY.items()]
    elif (path := os.environ.get("TRUST_REPORT")) and TALLY:
        if session.config.getoption("lf", False):
            report.append(Path(path), OUTCOME, time.monotonic() - BEGAN)
        else:
            report.write(Path(path), TALLY, OUTCOME, time.monotonic() - BEGAN)


@pytest.fixture(params=SCRIPTS.values(), ids=SCRIPTS)
def script(request):
    """Every script that trains."""
    return request.param
