"""The random stream that a test of random masks starts with."""

import pytest
import torch


@pytest.fixture
def seeded():
    torch.manual_seed(0)
