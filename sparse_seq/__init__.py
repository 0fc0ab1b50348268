"""Predefined sparseness in recurrent sequence models (Demeester et al. 2018)."""

from sparse_seq.embedding import SimpleEmbedding, SparseEmbedding
from sparse_seq.rnn import SparseLSTM

__all__ = ["SimpleEmbedding", "SparseEmbedding", "SparseLSTM"]
