"""Cohorts: every lane once, blocks of one size, and the same ones whatever is left to train."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shrinkage.training.checkpoint import name_of
from shrinkage.training.cohorts import Cohort, cohorts
from shrinkage.training.task import Cell, Lane

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
            assert (cohort.seeds[row], cohort.cells[column]) == (lane.seed, lane.cell)


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


def test_a_block_has_the_name_that_it_had_before_there_were_ratios():
    """Checkpoints that an older release left are found, and those of other ratios are others."""
    plain = Cohort(1, (0, 7), (Cell("none", None), Cell("l2", 0.01)), ())
    content = json.dumps([3, 1, [0, 7], [["none", None], ["l2", 0.01]]])
    assert name_of(plain, 3) == hashlib.sha256(content.encode()).hexdigest()[:20]
    other = replace(plain, cells=(Cell("none", None), Cell("l2", 0.01, (2.0, 0.5))))
    assert name_of(other, 3) != name_of(plain, 3)


def test_cells_of_other_ratios_have_columns_of_their_own():
    cells = [Cell("a", 0.1), Cell("a", 0.1, (2.0, 0.5)), Cell("a", 0.1, (0.5, 2.0))]
    (cohort,) = cohorts([cell.lane(0, 0) for cell in cells], 4, False)
    assert cohort.cells == tuple(cells)
    assert [cohort.place(lane) for lane in cohort.lanes] == [(0, 0), (0, 1), (0, 2)]
    assert [lane.cell for lane in cohort.lanes] == cells
