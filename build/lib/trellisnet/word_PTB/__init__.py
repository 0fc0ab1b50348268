"""Word-level Penn Treebank."""
