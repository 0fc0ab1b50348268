"""What several kernel tests need: a library, both forms, poisoned memory, a number of threads."""

import pytest
import torch

from kernels import library


@pytest.fixture
def compiled():
    """The compiled library; without a compiler there is nothing to test."""
    if library.loaded() is None:
        pytest.skip("no compiler here")


@pytest.fixture(params=["compiled", "torch"])
def backend(request, monkeypatch):
    """Each test runs twice: on the compiled kernels and on what is used without them."""
    if request.param == "torch":
        monkeypatch.setenv("KERNELS", "0")
    elif library.loaded() is None:
        pytest.skip("no compiler here")
    return request.param


@pytest.fixture
def poisoned_memory():
    """Tensors from torch.empty start as NaN, so that anything left unwritten shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(2).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def threads():
    """Set the number of threads; the old one comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
