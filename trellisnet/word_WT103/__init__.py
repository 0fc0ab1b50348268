"""WikiText-103."""
