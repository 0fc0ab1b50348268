"""Predefined sparseness in recurrent sequence models (Demeester et al. 2018)."""
