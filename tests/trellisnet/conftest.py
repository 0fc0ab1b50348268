"""Where the scripts run, and what they have trained."""

import pytest

from tests.trellisnet import small
from tests.trellisnet.small import train


@pytest.fixture
def folder(tmp_path):
    return small.write_data(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Each script's run of two epochs, once."""
    done = {}

    def run(name):
        if name not in done:
            folder = small.write_data(tmp_path_factory.mktemp(name))
            done[name] = folder, train(name, folder)
        return done[name]
    return run
