"""Character-level Penn Treebank."""
