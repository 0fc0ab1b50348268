"""Predefined sparseness in recurrent sequence models (Demeester et al. 2018).

    from sparse_seq import SparseLSTM, SparseEmbedding
"""

from typing import TYPE_CHECKING

from loading.names import lazily

if TYPE_CHECKING:
    from sparse_seq.embedding import SimpleEmbedding, SparseEmbedding
    from sparse_seq.language_modeling.model import LanguageModel
    from sparse_seq.rnn import SparseLSTM
    from sparse_seq.sequence_labeling.model import Tagger

__all__ = ["LanguageModel", "SimpleEmbedding", "SparseEmbedding", "SparseLSTM", "Tagger"]

__getattr__, __dir__ = lazily(__name__, {
    "embedding": ("SimpleEmbedding", "SparseEmbedding"), "rnn": ("SparseLSTM",),
    "language_modeling.model": ("LanguageModel",), "sequence_labeling.model": ("Tagger",)})
