"""Two processes end in order: the threads between them are gone before Python is.

A program whose last act is dist.all_reduce(torch.ones(3)) dies more often than not without
harness/processes.py; our scripts did so rarely enough for no other test to notice.
"""

from pathlib import Path

import pytest
import torch.distributed as dist

import harness.processes  # noqa: F401  # imports what would hold the group
from tests.exits import threads_of_gloo, two_processes

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")


@pytest.mark.parametrize("flags", [(), ("--text", "none.txt")], ids=["done", "refused"])
def test_no_thread_is_left(tmp_path, flags):
    for code, err in two_processes("tests.harness.toy", "--devices", "2", *flags, cwd=tmp_path):
        assert code == (2 if flags else 0), err


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc: no probe")
def test_the_probe_sees_them(tmp_path):
    store = dist.FileStore(str(tmp_path / "meet"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    dist.barrier()  # a thread has a name once it has worked
    before = threads_of_gloo()
    dist.destroy_process_group()
    assert before
    assert not threads_of_gloo()
