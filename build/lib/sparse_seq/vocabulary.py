"""The order of a vocabulary: SparseEmbedding gives long vectors to the last words."""

import hashlib
import random
from collections.abc import Iterable, Sequence

ORDERINGS = ("up", "down", "none", "rand")


def order_words(words: Sequence[str], counts: Sequence[int], ordering: str) -> list[str]:
    """`words`, given in order of first appearance with their counts, in another order.

    up: rare to frequent, ties by first appearance (what SparseEmbedding is meant for); down:
    frequent to rare, ties likewise; none: as given; rand: shuffled, always in the same way.
    Raises ValueError for any other ordering.
    """
    words = list(words)
    if ordering == "rand":
        random.Random(0).shuffle(words)
    elif ordering in ("up", "down"):
        sign = 1 if ordering == "up" else -1
        count = dict(zip(words, counts, strict=True))
        words.sort(key=lambda word: sign * count[word])
    elif ordering != "none":
        raise ValueError(f"no such ordering: {ordering!r}; choose from {', '.join(ORDERINGS)}")
    return words


def digest(words: Iterable[str]) -> str:
    """SHA-256 of the words in order: the same ids, the same digest."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()
