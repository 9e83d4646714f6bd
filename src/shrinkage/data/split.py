"""The fixed test split of sets that publish none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.errors import DataError

TEST_SHARE = 0.2
SEED = 20_260_101
_BLOCK_BYTES = 2**24


def split_mask(
    y: NDArray[Any], *, classes: bool, what: str, groups: NDArray[Any] | None = None
) -> NDArray[np.bool_]:
    """Choose a fifth of the samples for testing, the same ones for the same targets, for ever.

    Parameters
    ----------
    y
        Targets of shape N: class numbers, or floats.
    classes
        Whether to take a fifth of each class (rounded, at least one of a class of two or more; a
        class of one stays in training) rather than a fifth of all.
    what
        What is split, for the error.
    groups
        Which group each sample belongs to, of shape N. Then whole groups are chosen, whatever their
        targets: as many as come nearest to a fifth of all samples, at least one, and not all.

    Returns
    -------
    numpy.ndarray
        Booleans of shape N; True marks a test sample.

    Raises
    ------
    DataError
        If no sample can be spared.

    Examples
    --------
    >>> import numpy as np
    >>> mask = split_mask(np.repeat([0, 1], [10, 5]), classes=True, what="example")
    >>> int(mask[:10].sum()), int(mask[10:].sum())
    (2, 1)
    """
    # RandomState, not Generator: NumPy guarantees its stream for all versions to come, and a test
    # split that changed with an upgrade would leak training samples into old models' tests.
    random = np.random.RandomState(SEED)
    if groups is not None:
        return _group_mask(groups, random, what)
    mask = np.zeros(len(y), np.bool_)
    strata = [np.flatnonzero(y == k) for k in np.unique(y)] if classes else [np.arange(len(y))]
    for members in strata:
        share = int(TEST_SHARE * len(members) + 0.5)
        chosen = random.permutation(len(members))[: max(share, 1 if len(members) > 1 else 0)]
        mask[members[chosen]] = True
    if not mask.any() or mask.all():
        raise DataError(
            f"{what} has no test split, and its {len(y)} samples are too few to set some aside; "
            f"give x_test and y_test."
        )
    return mask


def _group_mask(groups: NDArray[Any], random: np.random.RandomState, what: str) -> NDArray[np.bool_]:
    names, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"{what} has no test split, and its {len(groups)} samples are one group, which can't be split; "
            f"give x_test and y_test."
        )
    order = random.permutation(len(names))
    rows = np.cumsum(sizes[order])[:-1]  # of the first so many groups
    many = int(np.abs(rows - TEST_SHARE * len(groups)).argmin()) + 1
    return np.isin(group_of_row, order[:many])


def split_in_place(array: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Move the marked rows to the end, and return views of the two parts.

    A copy of either part would double the memory of a large set; rows are exchanged instead, so the
    order within the parts is fixed but not the source's.

    Examples
    --------
    >>> import numpy as np
    >>> train, test = split_in_place(np.arange(5), np.array([True, False, False, True, False]))
    >>> train.tolist(), test.tolist()
    ([4, 1, 2], [3, 0])
    """
    border = len(array) - int(mask.sum())
    early = np.flatnonzero(mask[:border])
    late = border + np.flatnonzero(~mask[border:])
    step = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for low in range(0, len(early), step):
        here, there = early[low : low + step], late[low : low + step]
        kept = array[here]
        array[here] = array[there]
        array[there] = kept
    return array[:border], array[border:]
