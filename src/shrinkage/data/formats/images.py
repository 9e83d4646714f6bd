"""Folders of images, one folder a class."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.formats.bounded import damage_reported, file_size, new_array
from shrinkage.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
MAX_PIXELS = 2**24
MAX_FILE_BYTES = 2**27
_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
_GRAY = ("1", "L")
_COLOR = ("P", "PA", "LA", "La", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

_Entry = tuple[Path, int]


def read_image_folder(path: Path) -> dict[str, Any]:
    """Read a folder of class folders of images.

    Parameters
    ----------
    path
        ``path/CLASS/*.png``, or ``path/train/CLASS/*.png`` and ``path/test/CLASS/*.png``. Also jpg,
        jpeg, bmp and gif (its first frame). Files of other types and hidden ones are passed over.

    Returns
    -------
    dict
        ``x_train`` uint8 of shape N×H×W×C, C = 1 if all images are grey and 3 otherwise (palettes are
        resolved, transparency is dropped); ``y_train`` int32; ``labels``, the folders' names in
        alphabetical order; ``x_test`` and ``y_test`` where there is a ``test`` folder.

    Raises
    ------
    DataError
        If images differ in size (naming the first that does), one is damaged, has more than 16 bits
        a pixel and channel, or more than 16.7 million pixels, or a class folder holds none.
    """
    split = (path / "train").is_dir() and bool(_folders(path / "train"))
    train = _folders(path / "train" if split else path)
    test = _folders(path / "test") if split and (path / "test").is_dir() else []
    if not train:
        raise DataError(f"{path} has no class folders: one folder of images a class is expected.")
    labels = [folder.name for folder in train]
    unknown = [folder.name for folder in test if folder.name not in labels]
    if unknown:
        raise DataError(f"{path / 'test'} has a class {unknown[0]!r} that {path / 'train'} has not.")
    entries = [entry for k, folder in enumerate(train) for entry in _files(folder, k)]
    held_out = [entry for folder in test for entry in _files(folder, labels.index(folder.name))]
    shape = _common_shape(entries + held_out)
    out: dict[str, Any] = {"labels": labels}
    for part, chosen in (("train", entries), ("test", held_out)):
        if chosen:
            out[f"x_{part}"] = _pixels(chosen, shape, path)
            out[f"y_{part}"] = np.array([k for _, k in chosen], np.int32)
    return out


def _folders(path: Path) -> list[Path]:
    with damage_reported(str(path)):
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _files(folder: Path, number: int) -> list[_Entry]:
    with damage_reported(str(folder)):
        files = sorted(
            p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        )
    if not files:
        raise DataError(f"{folder} holds no images; {', '.join(SUFFIXES)} files are read.")
    return [(file, number) for file in files]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """Open an image: only its header is read until pixels are asked for."""
    from PIL import Image

    file_size(path, most=MAX_FILE_BYTES)
    with damage_reported(str(path)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on odd metadata; what counts here are the pixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{path} has {width}×{height} pixels; at most {MAX_PIXELS} are read.")
            if image.mode not in _GRAY + _COLOR:
                raise DataError(f"{path} has pixels of mode {image.mode!r}; 8 bits a channel are read.")
            yield image


def _common_shape(entries: list[_Entry]) -> tuple[int, int, int]:
    """Return height, width and channels, from the headers alone."""
    first: tuple[int, int] | None = None
    channels = 1
    for path, _ in entries:
        with _opened(path) as image:
            if first is None:
                first = image.size
            if image.size != first:
                raise DataError(
                    f"{path} has {image.size[0]}×{image.size[1]} pixels, but {entries[0][0]} has "
                    f"{first[0]}×{first[1]}; all images must have one size."
                )
            channels = channels if image.mode in _GRAY else 3
    width, height = first or (0, 0)
    return height, width, channels


def _pixels(entries: list[_Entry], shape: tuple[int, int, int], what: Path) -> NDArray[Any]:
    out = new_array((len(entries), *shape), np.dtype(np.uint8), str(what))
    for row, (path, _) in enumerate(entries):
        with _opened(path) as image:
            pixels = np.asarray(image.convert("L" if shape[2] == 1 else "RGB"), np.uint8)
            if pixels.shape[:2] != shape[:2]:
                raise DataError(f"{path} changed while it was read.")
            out[row] = pixels.reshape(shape)
    return out
