"""Runs of the toy script: in this process, or forked by a server (see tests/trust/forked.py)."""

import sys

import pytest

from tests.harness import toy
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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The folder of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        toy.main([])
    return folder
