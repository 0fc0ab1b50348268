"""Where the scripts run."""

import pytest

from tests.awd_lstm.small import write_corpus


@pytest.fixture
def folder(tmp_path):
    write_corpus(tmp_path / "texts")
    return tmp_path
