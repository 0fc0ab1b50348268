"""Every test leaves the process as it found it."""

import signal

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def signals_are_heard():
    """A shell starts what it runs in the background (`make test &`) with SIGINT ignored, nohup with
    SIGHUP ignored, and the runs that the tests stop by these signals would inherit that. What is
    handled in this process is the default again in those that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda signum, frame: None)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """For the tests' tiny tensors a second thread costs more than it gains: a hundred times more
    where another program wants the cores too. It also makes sums come out in one order."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # on a GPU too, results are compared to rounding


@pytest.fixture(autouse=True)
def no_trace():
    """A run in this process takes over Ctrl-C and may change torch's settings: put them back."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled():  # setting it imports half of torch
        torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
