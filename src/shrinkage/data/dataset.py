"""`Data`: a data set in memory, split into training and test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.formats.bounded import byte_view, row_chunks
from shrinkage.errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set with a training and a test split.

    Parameters
    ----------
    name
        What the set is called in studies and reports.
    x_train, x_test
        Inputs, samples first. Images are N×H×W×C and stay uint8 where their source is; see `scaled`.
    y_train, y_test
        Targets: integers 0…K−1 of shape N (classes), a one-hot N×K matrix, or floats (regression).
    labels
        The K class names; empty for regression, or to number the classes.
    groups
        For each training sample, numbers or text of shape N that are equal where samples belong together
        (the same patient, the same writer), so that no split may tear them apart.

    Raises
    ------
    DataError
        If the arrays don't fit together.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2, 2, 1), "uint8")
    >>> data = Data("tiny", x, np.array([0, 1, 0, 1]), x, np.array([0, 1, 1, 0]), ("no", "yes"))
    >>> data
    Data('tiny': 4 training and 4 test samples of 2×2×1 uint8, 2 classes)
    >>> data.classes, data.input_shape, data.is_image
    (2, (2, 2, 1), True)
    """

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]
    labels: tuple[str, ...] = ()
    groups: NDArray[Any] | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(str(label) for label in self.labels))
        for split, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
                raise DataError(f"{self.name}: x_{split} and y_{split} must be NumPy arrays.")
            if x.ndim < 2 or y.ndim not in (1, 2):
                raise DataError(
                    f"{self.name}: x_{split} must have two axes or more and y_{split} one or two; "
                    f"they have shapes {x.shape} and {y.shape}."
                )
            if len(x) != len(y) or not len(x):
                raise DataError(
                    f"{self.name}: x_{split} has {len(x)} samples and y_{split} has {len(y)}; "
                    f"they must have equally many, and at least one."
                )
        train, test = (
            (x.shape[1:], y.shape[1:]) for x, y in ((self.x_train, self.y_train), (self.x_test, self.y_test))
        )
        if train != test:
            raise DataError(
                f"{self.name}: input and target of a training sample have shapes {train[0]} and {train[1]}, "
                f"of a test sample {test[0]} and {test[1]}; they must be equal."
            )
        needed = (len(self.x_train),)
        if self.groups is not None and not (
            isinstance(self.groups, np.ndarray) and self.groups.shape == needed
        ):
            raise DataError(
                f"{self.name}: groups has shape {np.shape(self.groups)}; it must be an array that holds one "
                f"entry for each of the {len(self.x_train)} training samples."
            )

    def __repr__(self) -> str:
        shape = "×".join(str(n) for n in self.input_shape)
        task = f"{self.classes} classes" if self.classes else "regression"
        return (
            f"Data({self.name!r}: {len(self.x_train)} training and {len(self.x_test)} test samples "
            f"of {shape} {self.x_train.dtype}, {task})"
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the sample axis."""
        return tuple(self.x_train.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether inputs are images, N×H×W×C."""
        return self.x_train.ndim == 4

    @property
    def is_one_hot(self) -> bool:
        """Whether targets are a one-hot matrix."""
        return self.y_train.ndim == 2 and self.classes > 0

    @property
    def classes(self) -> int:
        """Number of classes; 0 for regression."""
        if self.labels:
            return len(self.labels)
        if self.y_train.ndim == 2:
            return self.y_train.shape[1] if is_one_hot(self.y_train) else 0
        if self.y_train.dtype.kind in "iu":
            return int(max(self.y_train.max(), self.y_test.max())) + 1
        return 0

    @property
    def outputs(self) -> int:
        """Number of outputs that a model needs: the classes, or the targets of a regression."""
        return self.classes or (self.y_train.shape[1] if self.y_train.ndim == 2 else 1)

    @property
    def nbytes(self) -> int:
        """Size of the four arrays in bytes."""
        return sum(a.nbytes for a in self._arrays())

    def scaled(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return inputs of this set as a model takes them.

        Parameters
        ----------
        x
            Inputs, or some of them: `x_train`, `x_test` or a batch.

        Returns
        -------
        numpy.ndarray
            uint8 images divided by 255, as float32 in [0, 1], unless they are to stay ``raw``; floats
            unchanged; anything else as float32.

        Examples
        --------
        >>> import numpy as np
        >>> x = np.full((2, 1, 1, 1), 255, "uint8")
        >>> data = Data("tiny", x, np.array([0, 1]), x, np.array([0, 1]))
        >>> data.scaled(data.x_train).ravel().tolist()
        [1.0, 1.0]
        """
        if x.dtype.kind == "f":
            return x
        out = x.astype(np.float32)
        if self.is_image and x.dtype == np.uint8 and not self.raw:
            out /= 255
        return out

    def fingerprint(self) -> str:
        """Return a SHA-256 over the arrays (type, shape, bytes) and the labels, in hexadecimal.

        The name doesn't enter: the same content is the same data, wherever it came from.

        Examples
        --------
        >>> import numpy as np
        >>> x, y = np.zeros((2, 1)), np.array([0, 1])
        >>> Data("a", x, y, x, y).fingerprint() == Data("b", x, y, x, y).fingerprint()
        True
        """
        digest = hashlib.sha256()
        groups = () if self.groups is None else (self.groups,)
        for array in (*self._arrays(), *groups):
            little = array.dtype.newbyteorder("<")  # equal on every machine
            digest.update(f"{little.str}{array.shape};".encode())
            for rows in row_chunks(array, 2**22):
                digest.update(byte_view(np.ascontiguousarray(array[rows], little)))
        digest.update("\0".join(self.labels).encode())
        return digest.hexdigest()

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.x_train, self.y_train, self.x_test, self.y_test


def is_one_hot(y: NDArray[Any]) -> bool:
    """Whether every row of a matrix holds a single 1 and zeros.

    Examples
    --------
    >>> import numpy as np
    >>> is_one_hot(np.eye(3)), is_one_hot(np.ones((2, 2)))
    (True, False)
    """
    if y.ndim != 2 or y.shape[1] < 2:
        return False
    return all(
        bool(((y[rows] == 0) | (y[rows] == 1)).all() and (y[rows].sum(axis=1) == 1).all())
        for rows in row_chunks(y)
    )
