"""What the C library does with freed memory."""

from types import SimpleNamespace

import pytest
import torch

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
    kept = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: kept.append(True))
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1)
    memory.keep_freed_memory_later()
    weight.sum().backward()
    assert kept == []
    for _ in range(3):
        optimizer.step()
        assert kept == [True]
