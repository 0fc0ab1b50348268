"""A server that forks runs of the toy script, see tests/trust/forked.py."""

import sys

import pytest

from tests.trust import faults
from tests.trust.forked import Server


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory):
    return faults.build(tmp_path_factory.mktemp("faults")) if sys.platform == "linux" else None


@pytest.fixture(scope="session")
def server(faults_library):
    if sys.platform != "linux":
        pytest.skip("forks processes that use torch")
    with Server(["tests.harness.toy", "tests.harness.writes"], faults_library) as found:
        yield found
