"""What is in a data set: typed facts, and a sheet of samples."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.dataset import Data
from shrinkage.errors import DataError, ShrinkageWarning

MAX_ROWS = 100
_SEED = 0


@dataclass(frozen=True)
class DataSummary:
    """Facts about a data set.

    Parameters
    ----------
    name
        The set's name.
    task
        ``classification`` or ``regression``.
    train_shape, test_shape
        Shapes of the inputs, samples first.
    x_dtype, y_dtype
        Types of inputs and targets.
    classes, labels
        Number and names of the classes; 0 and empty for regression.
    train_counts, test_counts
        Samples of each class; empty for regression.
    value_range, scaled_range
        Smallest and largest input of both splits, as stored and as a model takes them.
    target_range
        Smallest and largest target of a regression, else None.
    nbytes
        Size in memory.
    """

    name: str
    task: str
    train_shape: tuple[int, ...]
    test_shape: tuple[int, ...]
    x_dtype: str
    y_dtype: str
    classes: int
    labels: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    value_range: tuple[float, float]
    scaled_range: tuple[float, float]
    target_range: tuple[float, float] | None
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def _as_taken(self) -> str:
        low, high = self.scaled_range
        return "" if self.scaled_range == self.value_range else f" (a model takes {low:g} to {high:g})"

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.task}",
            f"training  {_times(self.train_shape)} {self.x_dtype}",
            f"test      {_times(self.test_shape)} {self.x_dtype}",
            f"values    {self.value_range[0]:g} to {self.value_range[1]:g}{self._as_taken()}",
        ]
        if self.target_range is not None:
            lines.append(f"targets   {self.target_range[0]:g} to {self.target_range[1]:g}")
        if self.classes:
            width = max(5, *(len(label) for label in self.labels))
            lines.append(f"{'class':{width}}  training  test")
            counts = zip(self.labels, self.train_counts, self.test_counts, strict=True)
            lines += [f"{label:{width}}  {train:8}  {test:4}" for label, train, test in counts]
        return "\n".join(lines)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def describe_data(data: Data) -> DataSummary:
    """Compute the facts about a data set.

    Examples
    --------
    >>> from shrinkage.data import load_data
    >>> facts = describe_data(load_data("digits"))
    >>> facts.train_shape, facts.classes, facts.value_range, sum(facts.test_counts)
    ((1438, 8, 8, 1), 10, (0.0, 1.0), 359)
    """
    classes = data.classes
    parts = (data.x_train, data.x_test)
    low = min((part.min() for part in parts), key=float)
    high = max((part.max() for part in parts), key=float)
    # Scaling is monotonous, so the range's ends say it all.
    ends = data.scaled(np.array([low, high], data.x_train.dtype))
    targets = np.concatenate([data.y_train.reshape(-1), data.y_test.reshape(-1)]) if not classes else None
    return DataSummary(
        name=data.name,
        task="classification" if classes else "regression",
        train_shape=data.x_train.shape,
        test_shape=data.x_test.shape,
        x_dtype=str(data.x_train.dtype),
        y_dtype=str(data.y_train.dtype),
        classes=classes,
        labels=label_names(data),
        train_counts=_counts(data.y_train, classes),
        test_counts=_counts(data.y_test, classes),
        value_range=(float(low), float(high)),
        scaled_range=(float(ends[0]), float(ends[1])),
        target_range=None if targets is None else (float(targets.min()), float(targets.max())),
        nbytes=data.nbytes,
    )


def class_numbers(y: NDArray[Any]) -> NDArray[Any]:
    """Return class numbers (N,) of targets that are such, or one-hot (N, K)."""
    return y.argmax(axis=1) if y.ndim == 2 else y


def _counts(y: NDArray[Any], classes: int) -> tuple[int, ...]:
    if not classes:
        return ()
    return tuple(int(n) for n in np.bincount(class_numbers(y), minlength=classes))


def draw_samples(data: Data, path: str | os.PathLike[str], *, per_class: int = 8) -> Path | None:
    """Draw a grid of training images, one row a class (for regression, rows of any).

    The samples are chosen by a fixed seed. At most 100 classes are drawn.

    Parameters
    ----------
    data
        The data set.
    path
        The image file to write; its suffix (png, svg, pdf) chooses the format.
    per_class
        Images a class.

    Returns
    -------
    pathlib.Path or None
        The file, or None, with a `ShrinkageWarning`, if the data are no images.

    Raises
    ------
    DataError
        If the file can't be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from shrinkage.data import load_data
    >>> draw_samples(load_data("digits"), pathlib.Path(tempfile.mkdtemp()) / "digits.png").name
    'digits.png'
    """
    if not data.is_image:
        warnings.warn(
            f"{data.name} holds no images (a sample has shape {data.input_shape}); nothing was drawn.",
            ShrinkageWarning,
            stacklevel=2,
        )
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sample_rows(data, per_class)
    figure = Figure(figsize=(0.6 * per_class + 1.6, 0.6 * len(rows) + 0.4))
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), per_class, squeeze=False)
    for axes, (label, chosen) in zip(grid, rows, strict=True):
        for column, axis in enumerate(axes):
            axis.set_axis_off()
            if column < len(chosen):
                axis.imshow(
                    picture(data.x_train[chosen[column]]),
                    cmap="gray",
                    vmin=0,
                    vmax=1,
                    interpolation="nearest",
                )
        # A class may be called anything, dollar signs included.
        where = {"transform": axes[0].transAxes, "ha": "right", "va": "center"}
        axes[0].text(-0.2, 0.5, label[:24], fontsize=8, parse_math=False, **where)
    target = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # drawn as a box
            figure.savefig(target, dpi=120, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise DataError(f"The samples could not be written to {target}: {error}.") from error
    return target


def sample_rows(data: Data, per_class: int) -> list[tuple[str, NDArray[np.intp]]]:
    """Return names of classes and training rows of each, chosen by a fixed seed; any for a regression."""
    random = np.random.RandomState(_SEED)
    if not data.classes:
        order = random.permutation(len(data.x_train))[: 8 * per_class]
        return [("", order[low : low + per_class]) for low in range(0, len(order), per_class)]
    numbers = class_numbers(data.y_train)
    labels = label_names(data)
    rows = []
    for k in range(min(data.classes, MAX_ROWS)):
        members = np.flatnonzero(numbers == k)
        rows.append((labels[k], random.permutation(members)[:per_class]))
    return rows


def label_names(data: Data) -> tuple[str, ...]:
    """Return class names, numbers where the set has none."""
    return data.labels or tuple(str(k) for k in range(data.classes))


def picture(image: NDArray[Any]) -> NDArray[Any]:
    """Return one image, H×W×C as its data set holds it, with values in [0, 1], H×W or H×W×3."""
    pixels: NDArray[Any] = np.asarray(image, np.float32)
    if image.dtype == np.uint8:
        pixels = pixels / 255
    else:
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:  # unknown units: shown by their own range
            pixels = (pixels - low) / ((high - low) or 1.0)
    shown: NDArray[Any] = pixels[..., :3] if pixels.shape[-1] in (3, 4) else pixels[..., 0]
    return shown
