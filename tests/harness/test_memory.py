"""What the C library does with freed memory."""

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
    memory.keep_freed_memory()
    assert asked == ([] if name else [(-4, 0), (-1, 2**31 - 1)])


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_is_asked_for_nothing(monkeypatch, system):
    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("asked"))
    memory.keep_freed_memory()


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
