"""What the C library does with freed memory."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness import memory


@pytest.mark.parametrize("name", ["MALLOC_MMAP_MAX_", ""])
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(monkeypatch, name):
    asked = []
    library = SimpleNamespace(mallopt=lambda *what: asked.append(what))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    if name:
        monkeypatch.setenv(name, "65536")
    assert memory.keep_freed_memory() is not bool(name)
    assert asked == ([] if name else [(-4, 0), (-1, 2**31 - 1)])


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_is_asked_for_nothing(monkeypatch, system):
    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("asked"))
    assert not memory.keep_freed_memory()


def test_a_run_keeps_it_from_its_first_update_on(monkeypatch):
    """And a second run in this process, with other hooks around."""
    kept, seen = [], []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: kept.append(True))
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1)
    weight.sum().backward()
    for runs in (1, 2):
        memory.keep_freed_memory_later()
        other = register_optimizer_step_post_hook(lambda *_: seen.append(True))
        assert len(kept) == runs - 1
        for _ in range(3):
            optimizer.step()
            assert len(kept) == runs
        other.remove()
    assert len(seen) == 6


def test_bound():
    """Memory is given back after the first update, then whenever more than one and a half times is
    kept of what the first one after giving back took; the floor rises with what stays."""
    used, given_back, floor = [0], [], [10]

    def give_back(pad):
        assert pad == 0
        given_back.append(used[0])
        used[0] = floor[0]
    bound = memory.Bound(give_back, lambda: used[0])

    def update(kept):
        used[0] = kept
        bound.after_update()
        return len(given_back)
    assert update(70) == 1
    assert update(30) == 1     # needs 20
    assert [update(kept) for kept in (25, 40)] == [1, 1]
    floor[0] = 15
    assert update(41) == 2
    assert update(40) == 2     # needs 25
    assert update(52) == 2
    assert update(53) == 3
    assert update(20) == 3     # a short one does not lower what is needed
    assert update(52) == 3


RUN = """
import sys, torch
from harness import memory
weight = torch.zeros(2, requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=1)
weight.sum().backward()
if "--unbounded" in sys.argv:
    memory.MOST = float("inf")
memory.keep_freed_memory_later()
before = memory.memory_of_arrays()
for length in (40, 40, 40, 400, 40):
    arrays = [torch.ones(1 << 18) for _ in range(length)]   # 1 MiB each
    del arrays
    optimizer.step()
print((memory.memory_of_arrays() - before) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way with memory")
def test_a_process_stays_within_the_bound(monkeypatch):
    """After one update that needed ten times as much."""
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)

    def kept(*flags):
        found = subprocess.run([sys.executable, "-c", RUN, *flags], capture_output=True,
                               text=True, check=True)
        return int(found.stdout)
    assert kept() < 40 * memory.MOST + 20
    assert kept("--unbounded") > 300
