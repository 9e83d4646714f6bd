"""The named data sets: one table entry each, from where they are published to how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shrinkage.data.emnist import SPLITS, find_emnist, read_emnist
from shrinkage.data.formats.cifar import TEST_BATCH, TRAIN_BATCHES, read_cifar
from shrinkage.data.formats.idx import read_idx
from shrinkage.data.formats.npz import read_npz
from shrinkage.data.places import Place
from shrinkage.errors import DataError, did_you_mean

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A set found on disk (``path`` is None for a built-in one), and how to read it."""

    path: Path | None
    read: Callable[[], Arrays]


@dataclass(frozen=True)
class Remote:
    """One published file.

    Parameters
    ----------
    path
        Where it goes, below the data directory.
    urls
        Where it is published, tried in this order.
    sha256
        Its published SHA-256, or None if there is none to compare with.
    size
        Its published size in bytes, or None.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class NamedSet:
    """A data set that can be asked for by name.

    Parameters
    ----------
    name
        What users type.
    labels
        Class names, used where the files themselves have none.
    find
        Looks below a data directory for the published files; None if they aren't there.
    looks_for
        What `find` looks for, for the error.
    remotes
        What to download; empty for a built-in set.
    npz
        Further names under which an ``.npz`` of this set may lie, without the suffix.
    """

    name: str
    labels: tuple[str, ...]
    find: Callable[[Path], Found | None]
    looks_for: str
    remotes: tuple[Remote, ...] = ()
    npz: tuple[str, ...] = ()

    def locate(self, folder: Path) -> Found | None:
        """Look for the set, as ``NAME.npz`` first, then as published."""
        if self.remotes:  # what is built in needs no file, and no stray one replaces it
            for stem in (self.name, *self.npz):
                path = folder / f"{stem}.npz"
                if path.is_file():
                    return Found(path, partial(_read_named_npz, path, self.labels))
        return self.find(folder)


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder where named sets are looked for.

    It is ``data_dir``, else ``$SHRINKAGE_DATA``, else ``data`` in the per-user cache.

    Examples
    --------
    >>> data_directory("downloads").as_posix()
    'downloads'
    """
    if data_dir is not None:
        return Path(data_dir).expanduser()
    if chosen := os.environ.get("SHRINKAGE_DATA"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("shrinkage") / "data"


def named_set(name: str) -> NamedSet:
    """Return the table's entry, or raise a `DataError` with the nearest name.

    Examples
    --------
    >>> named_set("emnist").name
    'emnist/balanced'
    """
    known = SETS.get(ALIASES.get(name, name))
    if known is None:
        near = did_you_mean(name, (*SETS, *ALIASES))
        raise DataError(f"There is no data set {name!r}; known are {', '.join(SETS)}.{near}")
    return known


def available() -> tuple[str, ...]:
    """Return the names of all data sets that `load_data` knows, on disk or not.

    Examples
    --------
    >>> available()[:4]
    ('digits', 'mnist', 'fashion_mnist', 'cifar10')
    """
    return tuple(SETS)


def locate(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Return where a named set lies on disk, or None if it isn't there (or is built in).

    Examples
    --------
    >>> locate("digits") is None
    True
    """
    found = named_set(name).locate(data_directory(data_dir))
    return found.path if found else None


def _read_named_npz(path: Path, labels: tuple[str, ...]) -> Arrays:
    arrays: Arrays = dict(
        read_npz(path, required=("x_train", "y_train", "x_test", "y_test"), optional=("labels",))
    )
    # The letters of EMNIST are numbered from 1 where they are published; in an npz they may be either way.
    targets = [arrays[key] for key in ("y_train", "y_test")]
    if "labels" not in arrays and all(y.dtype.kind in "iu" and y.ndim == 1 for y in targets):
        low, high = min(int(y.min()) for y in targets), max(int(y.max()) for y in targets)
        if low == 1 and high == len(labels):
            arrays |= {"y_train": targets[0] - 1, "y_test": targets[1] - 1}
    return arrays


# --- digits ----------------------------------------------------------------------------------------


def _read_digits() -> Arrays:
    """scikit-learn's digits, 0…16 divided by 16: float32 of shape N×8×8×1 in [0, 1]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    return {"x_train": images[..., np.newaxis], "y_train": digits.target.astype(np.int32)}


# --- MNIST and Fashion-MNIST -------------------------------------------------------------------------

_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_MNIST_FOLDERS = ("mnist", "MNIST", "MNIST/raw")
_FASHION_FOLDERS = ("fashion_mnist", "fashion-mnist", "FashionMNIST", "FashionMNIST/raw")


def _find_idx(own: tuple[str, ...], others: tuple[str, ...], *, flat: bool) -> Callable[[Path], Found | None]:
    """Make a finder of four idx files.

    Both sets publish files of equal names. They are told apart by the folder: a set's own, or, if
    ``flat``, the data directory itself unless that is the folder of the other set.
    """

    def find(folder: Path) -> Found | None:
        here = folder.resolve().name
        places = [Place(folder / name) for name in own]
        if here in own or (flat and here not in others):
            places.append(Place(folder))
        for place in places:
            if not place.missing(_IDX_FILES):
                return Found(place.folder, partial(_read_idx_files, place))
        return None

    return find


def _read_idx_files(place: Place) -> Arrays:
    arrays = []
    with place.listing() as files:
        for name in _IDX_FILES:
            with files[name].open() as stream:
                arrays.append(read_idx(stream))
    return dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True))


def _idx_remotes(
    folder: str, bases: tuple[str, ...], facts: tuple[tuple[int, str], ...]
) -> tuple[Remote, ...]:
    files = [f"{name}.gz" for name in _IDX_FILES]
    return tuple(
        Remote(f"{folder}/{file}", tuple(base + file for base in bases), sha256, size)
        for file, (size, sha256) in zip(files, facts, strict=True)
    )


# --- CIFAR-10 ----------------------------------------------------------------------------------------

_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _find_cifar(folder: Path) -> Found | None:
    for root in (folder / "cifar10", folder):
        for place in (root / "cifar-10-batches-bin", root):
            if not Place(place).missing([*TRAIN_BATCHES, TEST_BATCH]):
                return Found(place, partial(read_cifar, place))
        archive = root / _CIFAR_ARCHIVE
        if archive.is_file():
            return Found(archive, partial(read_cifar, archive))
    return None


# --- EMNIST ------------------------------------------------------------------------------------------

# One archive holds all splits; the checksum is that of TensorFlow Datasets' tables.
_EMNIST_REMOTE = Remote(
    "emnist/gzip.zip",
    ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
    "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
    561_753_746,
)


def _emnist_set(split: str) -> NamedSet:
    def find(folder: Path) -> Found | None:
        hit = find_emnist(split, folder)
        if hit is None:
            return None
        place, mat = hit
        return Found(place.folder, partial(read_emnist, split, place, mat=mat))

    return NamedSet(
        name=f"emnist/{split}",
        labels=SPLITS[split],
        find=find,
        looks_for=f"gzip.zip, matlab.zip, emnist-{split}-*-ubyte(.gz), emnist-{split}.mat",
        remotes=(_EMNIST_REMOTE,),
        npz=(f"emnist-{split}", *(["emnist"] if split == "balanced" else [])),
    )


# --- the table ---------------------------------------------------------------------------------------

_TEN = tuple("0123456789")

# Sizes and SHA-256 as in TensorFlow Datasets' published tables. The page that MNIST was first published on
# refuses downloads since 2024; both addresses below serve the same four files.
_TABLE = (
    NamedSet(
        "digits", _TEN, lambda _folder: Found(None, _read_digits), "nothing: it comes with scikit-learn"
    ),
    NamedSet(
        name="mnist",
        labels=_TEN,
        find=_find_idx(_MNIST_FOLDERS, _FASHION_FOLDERS, flat=True),
        looks_for="mnist/ with train-images-idx3-ubyte(.gz) and its three companions",
        remotes=_idx_remotes(
            "mnist",
            (
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
            ),
            (
                (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
                (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
        ),
    ),
    NamedSet(
        name="fashion_mnist",
        labels=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        find=_find_idx(_FASHION_FOLDERS, _MNIST_FOLDERS, flat=False),
        looks_for="fashion_mnist/ with train-images-idx3-ubyte(.gz) and its three companions",
        remotes=_idx_remotes(
            "fashion_mnist",
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
            (
                (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
                (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            ),
        ),
    ),
    NamedSet(
        name="cifar10",
        labels=_CIFAR_LABELS,
        find=_find_cifar,
        looks_for=f"{_CIFAR_ARCHIVE} or the folder cifar-10-batches-bin unpacked from it",
        remotes=(
            Remote(
                _CIFAR_ARCHIVE,
                (f"https://www.cs.toronto.edu/~kriz/{_CIFAR_ARCHIVE}",),
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                170_052_171,
            ),
        ),
    ),
    *(_emnist_set(split) for split in SPLITS),
)

SETS: dict[str, NamedSet] = {entry.name: entry for entry in _TABLE}
ALIASES = {"emnist": "emnist/balanced"}
