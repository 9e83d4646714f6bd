"""Cohorts: every lane once, blocks of one size, and the same ones whatever is left to train."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shrinkage.training.cohorts import cohorts
from shrinkage.training.task import Lane

grids = st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(1, 3))


def grid(cells: int, seeds: int, splits: int) -> list[Lane]:
    return [Lane("a", float(c), s, k) for c in range(cells) for s in range(seeds) for k in range(splits)]


@given(grids, st.integers(1, 20), st.booleans())
def test_every_lane_is_in_one_cohort(size, most, mix):
    lanes = grid(*size)
    found = cohorts(lanes, most, mix)
    assert sorted(map(str, lanes)) == sorted(str(lane) for cohort in found for lane in cohort.lanes)
    for cohort in found:
        assert cohort.size <= most
        assert {lane.split for lane in cohort.lanes} == {cohort.split}
        assert len({cohort.place(lane) for lane in cohort.lanes}) == len(cohort.lanes)
        for lane in cohort.lanes:
            row, column = cohort.place(lane)
            assert (cohort.seeds[row], cohort.cells[column]) == (lane.seed, (lane.arm, lane.strength))


@given(grids, st.integers(1, 20), st.booleans())
def test_all_cohorts_fit_one_program(size, most, mix):
    assert len({(len(c.seeds), len(c.cells)) for c in cohorts(grid(*size), most, mix)}) == 1


@given(grids, st.integers(1, 20))
def test_lanes_of_one_seed_read_the_same_rows(size, most):
    cells = size[0]
    found = cohorts(grid(*size), most, False)
    assert (
        all(len(set(c.seeds)) == 1 for c in found) or 2 * cells <= most
    )  # where one seed fills less than half


@given(grids, st.integers(1, 20), st.booleans())
def test_padding_is_less_than_a_cohort_a_row(size, most, mix):
    lanes = grid(*size)
    found = cohorts(lanes, most, mix)
    cells = size[0]
    columns = len({c.cells for c in found})
    assert columns * len(found[0].cells) - cells < columns


def test_the_order_is_the_studys():
    (first, second) = cohorts(grid(4, 1, 1), 2, False)
    assert [lane.strength for lane in (*first.lanes, *second.lanes)] == [0.0, 1.0, 2.0, 3.0]
