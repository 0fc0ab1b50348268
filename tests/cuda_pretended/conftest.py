"""The pretended device for the tests of this folder."""

import pytest

from tests.cuda_pretended import pretended


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The built stub of the driver."""
    if reason := pretended.why_not():
        pytest.skip(reason)
    return pretended.build(tmp_path_factory.mktemp("stub"))


@pytest.fixture(scope="session")
def run_jobs(library, tmp_path_factory):
    """run_jobs(jobs) -> their reports, from one process with a pretended GPU."""
    def call(jobs, **options):
        return pretended.run_jobs(library, tmp_path_factory.mktemp("jobs"), jobs, **options)
    return call
