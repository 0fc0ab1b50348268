"""Which of PyTorch's two libraries multiplies float32 matrices in a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kernels import cpu, product


@contextmanager
def products_by(name: str) -> Iterator[None]:
    """"onednn" for products of any size or "mkl" for all, whatever the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "LARGE", 0)
        patch.setattr(cpu, "onednn_is_faster", lambda: name == "onednn")
        product._onednn_linear.cache_clear()
        yield
    product._onednn_linear.cache_clear()
