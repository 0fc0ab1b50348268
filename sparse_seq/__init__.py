"""Predefined sparseness in recurrent sequence models (Demeester et al. 2018).

The modules are imported on first use, so that the scripts can answer -h before torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparse_seq.embedding import SimpleEmbedding, SparseEmbedding
    from sparse_seq.rnn import SparseLSTM

_HOMES = {"SimpleEmbedding": "embedding", "SparseEmbedding": "embedding", "SparseLSTM": "rnn"}

__all__ = ["SimpleEmbedding", "SparseEmbedding", "SparseLSTM"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
