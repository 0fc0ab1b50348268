"""The positions of the levels: the drawings in level_plan.py and dilated_products.py, and that a
level reads nothing which the level below does not compute."""

import pytest

from trellisnet.dilated_products import joined_rows
from trellisnet.level_plan import Plan, first_positions


def plan(length, start, dilations, kernel, checkpoint=0, aux=()):
    return Plan(length, kernel, dilations, first_positions(length, start, dilations, kernel), start,
                aux, checkpoint)


def test_the_drawing_of_first_positions():
    assert first_positions(8, 5, (1, 1, 1, 1), kernel=2) == (2, 3, 4, 5)
    assert first_positions(8, 9, (1, 1), kernel=2) == (6, 7)  # the last position always


def test_the_drawing_of_initial_rows():
    of_one = Plan(6, 3, (2,), (1,), 1, (), 0)
    assert list(of_one.initial_rows(0)) == [(0, 3), (1, 1)]


def test_the_drawing_of_cell_rows():
    of_two = Plan(5, 2, (1, 2), (0, 1), 1, (), 0)
    assert of_two.cell_rows(1) == (1, slice(0, 3))


def test_the_drawing_of_joined_rows():
    assert list(joined_rows(kernel=3, d=2, start=3, rows=4, start_x=2)) == [
        (0, slice(3, 4), slice(0, 1)), (1, slice(1, 4), slice(0, 3)), (2, slice(0, 4), slice(1, 5))]


def test_groups():
    assert plan(8, 0, (1,) * 5, 2, checkpoint=2).groups() == [range(2), range(2, 4), range(4, 5)]
    assert plan(8, 0, (1,) * 5, 2).groups() == [range(5)]


def test_output_levels():
    of_four = plan(8, 0, (1,) * 4, 2, aux=(1,))
    assert [level for level in range(4) if of_four.is_output(level)] == [1, 3]


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("dilations", [(1, 1, 1), (1, 2, 4), (4, 1, 2), (16, 1)], ids=str)
@pytest.mark.parametrize("start", [0, 5, 12])
def test_what_a_level_reads_is_computed(kernel, dilations, start):
    """Position by position: every h' and c' that is read lies in the level below, or left of 0."""
    length = 13
    found = plan(length, start, dilations, kernel)
    for level in range(1, len(dilations)):
        d, positions = dilations[level], range(found.starts[level], length)
        read = {t - (kernel - 1 - tap) * d for t in positions for tap in range(kernel)}
        read |= {t - d for t in positions}
        assert all(t < 0 or t >= found.starts[level - 1] for t in read)
        from_h0 = {tap: rows for tap, rows in found.initial_rows(level)}
        for tap in range(kernel):
            reach = (kernel - 1 - tap) * d
            assert from_h0.get(tap, 0) == sum(t - reach < 0 for t in positions)
        from_c0, rows = found.cell_rows(level)
        assert from_c0 == sum(t < d for t in positions)
        below = range(found.starts[level - 1], length)
        assert [below[n] for n in range(rows.start, rows.stop)] == [t - d for t in positions
                                                                    if t >= d]
