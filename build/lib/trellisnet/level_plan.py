"""Bookkeeping of the levels: which positions each of them computes, and what these positions read.

Whole numbers alone; what is computed at the positions is in levels.py.

Notation: L time steps, t a position (0 to L-1), k taps, d dilation. Level 0 is the lowest.
"""

from collections.abc import Iterator
from typing import NamedTuple


def first_positions(length: int, start: int, dilations: tuple[int, ...], kernel: int
                    ) -> tuple[int, ...]:
    """First position of each level that an output from `start` on can see.

    Tap 0 looks (k-1) d steps back and the cell d steps. Four levels with k = 2, d = 1, L = 8:

        t         0 1 2 3 4 5 6 7
        level 3             o o o     start = 5
        level 2           o o o o
        level 1         o o o o o
        level 0       o o o o o o     -> (2, 3, 4, 5)

    The last position is always among them, since the state there is an output too.
    """
    first = [min(start, length - 1)]
    for d in reversed(dilations[1:]):
        first.append(max(0, first[-1] - max((kernel - 1) * d, d)))
    return tuple(reversed(first))


class Plan(NamedTuple):
    """The positions of all levels of one call. Row n of a level's arrays is position starts[l] + n.
    """

    length: int                  # L
    kernel: int                  # k
    dilations: tuple[int, ...]   # d of each level
    starts: tuple[int, ...]      # first position of each level
    start: int                   # first position of the outputs
    aux_levels: tuple[int, ...]  # levels whose outputs are wanted besides the top one's
    checkpoint: int              # keep for the backward pass every K-th level only; 0: all

    @property
    def top(self) -> int:
        return len(self.dilations) - 1

    def is_output(self, level: int) -> bool:
        return level == self.top or level in self.aux_levels

    def groups(self) -> list[range]:
        """The levels whose gates are kept, or recomputed, together: with K = 2 and five levels
        (0, 1), (2, 3), (4)."""
        size = self.checkpoint or len(self.dilations)
        return [range(low, min(low + size, self.top + 1)) for low in range(0, self.top + 1, size)]

    def rows(self, level: int) -> int:
        """How many positions the level computes."""
        return self.length - self.starts[level]

    def lowest(self, d: int) -> int:
        """The lowest level of dilation d. Of those with that d it computes the most positions."""
        return self.dilations.index(d)

    def initial_rows(self, level: int) -> Iterator[tuple[int, int]]:
        """(tap, n) of every tap that reads h0 at the first n of the level's positions.

        With k = 3, d = 2 a level that starts at 1 reads, at its positions t:

            t         1   2   3   4   5
            tap 0    h0  h0  h0   0   1      t - 4:  (0, 3)
            tap 1    h0   0   1   2   3      t - 2:  (1, 1)
            tap 2     1   2   3   4   5      t:      never h0
        """
        for tap in range(self.kernel - 1):
            reach = (self.kernel - 1 - tap) * self.dilations[level]
            rows = min(reach, self.length) - self.starts[level]
            if rows > 0:
                yield tap, rows

    def cell_rows(self, level: int) -> tuple[int, slice]:
        """What c_below(t - d) is at the level's positions: c0 at the first n, then these rows of
        the level below.

        With d = 2, a level that starts at 1 above one that starts at 0, and L = 5:

            t            1   2   3   4
            t - d       c0   0   1   2       n = 1, rows 0 to 2
        """
        start, d, rows = self.starts[level], self.dilations[level], self.rows(level)
        from_c0 = min(max(d - start, 0), rows)
        below = self.starts[level - 1] if level else 0
        low = start + from_c0 - d - below
        return from_c0, slice(low, low + rows - from_c0)
